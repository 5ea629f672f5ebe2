# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every allocation, and that the quick LCP2 is the plain one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import combinations
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctdbpy.core.failover.allocation import Address, Algorithm, Plan, Rules, allocate

NODES = 5
Start = tuple[list[Address], Rules]

_nodes = st.frozensets(st.integers(0, NODES - 1))
_ips = st.one_of(
    st.integers(0, 20).map(lambda number: str(IPv4Address(0x0A000000 + number))),
    st.integers(0, 0xFFFFFF).map(lambda number: str(IPv4Address(0x0A000000 + number))),
    st.integers(0, 20).map(lambda number: str(IPv6Address((0xFD << 120) + number))),
    st.integers(0, (1 << 120) - 1).map(lambda number: str(IPv6Address((0xFD << 120) + number))),
)


@st.composite
def starts(draw: st.DrawFn, algorithm: Algorithm | None = None, *, alike: bool = False) -> Start:
    """Addresses and rules; `alike`: every node that is up can serve every address."""
    ips = draw(st.lists(_ips, min_size=1, max_size=24, unique=True))
    up = draw(_nodes)
    everyone = frozenset(range(NODES))
    has_lists = not alike and draw(st.booleans())
    addresses = []
    for ip in ips:
        known_by = draw(_nodes) if has_lists else everyone
        pnn = draw(st.sampled_from((None, *sorted(known_by))))
        addresses.append(Address(ip, pnn, known_by, known_by & up))
    rules = Rules(
        NODES,
        draw(st.sampled_from(Algorithm)) if algorithm is None else algorithm,
        no_takeover=draw(st.booleans()) if not alike else False,
        no_failback=draw(st.booleans()) if not alike else False,
        rebalance=draw(_nodes),
    )
    return addresses, rules


def _again(addresses: list[Address], plan: Plan) -> list[Address]:
    return [replace(address, pnn=plan[address.ip]) for address in addresses]


# -- the plain LCP2 -----------------------------------------------------------------------------------


@cache
def _square(one: str, other: str) -> int:
    difference = int(ip_address(one)) ^ int(ip_address(other))
    words = [difference >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)]
    return int(sum(32 - word.bit_length() for word in words) ** 2)


def _cost(ip: str, places: dict[str, int | None], pnn: int) -> int:
    return sum(_square(ip, other) for other, place in places.items() if place == pnn and other != ip)


def _imbalance(places: dict[str, int | None], pnn: int) -> int:
    return sum(_square(*pair) for pair in combinations([ip for ip in places if places[ip] == pnn], 2))


def _targets(addresses: list[Address], rules: Rules) -> set[int]:
    held = {address.pnn for address in addresses if address.pnn in address.available_on}
    return set(range(rules.nodes)) - held | rules.rebalance


def _plain_lcp2(addresses: list[Address], rules: Rules) -> dict[str, int | None]:
    """Every sum anew at every step, straight from the definition."""
    ordered = sorted(addresses, key=lambda address: int(ip_address(address.ip)), reverse=True)
    able = {address.ip: sorted(address.available_on) for address in ordered}
    places = {address.ip: address.pnn if address.pnn in address.available_on else None for address in ordered}
    if rules.no_takeover:
        return places
    while choices := [
        (_cost(ip, places, pnn), turn, pnn)
        for turn, ip in enumerate(places)
        if places[ip] is None
        for pnn in able[ip]
    ]:
        _, turn, pnn = min(choices)
        places[ordered[turn].ip] = pnn
    targets = _targets(addresses, rules)
    while not rules.no_failback and (move := _plain_move(places, able, targets)):
        ip, pnn = move
        places[ip] = pnn
    return places


def _plain_move(
    places: dict[str, int | None], able: dict[str, list[int]], targets: set[int]
) -> tuple[str, int] | None:
    imbalances = {pnn: _imbalance(places, pnn) for pnn in range(NODES)}
    for source in sorted(imbalances, key=lambda pnn: (-imbalances[pnn], pnn)):
        moves = []
        for turn, ip in enumerate(places):
            if places[ip] != source:
                continue
            saved = _cost(ip, places, source)
            for target in targets.intersection(able[ip]):
                added = _cost(ip, places, target)
                after = imbalances[target] + added
                if after < imbalances[source] and added < saved:
                    moves.append((imbalances[source] - saved + after, turn, target, ip))
        if moves:
            _, _, target, ip = min(moves)
            return ip, target
    return None


@given(starts(Algorithm.LCP2))
@settings(max_examples=300)
def test_the_quick_lcp2_is_the_plain_one(start: Start) -> None:
    addresses, rules = start
    assert dict(allocate(addresses, rules)) == _plain_lcp2(addresses, rules)


@pytest.mark.parametrize("seed", range(200))
def test_they_stay_the_same_while_nodes_come_and_go(seed: int) -> None:
    random = Random(seed)
    everyone = frozenset(range(NODES))
    starts_at = 0x0A000000 + random.randrange(1 << 16)
    spread = random.choice((40, 200, 1 << 20))
    ips = {str(IPv4Address(starts_at + random.randrange(spread))) for _ in range(random.randint(4, 30))}
    if random.random() < 0.3:
        ips |= {str(IPv6Address((0xFD << 120) + random.getrandbits(20))) for _ in range(8)}
    lists = [everyone, everyone, *(frozenset(random.sample(range(NODES), 3)) for _ in range(2))]
    lists = lists[: random.choice((1, 4))]
    addresses = [
        Address(ip, random.choice((None, random.randrange(NODES), 0)), random.choice(lists), everyone)
        for ip in sorted(ips)
    ]
    for _ in range(4):
        up = frozenset(random.sample(range(NODES), random.randint(2, NODES)))
        rebalance = frozenset(random.sample(range(NODES), random.choice((0, 0, 1, NODES))))
        addresses = [replace(address, available_on=address.known_by & up) for address in addresses]
        rules = Rules(NODES, rebalance=rebalance)
        plan = allocate(addresses, rules)
        assert dict(plan) == _plain_lcp2(addresses, rules)
        # Some addresses are moved by hand meanwhile.
        target = random.randrange(NODES)
        share = random.choice((0, 0.2, 0.7))
        addresses = [
            replace(address, pnn=target if random.random() < share else plan[address.ip])
            for address in addresses
        ]


