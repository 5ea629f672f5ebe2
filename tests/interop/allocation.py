# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses are allocated as upstream allocates them: generated tables, both sides, every difference.

    CTDBPY_TAKEOVER_TESTS=.../ctdb/bin/ctdb_takeover_tests python -m tests.interop.allocation --tables 5000

The program is built with upstream's other tests: docs/upstream-tests.md. It knows neither NoIPFailback nor
nodes to be rebalanced. The first difference is printed as a table that upstream's program reads, and ends the
run with 1. `--record` prints the tables with upstream's answers, as in tests/unit/core/allocations.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from random import Random

from ctdbpy.core.failover.allocation import Address, Algorithm, Rules, allocate

PROGRAM = "CTDBPY_TAKEOVER_TESTS"

_NAMES = {Algorithm.LCP2: "lcp2", Algorithm.NONDETERMINISTIC: "nondet", Algorithm.DETERMINISTIC: "det"}
_DISCONNECTED, _UNHEALTHY, _DISABLED, _BANNED, _STOPPED = 0x1, 0x2, 0x4, 0x8, 0x20
_STARTUP, _RUNNING = 4, 5


@dataclass(frozen=True, slots=True)
class Case:
    """One table: where each address is and who knows it, and the state of each node."""

    places: Mapping[str, int | None]
    knowers: Mapping[str, frozenset[int]]
    flags: tuple[int, ...]
    runstates: tuple[int, ...]
    algorithm: Algorithm
    no_takeover: bool = False

    @property
    def text(self) -> str:
        """The table as upstream's program reads it."""
        return "".join(
            f"{ip} {-1 if pnn is None else pnn} {','.join(map(str, sorted(self.knowers[ip])))}\n"
            for ip, pnn in self.places.items()
        )

    @property
    def arguments(self) -> list[str]:
        return ["ipalloc", ",".join(map(str, self.flags))]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CTDB_TEST_LOGLEVEL": "ERR",
            "CTDB_IP_ALGORITHM": _NAMES[self.algorithm],
            "CTDB_TEST_RUNSTATE": ",".join(map(str, self.runstates)),
            "CTDB_SET_NoIPTakeover": str(int(self.no_takeover)),
        }

    def addresses(self) -> list[Address]:
        """The table as ours takes it: who claims an address without knowing it is not believed."""
        able = {
            pnn
            for pnn, (flags, runstate) in enumerate(zip(self.flags, self.runstates, strict=True))
            if not flags and runstate == _RUNNING
        }
        return [
            Address(ip, pnn if pnn in self.knowers[ip] else None, self.knowers[ip], self.knowers[ip] & able)
            for ip, pnn in self.places.items()
        ]

    def rules(self) -> Rules:
        return Rules(len(self.flags), self.algorithm, no_takeover=self.no_takeover)


Result = list[tuple[str, int | None]]


