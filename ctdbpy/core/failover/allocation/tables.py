# SPDX-License-Identifier: GPL-3.0-or-later
"""What an allocation starts from (addresses, rules), and the table that it works on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address
from itertools import groupby
from typing import Final

#: In a table's columns: the address is on no node.
NOWHERE: Final = -1


class Algorithm(IntEnum):
    """The values of the tunable IPAllocAlgorithm."""

    DETERMINISTIC = 0
    NONDETERMINISTIC = 1
    LCP2 = 2

    @classmethod
    def of(cls, tunable: int) -> Algorithm:
        """What a value means: those that upstream does not know are LCP2 there."""
        return cls(tunable) if 0 <= tunable <= 2 else cls.LCP2


@dataclass(frozen=True, slots=True)
class Address:
    """A public address: where it is, who is configured for it, and who could serve it now."""

    ip: str
    pnn: int | None
    known_by: frozenset[int]
    available_on: frozenset[int]


@dataclass(frozen=True, slots=True)
class Rules:
    """How to allocate.

    Attributes:
        nodes: Number of configured nodes; deleted and dead ones count.
        no_takeover: NoIPTakeover: an address without a node stays without.
        no_failback: NoIPFailback: no address leaves a node that can serve it (not for DETERMINISTIC).
        rebalance: Nodes that addresses may move to although they have some (LCP2).
        homes: Where addresses belong, by ip (deterministic); all others take turns.
        hindrances: Why nodes serve nothing, in a word that fits "node 2 is ...".
    """

    nodes: int
    algorithm: Algorithm = Algorithm.LCP2
    no_takeover: bool = False
    no_failback: bool = False
    rebalance: frozenset[int] = frozenset()
    homes: Mapping[str, int] = field(default_factory=dict)
    hindrances: Mapping[int, str] = field(default_factory=dict)


@lru_cache(maxsize=1 << 14)
def key_of(ip: str) -> int:
    """The number that addresses are ordered and compared by: 128 bits, an IPv4 address in the last 32."""
    return int(ip_address(ip.partition("%")[0]))


class Table:
    """Addresses in upstream's order, the highest first, and where each of them is as the plan goes on.

    The order decides ties. `causes` says why an address had to leave, `choices` why it is where it is.
    """

    def __init__(self, addresses: Iterable[Address], rules: Rules) -> None:
        keyed = sorted(
            ((key_of(address.ip), address) for address in addresses),
            key=lambda each: (each[0], each[1].ip),
            reverse=True,
        )
        self.rules = rules
        self.keys = [key for key, _ in keyed]
        self.addresses = [address for _, address in keyed]
        self.nodes = [NOWHERE if address.pnn is None else address.pnn for address in self.addresses]
        self.causes = [""] * len(keyed)
        self.choices = [""] * len(keyed)

    def unassign_unsuitable(self) -> None:
        """Take addresses from nodes that cannot serve them."""
        for index, (address, pnn) in enumerate(zip(self.addresses, self.nodes, strict=True)):
            if pnn != NOWHERE and pnn not in address.available_on:
                self.nodes[index] = NOWHERE
                self.causes[index] = f"node {pnn} is {self.hindrance(address, pnn)}"

    def place(self, index: int, pnn: int, choice: str) -> None:
        """Put an address on a node."""
        self.nodes[index] = pnn
        self.choices[index] = choice

    def unassigned(self) -> list[int]:
        """The addresses without a node that some node may take over."""
        if self.rules.no_takeover:
            return []
        return [
            index
            for index, pnn in enumerate(self.nodes)
            if pnn == NOWHERE and self.addresses[index].available_on
        ]

    def hindrance(self, address: Address, pnn: int) -> str:
        """Why a node does not serve an address, in a word that fits "node 2 is ..."."""
        if pnn in self.rules.hindrances:
            return self.rules.hindrances[pnn]
        return "unable to serve it now" if pnn in address.known_by else "not configured for it"

    def why(self, index: int) -> str:
        """Why an address is where it is, in one line."""
        address, pnn = self.addresses[index], self.nodes[index]
        cause, choice = self.causes[index], self.choices[index]
        if pnn == NOWHERE:
            return self._why_nowhere(address)
        if pnn == address.pnn:
            return f"stays on node {pnn}" + (f": {choice}" if choice else "")
        if not cause:
            cause = "no node had it" if address.pnn is None else f"moves from node {address.pnn}"
        return f"{cause}; {choice}"

    def _why_nowhere(self, address: Address) -> str:
        if address.available_on:
            return "no node may take it: NoIPTakeover is set"
        pnns: dict[str, list[int]] = {}
        for pnn in sorted(address.known_by):
            pnns.setdefault(self.hindrance(address, pnn), []).append(pnn)
        if not pnns:
            return "no node is configured for it"
        return "no node can serve it: " + "; ".join(
            f"node {numbers[0]} is {word}" if len(numbers) == 1 else f"nodes {ranges(numbers)} are {word}"
            for word, numbers in pnns.items()
        )


def ranges(numbers: list[int]) -> str:
    """Ascending numbers with their runs drawn together: `0-3, 5`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), key=lambda each: each[1] - each[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
