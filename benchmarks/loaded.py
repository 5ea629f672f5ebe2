# SPDX-License-Identifier: GPL-3.0-or-later
"""Is anybody taken for dead while all are merely busy? `benchmarks/liveness --quietly-loaded MINUTES`."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.side import NODES, Node
from benchmarks.stage import Stage
from benchmarks.views import NOBODY, View
from ctdbpy.wire.constants import NodeFlag

# Busy processes for each processor, besides the load itself.
_BUSY = 2
_CLIENTS = 50
_KEYS = 100_000
_SLICE_S = 10.0
_BURN = "while True: pass"


def ask(flavour: str, minutes: float) -> str:
    """Load one flavour's cluster in every way for so long; what its nodes took for a fault meanwhile."""
    with Stage(flavour) as stage, ExitStack() as stack:
        stage.serve_from_cold()

        def workers() -> list[Node]:
            made = [Node(stage.lab, host) for host in stage.lab.nodes]
            for node in made:
                stack.callback(node.close)
                node.ask("attach", name="loaded.tdb")
            return made

        writers, walkers, vacuumers = workers(), workers(), workers()
        for pnn, node in enumerate(writers):
            node.ask("connect", clients=_CLIENTS, keys=_KEYS, size=100, seed=pnn)
        stage.settle()
        for number in range(_BUSY * (os.cpu_count() or 1)):
            host = stage.lab.nodes[number % NODES]
            log = stage.lab.path(host, "/var/log/burn.log")
            stack.callback(stage.lab.spawn(host, [sys.executable, "-c", _BURN], log).close)
        began_ns = time.monotonic_ns()
        end_s = time.monotonic() + minutes * 60
        with ThreadPoolExecutor(3 * NODES) as pool:
            changes, walked, vacuumed = (
                [pool.submit(_repeat, node, end_s, do, count, arguments) for node in nodes]
                for nodes, do, count, arguments in (
                    (writers, "run", "changes", {"duration_s": _SLICE_S}),
                    (walkers, "traverse", "records", {}),
                    (vacuumers, "vacuum", "runs", {}),
                )
            )
            sums = [sum(each.result() for each in of) for of in (changes, walked, vacuumed)]
        ended_ns = time.monotonic_ns()
        longest_s = stage.clients.longest_s(stage.lab.nodes, began_ns, ended_ns)
        for host in stage.lab.nodes:
            stage.views.now(host)
        took_s = (ended_ns - began_ns) / 1e9
        return (
            f"{flavour}, {took_s / 60:.1f} minutes with {_BUSY} busy processes a processor, "
            f"{sums[0] / took_s:,.0f} changes/s, {sums[1] / took_s:,.0f} records/s traversed, "
            f"{sums[2]} full vacuum runs over {_KEYS:,} records\n"
            f"  taken for faults: {_faults(stage.views.history())}; "
            f"longest wait for a record {longest_s:.2f} s"
        )


def _repeat(node: Node, end_s: float, do: str, count: str, arguments: dict[str, float]) -> int:
    """Give a worker one order again and again; the sum of one figure of its answers."""
    total = 0
    while time.monotonic() < end_s:
        total += node.ask(do, **arguments)[count]
    return total


def _faults(history: list[View]) -> str:
    """What observers saw happen to a cluster that nothing happened to."""
    deaths = elections = stops = 0
    latest: dict[str, View] = {}
    for view in history:
        before = latest.get(view.host)
        if before is not None and view.up:
            was, now = (
                {pnn for pnn, flags in enumerate(each.flags) if flags & NodeFlag.DISCONNECTED}
                for each in (before, view)
            )
            deaths += len(now - was)
            elections += view.leader not in (before.leader, NOBODY)
            stops += before.is_normal and not view.is_normal
        elif before is not None and before.up:
            deaths += 1
        if view.up:
            latest[view.host] = view
    recoveries = len({view.generation for view in history if view.up}) - 1
    return (
        f"{deaths} deaths, {elections} changes of leader, {recoveries} recoveries, "
        f"{stops} times a node in recovery mode"
    )
