# SPDX-License-Identifier: GPL-3.0-or-later
"""Three nodes with Debian's smbd and public addresses, an SMB client for each address, and an ARP prober."""

from __future__ import annotations

import json
import select
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.blocks import spoilt
from benchmarks.side import NODES
from benchmarks.views import Pipe
from ctdbpy.errors import LabError
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster, Samba

ADDRESSES = tuple(f"10.78.0.{200 + number}" for number in range(NODES))
USER, PASSWORD = "clara", "clara's own"
# Debian's daemons need half a minute to notice a death and as long to start.
LIMIT_S = 120.0
_SCRIPT = "/etc/ctdb/events/legacy/50.samba.script"
_DEBIANS = "/usr/share/ctdb/events/legacy/50.samba.script"
# A network namespace has cables that Debian's scripts cannot ask with the real ethtool, and nothing that
# starts services: for them that is done here. Ours start smbd themselves.
_RC_LOCAL = (
    "ethtool () { grep -qs 1 /sys/class/net/$1/carrier && echo Link detected: yes; }\n"
    "service () { :; }\nnice_service () { :; }\n"
)


class Served:
    """One flavour's cluster that serves SMB clients inside the block."""

    def __init__(self, flavour: str, *, fencing: bool = False) -> None:
        self.flavour = flavour
        self.fencing = fencing
        # The prober has a host of its own: answers to it tell the host it asks from who has an address.
        self.lab = Lab(nodes=NODES, clients=2)
        # Without a cluster lock: a leader that hangs or is cut off would keep it in this lab, as no file
        # system takes its locks away.
        self.cluster = Cluster(
            self.lab,
            flavour,
            events=True,
            scripts=("50.samba",) if flavour == "ctdbpy" else (),
            public_addresses=[f"{address}/24" for address in ADDRESSES],
            cluster_lock=False,
            fencing=fencing,
        )
        self.samba = Samba(self.lab)
        self._pipes: dict[str, Pipe] = {}
        self._said: dict[str, list[dict[str, Any]]] = {}
        self._answered: list[dict[str, Any]] = []
        self._spoilt: set[tuple[str, int]] = set()

    def __enter__(self) -> Self:
        self.lab.up()
        try:
            self._begin()
        except BaseException:
            self._say_logs()
            self.lab.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._say_logs()
        try:
            for pipe in self._pipes.values():
                pipe.close()
        finally:
            self.lab.down()

    def _begin(self) -> None:
        self.cluster.configure()
        self.samba.configure()
        for host in self.lab.nodes:
            rc_local = self.lab.path(host, "/etc/ctdb/rc.local")
            rc_local.write_text(_RC_LOCAL, encoding="ascii")
            rc_local.chmod(0o755)
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(self.cluster.start, self.lab.nodes))
        self.cluster.wait_healthy()
        self.samba.add_user(USER, PASSWORD)
        if self.flavour == "debian":
            for host in self.lab.nodes:
                self.samba.start(host)
                # Not before there is an smbd to look at.
                self.lab.path(host, _SCRIPT).symlink_to(_DEBIANS)
        self.wait_spread()
        for address in ADDRESSES:
            argv = [address, "share", f"f{address}", _acknowledged(address), USER, PASSWORD]
            argv = ["-m", "benchmarks.smb_client", *argv]
            self._pipes[address] = Pipe(self.lab, "c0", argv, f"client-{address}.log")
            self._said[address] = []
        argv = ["-m", "benchmarks.arp_prober", "pub0", *ADDRESSES]
        self._pipes["arp"] = Pipe(self.lab, "c1", argv, "arp.log")

    # -- questions --------------------------------------------------------------------------------

    def where(self, asked: str) -> dict[str, str]:
        """Which host has which address, as a node says."""
        said = self.cluster.tool(asked, "ip", "all", check=False).stdout.splitlines()[1:]
        pairs = [line.split()[:2] for line in said]
        return {address: f"n{pnn}" for address, pnn in pairs if pnn != "-1"}

    def leader(self) -> str:
        """The node that leads."""
        said = self.cluster.tool("n0", "leader").stdout.strip()
        if not said.isdigit():
            raise LabError(f"cannot tell who leads: node 0 says '{said}'")
        return f"n{said}"

    def wait_spread(self) -> None:
        """Wait until all nodes are healthy and each has an address of its own, and says so."""
        self.cluster.wait_healthy()

        def is_spread() -> bool:
            views = [self.where(host) for host in self.lab.nodes]
            return all(view == views[0] and len(set(view.values())) == NODES for view in views)

        wait_until("each node has an address", is_spread, timeout_s=LIMIT_S, pause_s=0.2)

    def wait_moved(self, address: str, away_from: str) -> None:
        """Wait until all other nodes say that another one has the address."""
        others = [host for host in self.lab.nodes if host != away_from]

        def is_elsewhere() -> bool:
            return all(self.where(host).get(address, away_from) != away_from for host in others)

        wait_until(f"'{address}' is not on '{away_from}'", is_elsewhere, timeout_s=LIMIT_S, pause_s=0.1)

    def wait_writing(self, since_ns: int, *, for_ns: int = 0) -> None:
        """Wait until every client has written again after `since_ns`, and for so long at least."""
        deadline_s = time.monotonic() + LIMIT_S
        while not all(
            said and said[-1]["at_ns"] > since_ns + for_ns and not self._is_late(said)
            for said in self._said.values()
        ):
            if time.monotonic() > deadline_s:
                late = {address: said[-1:] for address, said in self._said.items()}
                raise LabError(f"cannot wait longer for the clients: they last wrote {late}")
            self._read()

    @staticmethod
    def _is_late(said: list[dict[str, Any]]) -> bool:
        return bool(time.monotonic_ns() - said[-1]["at_ns"] > 500_000_000)

    def longest(self, address: str, since_ns: int, until_ns: int) -> tuple[float, list[str]]:
        """How long a client could not write at most, in seconds, and what befell it then."""
        found, course = 0, []
        for line in self._said[address]:
            is_meant = line["at_ns"] > since_ns and line["at_ns"] - line["longest_us"] * 1000 < until_ns
            if is_meant and line["longest_us"] > found:
                found, course = line["longest_us"], line.get("course", [])
        return found / 1e6, course

    def double_s(self, since_ns: int) -> float:
        """For how long two hosts answered for one address at most."""
        return (
            max((line["double_us"] for line in self._answered if line["at_ns"] > since_ns), default=0) / 1e6
        )

    def spoilt(self) -> tuple[int, int]:
        """Acknowledged blocks that have been spoilt since this was asked last.

        How many hold what an earlier attempt to write the same block wrote late, and how many are lost.
        """
        counts = {True: 0, False: 0}
        for address in self._said:
            # Acknowledged first: what is written meanwhile must not look lost.
            attempts = self.lab.path("c0", _acknowledged(address)).read_bytes()
            data = self.lab.path("n0", f"/cluster/share/f{address}").read_bytes()
            for number, is_late in spoilt(data, attempts):
                if (address, number) not in self._spoilt:
                    self._spoilt.add((address, number))
                    counts[is_late] += 1
        return counts[True], counts[False]

    def serve_again(self, host: str) -> None:
        """Have smbd where its daemon has just been started."""
        if self.flavour == "debian":
            wait_until(
                f"the daemon of '{host}' runs",
                lambda: self.cluster.tool(host, "runstate", "RUNNING", check=False).returncode == 0,
                timeout_s=LIMIT_S,
            )
            self.start_smbd(host)

    def start_smbd(self, host: str) -> None:
        """Start smbd where none is, or one that has lost its daemon."""
        self.lab.run(host, ["pkill", "-KILL", "-x", "smbd"], timeout_s=LIMIT_S, check=False)
        self.lab.run(host, ["rm", "-f", "/run/samba/smbd.pid"], timeout_s=LIMIT_S)
        self.samba.start(host)

    def _read(self) -> None:
        names = {pipe: name for name, pipe in self._pipes.items()}
        for pipe in select.select(list(names), [], [], 0.2)[0]:
            lines = [json.loads(line) for line in pipe.read()]
            if pipe.has_ended:
                raise LabError(f"cannot go on without '{names[pipe]}': {pipe.log.read_text()[-800:]}")
            (self._answered if names[pipe] == "arp" else self._said[names[pipe]]).extend(lines)

    def keep_logs(self, folder: Path, name: str) -> None:
        """Copy the daemons' logs."""
        folder.mkdir(parents=True, exist_ok=True)
        for host in self.lab.nodes:
            mark = "-fencing" if self.fencing else ""
            shutil.copy(self.cluster.log(host), folder / f"{self.flavour}{mark}-{name}-{host}.log")

    def _say_logs(self) -> None:
        for host in self.lab.nodes:
            print(f"--- {self.flavour} {host}:\n{self.cluster.log_end(host, 40)}", flush=True)
            print(self.samba.log_end(host), flush=True)


def _acknowledged(address: str) -> str:
    return f"/var/log/acknowledged-{address}"
