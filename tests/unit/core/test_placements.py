# SPDX-License-Identifier: GPL-3.0-or-later
"""Every node knows why an address is where it is, whoever has decided it and whoever leads now."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import Log
from ctdbpy.core.failover import placements
from ctdbpy.core.inputs import MessageArrived
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_PLACEMENTS
from ctdbpy.wire.structures import Placement, Placements, PublicIp, Reason, SockAddr
from tests.unit.core.addressed import ADDRESSES, Addressed
from tests.unit.core.fakes import of_kind

ADDRESS = ADDRESSES[0]


def told(cluster: Addressed, pnn: int, address: str = ADDRESS) -> Reason | None:
    """What a node answers."""
    status, data = cluster.ask(pnn, Control.GET_PLACEMENTS, SockAddr(address).pack())
    assert status == 0
    return next((each.reason for each in Placements.unpack(data).entries), None)


def say(cluster: Addressed, source: int, target: int, text: str, wall_us: int, *, is_news: bool) -> None:
    """A node tells another one reason."""
    reason = Reason(wall_us, source, source, 0, "address", text)
    data = Placements(is_news, (Placement(SockAddr(ADDRESS), reason),)).pack()
    cluster.give(target, MessageArrived(source, SRVID_PLACEMENTS, data))


def test_all_nodes_answer_alike_and_for_all_addresses() -> None:
    cluster = Addressed()
    for address in ADDRESSES:
        reasons = [told(cluster, pnn, address) for pnn in range(3)]
        assert reasons[0] is not None
        assert reasons == [reasons[0]] * 3
        assert reasons[0].pnn == cluster.holders()[address][0]
    _status, data = cluster.ask(0, Control.GET_PLACEMENTS, SockAddr("0.0.0.0").pack())
    assert {each.address.host for each in Placements.unpack(data).entries} == set(ADDRESSES)
    assert told(cluster, 0, "203.0.113.1") is None


def test_a_reason_outlives_the_leader_and_reaches_who_comes_later() -> None:
    cluster = Addressed()
    leader = cluster.leader
    late = (leader + 1) % 3
    survivor = 3 - leader - late
    cluster.kill(late)
    cluster.advance(3)
    moved = told(cluster, survivor)
    assert moved is not None
    cluster.restart(late)
    cluster.advance(10)
    assert told(cluster, late) == told(cluster, leader) == told(cluster, survivor)
    before = told(cluster, survivor)
    cluster.ask(leader, Control.STOP_NODE)
    cluster.advance(5)
    assert cluster.leader != leader
    after = told(cluster, survivor)
    # Unless it had to leave the old leader, its reason is still that one's.
    assert after == before or (after is not None and after.source == cluster.leader)
    assert told(cluster, late) == after


def test_a_tool_that_moves_an_address_is_named_everywhere() -> None:
    cluster = Addressed()
    (holder,) = cluster.holders()[ADDRESS]
    taker = (holder + 1) % 3
    order = PublicIp(taker, SockAddr(ADDRESS)).pack()
    assert cluster.ask(holder, Control.RELEASE_IP, order)[0] == 0
    assert cluster.ask(taker, Control.TAKEOVER_IP, order)[0] == 0
    for pnn in range(3):
        reason = told(cluster, pnn)
        assert reason is not None
        assert (reason.pnn, reason.source) == (taker, taker)
        assert reason.text.startswith("moved here: asked for by process")


def test_an_address_that_nobody_can_serve_is_nowhere_for_a_reason() -> None:
    cluster = Addressed()
    for pnn in range(3):
        cluster.ask(pnn, Control.DISABLE_NODE)
    cluster.advance(2)
    reason = told(cluster, 1)
    assert reason is not None
    assert reason.pnn == UNKNOWN_PNN
    assert reason.text == "no node can serve it: nodes 0-2 are disabled"
    assert cluster.nodes[1].node.state.own.flags == NodeFlag.PERMANENTLY_DISABLED


def test_news_count_whatever_clocks_say_and_old_tales_do_not() -> None:
    cluster = Addressed()
    first = told(cluster, 1)
    assert first is not None
    say(cluster, 0, 1, "an old tale", first.wall_us - 1, is_news=False)
    assert told(cluster, 1) == first
    say(cluster, 0, 1, "a clock that is behind", 1, is_news=True)
    reason = told(cluster, 1)
    assert reason is not None and reason.text == "a clock that is behind"
    say(cluster, 2, 1, "a later tale", first.wall_us, is_news=False)
    reason = told(cluster, 1)
    assert reason is not None and reason.text == "a later tale"


def test_what_cannot_be_read_is_dropped_and_said() -> None:
    cluster = Addressed()
    before = told(cluster, 1)
    cluster.nodes[1].effects.clear()
    cluster.give(1, MessageArrived(0, SRVID_PLACEMENTS, b"\1\0\0\0\xff\xff\xff\xff"))
    assert told(cluster, 1) == before
    lines = [each.text for each in of_kind(cluster.nodes[1].effects, Log)]
    assert any(line.startswith("reasons of node 0 dropped: ") for line in lines)


def test_of_too_many_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Addressed()
    monkeypatch.setattr(placements, "ADDRESSES_MAX", len(ADDRESSES))
    data = cluster.ask(1, Control.GET_PLACEMENTS, SockAddr("0.0.0.0").pack())[1]
    oldest = Placements.unpack(data).entries[0]
    reason = Reason(1, 0, 0, 0, "address", "one more")
    data = Placements(True, (Placement(SockAddr("203.0.113.1"), reason),)).pack()
    cluster.give(1, MessageArrived(0, SRVID_PLACEMENTS, data))
    assert told(cluster, 1, "203.0.113.1") == reason
    assert told(cluster, 1, oldest.address.host) is None
