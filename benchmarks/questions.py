# SPDX-License-Identifier: GPL-3.0-or-later
"""The questions of `benchmarks/records`: each is asked of every daemon in turn, several rounds."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.report import Steal, Table, Target, machine
from benchmarks.side import NODES, Side
from ctdbpy.errors import LabError
from ctdbpy.lab.load import bucket_us
from ctdbpy.wire.tunables import Tunables

#: With the spin; as it comes the daemon takes one more look before it sleeps.
SPIN_US = 500
DEFAULT_SPIN_US = Tunables().spin_us
RECORD_BYTES = 100
WALK_LIMIT_S = 200.0
# smbd's clients of a ring send to their node's number below this.
SRVID = 0xBE00000000000000

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Column:
    """One daemon: as it comes, without the look before it sleeps, or with the spin."""

    name: str
    side: Side
    spin_us: int | None = None

    def prepare(self) -> None:
        """Switch the spin as this column has it."""
        if self.spin_us is not None:
            self.side.set_tunable("SpinUs", self.spin_us)


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long each question is asked."""

    rounds: int
    duration_s: float


_serial = itertools.count()


def rounds(
    table: Table,
    columns: Sequence[Column],
    plan: Plan,
    measure: Callable[[Column], Figures],
) -> Table:
    """Ask every column once a round, in an order that turns with the rounds."""
    for number in range(plan.rounds):
        figures: dict[str, Figures] = {}
        turn = number % len(columns)
        for column in (*columns[turn:], *columns[:turn]):
            column.prepare()
            steal = Steal()
            figures[column.name] = measure(column)
            figures[column.name]["steal"] = steal.cores()
        table.add({column.name: figures[column.name] for column in columns})
    return table


