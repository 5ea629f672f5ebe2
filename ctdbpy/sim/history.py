# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened in a simulated cluster, as its checkers need it: generations, their members, copies found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ctdbpy.sim.node import SimNode
from ctdbpy.wire.records import RecordHeader


@dataclass(frozen=True, slots=True)
class Change:
    """A client has stored a record of which its node is dmaster; the counter in it is one more now."""

    node: SimNode
    db_id: int
    key: bytes
    header: RecordHeader
    counter: int


@dataclass(slots=True)
class Generation:
    """A generation: in which order it began, and who took part once it was done."""

    number: int
    order: int
    leader: int = -1
    members: frozenset[int] = frozenset()
    #: By pnn: how long everybody had run when it began.
    ran_s: dict[int, float] = field(default_factory=dict)
    #: Whom its map named then; some of them may have left while it was made.
    mapped: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Copies:
    """What one node held of a database when a recovery's result took its place.

    order: of the generation it came from. recovery: of the generation that took its place.
    """

    order: int
    recovery: int
    counters: Mapping[bytes, int]


@dataclass(slots=True)
class History:
    """Facts that several checkers need."""

    nodes: list[SimNode]
    generations: dict[int, Generation] = field(default_factory=dict)
    newest: Generation | None = None
    #: By pnn and database: copies that recoveries have found since the newest generation was done.
    copies: dict[tuple[int, int], list[Copies]] = field(default_factory=dict)
    #: What nodes had that have left since then.
    departed: list[Mapping[bytes, int]] = field(default_factory=list)

    def began(self, number: int, mapped: Iterable[int] = ()) -> Generation:
        """A node was told of this generation; the first time, its map has just been made."""
        known = self.generations.get(number)
        if known is None:
            known = Generation(number, len(self.generations), mapped=frozenset(mapped))
            known.ran_s = {node.pnn: node.ran_s for node in self.nodes}
            self.generations[number] = known
        return known

    def order(self, number: int) -> int:
        """When a generation began, among all; -1 for none."""
        known = self.generations.get(number)
        return known.order if known else -1

    def is_excluded(self, node: SimNode) -> bool:
        """The others went on without this node."""
        return self.newest is not None and node.pnn not in self.newest.members

    def is_newer(self, number: int) -> bool:
        """This generation began after the newest one that anybody serves in."""
        return self.newest is None or self.order(number) > self.newest.order

    def survivors(self, db_id: int) -> dict[bytes, int]:
        """The furthest counter of each key that the members of the newest generation brought along."""
        assert self.newest is not None
        # A node that was out when others went on brings nothing, however far its copy is: so says each
        # recovery on the way, also one that failed later. A copy that holds nothing says so if a recovery has
        # left it on that node: else it may have come into being in one of those.
        base: dict[int, int] = {}
        for (_, of_db), held in self.copies.items():
            been_through = {copies.recovery for copies in held}
            for copies in held:
                if of_db == db_id and (copies.counters or copies.order in been_through):
                    base[copies.recovery] = max(base.get(copies.recovery, -1), copies.order)
        best: dict[bytes, int] = {}
        for pnn in self.newest.members:
            for copies in self.copies.get((pnn, db_id), []):
                if copies.order >= base.get(copies.recovery, -1):
                    for key, counter in copies.counters.items():
                        best[key] = max(best.get(key, 0), counter)
        return best
