# SPDX-License-Identifier: GPL-3.0-or-later
"""Allocation by counting addresses: deterministic (by turns) and nondeterministic (evenly).

Source: reference/ctdb.md 7.17.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from itertools import repeat

from ctdbpy.core.failover.allocation.tables import NOWHERE, Table

#: The balancing gives up after so many steps more than there are addresses, as upstream's does.
_EXTRA_STEPS = 5


def allocate_by_turns(table: Table) -> None:
    """Deterministic: nodes take turns in the order of addresses, wherever these are now.

    The result depends on which nodes are available and on nothing else. NoIPFailback has no say.
    """
    homes = table.rules.homes
    for index, address in enumerate(table.addresses):
        turn = index % table.rules.nodes
        home = homes.get(address.ip)
        if home is None:
            table.place(index, turn, f"it is node {turn}'s turn in the order of addresses")
        else:
            table.place(index, home, f"node {home} is its home")
    table.unassign_unsuitable()
    _place_unassigned(table, _count(table))


def allocate_evenly(table: Table) -> None:
    """Nondeterministic: what has no node goes where the fewest addresses are, then numbers are evened out."""
    table.unassign_unsuitable()
    numbers = _count(table)
    _place_unassigned(table, numbers)
    if not table.rules.no_failback and not table.rules.no_takeover:
        _even_out(table, numbers)


def _count(table: Table) -> Counter[int]:
    return Counter(pnn for pnn in table.nodes if pnn != NOWHERE)


def _place_unassigned(table: Table, numbers: Counter[int]) -> None:
    for index in table.unassigned():
        pnn = _emptiest(table, index, numbers)
        table.place(index, pnn, f"node {pnn} has the fewest addresses ({numbers[pnn]})")
        numbers[pnn] += 1


def _emptiest(table: Table, index: int, numbers: Counter[int]) -> int:
    return min(table.addresses[index].available_on, key=lambda pnn: (numbers[pnn], pnn))


def _even_out(table: Table, numbers: Counter[int]) -> None:
    """Move addresses while the nodes that could serve some address differ by more than one.

    It is the first address of the fullest node that is placed anew, be it the one that was looked at or not.
    """
    holdings: dict[int, list[int]] = {}
    # Only who could serve an address counts, and each set of nodes need be looked at only once.
    sharers: dict[frozenset[int], None] = {}
    for index, pnn in enumerate(table.nodes):
        if pnn != NOWHERE:
            holdings.setdefault(pnn, []).append(index)
            sharers.setdefault(table.addresses[index].available_on)
    teams = [sorted(team) for team in sharers]
    for _ in repeat(None, len(table.addresses) + _EXTRA_STEPS):
        fullest = _fullest_of_uneven(teams, numbers)
        if fullest is None:
            return
        index = holdings[fullest][0]
        pnn = _emptiest(table, index, numbers)
        if pnn == fullest:
            # It would be placed here again and again.
            return
        choice = f"node {fullest} had {numbers[fullest]} addresses, node {pnn} had {numbers[pnn]}"
        table.place(index, pnn, choice)
        del holdings[fullest][0]
        insort(holdings.setdefault(pnn, []), index)
        numbers[fullest] -= 1
        numbers[pnn] += 1


def _fullest_of_uneven(teams: list[list[int]], numbers: Counter[int]) -> int | None:
    for team in teams:
        amounts = [numbers[pnn] for pnn in team]
        most = max(amounts)
        if most > min(amounts) + 1:
            return team[amounts.index(most)]
    return None
