# SPDX-License-Identifier: GPL-3.0-or-later
"""Who leads, as one of several nodes decides it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.core.effects import Effect, SendMessage
from ctdbpy.core.inputs import LinkDown, LinkUp, MessageArrived
from ctdbpy.core.leader.election import wins
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_ALL, BROADCAST_CONNECTED, UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_ELECTION, SRVID_LEADER
from ctdbpy.wire.structures import ElectionMessage, Timeval
from tests.unit.core.fakes import Harness, several_nodes

EARLY = Timeval(1, 0)
LATE = Timeval(4_000_000_000, 0)


def claims(effects: list[Effect]) -> list[ElectionMessage]:
    sent = [each for each in effects if isinstance(each, SendMessage) and each.srvid == SRVID_ELECTION]
    assert all(each.destnode == BROADCAST_ALL for each in sent)
    return [ElectionMessage.unpack(each.data) for each in sent]


def broadcasts(effects: list[Effect]) -> list[int]:
    sent = [each for each in effects if isinstance(each, SendMessage) and each.srvid == SRVID_LEADER]
    return [U32.unpack(each.data) for each in sent]


def claim(pnn: int, since: Timeval, flags: int = 0) -> MessageArrived:
    return MessageArrived(pnn, SRVID_ELECTION, ElectionMessage(2, since, pnn, flags).pack())


def leads(pnn: int, source: int | None = None) -> MessageArrived:
    return MessageArrived(pnn if source is None else source, SRVID_LEADER, U32.pack(pnn))


def joined(pnn: int = 0) -> Harness:
    """One of two nodes, the other linked."""
    harness = Harness(several_nodes(2, pnn=pnn))
    harness.give(LinkUp(1 - pnn))
    return harness


def leader(harness: Harness) -> int:
    return harness.node.state.leader


def test_a_node_that_hears_no_leader_claims_and_wins() -> None:
    harness = joined()
    assert not claims(harness.advance(1.4))
    effects = harness.advance(0.2)
    assert [each.pnn for each in claims(effects)] == [0]
    assert broadcasts(effects) == [UNKNOWN_PNN]
    assert broadcasts(harness.advance(1.0)) == [0]
    assert leader(harness) == 0


def test_a_node_that_hears_a_leader_follows_it() -> None:
    harness = joined()
    for _ in range(5):
        harness.give(leads(1))
        assert not claims(harness.advance(1))
    assert leader(harness) == 1
    assert claims(harness.advance(5))


def test_a_better_claim_wins() -> None:
    harness = joined()
    harness.advance(1.6)
    assert not claims(harness.give(claim(1, EARLY)))
    harness.advance(1)
    assert leader(harness) == 1
    assert not broadcasts(harness.advance(1))


def test_a_worse_claim_is_answered_with_ours() -> None:
    harness = joined()
    harness.give(leads(1))
    assert [each.pnn for each in claims(harness.give(claim(1, LATE)))] == [0]
    harness.advance(0.6)
    assert leader(harness) == 0


def test_the_leaders_end_is_seen_by_its_link() -> None:
    harness = joined()
    harness.give(leads(1))
    assert claims(harness.give(LinkDown(1, "reset")))
    harness.advance(0.6)
    assert leader(harness) == 0


def test_a_leader_that_resigns_is_followed_by_an_election() -> None:
    harness = joined()
    harness.give(leads(1))
    harness.give(leads(UNKNOWN_PNN, source=1))
    assert leader(harness) == UNKNOWN_PNN
    assert claims(harness.give(claim(1, LATE, int(NodeFlag.STOPPED))))
    harness.advance(0.6)
    assert leader(harness) == 0


def test_without_a_claim_after_resignation_somebody_calls_one() -> None:
    harness = joined()
    harness.give(leads(1))
    harness.give(leads(UNKNOWN_PNN, source=1))
    assert claims(harness.advance(0.6))


def test_two_leaders_that_meet_elect_again() -> None:
    harness = joined()
    harness.advance(2.5)
    assert leader(harness) == 0
    assert claims(harness.give(leads(1)))


def test_a_leader_that_is_stopped_resigns_with_a_losing_claim() -> None:
    harness = joined()
    harness.advance(2.5)
    client_id = harness.connect()
    _, effects = harness.send(client_id, Control.STOP_NODE)
    assert broadcasts(effects) == [UNKNOWN_PNN]
    assert [each.node_flags & NodeFlag.STOPPED for each in claims(effects)] == [NodeFlag.STOPPED]
    assert leader(harness) == UNKNOWN_PNN
    assert not claims(harness.advance(20))


def test_a_node_that_links_to_the_leader_is_told_at_once() -> None:
    harness = Harness(several_nodes(2))
    harness.advance(2.5)
    effects = harness.give(LinkUp(1))
    sent = [each for each in effects if isinstance(each, SendMessage) and each.srvid == SRVID_LEADER]
    assert [(each.destnode, each.data) for each in sent] == [(1, U32.pack(0))]
    assert BROADCAST_CONNECTED not in {each.destnode for each in sent}


def test_nonsense_is_dropped() -> None:
    harness = joined()
    harness.give(leads(1))
    harness.give(MessageArrived(1, SRVID_LEADER, b"x"))
    harness.give(MessageArrived(1, SRVID_ELECTION, b"x"))
    harness.give(leads(77))
    assert not claims(harness.give(claim(77, EARLY)))
    assert leader(harness) == 1


messages = st.builds(
    ElectionMessage,
    st.just(1),
    st.builds(Timeval, st.integers(0, 3), st.integers(0, 2)),
    st.integers(0, 5),
    st.just(0),
)


@given(messages, messages)
def test_of_two_nodes_that_can_lead_exactly_one_wins(a: ElectionMessage, b: ElectionMessage) -> None:
    if a.pnn != b.pnn:
        assert wins(a, b, can_lead=True) != wins(b, a, can_lead=True)


@given(messages, messages, messages)
def test_winning_is_transitive(a: ElectionMessage, b: ElectionMessage, c: ElectionMessage) -> None:
    if len({a.pnn, b.pnn, c.pnn}) == 3 and wins(a, b, can_lead=True) and wins(b, c, can_lead=True):
        assert wins(a, c, can_lead=True)


def test_who_cannot_lead_never_wins_and_the_inactive_always_lose() -> None:
    ours = ElectionMessage(1, LATE, 0, 0)
    assert not wins(ours, ElectionMessage(1, LATE, 1, int(NodeFlag.BANNED)), can_lead=False)
    assert wins(ours, ElectionMessage(1, EARLY, 1, int(NodeFlag.BANNED)), can_lead=True)
