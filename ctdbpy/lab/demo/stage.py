# SPDX-License-Identifier: GPL-3.0-or-later
"""Three nodes with Debian's Samba and three public addresses, and a client host: what the demo plays on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ctdbpy.errors import LabError
from ctdbpy.lab.demo.client import PASSWORD, SHARE, USER
from ctdbpy.lab.demo.programs import Program
from ctdbpy.lab.lab import Lab
from ctdbpy.lab.services import Cluster, Samba
from ctdbpy.lab.waiting import wait_until

NODES: Final = 3
ADDRESSES: Final = tuple(f"10.78.0.{200 + number}" for number in range(NODES))
LIMIT_S: Final = 60.0
_CLIENT: Final = "ctdbpy.lab.demo.client"


class Stage:
    """The cluster, and the programs that use it."""

    def __init__(self, name: str | None, *, stays_up: bool) -> None:
        self.lab = Lab(name, nodes=NODES, clients=1, stays_up=stays_up)
        # Without a cluster lock: the majority of three nodes decides.
        self.cluster = Cluster(
            self.lab,
            "ctdbpy",
            scripts=("50.samba",),
            options={"CTDB_SAMBA_SKIP_SHARE_CHECK": "no"},
            public_addresses=[f"{address}/24" for address in ADDRESSES],
            cluster_lock=False,
        )
        self._samba = Samba(self.lab)
        self._programs: list[Program] = []
        self._without_smbd: set[str] = set()

    @property
    def store(self) -> Path:
        """The share as the cluster file system has it."""
        return self.lab.path("n0", f"/cluster/{SHARE}")

    def start(self) -> None:
        """Start the cluster daemons, which start Samba, and wait until each node has an address."""
        self.cluster.configure()
        self._samba.configure()
        self.store.mkdir(exist_ok=True)
        self.store.chmod(0o1777)
        share = f"[{SHARE}]\n\tpath = /cluster/{SHARE}\n\tread only = no\n"
        for host in self.lab.nodes:
            with self.lab.path(host, "/etc/samba/smb.conf").open("a", encoding="ascii") as file:
                file.write(share)
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(self.cluster.start, self.lab.nodes))
        self.cluster.wait_healthy()
        self._samba.add_user(USER, PASSWORD)
        self.wait_spread()

    def close(self) -> None:
        """End the programs."""
        for program in self._programs:
            program.close()
        self._programs.clear()

    # -- who uses it ------------------------------------------------------------------------------

    def client(self, name: str, *arguments: str) -> Program:
        """Start a program of the client host."""
        program = Program(self.lab, "c0", _CLIENT, arguments, name)
        self._programs.append(program)
        return program

    def attend(self, programs: Sequence[Program], until: Callable[[], bool], *, limit_s: float) -> None:
        """Listen to programs until something is so; raises `LabError` after `limit_s`."""
        deadline_s = time.monotonic() + limit_s
        while True:
            for program in programs:
                program.look()
            if until():
                return
            if time.monotonic() > deadline_s:
                late = {program.name: program.lines[-1:] for program in programs}
                raise LabError(
                    f"cannot wait longer for the clients after {limit_s:g} s: they last said {late}"
                )
            time.sleep(0.02)

    def kill_smbd(self, host: str) -> None:
        """End Samba on a node; as on a node without a service manager, nobody starts it again."""
        self.lab.run(host, ["pkill", "-KILL", "-x", "smbd"], timeout_s=LIMIT_S, check=False)
        self._without_smbd.add(host)

    def serve_again(self, host: str) -> None:
        """Mend whatever has happened to a node, and wait until all is as it was."""
        power = next(row["power"] for row in self.lab.status() if row["name"] == host)
        if power == "off":
            self.lab.power_on(host)
        elif power == "frozen":
            self.lab.thaw(host)
        self.lab.mend(host)
        if not self.cluster.runs(host):
            self.cluster.start(host)
        if host in self._without_smbd:
            self._without_smbd.remove(host)
            self._samba.start(host)
        self.wait_spread()

    # -- where things are -------------------------------------------------------------------------

    def holders(self, asked: str) -> dict[str, str]:
        """Which host has which address, as one node says."""
        said = self.cluster.tool(asked, "ip", "all", check=False).stdout.splitlines()[1:]
        pairs = [line.split()[:2] for line in said]
        return {address: f"n{pnn}" for address, pnn in pairs if pnn != "-1"}

    def leader(self, asked: str) -> str:
        """The node that leads, as one node says."""
        said = self.cluster.tool(asked, "leader").stdout.strip()
        if not said.isdigit():
            raise LabError(f"cannot tell who leads: '{asked}' says '{said}'")
        return f"n{said}"

    def wait_spread(self) -> None:
        """Wait until all nodes are healthy, each has an address, and all say the same about that."""

        def is_spread() -> bool:
            views = [self.holders(host) for host in self.lab.nodes]
            return all(view == views[0] and len(set(view.values())) == NODES for view in views)

        self.cluster.wait_healthy()
        wait_until("each node has an address", is_spread, timeout_s=LIMIT_S, pause_s=0.2)