def test_addresses_with_nothing_in_common_cost_each_other_nothing() -> None:
    """All four words differ in their first bit: the cost is 0, and the node is as good as an empty one."""
    everyone = frozenset({0, 1})
    ips = ["8000:0:8000:0:8000:0:8000:0", "10.0.0.1", "10.0.0.2"]
    addresses = [Address(ip, None, everyone, everyone) for ip in ips]
    plan = allocate(addresses, Rules(2))
    assert dict(plan) == {ips[0]: 0, ips[2]: 0, ips[1]: 1} == _plain_lcp2(addresses, Rules(2))


# -- what always holds --------------------------------------------------------------------------------


@given(starts())
def test_every_address_that_can_be_hosted_is_hosted_once_and_where_it_can(start: Start) -> None:
    addresses, rules = start
    plan = allocate(addresses, rules)
    assert sorted(plan) == sorted(address.ip for address in addresses)
    for address in addresses:
        pnn = plan[address.ip]
        assert pnn in address.available_on or pnn is None
        if pnn is None:
            assert not address.available_on or rules.no_takeover


@given(starts())
def test_the_order_of_the_input_does_not_matter(start: Start) -> None:
    addresses, rules = start
    assert list(allocate(addresses, rules).items()) == list(allocate(addresses[::-1], rules).items())


@given(starts())
def test_without_takeover_nobody_gets_an_address(start: Start) -> None:
    addresses, rules = start
    rules = replace(rules, no_takeover=True)
    assume(rules.algorithm != Algorithm.DETERMINISTIC)
    for placement in allocate(addresses, rules).placements.values():
        assert placement.pnn is None or not placement.is_move


@given(starts())
def test_without_failback_only_what_has_to_moves(start: Start) -> None:
    addresses, rules = start
    rules = replace(rules, no_failback=True)
    assume(rules.algorithm != Algorithm.DETERMINISTIC)
    for placement in allocate(addresses, rules).moves():
        assert placement.address.pnn not in placement.address.available_on


@given(starts(Algorithm.LCP2))
def test_lcp2_moves_what_has_to_move_or_what_a_target_gains(start: Start) -> None:
    addresses, rules = start
    targets = _targets(addresses, rules)
    for placement in allocate(addresses, rules).moves():
        if placement.address.pnn in placement.address.available_on:
            assert placement.pnn in targets


@given(starts(Algorithm.LCP2))
def test_lcp2_leaves_no_move_to_a_target_that_would_make_things_better(start: Start) -> None:
    addresses, rules = start
    assume(not rules.no_failback and not rules.no_takeover)
    places = dict(allocate(addresses, rules))
    able = {address.ip: sorted(address.available_on) for address in addresses}
    assert _plain_move(places, able, _targets(addresses, rules)) is None


@given(starts(Algorithm.NONDETERMINISTIC, alike=True))
def test_nodes_that_can_serve_all_differ_by_one_address_at_most(start: Start) -> None:
    addresses, rules = start
    able = addresses[0].available_on
    assume(able)
    numbers = Counter(allocate(addresses, rules).values())
    amounts = [numbers[pnn] for pnn in able]
    assert max(amounts) - min(amounts) <= 1


@given(st.integers(1, 60), st.integers(1, NODES))
def test_lcp2_spreads_addresses_in_a_row_evenly(count: int, nodes: int) -> None:
    """Neighbours cost so much that a node with two more than another would not have got the last."""
    everyone = frozenset(range(nodes))
    addresses = [Address(f"10.0.0.{number}", None, everyone, everyone) for number in range(count)]
    numbers = Counter(allocate(addresses, Rules(nodes)).values())
    amounts = [numbers[pnn] for pnn in everyone]
    assert max(amounts) - min(amounts) <= 1


@given(starts(Algorithm.DETERMINISTIC))
def test_deterministic_places_depend_on_nothing_but_who_is_there(start: Start) -> None:
    addresses, rules = start
    nowhere = [replace(address, pnn=None) for address in addresses]
    other = replace(rules, no_failback=not rules.no_failback, rebalance=frozenset())
    assert dict(allocate(addresses, rules)) == dict(allocate(nowhere, other))


@given(starts())
def test_a_second_run_moves_nothing(start: Start) -> None:
    addresses, rules = start
    # Evening out ends after a number of steps; with lists of their own nodes may take turns for ever.
    assume(rules.algorithm != Algorithm.NONDETERMINISTIC)
    first = allocate(addresses, rules)
    assert not allocate(_again(addresses, first), rules).moves()


@given(starts(Algorithm.NONDETERMINISTIC, alike=True))
def test_a_second_evening_out_moves_nothing(start: Start) -> None:
    addresses, rules = start
    first = allocate(addresses, rules)
    assert not allocate(_again(addresses, first), rules).moves()


@given(starts())
def test_the_reason_tells_what_became_of_the_address(start: Start) -> None:
    addresses, rules = start
    for placement in allocate(addresses, rules).placements.values():
        reason = placement.reason
        if placement.pnn is None:
            assert reason.startswith("no node ")
        elif placement.is_move:
            assert f"node {placement.pnn} " in reason or f"node {placement.pnn}'s" in reason
        else:
            assert reason.startswith(f"stays on node {placement.pnn}")
