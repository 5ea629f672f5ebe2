# SPDX-License-Identifier: GPL-3.0-or-later
"""Is anybody taken for dead while all are merely busy? `benchmarks/liveness --quietly-loaded MINUTES`."""

from __future__ import annotations

import os
import sys
import time
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
        loads = [Node(stage.lab, host) for host in stage.lab.nodes]
        walks = [Node(stage.lab, host) for host in stage.lab.nodes]
        for node in (*loads, *walks):
            stack.callback(node.close)
            node.ask("attach", name="loaded.tdb")
        for pnn, node in enumerate(loads):
            node.ask("connect", clients=_CLIENTS, keys=_KEYS, size=100, seed=pnn)
        stage.settle()
        for number in range(_BUSY * (os.cpu_count() or 1)):
            host = stage.lab.nodes[number % NODES]
            log = stage.lab.path(host, "/var/log/burn.log")
            stack.callback(stage.lab.spawn(host, [sys.executable, "-c", _BURN], log).close)
        began_ns = time.monotonic_ns()
        changes = walked = vacuumed = 0
        while time.monotonic_ns() - began_ns < minutes * 60e9:
            for node in loads:
                node.tell("run", duration_s=_SLICE_S)
            slice_s = time.monotonic()
            while time.monotonic() - slice_s < _SLICE_S * 0.9:
                for node in walks:
                    walked += node.ask("traverse")["records"]
                    node.ask("vacuum")
                    vacuumed += 1
            changes += sum(node.answer()["changes"] for node in loads)
        ended_ns = time.monotonic_ns()
        longest_s = stage.clients.longest_s(stage.lab.nodes, began_ns, ended_ns)
        for host in stage.lab.nodes:
            stage.views.now(host)
        took_s = (ended_ns - began_ns) / 1e9
        return (
            f"{flavour}, {took_s / 60:.1f} minutes with {_BUSY} busy processes a processor, "
            f"{changes / took_s:,.0f} changes/s, {walked / took_s:,.0f} records/s traversed, "
            f"{vacuumed} vacuum runs over {_KEYS:,} records\n"
            f"  taken for faults: {_faults(stage.views.history())}; "
            f"longest wait for a record {longest_s:.2f} s"
        )


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
