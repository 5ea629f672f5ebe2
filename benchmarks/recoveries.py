# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a recovery takes that has many records to bring together: `benchmarks/recovery`."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.questions import RECORD_BYTES, WALK_LIMIT_S, Figures, check_records
from benchmarks.report import Steal, Table, Target, machine
from benchmarks.side import NODES, Side
from benchmarks.views import View, Views

RECOVERY_LIMIT_S = 900.0
VOLATILE = "/var/lib/ctdb/volatile"
_serial = itertools.count()


class Subject:
    """One daemon's cluster, its records and its observers."""

    def __init__(self, side: Side, views: Views, records: int) -> None:
        self.side = side
        self.records = records
        self._views = views
        self._name = ""
        self._changes = 0
        for host in side.lab.nodes:
            views.start(host)
        # Or ctdbd would let ten seconds pass between two recoveries, and never end one of a million records:
        # bringing together those that are new takes it longer than the half minute it gives one step.
        side.set_tunable("RerecoveryTimeout", 1)
        side.set_tunable("RecoverTimeout", int(RECOVERY_LIMIT_S))

    def begin(self) -> None:
        """A new database."""
        self._name = f"recovery{next(_serial)}.tdb"
        self._changes = 0
        self.side.all("attach", name=self._name)

    def end(self) -> None:
        """Check that every record is there with all its changes and one dmaster; then be rid of them."""
        side = self.side
        if not self._name:
            return
        check_records(side, self.records, self._changes)
        side.all("leave")
        side.set_tunable("AllowClientDBAttach", 0)
        side.cluster.tool(side.lab.nodes[0], "detach", self._name)
        side.set_tunable("AllowClientDBAttach", 1)
        for host in side.lab.nodes:
            (side.lab.path(host, VOLATILE) / f"{self._name}.{host[1:]}").unlink()
        self._name = ""

    def spread(self) -> None:
        """Change every record once, a third of them on each node, so that each has a third to itself."""
        side = self.side
        side.each(
            "connect",
            [{"clients": 50, "keys": self.records, "size": RECORD_BYTES, "seed": 1} for _ in range(NODES)],
        )
        third = self.records // NODES
        orders = [{"first": pnn * third, "count": third, "timeout_s": WALK_LIMIT_S} for pnn in range(NODES)]
        self._changes += sum(answer["changes"] for answer in side.each("walk", orders))
        side.all("disconnect")

    def recover(self) -> Figures:
        """One recovery, as clients see it.

        The data phase lies between the new map, which both daemons spread just before it, and normal mode.
        """
        views, hosts = self._views, self.side.lab.nodes
        views.forget()
        asked_ns = time.monotonic_ns()
        views.wait("all is well", hosts, lambda view: view.is_healthy(NODES), asked_ns, RECOVERY_LIMIT_S)
        old = {views.now(host).generation for host in hosts}
        asked_ns = time.monotonic_ns()
        self.side.lab.run(hosts[0], ["ctdb", "recover", "-T", "900"], timeout_s=RECOVERY_LIMIT_S)

        def is_done(view: View) -> bool:
            return view.is_normal and view.generation not in old

        ended_ns = views.wait("the recovery is done", hosts, is_done, asked_ns, RECOVERY_LIMIT_S)
        began_ns = min(views.first_ns(host, lambda view: view.generation not in old) for host in hosts)
        return {
            "data phase s": (ended_ns - began_ns) / 1e9,
            "MiB, leader": max(views.peak_kib(host, asked_ns) for host in hosts) / 1024,
            "MiB, all nodes": sum(views.peak_kib(host, asked_ns) for host in hosts) / 1024,
        }


def ask(sides: list[Side], records: int, rounds: int, rounds_new: int) -> Iterator[Table]:
    """Make records, recover, spread them again, recover again; every side in turn.

    Only `rounds_new` rounds begin with a new database: ctdbd takes minutes for a million new records.
    """
    records -= records % NODES
    what = f"{records:,} records of {RECORD_BYTES} bytes in one volatile database on {NODES} nodes"
    target = Target("ctdbpy", "data phase s", 0.5, at_least=False)
    new = Table(f"recovery of {what}: just made, a third on each node", [target])
    old = Table(f"recovery of {what}: each node has an old copy of all, a third are its own", [target])
    with ExitStack() as stack:
        subjects = []
        for side in sides:
            views = Views(side.lab, "--every-ms", "10", "--memory")
            stack.callback(views.close)
            subjects.append(Subject(side, views, records))
        for number in range(rounds):
            turn = number % len(subjects)
            in_turn = (*subjects[turn:], *subjects[:turn])
            if number < rounds_new:
                new.add(_recover_each(in_turn, begin=True))
            old.add(_recover_each(in_turn, begin=False))
        for subject in subjects:
            subject.end()
    yield from (new, old)


def _recover_each(subjects: Sequence[Subject], *, begin: bool) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for subject in subjects:
        steal, name = Steal(), subject.side.flavour
        if begin:
            subject.end()
            subject.begin()
        subject.spread()
        figures[name] = subject.recover()
        figures[name]["steal"] = steal.cores()
        age = "just made" if begin else "not new"
        print(f"  {name}, {age}: {figures[name]['data phase s']:.3f} s", flush=True)
    return dict(sorted(figures.items(), reverse=True))


def main() -> int:
    """Recover as the command line says."""
    parser = argparse.ArgumentParser(prog="./dev bench recovery", description=__doc__)
    parser.add_argument("records", nargs="*", type=int, help="default: 100000 1000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rounds-new", type=int, default=2, help="of these, how many make the records anew")
    parser.add_argument("--only", choices=("debian", "ctdbpy"), help="recover one daemon's cluster alone")
    options = parser.parse_args()
    print(machine(), flush=True)
    with ExitStack() as stack:
        sides = [
            stack.enter_context(Side(flavour))
            for flavour in ("debian", "ctdbpy")
            if options.only in (None, flavour)
        ]
        for records in options.records or (100_000, 1_000_000):
            for table in ask(sides, records, options.rounds, options.rounds_new):
                print(table.render(), flush=True)
    return 0
