# SPDX-License-Identifier: GPL-3.0-or-later
"""From what nodes say about public addresses to who releases and who takes what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.core.failover.allocation import Algorithm, Rules, allocate
from ctdbpy.core.failover.transfers import (
    Answer,
    Survey,
    Transfer,
    hindrances_of,
    may_take,
    releases_by_node,
    survey_of,
    takes_by_node,
    transfers_of,
)
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.structures import PublicIp, PublicIpList, SockAddr

HEALTHY = NodeFlag(0)
ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "fd00::1"


def _ip(ip: str, pnn: int | None) -> PublicIp:
    return PublicIp(UNKNOWN_PNN if pnn is None else pnn, SockAddr(ip))


def _answer(pnn: int, known: dict[str, int | None], *available: str) -> Answer:
    return Answer(
        pnn,
        tuple(_ip(ip, owner) for ip, owner in known.items()),
        tuple(_ip(ip, known[ip]) for ip in available),
    )


def _all_up(nodes: int) -> dict[int, NodeFlag]:
    return dict.fromkeys(range(nodes), HEALTHY)


def _run(answers: list[Answer], flags: dict[int, NodeFlag]) -> tuple[Survey, tuple[Transfer, ...]]:
    survey = survey_of(answers, flags)
    plan = allocate(survey.addresses, Rules(len(flags), hindrances=hindrances_of(flags)))
    return survey, transfers_of(survey, plan)


def _by_ip(survey: Survey) -> dict[str, tuple[int | None, set[int], set[int]]]:
    return {each.ip: (each.pnn, set(each.known_by), set(each.available_on)) for each in survey.addresses}


# -- drawing answers together -------------------------------------------------------------------------


def test_a_node_is_believed_what_it_says_of_itself_alone() -> None:
    survey = survey_of(
        [_answer(0, {ONE: 1, TWO: 0}, ONE, TWO), _answer(1, {ONE: None, TWO: 0}, ONE)], _all_up(2)
    )
    assert _by_ip(survey) == {ONE: (None, {0, 1}, {0, 1}), TWO: (0, {0, 1}, {0})}
    assert survey.holders == {ONE: frozenset(), TWO: {0}}


def test_of_two_that_have_an_address_the_higher_counts_and_both_hold() -> None:
    survey = survey_of([_answer(1, {ONE: 1}, ONE), _answer(0, {ONE: 0}, ONE)], _all_up(2))
    assert survey.addresses[0].pnn == 1
    assert survey.holders[ONE] == {0, 1}


@pytest.mark.parametrize("flag", [NodeFlag.UNHEALTHY, NodeFlag.BANNED, NodeFlag.STOPPED])
def test_a_node_with_a_flag_can_serve_nothing_whatever_it_says(flag: NodeFlag) -> None:
    flags = {0: HEALTHY, 1: flag}
    survey = survey_of([_answer(0, {ONE: None}, ONE), _answer(1, {ONE: 1}, ONE)], flags)
    assert _by_ip(survey) == {ONE: (1, {0, 1}, {0})}


def test_disabled_nodes_serve_when_there_are_no_others_and_it_is_wanted() -> None:
    flags = {
        0: NodeFlag.PERMANENTLY_DISABLED,
        1: NodeFlag.UNHEALTHY | NodeFlag.STOPPED,
        2: NodeFlag.UNHEALTHY,
    }
    answers = [_answer(pnn, {ONE: None}) for pnn in flags]
    assert survey_of(answers, flags).addresses[0].available_on == frozenset()
    survey = survey_of(answers, flags, hosts_when_all_disabled=True)
    assert survey.addresses[0].available_on == {0, 2}
    flags[1] = HEALTHY
    survey = survey_of(answers, flags, hosts_when_all_disabled=True)
    assert survey.addresses[0].available_on == frozenset()


def test_a_cluster_without_addresses_or_without_anybody_to_serve_them_is_idle() -> None:
    assert survey_of([_answer(0, {})], _all_up(1)).is_idle
    assert survey_of([_answer(0, {ONE: None})], _all_up(1)).is_idle
    assert not survey_of([_answer(0, {ONE: None}, ONE)], _all_up(1)).is_idle
    # It is somewhere where it cannot stay.
    assert not survey_of([_answer(0, {ONE: 0})], _all_up(1)).is_idle


def test_answers_come_as_they_are_on_the_wire() -> None:
    body = PublicIpList((_ip(ONE, 0), _ip(THREE, None))).pack()
    survey = survey_of([Answer(0, PublicIpList.unpack(body).ips)], _all_up(1))
    assert {each.ip: each.pnn for each in survey.addresses} == {ONE: 0, THREE: None}


def test_every_flag_has_a_word_and_the_worst_one_counts() -> None:
    flags = {
        0: HEALTHY,
        1: NodeFlag.UNHEALTHY,
        2: NodeFlag.PERMANENTLY_DISABLED | NodeFlag.UNHEALTHY,
        3: NodeFlag.BANNED | NodeFlag.UNHEALTHY,
        4: NodeFlag.STOPPED,
        5: NodeFlag.DISCONNECTED | NodeFlag.BANNED,
        6: NodeFlag.DELETED | NodeFlag.DISCONNECTED,
    }
    assert hindrances_of(flags) == {
        1: "unhealthy",
        2: "disabled",
        3: "banned",
        4: "stopped",
        5: "disconnected",
        6: "deleted",
    }
    assert all(hindrances_of({0: flag}) for flag in NodeFlag)


# -- releases and takes -------------------------------------------------------------------------------


def test_a_dead_nodes_address_is_taken_without_waiting_for_anybody() -> None:
    flags = {0: HEALTHY, 1: HEALTHY, 2: NodeFlag.DISCONNECTED}
    answers = [_answer(0, {ONE: 0, TWO: 2}, ONE, TWO), _answer(1, {ONE: 0, TWO: 2}, ONE, TWO)]
    _, (first, second) = _run(answers, flags)
    assert (first.order, first.holders, first.others) == (_ip(TWO, 1), (), (0,))
    assert first.is_urgent and not second.is_urgent
    assert may_take(first, [])
    assert second.order == _ip(ONE, 0)


def test_an_address_that_moves_is_released_before_it_is_taken() -> None:
    flags = {0: NodeFlag.UNHEALTHY, 1: HEALTHY}
    answers = [_answer(0, {ONE: 0}), _answer(1, {ONE: 0}, ONE)]
    _, (transfer,) = _run(answers, flags)
    assert transfer.holders == (0,)
    assert transfer.taker == 1
    assert not may_take(transfer, [])
    assert may_take(transfer, [0])
    assert transfer.reason == "node 0 is unhealthy; node 1 has the fewest similar addresses (cost 0)"


def test_an_address_in_two_places_leaves_one_of_them() -> None:
    _, (transfer,) = _run([_answer(0, {ONE: 0}, ONE), _answer(1, {ONE: 1}, ONE)], _all_up(2))
    assert (transfer.order, transfer.holders, transfer.others) == (_ip(ONE, 1), (0,), ())
    assert transfer.is_urgent
    assert not may_take(transfer, [])


def test_an_address_that_nobody_can_serve_is_released_and_not_taken() -> None:
    flags = {0: NodeFlag.STOPPED, 1: NodeFlag.BANNED}
    _, (transfer,) = _run([_answer(0, {ONE: 0}), _answer(1, {ONE: 0})], flags)
    assert transfer.order == _ip(ONE, None)
    assert (transfer.holders, transfer.others, transfer.taker) == ((0,), (1,), None)
    assert transfer.is_urgent
    assert not may_take(transfer, [0, 1])
    assert takes_by_node([transfer]) == {}
    assert releases_by_node([transfer]) == {0: (_ip(ONE, None),), 1: (_ip(ONE, None),)}


def test_addresses_that_stay_are_told_again() -> None:
    answers = [_answer(pnn, {ONE: 0, TWO: 1}, ONE, TWO) for pnn in range(2)]
    _, transfers = _run(answers, _all_up(2))
    assert not any(transfer.is_urgent for transfer in transfers)
    assert releases_by_node(transfers) == {0: (_ip(TWO, 1),), 1: (_ip(ONE, 0),)}
    assert takes_by_node(transfers) == {0: (_ip(ONE, 0),), 1: (_ip(TWO, 1),)}


def test_nodes_that_do_not_know_an_address_hear_nothing_of_it() -> None:
    answers = [_answer(0, {ONE: None}, ONE), _answer(1, {TWO: None}, TWO), _answer(2, {})]
    _, transfers = _run(answers, _all_up(3))
    assert releases_by_node(transfers) == {}
    assert takes_by_node(transfers) == {0: (_ip(ONE, 0),), 1: (_ip(TWO, 1),)}


def test_a_node_releases_what_it_has_before_what_it_only_hears_of() -> None:
    flags = {0: NodeFlag.UNHEALTHY, 1: HEALTHY}
    known: dict[str, int | None] = {THREE: None, TWO: None, ONE: 0}
    _, transfers = _run([_answer(0, known), _answer(1, known, ONE, TWO, THREE)], flags)
    assert releases_by_node(transfers) == {0: (_ip(ONE, 1), _ip(THREE, 1), _ip(TWO, 1))}


# -- what always holds --------------------------------------------------------------------------------

NODES = 4


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[list[Answer], dict[int, NodeFlag]]:
    ips = [f"10.0.0.{number}" for number in range(draw(st.integers(1, 8)))]
    kinds = st.sampled_from([HEALTHY, HEALTHY, *NodeFlag])
    flags = {pnn: draw(kinds) for pnn in range(NODES)}
    answers = []
    for pnn, flag in flags.items():
        if flag & NodeFlag.DISCONNECTED:
            continue
        known = {ip: draw(st.sampled_from((None, *range(NODES)))) for ip in ips if draw(st.booleans())}
        answers.append(_answer(pnn, known, *(ip for ip in known if draw(st.booleans()))))
    return answers, flags


@given(_clusters(), st.sampled_from(Algorithm), st.booleans())
def test_after_a_run_every_address_is_where_it_shall_be_and_nowhere_else(
    cluster: tuple[list[Answer], dict[int, NodeFlag]], algorithm: Algorithm, no_takeover: bool
) -> None:
    answers, flags = cluster
    survey = survey_of(answers, flags)
    plan = allocate(survey.addresses, Rules(NODES, algorithm, no_takeover=no_takeover))
    transfers = transfers_of(survey, plan)
    places = {ip: set(holders) for ip, holders in survey.holders.items()}
    for pnn, orders in releases_by_node(transfers).items():
        for order in orders:
            assert order.pnn != pnn
            places[order.address.host].discard(pnn)
    for transfer in transfers:
        # Whoever takes an address is the only one to have it.
        assert transfer.taker is None or places[transfer.order.address.host] <= {transfer.taker}
    for pnn, orders in takes_by_node(transfers).items():
        for order in orders:
            assert order.pnn == pnn
            places[order.address.host].add(pnn)
    assert places == {ip: set() if pnn is None else {pnn} for ip, pnn in plan.items()}


@given(_clusters())
def test_the_urgent_are_those_that_are_not_exactly_where_they_shall_be(
    cluster: tuple[list[Answer], dict[int, NodeFlag]],
) -> None:
    survey, transfers = _run(*cluster)
    urgent = [transfer.is_urgent for transfer in transfers]
    assert urgent == sorted(urgent, reverse=True)
    for transfer in transfers:
        wanted = set() if transfer.taker is None else {transfer.taker}
        assert transfer.is_urgent == (survey.holders[transfer.order.address.host] != wanted)
        assert (
            set(transfer.holders) | set(transfer.others) | wanted
            >= survey.holders[transfer.order.address.host]
        )
