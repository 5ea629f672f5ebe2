# SPDX-License-Identifier: GPL-3.0-or-later
"""Three nodes with Debian's smbd on each, watched by observers, with clients that want records."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.side import NODES
from benchmarks.views import NOBODY, Pipe, View, Views
from ctdbpy.errors import LabError
from ctdbpy.lab import Lab
from ctdbpy.lab.services import Cluster, Samba

DATABASE = "liveness.tdb"
KEYS = 1000
CLIENTS = 2
# Debian's daemons need half a minute to notice a death and as long to start.
LIMIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A client's line: its longest wait since the line before."""

    at_ns: int
    longest_us: int
    changes: int


class Clients:
    """Clients on every node, and what they had to wait."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._pipes: dict[str, list[Pipe]] = {}
        self._said: dict[Pipe, list[Progress]] = {}

    def start(self, host: str) -> None:
        """Some clients on one node."""
        self.end(host)
        self._pipes[host] = []
        for number in range(CLIENTS):
            argv = ["-m", "benchmarks.waiter", DATABASE, "--keys", str(KEYS), "--seed", f"{host[1:]}{number}"]
            pipe = Pipe(self._lab, host, argv, f"waiter{number}.log")
            self._pipes[host].append(pipe)
            self._said[pipe] = []

    def end(self, host: str) -> None:
        """No more clients on this node."""
        for pipe in self._pipes.pop(host, []):
            del self._said[pipe]
            pipe.close()

    def close(self) -> None:
        """No more clients."""
        for host in list(self._pipes):
            self.end(host)

    def longest_s(self, hosts: Sequence[str], since_ns: int, until_ns: int) -> float:
        """The longest wait of any client on these nodes that ended after `since_ns`.

        Waits until every client has had a record after `until_ns`.
        """
        longest_us = 0
        for host in hosts:
            for pipe in self._pipes[host]:
                self._read_until(pipe, until_ns)
                for line in self._said[pipe]:
                    if line.at_ns >= since_ns:
                        longest_us = max(longest_us, line.longest_us)
                        if line.at_ns > until_ns:
                            break
                del self._said[pipe][:-1]
        return longest_us / 1e6

    def _read_until(self, pipe: Pipe, at_ns: int) -> None:
        said = self._said[pipe]
        deadline_s = time.monotonic() + LIMIT_S
        while not said or said[-1].at_ns <= at_ns:
            left_s = deadline_s - time.monotonic()
            if pipe.has_ended or left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
                raise LabError(
                    f"cannot have word from a client on '{pipe.host}': "
                    + ("it ended: " + pipe.log.read_text()[-500:] if pipe.has_ended else "it waits still")
                )
            said += [Progress(**json.loads(line)) for line in pipe.read()]


class Stage:
    """One flavour's cluster, up inside the block: daemons, smbd, observers, clients."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.lab = Lab(nodes=NODES, clients=0)
        # Without a cluster lock: a hung leader would keep it in this lab, as no file system fences it.
        self.cluster = Cluster(self.lab, flavour, cluster_lock=False)
        self.samba = Samba(self.lab)
        self.views = Views(self.lab)
        self.clients = Clients(self.lab)

    def __enter__(self) -> Self:
        self.lab.up()
        try:
            self.cluster.configure()
            self.samba.configure()
            for host in self.lab.nodes:
                self.views.start(host)
        except BaseException:
            self.lab.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for view in self.views.history():
                print(f"  {view}")
            for host in self.lab.nodes:
                print(f"--- {self.flavour} {host}:\n{self.cluster.log_end(host, 40)}", flush=True)
        try:
            self.views.close()
            self.clients.close()
        finally:
            self.lab.down()

    def start_all(self) -> int:
        """Start every daemon at once; when that began."""
        began_ns = time.monotonic_ns()
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(self.cluster.start, self.lab.nodes))
        return began_ns

    def serve_from_cold(self) -> int:
        """Start everything; how long the daemons took to see each other healthy, in nanoseconds."""
        began_ns = self.start_all()
        healthy_ns = self.wait_healthy(began_ns)
        self.serve(self.lab.nodes)
        return healthy_ns - began_ns

    def wait_healthy(self, since_ns: int) -> int:
        """Wait until every node sees every node healthy; when that was."""
        return self.views.wait(
            "all nodes are healthy",
            self.lab.nodes,
            lambda view: view.is_healthy(NODES) and view.leader != NOBODY,
            since_ns,
            LIMIT_S,
        )

    def serve(self, hosts: Sequence[str]) -> None:
        """Start smbd and clients on nodes whose daemon has just come."""
        for host in hosts:
            self.samba.start(host)
        for host in hosts:
            self.clients.start(host)

    def settle(self) -> None:
        """Wait until all is well and every client has had records for a moment."""
        healthy_ns = self.wait_healthy(time.monotonic_ns())
        self.clients.longest_s(self.lab.nodes, healthy_ns, healthy_ns + 1_000_000_000)
        self.views.forget()

    def leader(self) -> str:
        """The node that leads."""
        leaders = {self.views.now(host).leader for host in self.lab.nodes}
        if len(leaders) != 1 or NOBODY in leaders:
            raise LabError(f"cannot tell who leads: the nodes say {sorted(leaders)}")
        return f"n{leaders.pop()}"

    def recovered(self, victim: str, led: str) -> Callable[[View], bool]:
        """What the survivors' views are like when they have recovered from the loss of `victim`."""
        old = {host: self.views.now(host) for host in self.lab.nodes}
        generations = {view.generation for view in old.values()}

        def holds(view: View) -> bool:
            # A new leader of Debian's may give the generation that the old one gave; theirs are drawn alike.
            is_new = view.generation not in generations or view.recoveries > old[view.host].recoveries
            is_led = view.leader != NOBODY and not (victim == led and f"n{view.leader}" == led)
            return view.is_normal and is_new and is_led

        return holds
