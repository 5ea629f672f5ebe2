# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything lives on a node: the places upstream uses, so that a node can change over and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ctdbpy.config.settings import Settings
from ctdbpy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Paths:
    """Files and directories of one daemon.

    `nodes` is a file, or `!` and a command; `cluster` counts instead of upstream's files, where it is there.
    In test mode (several daemons of one test on one machine) there is also no real-time scheduling, no memory
    lock and no check of addresses.
    Source: common/path.c of 4.17 for names and environment variables.
    """

    etc: Path
    run: Path
    var: Path
    data: Path
    socket: Path
    pidfile: Path
    nodes: str
    volatile: Path
    persistent: Path
    state: Path
    cluster: Path = Path("/etc/ctdbpy/cluster.yaml")
    test_mode: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Paths:
        """Choose the paths: Debian's, or below CTDB_BASE when CTDB_TEST_MODE is set.

        CTDB_SOCKET names the client socket in both modes. Raises ConfigError for test mode without CTDB_BASE.
        """
        if "CTDB_TEST_MODE" not in environ:
            return cls._below(
                Path("/etc/ctdb"),
                Path("/run/ctdb"),
                Path("/var/lib/ctdb"),
                Path("/usr/share/ctdb"),
                environ,
                False,
            )
        if not environ.get("CTDB_BASE"):
            raise ConfigError(
                "cannot choose paths: CTDB_TEST_MODE is set without CTDB_BASE; set CTDB_BASE to a directory "
                "of the test, or unset CTDB_TEST_MODE"
            )
        base = Path(environ["CTDB_BASE"])
        return cls._below(base, base / "run", base / "var", base / "share", environ, True)

    @classmethod
    def _below(
        cls, etc: Path, run: Path, var: Path, data: Path, environ: Mapping[str, str], test_mode: bool
    ) -> Paths:
        return cls(
            etc=etc,
            run=run,
            var=var,
            data=data,
            socket=Path(environ.get("CTDB_SOCKET") or run / "ctdbd.socket"),
            pidfile=run / "ctdbd.pid",
            nodes=str(etc / "nodes"),
            volatile=var / "volatile",
            persistent=var / "persistent",
            state=var / "state",
            cluster=(etc if test_mode else Path("/etc/ctdbpy")) / "cluster.yaml",
            test_mode=test_mode,
        )

    def with_settings(self, settings: Settings) -> Paths:
        """Return the paths with what ctdb.conf says instead of the defaults."""
        return replace(
            self,
            nodes=settings.nodes_list or self.nodes,
            volatile=settings.volatile_directory or self.volatile,
            persistent=settings.persistent_directory or self.persistent,
            state=settings.state_directory or self.state,
        )

    @property
    def conf(self) -> Path:
        """The settings."""
        return self.etc / "ctdb.conf"

    @property
    def tunables(self) -> Path:
        """The tunables set at start."""
        return self.etc / "ctdb.tunables"

    @property
    def tunables_directory(self) -> Path:
        """More of them, as newest master reads them: every *.tunables in order of name."""
        return self.etc / "tunables.d"

    @property
    def public_addresses(self) -> Path:
        """The public IPs this node may host."""
        return self.etc / "public_addresses"

    @property
    def home_nodes(self) -> Path:
        """Where public IPs belong, for the deterministic allocation."""
        return self.etc / "home_nodes"

    @property
    def own_node(self) -> Path:
        """Says by number or name which node of the cluster file this is, where addresses do not."""
        return self.cluster.with_name("node")

    @property
    def cluster_options(self) -> Path:
        """Variables for event scripts from the cluster file, for programs that the daemon does not start."""
        return self.run / "script.options"

    @property
    def script_options(self) -> Path:
        """Variables for event scripts, which read the file themselves."""
        return self.etc / "script.options"

    @property
    def event_scripts(self) -> Path:
        """The enabled event scripts."""
        return self.etc / "events" / "legacy"

    @property
    def notify_script(self) -> Path:
        """Run when the node changes state in a way an administrator wants to hear of."""
        return self.etc / "notify.sh"

    @property
    def event_socket(self) -> Path:
        """Where event scripts are asked for and reported on."""
        return self.run / "eventd.socket"

    @property
    def databases(self) -> tuple[Path, Path, Path]:
        """The directories that must be there before a database is opened."""
        return self.volatile, self.persistent, self.state
