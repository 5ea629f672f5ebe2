# SPDX-License-Identifier: GPL-3.0-or-later
"""Who leads, as one of several nodes decides it."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.core.effects import Effect, SendMessage
from ctdbpy.core.inputs import LinkDown, LinkUp, MessageArrived, NodeSeen, Sight
from ctdbpy.core.leader.election import NEVER, best, is_eligible
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_ELECTION, SRVID_LEADER
from ctdbpy.wire.structures import ElectionMessage, Timeval
from tests.unit.core.fakes import Harness, several_nodes

EARLY = Timeval(1, 0)
LATE = Timeval(4_000_000_000, 0)


def claims(effects: list[Effect]) -> list[ElectionMessage]:
    sent = [each for each in effects if isinstance(each, SendMessage) and each.srvid == SRVID_ELECTION]
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
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    assert not claims(harness.advance(1.4))
    effects = harness.advance(0.2)
    assert [each.pnn for each in claims(effects)] == [0]
    assert broadcasts(effects) == [UNKNOWN_PNN]
    assert broadcasts(harness.advance(1.0)) == [0]
    assert leader(harness) == 0


def test_with_every_node_linked_there_is_nobody_to_wait_for() -> None:
    assert claims(joined().advance(0.3))


def test_a_node_that_hears_a_leader_follows_it() -> None:
    harness = joined()
    for _ in range(5):
        harness.give(leads(1))
        assert not claims(harness.advance(1))
    assert leader(harness) == 1
    assert claims(harness.advance(5))


def test_a_better_claim_wins() -> None:
    harness = joined()
    harness.advance(0.3)
    assert not claims(harness.give(claim(1, EARLY)))
    harness.advance(0.5)
    assert leader(harness) == 1
    assert not broadcasts(harness.give(leads(1)))
    assert not broadcasts(harness.advance(3))


def test_a_winner_who_is_never_heard_to_lead_is_not_waited_for_long() -> None:
    harness = joined()
    harness.advance(0.3)
    harness.give(claim(1, EARLY))
    assert claims(harness.advance(1.5))


def test_of_two_leaders_the_first_is_asked_and_may_name_the_second() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.give(LinkUp(2))
    harness.give(leads(1))
    sent = [each for each in harness.give(leads(2)) if isinstance(each, SendMessage)]
    assert [(each.destnode, U32.unpack(each.data)) for each in sent] == [(2, 1), (1, UNKNOWN_PNN)]
    harness.give(leads(2, source=1))
    assert leader(harness) == 2


def test_led_by_hearsay_a_node_does_not_join_what_others_begin() -> None:
    harness = Harness(several_nodes(4))
    harness.give(LinkUp(1))
    harness.give(LinkUp(2))
    harness.give(leads(3, source=1))
    assert not claims(harness.give(claim(2, EARLY)))
    assert leader(harness) == 3
    assert claims(harness.give(claim(1, LATE)))


def test_a_worse_claim_is_answered_with_ours() -> None:
    harness = joined()
    harness.give(leads(1))
    assert [each.pnn for each in claims(harness.give(claim(1, LATE)))] == [0]
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


def test_when_all_have_shown_their_claims_the_best_has_won_at_once() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.give(LinkUp(2))
    harness.advance(0.3)
    assert not broadcasts(harness.give(claim(1, LATE)))
    assert broadcasts(harness.give(claim(2, LATE))) == [0]


def test_a_leader_that_lives_is_not_put_to_a_vote() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.give(LinkUp(2))
    harness.give(leads(1))
    for asked in (claim(2, EARLY), leads(UNKNOWN_PNN, source=2)):
        effects = harness.give(asked)
        assert (broadcasts(effects), claims(effects), leader(harness)) == ([1], [], 1)
    harness.give(NodeSeen(1, Sight.SILENT, "a test"))
    assert claims(harness.give(claim(2, EARLY))) or leader(harness) == 2


def test_a_leader_known_by_hearsay_is_believed_only_out_of_reach() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.advance(1.6)
    harness.give(leads(2, source=1))
    assert leader(harness) == 2
    assert not broadcasts(harness.advance(0.5))
    near = Harness(several_nodes(3))
    near.give(LinkUp(1))
    near.give(LinkUp(2))
    near.give(leads(2, source=1))
    assert leader(near) == UNKNOWN_PNN


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


@given(st.lists(messages, min_size=1, unique_by=lambda each: each.pnn), st.randoms())
def test_the_order_in_which_claims_come_does_not_matter(
    claims: list[ElectionMessage], random: Random
) -> None:
    winner = best(claims)
    shuffled = random.sample(claims, len(claims))
    assert best(shuffled) == winner
    assert all((winner.priority_time, -winner.pnn) <= (each.priority_time, -each.pnn) for each in claims)


def test_who_cannot_lead_is_not_eligible() -> None:
    assert is_eligible(ElectionMessage(1, EARLY, 1, 0))
    assert not is_eligible(ElectionMessage(1, EARLY, 1, int(NodeFlag.BANNED)))
    assert not is_eligible(ElectionMessage(1, NEVER, 1, 0))