def of_upstream(program: str, case: Case, more: Mapping[str, str] | None = None) -> Result:
    """What upstream's program makes of a table, in its order."""
    done = subprocess.run(
        [program, *case.arguments],
        input=case.text,
        env=case.environment | dict(more or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pairs = (line.split() for line in done.stdout.splitlines())
    return [(ip, None if pnn == "-1" else int(pnn)) for ip, pnn in pairs]


def of_ours(case: Case) -> Result:
    """What ours makes of it."""
    return list(allocate(case.addresses(), case.rules()).items())


# -- tables -------------------------------------------------------------------------------------------


_NETWORKS = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"))


def _somewhere(random: Random) -> int:
    network = random.choice(_NETWORKS)
    return int(network[random.randrange(network.num_addresses - 256)])


def _in_a_row(random: Random, count: int) -> list[str]:
    start = _somewhere(random)
    return [str(IPv4Address(start + number)) for number in range(count)]


def _in_subnets(random: Random, count: int) -> list[str]:
    bases = [_somewhere(random) & ~0xFF for _ in range(random.randint(1, 4))]
    return [str(IPv4Address(random.choice(bases) + random.randrange(256))) for _ in range(count)]


def _anywhere(random: Random, count: int) -> list[str]:
    return [str(IPv4Address(_somewhere(random))) for _ in range(count)]


def _ipv6_in_a_row(random: Random, count: int) -> list[str]:
    start = 0xFD << 120 | random.getrandbits(56) << 64
    return [str(IPv6Address(start + 1 + number)) for number in range(count)]


def _ipv6_anywhere(random: Random, count: int) -> list[str]:
    return [str(IPv6Address(0xFD << 120 | random.getrandbits(120))) for _ in range(count)]


_KINDS: tuple[Callable[[Random, int], list[str]], ...] = (
    _in_a_row,
    _in_subnets,
    _anywhere,
    _ipv6_in_a_row,
    _ipv6_anywhere,
)


def _ips(random: Random, ips_max: int) -> list[str]:
    kinds = [random.choice(_KINDS) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    ips = [ip for kind in kinds for ip in kind(random, random.randint(1, ips_max // len(kinds)))]
    random.shuffle(ips)
    return list(dict.fromkeys(ips))


def _knowers(random: Random, ips: list[str], nodes: int) -> dict[str, frozenset[int]]:
    everyone = frozenset(range(nodes))
    match random.randrange(4):
        case 0 | 1:
            return dict.fromkeys(ips, everyone)
        case 2:
            groups = [_some(random, nodes) for _ in range(3)]
            return {ip: random.choice(groups) for ip in ips}
        case _:
            return {ip: _some(random, nodes) for ip in ips}


def _some(random: Random, nodes: int) -> frozenset[int]:
    return frozenset(random.sample(range(nodes), random.randint(1, nodes)))


def _flags(random: Random) -> int:
    return random.choice((0, 0, 0, 0, _DISCONNECTED, _UNHEALTHY, _DISABLED, _BANNED, _STOPPED))


def cases(seed: int, ips_max: int = 60) -> Iterator[Case]:
    """Tables without end, most of them histories: each goes on from what ours made of the one before."""
    random = Random(seed)
    while True:
        nodes = random.choice((1, 2, 3, 3, 4, 4, 5, 6, 8, 16))
        ips = _ips(random, ips_max)
        case = Case(
            places={ip: random.choice((None, None, *range(nodes))) for ip in ips},
            knowers=_knowers(random, ips, nodes),
            flags=tuple(_flags(random) for _ in range(nodes)),
            runstates=(_RUNNING,) * nodes,
            algorithm=random.choice(list(Algorithm)),
            no_takeover=random.random() < 0.1,
        )
        match random.randrange(4):
            case 0:
                case = replace(case, places=dict.fromkeys(ips))
            case 1:
                case = replace(case, places=dict.fromkeys(ips, random.randrange(nodes)))
            case _:
                pass
        for _ in range(random.randint(1, 6)):
            yield case
            case = replace(
                case,
                places=dict(of_ours(case)),
                flags=tuple(flags if random.random() < 0.7 else _flags(random) for flags in case.flags),
                runstates=tuple(_STARTUP if random.random() < 0.05 else _RUNNING for _ in case.flags),
            )


# -- comparing ----------------------------------------------------------------------------------------


def difference(case: Case, theirs: Result, ours: Result) -> str:
    """How two results differ, with what is needed to ask upstream again."""
    settings = " ".join(f"{name}={value}" for name, value in case.environment.items())
    lines = [f"{settings} ctdb_takeover_tests {' '.join(case.arguments)}", case.text, "theirs, ours:"]
    lines += [f"{their} {our}" for their, our in zip(theirs, ours, strict=False) if their != our]
    return "\n".join(lines)


def record(case: Case, answers: Result) -> str:
    """A table with the answers to it: a line about the nodes, then one for each address."""
    nodes = (
        f"{flags:#x}" if state == _RUNNING else f"{flags:#x}/starting"
        for flags, state in zip(case.flags, case.runstates, strict=True)
    )
    words = [_NAMES[case.algorithm], *(["no-takeover"] if case.no_takeover else []), *nodes]
    lines = [
        f"{ip} {_name(case.places[ip])} {','.join(map(str, sorted(case.knowers[ip])))} {_name(pnn)}"
        for ip, pnn in answers
    ]
    return "\n".join([" ".join(words), *lines, ""])


def _name(pnn: int | None) -> str:
    return "-" if pnn is None else str(pnn)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--ips", type=int, default=60, help="addresses in the largest table")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    program = os.environ.get(PROGRAM)
    if not program:
        print(f"cannot compare: {PROGRAM} does not name upstream's ctdb_takeover_tests", file=sys.stderr)
        return 2
    counts = dict.fromkeys(_NAMES.values(), 0)
    moves = 0
    for _, case in zip(range(options.tables), cases(options.seed, options.ips), strict=False):
        theirs, ours = of_upstream(program, case), of_ours(case)
        if theirs != ours:
            print(difference(case, theirs, ours))
            return 1
        if options.record:
            print(record(case, theirs))
            continue
        counts[_NAMES[case.algorithm]] += 1
        moves += sum(case.places[ip] != pnn for ip, pnn in ours)
    if options.record:
        return 0
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{options.tables} tables the same on both sides ({told}), {moves} addresses moved in them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
