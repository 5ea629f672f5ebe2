# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: every public address, the node that shall serve it, and the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ctdbpy.core.failover.allocation import counts, lcp2
from ctdbpy.core.failover.allocation.tables import NOWHERE, Address, Algorithm, Rules, Table
from ctdbpy.core.failover.slices import DECODED, Sliced, at_once


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an address shall be, `None` for nowhere, and why."""

    address: Address
    pnn: int | None
    reason: str

    @property
    def is_move(self) -> bool:
        """True for an address that changes its node."""
        return self.pnn != self.address.pnn


@dataclass(frozen=True, slots=True)
class Plan(Mapping[str, int | None]):
    """A mapping of ip to pnn or `None`, in upstream's order: the highest address first."""

    placements: Mapping[str, Placement]

    def __getitem__(self, ip: str) -> int | None:
        return self.placements[ip].pnn

    def __iter__(self) -> Iterator[str]:
        return iter(self.placements)

    def __len__(self) -> int:
        return len(self.placements)

    def why(self, ip: str) -> str:
        """Why an address is where the plan has it, in one line."""
        return self.placements[ip].reason

    def moves(self) -> tuple[Placement, ...]:
        """The addresses that change their node."""
        return tuple(each for each in self.placements.values() if each.is_move)


def allocate(addresses: Iterable[Address], rules: Rules) -> Plan:
    """Decide which node serves which address. No address may be listed twice."""
    return at_once(allocate_in_slices(addresses, rules))


def allocate_in_slices(addresses: Iterable[Address], rules: Rules) -> Sliced[Plan]:
    """The same, as work that may be interrupted."""
    table = Table(addresses, rules)
    match rules.algorithm:
        case Algorithm.DETERMINISTIC:
            counts.allocate_by_turns(table)
        case Algorithm.NONDETERMINISTIC:
            counts.allocate_evenly(table)
        case Algorithm.LCP2:
            yield from lcp2.allocate_apart(table)
    placements = {}
    for index, (address, pnn) in enumerate(zip(table.addresses, table.nodes, strict=True)):
        placements[address.ip] = Placement(address, None if pnn == NOWHERE else pnn, table.why(index))
        yield DECODED
    assert len(placements) == len(table.addresses), "an address is listed twice"
    return Plan(placements)
