# SPDX-License-Identifier: GPL-3.0-or-later
"""LCP2: addresses that are alike are kept on different nodes, and as few as possible are moved.

An address costs a node the squared distances to all other addresses there; a node's imbalance is the sum
over its pairs. Addresses without a node go where they cost least. Then nodes that had none (or are to be
rebalanced) are given addresses of the most imbalanced nodes while that makes things better.

Upstream computes everything anew for each step. Here sums are kept and each step adds what it changes; the
results are the same. Sums are not cut to 32 bits, as upstream's are: see docs/allocation.md.

Source: reference/ctdb.md 7.17.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ctdbpy.core.failover.allocation.distances import Distances
from ctdbpy.core.failover.allocation.tables import NOWHERE, Table
from ctdbpy.core.failover.slices import Sliced

#: The cost of an address on a node that cannot serve it: more than any sum.
_NEVER: Final = 1 << 62

_ITSELF: Final = 128 * 128


def allocate_apart(table: Table) -> Iterator[int]:
    """Allocate by LCP2, in slices."""
    table.unassign_unsuitable()
    distances = Distances(table.keys)
    # A node that has nothing now is taken for one that has just become healthy.
    targets = (set(range(table.rules.nodes)) - set(table.nodes)) | {
        pnn for pnn in table.rules.rebalance if 0 <= pnn < table.rules.nodes
    }
    yield from _place_unassigned(table, distances)
    if targets and not table.rules.no_failback and not table.rules.no_takeover:
        yield from _Failback(table, distances, sorted(targets)).run()


class _Costs:
    """What each of some addresses (rows) would cost each of some nodes (columns), and where it costs least.

    `surcharges` are added to all costs of a node. Of equal costs the lowest node's is the cheapest.
    """

    def __init__(self, rows: list[int], pnns: list[int]) -> None:
        """Without costs yet: `fill` them in."""
        self.rows = rows
        self.pnns = pnns
        self._columns = {pnn: column for column, pnn in enumerate(pnns)}
        self.costs: list[list[int]] = []
        self.lowest: list[int] = []
        self.cheapest: list[int] = []

    def fill(self, table: Table, distances: Distances, surcharges: dict[int, int]) -> Iterator[int]:
        """Add up all costs, in slices."""
        rows, pnns = self.rows, self.pnns
        by_column = [[surcharges.get(pnn, 0)] * len(rows) for pnn in pnns]
        for index, pnn in enumerate(table.nodes):
            if (column := self._columns.get(pnn)) is not None:
                by_column[column] = [
                    cost + square
                    for cost, square in zip(by_column[column], distances.squares(index, rows), strict=True)
                ]
                yield len(rows)
        for row, index in zip(zip(*by_column, strict=True), rows, strict=True):
            available_on = table.addresses[index].available_on
            costs = [cost if pnn in available_on else _NEVER for pnn, cost in zip(pnns, row, strict=True)]
            low = min(costs)
            self.costs.append(costs)
            self.lowest.append(low)
            self.cheapest.append(costs.index(low))
            yield len(pnns)

    def has(self, pnn: int) -> bool:
        """True if the node is one of the columns."""
        return pnn in self._columns

    def drop(self, position: int) -> None:
        """Forget a row."""
        for column in (self.rows, self.costs, self.lowest, self.cheapest):
            del column[position]

    def add(self, pnn: int, squares: list[int], surcharge: int = 0) -> None:
        """A node got an address at these squared distances to the rows, which cost more there now."""
        column, lowest, cheapest = self._columns[pnn], self.lowest, self.cheapest
        for position, (costs, square) in enumerate(zip(self.costs, squares, strict=True)):
            costs[column] += square + surcharge
            if cheapest[position] == column:
                low = lowest[position]
                try:
                    # Nothing is lower than what was lowest, and often a later node costs the same.
                    cheapest[position] = costs.index(low, column)
                except ValueError:
                    lowest[position] = low = min(costs)
                    cheapest[position] = costs.index(low)

    def subtract(self, pnn: int, squares: list[int], surcharge: int) -> None:
        """A node lost an address at these squared distances to the rows, which cost less there now."""
        column, lowest, cheapest = self._columns[pnn], self.lowest, self.cheapest
        for position, (costs, square) in enumerate(zip(self.costs, squares, strict=True)):
            costs[column] = cost = costs[column] - square - surcharge
            if (cost, column) < (lowest[position], cheapest[position]):
                lowest[position], cheapest[position] = cost, column


def _place_unassigned(table: Table, distances: Distances) -> Iterator[int]:
    """Place the address that costs least where it costs least, until none is left."""
    rows = table.unassigned()
    pnns = sorted({pnn for index in rows for pnn in table.addresses[index].available_on})
    if not rows:
        return
    costs = _Costs(rows, pnns)
    yield from costs.fill(table, distances, {})
    while costs.rows:
        yield len(costs.rows)
        cost = min(costs.lowest)
        position = costs.lowest.index(cost)
        index, pnn = costs.rows[position], pnns[costs.cheapest[position]]
        table.place(index, pnn, f"node {pnn} has the fewest similar addresses (cost {cost})")
        costs.drop(position)
        costs.add(pnn, distances.squares(index, costs.rows))


@dataclass(frozen=True, slots=True)
class _Move:
    """A move of an address from a node (where it costs `saved`) to another (where it will cost `added`)."""

    index: int
    source: int
    target: int
    saved: int
    added: int


class _Failback:
    """Moves from imbalanced nodes to targets, one at a time."""

    def __init__(self, table: Table, distances: Distances, targets: list[int]) -> None:
        self._table = table
        self._distances = distances
        able = frozenset[int]().union(*{address.available_on for address in table.addresses})
        self._targets = [pnn for pnn in targets if pnn in able]
        self._floor = distances.floor()
        self._holdings: dict[int, list[int]] = {pnn: [] for pnn in range(table.rules.nodes)}
        for index, pnn in enumerate(table.nodes):
            if pnn != NOWHERE:
                self._holdings[pnn].append(index)
        # What each address costs the node it is on.
        self._own: list[int] = []
        self._imbalances: dict[int, int] = {}
        # Per source what its addresses would cost targets, with the imbalances there added.
        self._costs: dict[int, _Costs] = {}
        # Sources known to have no move that makes things better.
        self._stuck: set[int] = set()

    def run(self) -> Iterator[int]:
        """Move addresses until no move makes things better."""
        yield from self._add_up()
        while (move := (yield from self._next())) is not None:
            yield self._make(move)

    def _add_up(self) -> Iterator[int]:
        for index, pnn in enumerate(self._table.nodes):
            held = [] if pnn == NOWHERE else self._holdings[pnn]
            self._own.append(self._distances.total(index, held) - _ITSELF if held else 0)
            yield len(held)
        for pnn, indexes in self._holdings.items():
            self._imbalances[pnn] = sum(self._own[index] for index in indexes) // 2

    def _next(self) -> Sliced[_Move | None]:
        imbalances = self._imbalances
        # Equal ones in the order of their numbers: the sort is stable.
        for source in sorted(imbalances, key=lambda pnn: -imbalances[pnn]):
            if imbalances[source] == 0:
                return None
            if source in self._stuck:
                continue
            if (move := (yield from self._best(source))) is not None:
                return move
            self._stuck.add(source)
        return None

    def _best(self, source: int) -> Sliced[_Move | None]:
        """The move from a node that leaves the smallest sum of both imbalances.

        The target must stay less imbalanced than the source is now, and the address must cost less there.
        """
        own, limit = self._own, self._imbalances[source]
        if not any(
            target != source and self._imbalances[target] + len(self._holdings[target]) * self._floor < limit
            for target in self._targets
        ):
            return None
        costs = yield from self._costs_of(source)
        changes = [low - own[index] for low, index in zip(costs.lowest, costs.rows, strict=True)]
        position = changes.index(min(changes))
        move = self._move(source, costs, position, costs.cheapest[position])
        if costs.lowest[position] < limit and move.added < move.saved:
            return move
        return (yield from self._search(source, costs))

    def _search(self, source: int, costs: _Costs) -> Sliced[_Move | None]:
        """Look at every move: the one that promises most is not allowed."""
        own, limit = self._own, self._imbalances[source]
        imbalances = [self._imbalances[target] for target in costs.pnns]
        best: tuple[int, int] | None = None
        least = 0
        for position, (row, index) in enumerate(zip(costs.costs, costs.rows, strict=True)):
            saved = own[index]
            for column, (after, before) in enumerate(zip(row, imbalances, strict=True)):
                if after < limit and after - before < saved and (best is None or after - saved < least):
                    best, least = (position, column), after - saved
            yield len(row)
        return best and self._move(source, costs, *best)

    def _move(self, source: int, costs: _Costs, position: int, column: int) -> _Move:
        index, target = costs.rows[position], costs.pnns[column]
        added = costs.costs[position][column] - self._imbalances[target]
        return _Move(index, source, target, self._own[index], added)

    def _costs_of(self, source: int) -> Sliced[_Costs]:
        if source not in self._costs:
            targets = [target for target in self._targets if target != source]
            costs = _Costs(list(self._holdings[source]), targets)
            yield from costs.fill(self._table, self._distances, self._imbalances)
            self._costs[source] = costs
        return self._costs[source]

    def _make(self, move: _Move) -> int:
        """How much work that was."""
        index, source, target = move.index, move.source, move.target
        self._holdings[source].remove(index)
        at_source = self._distances.squares(index, self._holdings[source])
        at_target = self._distances.squares(index, self._holdings[target])
        for other, square in zip(self._holdings[source], at_source, strict=True):
            self._own[other] -= square
        for other, square in zip(self._holdings[target], at_target, strict=True):
            self._own[other] += square
        insort(self._holdings[target], index)
        self._own[index] = move.added
        self._imbalances[source] -= move.saved
        self._imbalances[target] += move.added
        # The target has a row more now. It is seldom a source: what was known of it is dropped.
        self._costs.pop(target, None)
        self._costs[source].drop(self._costs[source].rows.index(index))
        for pnn, costs in self._costs.items():
            squares = at_source if pnn == source else self._distances.squares(index, costs.rows)
            if costs.has(target):
                costs.add(target, squares, move.added)
            if costs.has(source):
                costs.subtract(source, squares, move.saved)
        # Stuck nodes are at least as imbalanced as a source, so they gain nothing themselves, and a target
        # that gains makes nobody's moves better. One that loses may.
        if source in self._targets:
            self._stuck.clear()
        self._table.place(
            index,
            target,
            f"node {target} gets its share from node {source} (cost {move.added} instead of {move.saved})",
        )
        # Each row is looked at for the source and for the target.
        return 2 * sum(len(costs.rows) for costs in self._costs.values())
