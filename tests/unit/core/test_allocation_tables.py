# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses go where upstream's program puts them: 220 recorded tables, and some made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.core.failover.allocation import Address, Algorithm, Rules, allocate

_ALGORITHMS = {
    "lcp2": Algorithm.LCP2,
    "nondet": Algorithm.NONDETERMINISTIC,
    "det": Algorithm.DETERMINISTIC,
}


def _recorded() -> list[str]:
    text = Path(__file__).with_name("allocations.txt").read_text(encoding="ascii")
    return [block for block in text.split("\n\n") if block.strip() and not block.startswith("#")]


def _pnn(word: str) -> int | None:
    return None if word == "-" else int(word)


@pytest.mark.parametrize("table", _recorded())
def test_a_recorded_table_is_answered_as_upstream_does(table: str) -> None:
    head, *lines = table.splitlines()
    name, *states = head.split()
    no_takeover = "no-takeover" in states
    states = [state for state in states if state != "no-takeover"]
    able = {pnn for pnn, state in enumerate(states) if state == "0x0"}
    rules = Rules(len(states), _ALGORITHMS[name], no_takeover=no_takeover)
    addresses, answers = [], []
    for line in lines:
        ip, was, knowers, answer = line.split()
        known_by = frozenset(map(int, knowers.split(",")))
        owner = _pnn(was)
        # A node that is not configured for an address cannot say that it has it.
        addresses.append(Address(ip, owner if owner in known_by else None, known_by, known_by & able))
        answers.append((ip, _pnn(answer)))
    assert list(allocate(addresses, rules).items()) == answers


def test_there_are_as_many_recorded_tables_as_promised() -> None:
    assert len(_recorded()) >= 200


# -- by hand ------------------------------------------------------------------------------------------


def _table(
    rows: str, nodes: int, *, down: dict[int, str] | None = None, known: str = "", **settings: object
) -> tuple[list[Address], Rules]:
    """Addresses from words `last byte:pnn`; `known` has words `last byte:pnn,pnn`, `down` the reasons."""
    hindrances = down or {}
    lists = dict(word.split(":") for word in known.split())
    addresses = []
    for word in rows.split():
        byte, was = word.split(":")
        known_by = frozenset(map(int, lists[byte].split(","))) if byte in lists else frozenset(range(nodes))
        addresses.append(Address(f"10.0.0.{byte}", _pnn(was), known_by, known_by - set(hindrances)))
    return addresses, Rules(nodes, hindrances=hindrances, **settings)  # type: ignore[arg-type]


def _places(plan_of: tuple[list[Address], Rules]) -> str:
    plan = allocate(*plan_of)
    return " ".join(
        f"{ip.rpartition('.')[2]}:{'-' if pnn is None else pnn}" for ip, pnn in reversed(list(plan.items()))
    )


DETERMINISTIC = Algorithm.DETERMINISTIC
EVENLY = Algorithm.NONDETERMINISTIC


@pytest.mark.parametrize(
    ("start", "places"),
    [
        # The highest address has the first turn.
        (_table("1:- 2:- 3:- 4:-", 3, algorithm=DETERMINISTIC), "1:0 2:2 3:1 4:0"),
        # Where they are does not matter, not even with NoIPFailback.
        (_table("1:1 2:1 3:1", 3, algorithm=DETERMINISTIC, no_failback=True), "1:2 2:1 3:0"),
        (_table("1:- 2:- 3:-", 3, algorithm=DETERMINISTIC, down={1: "disabled"}), "1:2 2:0 3:0"),
        # Turns are taken by nodes that are down, too, and NoIPTakeover keeps those addresses nowhere.
        (
            _table("1:- 2:- 3:-", 3, algorithm=DETERMINISTIC, down={1: "disabled"}, no_takeover=True),
            "1:2 2:- 3:0",
        ),
        (_table("1:- 2:- 3:-", 3, algorithm=DETERMINISTIC, homes={"10.0.0.1": 0}), "1:0 2:1 3:0"),
        # A home that is down, or that there is not, is none; the turns of the others do not change.
        (
            _table("1:- 2:- 3:-", 3, algorithm=DETERMINISTIC, homes={"10.0.0.1": 2}, down={2: "banned"}),
            "1:0 2:1 3:0",
        ),
        (_table("1:- 2:-", 2, algorithm=DETERMINISTIC, homes={"10.0.0.1": 7}), "1:1 2:0"),
        (_table("1:- 2:-", 2, algorithm=DETERMINISTIC, known="1:0"), "1:0 2:0"),
        (_table("1:0 2:0 3:0 4:0", 2, algorithm=EVENLY), "1:0 2:0 3:1 4:1"),
        (_table("1:0 2:0 3:0 4:0", 2, algorithm=EVENLY, no_failback=True), "1:0 2:0 3:0 4:0"),
        (_table("1:0 2:0 3:0 4:0", 2, algorithm=EVENLY, no_takeover=True), "1:0 2:0 3:0 4:0"),
        (_table("1:0 2:0 3:1", 2, algorithm=EVENLY), "1:0 2:0 3:1"),
        (_table("1:0 2:1 3:2 4:-", 3, algorithm=EVENLY, down={2: "stopped"}), "1:0 2:1 3:1 4:0"),
        # The first address of the fullest node cannot leave it, so nothing does.
        (_table("1:0 2:0 3:0", 2, algorithm=EVENLY, known="3:0"), "1:0 2:0 3:0"),
        (_table("1:- 2:- 3:- 4:-", 2), "1:1 2:0 3:1 4:0"),
        (_table("1:0 2:0 3:1 4:1", 2), "1:0 2:0 3:1 4:1"),
        # All nodes have addresses, so nothing moves, be it ever so uneven ...
        (_table("1:0 2:0 3:0 4:0 5:0 6:1", 2), "1:0 2:0 3:0 4:0 5:0 6:1"),
        # ... unless a node is to be rebalanced, or has none.
        (_table("1:0 2:0 3:0 4:0 5:0 6:1", 2, rebalance=frozenset({1})), "1:0 2:0 3:1 4:0 5:1 6:1"),
        (_table("1:0 2:0 3:0 4:0", 2), "1:0 2:0 3:1 4:1"),
        (_table("1:0 2:0 3:0 4:0", 2, no_failback=True), "1:0 2:0 3:0 4:0"),
        (_table("1:0 2:0 3:0 4:0", 2, down={1: "unhealthy"}), "1:0 2:0 3:0 4:0"),
        (_table("1:0 2:0", 2, rebalance=frozenset({9})), "1:0 2:1"),
        (_table("1:0 2:1", 2, down={0: "disabled", 1: "disabled"}), "1:- 2:-"),
        (_table("1:0 2:1", 2, down={0: "disabled"}, no_takeover=True), "1:- 2:1"),
        (_table("1:- 2:- 3:-", 3, known="1:2 2:2 3:2"), "1:2 2:2 3:2"),
        (_table("", 3), ""),
    ],
)
def test_a_table_made_by_hand(start: tuple[list[Address], Rules], places: str) -> None:
    assert _places(start) == places


