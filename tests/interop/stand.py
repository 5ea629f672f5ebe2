# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand: one lab with a cluster daemon of one flavour on each node, and conversations held on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctdbpy.lab import Lab
from ctdbpy.lab.services import Cluster, Samba

# Upstream's waits after a recovery and for an election only make the tests slow. Vacuuming would take empty
# records away at times of its own.
TUNABLES = {"RerecoveryTimeout": 1, "ElectionTimeout": 1, "VacuumInterval": 99999}
USER = "alice"
PASSWORD = "Secret.1"
LOGIN = f"{USER}%{PASSWORD}"
_LINE_LIMIT_S = 60.0


class Stand:
    """A lab, the cluster daemon on its nodes, and Samba on top once somebody asks for it."""

    def __init__(
        self,
        flavour: str,
        nodes: int = 1,
        *,
        tunables: Mapping[str, int] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.flavour = flavour
        self.lab = Lab(nodes=nodes, clients=1)
        self.cluster = Cluster(self.lab, flavour, tunables={**TUNABLES, **(tunables or {})})
        self.samba = Samba(self.lab, options=options)
        self._serves = False

    def begin(self) -> None:
        """Build the lab and start the daemons, without waiting for them."""
        self.lab.up()
        try:
            self.cluster.configure()
            for host in self.lab.nodes:
                self.cluster.start(host)
        except BaseException:
            self.end()
            raise

    def serve(self) -> None:
        """Start smbd on every node, with one user; does nothing when it serves already."""
        if self._serves:
            return
        self.samba.configure()
        self.samba.add_user(USER, PASSWORD)
        for host in self.lab.nodes:
            self.samba.start(host)
        self._serves = True

    def end(self) -> None:
        """Take it all down."""
        self.lab.down()

    def smbclient(
        self, commands: str, *, share: str = "share", node: str = "n0", timeout_s: float = 60
    ) -> str:
        """Run smbclient commands from the client host and return what it said."""
        argv = ["smbclient", f"//{node}-pub/{share}", "-U", LOGIN, "-c", commands]
        done = self.lab.run("c0", argv, timeout_s=timeout_s)
        return done.stdout + done.stderr

    def converse(self, lines: Sequence[str], host: str = "n0") -> str:
        """Run shell lines one after the other and return the transcript: output, "! " errors, exit code."""
        transcript = []
        for line in lines:
            done = self.lab.run(host, ["sh", "-c", line], timeout_s=_LINE_LIMIT_S, check=False)
            transcript.append(f"$ {line}")
            transcript += done.stdout.splitlines()
            transcript += [f"! {error}" for error in done.stderr.splitlines()]
            if done.returncode:
                transcript.append(f"exit {done.returncode}")
        return "\n".join(transcript) + "\n"