def random_load(columns: Sequence[Column], plan: Plan, keys: int, table: Table) -> Table:
    """50 clients on each node change random records."""
    changes: dict[str, int] = {}
    for side in {id(column.side): column.side for column in columns}.values():
        side.all("attach", name=f"random{next(_serial)}.tdb")
        side.each(
            "connect",
            [{"clients": 50, "keys": keys, "size": RECORD_BYTES, "seed": 77 + pnn} for pnn in range(NODES)],
        )
        answers = side.each(
            "walk",
            [
                {"first": keys * pnn // NODES, "count": keys, "timeout_s": WALK_LIMIT_S}
                for pnn in range(NODES)
            ],
        )
        changes[side.flavour] = sum(answer["changes"] for answer in answers)

    def measure(column: Column) -> Figures:
        answers = column.side.all("run", duration_s=plan.duration_s)
        changes[column.side.flavour] += sum(answer["changes"] for answer in answers)
        unanswered = sum(answer["unanswered"] for answer in answers)
        if unanswered:
            raise LabError(
                f"cannot use the figures of '{column.name}': {unanswered} clients were never answered"
            )
        migrations = sum(answer["migrations"] for answer in answers)
        per_client = [done for answer in answers for done in answer["per_client"]]
        waits = waits_of(answers)
        return {
            "migrations/s": migrations / plan.duration_s,
            "changes/s": sum(answer["changes"] for answer in answers) / plan.duration_s,
            "p50 us": percentile(waits, 0.5),
            "p99 us": percentile(waits, 0.99),
            "CPU us/migr": sum(answer["cpu_ns"] for answer in answers) / 1000 / max(1, migrations),
            "clients' CPU": sum(answer["own_cpu_ns"] for answer in answers) / 1000 / max(1, migrations),
            "wasted %": 100 * sum(answer["wasted"] for answer in answers) / max(1, migrations),
            "min/median": min(per_client) / max(1.0, statistics.median(per_client)),
        }

    rounds(table, columns, plan, measure)
    for side in {id(column.side): column.side for column in columns}.values():
        check_records(side, keys, changes[side.flavour])
        side.all("disconnect")
    return table


def check_records(side: Side, keys: int, changes: int) -> None:
    """Each record has exactly one dmaster, and no change is lost."""
    answers = side.all("owned")
    numbers = [number for answer in answers for number in answer["numbers"]]
    total = sum(answer["total"] for answer in answers)
    if len(numbers) != len(set(numbers)):
        raise LabError(f"{side.flavour}: {len(numbers) - len(set(numbers))} records have two dmasters")
    if len(numbers) != keys or total != changes:
        raise LabError(
            f"{side.flavour}: {len(numbers)} of {keys} records have a dmaster, "
            f"their counters sum up to {total} after {changes} changes"
        )
    print(f"  {side.flavour}: {changes} changes, all in the records; each of {keys} has one dmaster")


def waits_of(answers: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """All nodes' waits, by bucket."""
    waits: dict[int, int] = {}
    for answer in answers:
        for bucket, count in answer["waits"].items():
            waits[int(bucket)] = waits.get(int(bucket), 0) + count
    return waits


def percentile(waits: Mapping[int, int], part: float) -> float:
    """The wait that this part of all waits did not exceed, in microseconds."""
    left = part * sum(waits.values())
    for bucket in sorted(waits):
        left -= waits[bucket]
        if left <= 0:
            return float(bucket_us(bucket))
    return 0.0


# -- the questions -----------------------------------------------------------------------


def ask_a(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table(
        "(a) 50 clients on each of 3 nodes, random keys out of 10,000, 100-byte records",
        [
            Target("ctdbpy", "migrations/s", 2.5),
            Target("ctdbpy", "p99 us", 0.5, at_least=False),
        ],
    )
    return random_load(columns, plan, 10_000, table)


def ask_f(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table(
        "(f) 50 clients on each of 3 nodes, random keys out of 30",
        [
            Target("ctdbpy", "migrations/s", 5.0),
            Target("ctdbpy", "p99 us", 0.1, at_least=False),
        ],
    )
    return random_load(columns, plan, 30, table)


def ring(columns: Sequence[Column], plan: Plan, table: Table, size: int, fetches: bool) -> Table:
    """One message goes round the nodes; with `fetches` its holder changes one record before passing it on."""
    for side in {id(column.side): column.side for column in columns}.values():
        side.all("attach", name=f"ring{next(_serial)}.tdb")

    def measure(column: Column) -> Figures:
        srvid = SRVID + next(_serial)
        column.side.each(
            "connect",
            [{"clients": 1, "keys": 1, "size": size, "seed": pnn, "srvid": srvid} for pnn in range(NODES)],
        )
        answers = column.side.each(
            "ring",
            [
                {
                    "next_pnn": (pnn + 1) % NODES,
                    "srvid": srvid,
                    "starts": pnn == 0,
                    "fetches": fetches,
                    "duration_s": plan.duration_s,
                }
                for pnn in range(NODES)
            ],
        )
        passes = sum(answer["passes"] for answer in answers)
        figures = {
            "rate/s/node": passes / NODES / plan.duration_s,
            "CPU us/op": sum(answer["cpu_ns"] for answer in answers) / 1000 / max(1, passes),
        }
        if fetches:
            waits = waits_of(answers)
            figures |= {"p50 us": percentile(waits, 0.5), "p99 us": percentile(waits, 0.99)}
        return figures

    return rounds(table, columns, plan, measure)


def ask_b(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table(
        "(b) fetch ring: one hot record of 1,000 bytes goes round 3 nodes",
        [Target("ctdbpy-look", "rate/s/node", 1.2), Target("ctdbpy+spin", "rate/s/node", 2.0)],
    )
    return ring(columns, plan, table, 1000, True)


def ask_c(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table(
        "(c) message ring: one message goes round 3 nodes",
        [Target("ctdbpy-look", "rate/s/node", 1.0), Target("ctdbpy+spin", "rate/s/node", 1.8)],
    )
    return ring(columns, plan, table, 8, False)


def commits(columns: Sequence[Column], plan: Plan, table: Table, writers: int) -> Table:
    """Persistent transactions, each writer on a database of its own."""
    done: dict[tuple[str, int], int] = {}
    sides = list({id(column.side): column.side for column in columns}.values())
    for side in sides:
        for node in side.nodes[:writers]:
            node.ask("prepare_commit", name=f"commit{next(_serial)}.tdb", size=RECORD_BYTES)

    def measure(column: Column) -> Figures:
        nodes = column.side.nodes[:writers]
        for node in nodes:
            node.tell("commit", duration_s=plan.duration_s)
        answers = [node.answer() for node in nodes]
        took = sorted(each for answer in answers for each in answer["took_us"])
        for pnn, answer in enumerate(answers):
            key = (column.side.flavour, pnn)
            done[key] = done.get(key, 0) + len(answer["took_us"])
        return {
            "commits/s": len(took) / plan.duration_s,
            "p50 us": float(took[len(took) // 2]),
            "p99 us": float(took[len(took) * 99 // 100]),
            # Of the writers' daemons; with one writer the other two are not in it.
            "CPU us/commit": sum(answer["cpu_ns"] for answer in answers) / 1000 / len(took),
        }

    rounds(table, columns, plan, measure)
    for side in sides:
        for pnn, node in enumerate(side.nodes[:writers]):
            seqnum, wanted = node.ask("committed")["seqnum"], done[side.flavour, pnn]
            if seqnum != wanted:
                raise LabError(f"{side.flavour}: sequence number {seqnum} after {wanted} commits")
    return table


def ask_d(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table(
        "(d) persistent transactions, a client on each of 3 nodes on its own database",
        [Target("ctdbpy", "commits/s", 1.5)],
    )
    return commits(columns, plan, table, NODES)


def ask_d1(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table("(d1) persistent transactions, one client alone", [Target("ctdbpy", "commits/s", 1.5)])
    return commits(columns, plan, table, 1)


def fill(side: Side, records: int) -> None:
    """Make records by calling for them, a third on each node."""
    side.all("attach", name=f"fill{next(_serial)}.tdb")
    side.each(
        "connect",
        [{"clients": 50, "keys": records, "size": RECORD_BYTES, "seed": 1} for _ in range(NODES)],
    )
    third = records // NODES
    side.each(
        "walk",
        [{"first": pnn * third, "count": third, "timeout_s": WALK_LIMIT_S} for pnn in range(NODES)],
    )
    side.all("disconnect")


def ask_e(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table("(e) traverse of 200,000 records on 3 nodes", [Target("ctdbpy", "records/s", 2.0)])
    records = 200_000 - 200_000 % NODES
    for side in {id(column.side): column.side for column in columns}.values():
        fill(side, records)

    def measure(column: Column) -> Figures:
        answer = column.side.nodes[0].ask("traverse")
        if answer["records"] != records:
            raise LabError(f"{column.name}: the traverse gave {answer['records']} of {records} records")
        return {
            "records/s": records / answer["took_s"],
            "took s": answer["took_s"],
            "CPU us/record, asked node": answer["cpu_ns"] / 1000 / records,
        }

    return rounds(table, columns, plan, measure)


def ask_g(columns: Sequence[Column], plan: Plan) -> Table:
    table = Table("(g) MiB of memory per node, all its processes, with 1,000,000 records in the cluster")
    figures: dict[str, Figures] = {}
    for column in columns:
        if column.name not in ("debian", "ctdbpy"):
            continue
        before = column.side.all("memory")
        fill(column.side, 1_000_000)
        after = column.side.all("memory")
        figures[column.name] = {
            "before": max(each["Pss"] for each in before) / 1024,
            "all": max(each["Pss"] for each in after) / 1024,
            "anonymous": max(each["Pss_Anon"] for each in after) / 1024,
            "file pages": max(each["Pss_File"] + each["Pss_Shmem"] for each in after) / 1024,
        }
    table.add(figures)
    if len(figures) == 2:
        more = figures["ctdbpy"]["all"] - figures["debian"]["all"]
        print(f"  (g) {more:+.0f} MiB against Debian's, wanted <= +64: {'met' if more <= 64 else 'MISSED'}")
    return table


QUESTIONS: dict[str, Callable[[Sequence[Column], Plan], Table]] = {
    "a": ask_a,
    "b": ask_b,
    "c": ask_c,
    "d": ask_d,
    "d1": ask_d1,
    "e": ask_e,
    "f": ask_f,
    "g": ask_g,
}


def main() -> int:
    """Ask the questions named on the command line."""
    parser = argparse.ArgumentParser(prog="./dev bench records", description=__doc__)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each run lasts")
    parser.add_argument("--only", choices=("debian", "ctdbpy"), help="ask one daemon alone, to look at it")
    parser.add_argument(
        "--no-spin", action="store_true", help="leave out the runs with other values of SpinUs"
    )
    options = parser.parse_args()
    unknown = set(options.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"unknown questions: {', '.join(sorted(unknown))}")
    plan = Plan(options.rounds, options.seconds)
    print(machine(), flush=True)
    with ExitStack() as stack:
        columns = []
        if options.only != "ctdbpy":
            columns.append(Column("debian", stack.enter_context(Side("debian"))))
        if options.only != "debian":
            side = stack.enter_context(Side("ctdbpy"))
            columns.append(Column("ctdbpy", side, DEFAULT_SPIN_US))
            if not options.no_spin:
                columns.append(Column("ctdbpy-look", side, 0))
                columns.append(Column("ctdbpy+spin", side, SPIN_US))
        for name in options.questions or QUESTIONS:
            print(QUESTIONS[name](columns, plan).render(), flush=True)
    return 0
