# SPDX-License-Identifier: GPL-3.0-or-later
"""The services of a node host: a cluster daemon of either flavour, and Debian's Samba on top of it.

Both flavours read the same files in /etc/ctdb and are asked with Debian's `ctdb` tool.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctdbpy.errors import LabError
from ctdbpy.lab import power
from ctdbpy.lab.lab import HostProcess, Lab
from ctdbpy.lab.waiting import wait_until

FLAVOURS = ("debian", "ctdbpy")

_PID_FILE = "/run/ctdb/ctdbd.pid"
_LOG = "/var/log/ctdb/log.ctdb"
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0
_TOOL_LIMIT_S = 30.0
_FIRST_UID = 20001


class Cluster:
    """The cluster daemon on every node of a lab. `flavour` says whose: "debian" or "ctdbpy".

    `events` keeps the event scripts that Debian enables; without them no script runs. `scripts` are our own
    event scripts by name ("50.samba"), on either flavour, with `options` as their script.options.
    `public_addresses`, written as "10.78.0.200/24", are for every node's public side. With `fencing`, which
    Debian's daemon does not know, a lost node loses its power before the others go on.
    """

    def __init__(
        self,
        lab: Lab,
        flavour: str,
        *,
        events: bool = False,
        scripts: Sequence[str] = (),
        options: Mapping[str, str] | None = None,
        public_addresses: Sequence[str] = (),
        tunables: Mapping[str, int] | None = None,
        log_level: str = "NOTICE",
        cluster_lock: bool = True,
        fencing: bool = False,
    ) -> None:
        if flavour not in FLAVOURS:
            raise LabError(
                f"cannot start a cluster of flavour '{flavour}': give one of {', '.join(FLAVOURS)}"
            )
        if fencing and flavour == "debian":
            raise LabError(
                "cannot start a cluster of flavour 'debian' with fencing: Debian's ctdbd has no fence command"
            )
        self.lab = lab
        self.flavour = flavour
        self._events = events
        self._scripts = list(scripts)
        self._options = dict(options or {})
        self._public_addresses = list(public_addresses)
        self._tunables = dict(tunables or {})
        self._log_level = log_level
        self._cluster_lock = cluster_lock
        self._fencing = fencing
        self._daemons: dict[str, HostProcess] = {}
        self._stale_pids: dict[str, int | None] = {}

    # --- life -------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Write /etc/ctdb on every node; the nodes talk over the private side."""
        nodes = "".join(f"{self.lab.address(host, 'private')}\n" for host in self.lab.nodes)
        addresses = "".join(f"{address} pub0\n" for address in self._public_addresses)
        tunables = "".join(f"{name}={value}\n" for name, value in self._tunables.items())
        lock = self.lab.path(self.lab.nodes[0], "/cluster/.ctdb")
        lock.mkdir(exist_ok=True)
        for host in self.lab.nodes:
            etc = self.lab.path(host, "/etc/ctdb")
            etc.mkdir(exist_ok=True)
            (etc / "ctdb.conf").write_text(self._configuration(), encoding="ascii")
            (etc / "nodes").write_text(nodes, encoding="ascii")
            (etc / "public_addresses").write_text(addresses, encoding="ascii")
            (etc / "ctdb.tunables").write_text(tunables, encoding="ascii")
            if not self._events:
                for script in etc.glob("events/legacy/*"):
                    script.unlink()
            if self._scripts:
                self._install_scripts(etc)

    def start(self, host: str) -> None:
        """Start the daemon; it is not ready yet (see `wait_healthy`)."""
        self.lab.run(host, ["mkdir", "-p", "/run/ctdb"], timeout_s=_TOOL_LIMIT_S)
        self._stale_pids[host] = self._noted_pid(host)
        argv, environment = self._program()
        if self.flavour == "debian":
            self.lab.run(host, argv, timeout_s=_START_LIMIT_S, env=environment)
        else:
            # Started bare it stays in the foreground, and says on stderr what it cannot yet say in its log.
            out = self.log(host).with_name("ctdbpyd.out")
            self._daemons[host] = self.lab.spawn(host, argv, out, env=environment, stay=self.lab.stays_up)

    def start_second(self, host: str) -> subprocess.CompletedProcess[str]:
        """Start one more daemon where one runs already, and return what it said when it gave up."""
        argv, environment = self._program()
        return self.lab.run(host, argv, timeout_s=_START_LIMIT_S, check=False, env=environment)

    def wait_healthy(self, hosts: Sequence[str] | None = None) -> None:
        """Wait until each of `hosts` (default: all nodes) runs, and sees every one of them healthy."""
        wanted = self.lab.nodes if hosts is None else hosts
        numbers = ",".join(host[1:] for host in wanted)
        for host in wanted:

            def looks_healthy(host: str = host) -> bool:
                self._check_running(host)
                return (
                    self.tool(host, "runstate", "RUNNING", check=False).returncode == 0
                    and self.tool(host, "nodestatus", numbers, check=False).returncode == 0
                )

            try:
                wait_until(f"'{host}' is healthy", looks_healthy, timeout_s=_START_LIMIT_S, pause_s=0.1)
            except LabError as error:
                raise LabError(f"{error}; its log ends:\n{self.log_end(host)}") from None

    def stop(self, host: str) -> None:
        """Shut the daemon down and wait until its process is gone."""
        pid = self.pid(host)
        self.tool(host, "shutdown")
        self.wait_gone(host, pid)

    def kill(self, host: str) -> None:
        """SIGKILL the daemon and wait until it is gone."""
        pid = self.pid(host)
        self.lab.run(host, ["kill", "-KILL", str(pid)], timeout_s=_TOOL_LIMIT_S)
        self.wait_no_daemon(host, pid)

    def wait_no_daemon(self, host: str, pid: int) -> None:
        """Wait until the daemon that was killed and all that belonged to it are gone."""
        self.wait_gone(host, pid)
        if self.flavour == "debian":
            # Its event daemon looks for its parent every two seconds; until it is gone no new one starts.
            wait_until(
                f"the event daemon of '{host}' is gone",
                lambda: (
                    self.lab.run(
                        host, ["pgrep", "-x", "ctdb-eventd"], timeout_s=_TOOL_LIMIT_S, check=False
                    ).returncode
                ),
                timeout_s=_STOP_LIMIT_S,
            )

    def wait_gone(self, host: str, pid: int) -> None:
        """Wait until the daemon that had this process id is gone."""
        wait_until(
            f"the daemon of '{host}' is gone", lambda: not _runs(self.lab, host, pid), timeout_s=_STOP_LIMIT_S
        )

    # --- questions --------------------------------------------------------------------------------

    def runs(self, host: str) -> bool:
        """Whether a daemon runs there."""
        pid = self._noted_pid(host)
        return pid is not None and _runs(self.lab, host, pid)

    def tool(
        self, host: str, *arguments: str, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Debian's `ctdb` tool on a node."""
        return self.lab.run(host, ["ctdb", *arguments], timeout_s=_TOOL_LIMIT_S, check=check, input=input)

    def pid(self, host: str) -> int:
        """The daemon's process id as the host sees it; raises `LabError` when it has no pid file."""
        pid = self._noted_pid(host)
        if pid is None:
            raise LabError(f"cannot find the cluster daemon of '{host}': it has no pid in '{_PID_FILE}'")
        return pid

    def log(self, host: str) -> Path:
        """The daemon's log file."""
        return self.lab.path(host, _LOG)

    def log_end(self, host: str, lines: int = 20) -> str:
        """The last lines the daemon wrote."""
        said = [self.log(host), self.log(host).with_name("ctdbpyd.out")]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in said if path.exists()]
        return "\n".join("\n".join(text.splitlines()[-lines:]) for text in texts)

    # --- private ----------------------------------------------------------------------------------

    def _install_scripts(self, etc: Path) -> None:
        own = Path(__file__).resolve().parents[2] / "eventscripts"
        legacy = etc / "events" / "legacy"
        legacy.mkdir(parents=True, exist_ok=True)
        shutil.copy(own / "functions", etc / "functions")
        for script in self._scripts:
            (legacy / f"{script}.script").unlink(missing_ok=True)
            shutil.copy(own / f"{script}.script", legacy)
        # A script of ours that a daemon of the other flavour runs finds the package by itself.
        options = {"CTDBPY_PYTHON": sys.executable, "PYTHONPATH": str(own.parent), **self._options}
        lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in options.items())
        (etc / "script.options").write_text(lines, encoding="utf-8")

    def _program(self) -> tuple[list[str], dict[str, str]]:
        if self.flavour == "debian":
            return ["ctdbd"], {}
        package = str(Path(__file__).resolve().parents[2])
        return [sys.executable, "-m", "ctdbpy.daemon"], {"PYTHONPATH": package}

    def _configuration(self) -> str:
        # Real-time scheduling needs a privilege that a container's root may not have, on any flavour.
        cluster = "cluster lock = /cluster/.ctdb/lock\n" if self._cluster_lock else ""
        if self._fencing:
            cluster += f"fence command = {sys.executable} -IS {power.__file__}\n"
        return (
            f"[logging]\nlocation = file:{_LOG}\nlog level = {self._log_level}\n"
            + (f"[cluster]\n{cluster}" if cluster else "")
            + "[legacy]\nrealtime scheduling = false\n"
        )

    def _noted_pid(self, host: str) -> int | None:
        try:
            return int(self.lab.path(host, _PID_FILE).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def _check_running(self, host: str) -> None:
        """A daemon that is gone will not become healthy: say so at once."""
        daemon = self._daemons.get(host)
        if daemon is not None and daemon.poll() is not None:
            raise LabError(f"cannot wait for the daemon of '{host}': it ended, exit code {daemon.returncode}")
        pid = self._noted_pid(host)
        if pid is not None and pid != self._stale_pids.get(host) and not _runs(self.lab, host, pid):
            raise LabError(f"cannot wait for the daemon of '{host}': process {pid} is gone")


class Samba:
    """Debian's smbd on the nodes, clustered, with the share `share` on the cluster file system."""

    def __init__(self, lab: Lab, *, options: Mapping[str, str] | None = None) -> None:
        self.lab = lab
        self._options = dict(options or {})
        self._users = 0

    def configure(self) -> None:
        """Write smb.conf on every node and make the share's directory, which anyone may write to."""
        for host in self.lab.nodes:
            self.lab.path(host, "/etc/samba/smb.conf").write_text(self._configuration(), encoding="ascii")
        for host in self.lab.clients:
            # smbclient grumbles without one.
            self.lab.path(host, "/etc/samba/smb.conf").write_text("[global]\n", encoding="ascii")
        share = self.lab.path(self.lab.nodes[0], "/cluster/share")
        share.mkdir(exist_ok=True)
        share.chmod(0o1777)

    def add_user(self, name: str, password: str) -> None:
        """Make a user that can log in on every node; the cluster daemon has to run on the first one."""
        self._users += 1
        uid = str(_FIRST_UID + self._users)
        for host in self.lab.nodes:
            add = ["useradd", "--no-create-home", "--uid", uid, name]
            self.lab.run(host, add, timeout_s=_TOOL_LIMIT_S)
        given = f"{password}\n{password}\n"
        add = ["pdbedit", "--create", "--password-from-stdin", "--user", name]
        self.lab.run(self.lab.nodes[0], add, timeout_s=_TOOL_LIMIT_S, input=given)

    def start(self, host: str) -> None:
        """Start smbd and wait until it takes connections."""
        self.lab.run(host, ["mkdir", "-p", "/run/samba"], timeout_s=_TOOL_LIMIT_S)
        self.lab.run(host, ["smbd", "-D"], timeout_s=_START_LIMIT_S)
        probe = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/445"]
        try:
            wait_until(
                f"smbd on '{host}' takes connections",
                lambda: self.lab.run(host, probe, timeout_s=_TOOL_LIMIT_S, check=False).returncode == 0,
                timeout_s=_START_LIMIT_S,
            )
        except LabError as error:
            raise LabError(f"{error}; its log ends:\n{self.log_end(host)}") from None

    def stop(self, host: str) -> None:
        """End smbd with all its children and wait until it is gone."""
        pid = self.pid(host)
        self.lab.run(host, ["kill", "-TERM", str(pid)], timeout_s=_TOOL_LIMIT_S)
        wait_until(
            f"smbd on '{host}' is gone", lambda: not _runs(self.lab, host, pid), timeout_s=_STOP_LIMIT_S
        )

    def pid(self, host: str) -> int:
        """The process id of smbd's parent process as the host sees it."""
        try:
            return int(self.lab.path(host, "/run/samba/smbd.pid").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError) as error:
            raise LabError(f"cannot find smbd on '{host}': {error}") from None

    def log_end(self, host: str, lines: int = 20) -> str:
        """The last lines smbd wrote."""
        path = self.lab.path(host, "/var/log/samba/log.smbd")
        if not path.exists():
            return ""
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _configuration(self) -> str:
        options = {
            "clustering": "yes",
            "netbios name": "LAB",
            "workgroup": "LABGROUP",
            "security": "user",
            "passdb backend": "tdbsam",
            "map to guest": "never",
            "registry shares": "yes",
            "load printers": "no",
            "printing": "bsd",
            "disable spoolss": "yes",
            "log file": "/var/log/samba/log.%m",
            "log level": "1",
            "smb ports": "445",
            **self._options,
        }
        lines = "".join(f"\t{name} = {value}\n" for name, value in options.items())
        return f"[global]\n{lines}[share]\n\tpath = /cluster/share\n\tread only = no\n"


def _runs(lab: Lab, host: str, pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    state = lab.run(host, ["ps", "-o", "stat=", "-p", str(pid)], timeout_s=_TOOL_LIMIT_S, check=False)
    return state.stdout.strip()[:1] not in ("", "Z")