def test_ipv6_addresses_stand_before_ipv4_and_are_spread_like_them() -> None:
    everyone = frozenset({0, 1})
    ips = ["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"]
    plan = allocate([Address(ip, None, everyone, everyone) for ip in ips], Rules(2))
    assert list(plan) == ["fd00::2", "fd00::1", "10.0.0.2", "10.0.0.1"]
    assert {plan["fd00::1"], plan["fd00::2"]} == {plan["10.0.0.1"], plan["10.0.0.2"]} == {0, 1}


def test_a_thousand_addresses_leave_the_one_node_that_had_them() -> None:
    """Upstream's sums overflow here: with 32 bits it stops at 794 addresses on node 0."""
    everyone = frozenset(range(4))
    addresses = [
        Address(f"10.0.{number // 256}.{number % 256}", 0, everyone, everyone) for number in range(1000)
    ]
    plan = allocate(addresses, Rules(4))
    assert [list(plan.values()).count(pnn) for pnn in range(4)] == [250] * 4


@pytest.mark.parametrize(("value", "algorithm"), [(0, 0), (1, 1), (2, 2), (3, 2), (4_000_000_000, 2)])
def test_a_tunable_that_upstream_does_not_know_means_lcp2(value: int, algorithm: int) -> None:
    assert Algorithm.of(value) == algorithm


# -- reasons ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (_table("1:1 2:0", 2), "stays on node 1"),
        (_table("1:- 2:0", 2), "no node had it; node 1 has the fewest similar addresses (cost 0)"),
        (
            _table("1:2 2:0 3:1 4:1", 3, down={2: "disabled"}),
            "node 2 is disabled; node 0 has the fewest similar addresses (cost 15876)",
        ),
        (
            _table("1:2 2:0", 3, known="1:0,1"),
            "node 2 is not configured for it; node 1 has the fewest similar addresses (cost 0)",
        ),
        (
            _table("1:0 2:0 3:-", 2, known="2:0 3:0"),
            "moves from node 0; node 1 gets its share from node 0 (cost 0 instead of 31752)",
        ),
        (_table("1:0", 2, down={0: "banned"}, no_takeover=True), "no node may take it: NoIPTakeover is set"),
        (
            _table(
                "1:0",
                6,
                down={0: "banned", 1: "banned", 2: "banned", 4: "banned", 3: "stopped"},
                known="1:0,1,2,3,4",
            ),
            "no node can serve it: nodes 0-2, 4 are banned; node 3 is stopped",
        ),
        (
            _table("1:0", 2, algorithm=DETERMINISTIC, down={0: "stopped"}),
            "node 0 is stopped; node 1 has the fewest addresses (0)",
        ),
        (
            _table("1:1", 2, algorithm=DETERMINISTIC),
            "moves from node 1; it is node 0's turn in the order of addresses",
        ),
        (
            _table("1:1", 2, algorithm=DETERMINISTIC, homes={"10.0.0.1": 1}),
            "stays on node 1: node 1 is its home",
        ),
        (
            _table("1:0 2:0", 2, algorithm=EVENLY, down={}, known="2:0"),
            "stays on node 0",
        ),
        (
            _table("1:0 2:1 3:1 4:1", 2, algorithm=EVENLY),
            "stays on node 0",
        ),
    ],
)
def test_a_plan_says_why_in_plain_words(start: tuple[list[Address], Rules], reason: str) -> None:
    assert allocate(*start).why("10.0.0.1") == reason


def test_evening_out_says_what_was_uneven() -> None:
    plan = allocate(*_table("1:0 2:0 3:0", 2, algorithm=EVENLY))
    assert plan.why("10.0.0.3") == "moves from node 0; node 0 had 3 addresses, node 1 had 0"
    assert [move.address.ip for move in plan.moves()] == ["10.0.0.3"]


def test_a_node_that_is_down_without_a_reason_is_unable() -> None:
    address = Address("10.0.0.1", 0, frozenset({0}), frozenset())
    assert allocate([address], Rules(1)).why("10.0.0.1") == (
        "no node can serve it: node 0 is unable to serve it now"
    )
    address = Address("10.0.0.1", None, frozenset(), frozenset())
    assert allocate([address], Rules(1)).why("10.0.0.1") == "no node is configured for it"
