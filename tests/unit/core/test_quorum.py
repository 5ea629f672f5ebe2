# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may serve when a cluster falls apart: only one part, and nobody who has not stopped before."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import Log, TellGuard
from ctdbpy.core.inputs import LeaseHeld, LeaseLost, LinkUp, MessageArrived, NodeSeen, Paused, Sight
from ctdbpy.core.state import NOBODY, Quorum
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader
from ctdbpy.wire.srvids import SRVID_LEADER
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness, of_kind, several_nodes
from tests.unit.core.test_clusters import VOLATILE, agree, attach, stored


def running(count: int = 3, quorum: Quorum = Quorum.MAJORITY) -> Cluster:
    """A cluster with a database that has come to rest; the highest pnn leads."""
    cluster = Cluster(count, quorum=quorum)
    cluster.advance(10)
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    cluster.advance(5)
    agree(cluster, *range(count))
    assert cluster.nodes[0].node.state.leader == count - 1
    return cluster


def stands_still(cluster: Cluster, pnn: int) -> bool:
    state = cluster.nodes[pnn].node.state
    assert bool(state.suspended) == (state.recmode is RecoveryMode.ACTIVE)
    return bool(state.suspended) and all(each.is_frozen for each in state.databases.values())


def logged(cluster: Cluster, pnn: int, words: str) -> bool:
    return any(words in line.text for line in of_kind(cluster.nodes[pnn].effects, Log))


def heard_nobody(cluster: Cluster, pnn: int, leader: int) -> None:
    """A node hears that its leader leads no more."""
    cluster.give(pnn, MessageArrived(leader, SRVID_LEADER, U32.pack(NOBODY)))


def test_a_minority_stands_still_and_comes_back() -> None:
    cluster = running()
    cluster.cut(0, 1)
    cluster.cut(0, 2)
    cluster.advance(3)
    agree(cluster, 1, 2)
    assert stands_still(cluster, 0)
    assert logged(cluster, 0, "stands still")
    cluster.link(0, 1)
    cluster.link(0, 2)
    cluster.advance(5)
    agree(cluster, 0, 1, 2)
    assert logged(cluster, 0, "serves again")


def test_a_leader_in_the_minority_makes_way() -> None:
    cluster = running()
    cluster.cut(2, 0)
    cluster.cut(2, 1)
    cluster.advance(3)
    agree(cluster, 0, 1)
    assert stands_still(cluster, 2)
    assert cluster.nodes[2].node.state.leader == NOBODY
    cluster.link(2, 0)
    cluster.link(2, 1)
    cluster.advance(5)
    agree(cluster, 0, 1, 2)


def test_with_nobody_in_the_majority_nobody_serves_and_nothing_is_lost() -> None:
    cluster = running()
    for pair in ((0, 1), (0, 2), (1, 2)):
        cluster.cut(*pair)
    cluster.advance(10)
    assert all(stands_still(cluster, pnn) for pnn in range(3))
    for pair in ((0, 1), (0, 2), (1, 2)):
        cluster.link(*pair)
    cluster.advance(10)
    agree(cluster, 0, 1, 2)


def test_a_node_that_cannot_reach_the_leader_stays_out_and_disturbs_nobody() -> None:
    cluster = running()
    cluster.cut(0, 2)
    cluster.advance(10)
    agree(cluster, 1, 2)
    generation = cluster.nodes[1].node.state.generation
    assert stands_still(cluster, 0)
    cluster.advance(30)
    assert cluster.nodes[1].node.state.generation == generation
    cluster.link(0, 2)
    cluster.advance(5)
    agree(cluster, 0, 1, 2)


def test_of_two_members_out_of_reach_of_each_other_one_is_banned_until_they_are_not() -> None:
    cluster = running(4)
    cluster.cut(0, 1)
    cluster.advance(5)
    agree(cluster, 0, 2, 3)
    assert cluster.nodes[1].node.state.own.flags & NodeFlag.BANNED
    assert logged(cluster, 3, "node 1 is banned for 300 s: it and node 0 have not reached each other for 2 s")
    cluster.link(0, 1)
    cluster.advance(5)
    agree(cluster, 0, 1, 2, 3)


def test_a_link_that_returns_soon_bans_nobody() -> None:
    cluster = running(4)
    cluster.cut(0, 1)
    cluster.advance(1)
    cluster.link(0, 1)
    cluster.advance(5)
    agree(cluster, 0, 1, 2, 3)
    assert not logged(cluster, 3, "banned")


def test_members_wait_until_who_is_left_out_has_stopped() -> None:
    cluster = running()
    before = cluster.nodes[2].node.state.generation
    cluster.cut(0, 2)
    # Its link to node 1 stands: it may have leases of both for half a second.
    cluster.advance(0.4)
    assert cluster.nodes[2].node.state.generation == before
    cluster.advance(1.4)
    agree(cluster, 1, 2)


def stop_slowly(cluster: Cluster, pnn: int) -> int:
    """Stop a node whose databases do not freeze yet; the generation before."""
    cluster.nodes[pnn].hold_jobs = True
    before = cluster.nodes[2].node.state.generation
    assert cluster.ask(pnn, Control.STOP_NODE)[0] == 0
    cluster.advance(0.4)
    assert not all(each.is_frozen for each in cluster.nodes[pnn].node.state.databases.values())
    assert cluster.nodes[2].node.state.generation == before
    return before


def test_members_wait_until_who_is_stopped_stands_still() -> None:
    cluster = running()
    before = stop_slowly(cluster, 0)
    cluster.release(0)
    cluster.advance(0.05)
    assert cluster.nodes[2].node.state.generation != before
    agree(cluster, 1, 2)


def test_who_is_stopped_and_does_not_stand_still_is_not_waited_for_for_long() -> None:
    cluster = running()
    stop_slowly(cluster, 0)
    cluster.advance(1)
    agree(cluster, 1, 2)


def test_a_link_that_returns_soon_costs_nothing_but_a_moment() -> None:
    cluster = running()
    db_id = next(iter(cluster.nodes[0].node.state.databases))
    cluster.nodes[0].records.databases[db_id].records[b"k"] = RecordHeader(9, 0, 0, 0).pack() + b"only here"
    cluster.cut(0, 2)
    cluster.advance(0.5)
    cluster.link(0, 2)
    cluster.advance(0.1)
    agree(cluster, 0, 1, 2)
    for pnn in range(3):
        assert stored(cluster, pnn, VOLATILE)[b"k"].endswith(b"only here")


@pytest.mark.parametrize("sight", [Sight.GONE, Sight.STALLED])
def test_who_has_surely_stopped_is_not_waited_for(sight: Sight) -> None:
    cluster = running()
    before = cluster.nodes[2].node.state.generation
    cluster.cut(0, 2)
    for pnn in (1, 2):
        cluster.give(pnn, NodeSeen(0, sight, "a test"))
    cluster.advance(0.1)
    assert cluster.nodes[2].node.state.generation != before


def test_a_killed_leader_is_replaced_at_once() -> None:
    cluster = running()
    cluster.kill(2)
    cluster.advance(0.1)
    agree(cluster, 0, 1)


def test_with_a_lock_who_loses_the_leader_stands_still() -> None:
    cluster = running(2, Quorum.LOCK)
    cluster.cut(0, 1)
    cluster.advance(0.1)
    assert stands_still(cluster, 0)


def test_with_a_lock_a_node_without_a_leader_serves_while_all_it_reaches_confirm() -> None:
    cluster = running(3, Quorum.LOCK)
    assert of_kind(cluster.nodes[0].effects, TellGuard)[-1].leader == 2
    heard_nobody(cluster, 0, 2)
    told = of_kind(cluster.nodes[0].effects, TellGuard)
    assert (2, NOBODY) in [(each.needed, each.leader) for each in told]
    cluster.advance(5)
    agree(cluster, 0, 1, 2)


def test_with_a_lock_who_may_lead_next_out_of_reach_has_a_node_stand_still_at_once() -> None:
    cluster = running(3, Quorum.LOCK)
    cluster.cut(0, 1)
    assert not cluster.nodes[0].node.state.suspended
    heard_nobody(cluster, 0, 2)
    assert logged(cluster, 0, "nobody leads, and node 1, which cannot be reached, may lead next")


def test_without_quorum_both_sides_go_on_as_upstream() -> None:
    cluster = running(2, Quorum.NONE)
    cluster.cut(0, 1)
    cluster.advance(5)
    agree(cluster, 0)
    agree(cluster, 1)


def test_a_long_pause_is_followed_by_a_recovery_and_a_short_one_is_not() -> None:
    cluster = running()
    generation = cluster.nodes[0].node.state.generation
    cluster.give(0, Paused(0.3))
    cluster.advance(5)
    assert cluster.nodes[0].node.state.generation == generation
    cluster.give(0, Paused(5.0))
    cluster.advance(0.1)
    agree(cluster, 0, 1, 2)
    assert cluster.nodes[0].node.state.generation != generation
    assert logged(cluster, 0, "this host stood still for 5.00 s")


def test_the_guard_is_told_what_the_node_needs() -> None:
    harness = Harness(several_nodes(5, quorum=Quorum.MAJORITY))
    (told,) = of_kind(harness.effects, TellGuard)
    assert (told.needed, told.leader, told.linked, told.still) == (2, NOBODY, (), False)
    (told,) = of_kind(harness.give(LinkUp(3)), TellGuard)
    assert told.linked == (3,)
    assert not harness.node.state.can_lead()
    harness.give(LeaseHeld())
    assert harness.node.state.can_lead()
    harness.give(LeaseLost("a test"))
    assert not harness.node.state.can_lead()


def test_a_node_seen_silent_is_disconnected_and_back_when_its_link_is() -> None:
    cluster = running()
    cluster.give(0, NodeSeen(1, Sight.SILENT, "no heartbeat for 0.51 s"))
    assert cluster.nodes[0].node.state.nodes[1].flags & NodeFlag.DISCONNECTED
    assert logged(cluster, 0, "node 1 is silent: no heartbeat for 0.51 s")
    cluster.link(0, 1)
    cluster.advance(5)
    agree(cluster, 0, 1, 2)


def test_who_has_served_all_along_is_right_whatever_the_clocks_say() -> None:
    cluster = running(2, Quorum.LOCK)
    db_id = next(iter(cluster.nodes[0].node.state.databases))
    leader = cluster.nodes[1]
    leader.records.databases[db_id].records[b"k"] = RecordHeader(5, 1, 0, 0).pack() + b"served"
    cluster.cut(0, 1)
    cluster.advance(2)
    agree(cluster, 1)
    gone = cluster.nodes[0]
    # As if it had begun its last generation by a clock that runs ahead.
    gone.node.state.set_db_generation(gone.node.state.databases[db_id], leader.node.state.generation + 5000)
    gone.records.databases[db_id].records[b"k"] = RecordHeader(99, 0, 0, 0).pack() + b"stale"
    cluster.link(0, 1)
    cluster.advance(3)
    agree(cluster, 0, 1)
    assert logged(cluster, 1, "node 0 brings stale copies")
    for pnn in range(2):
        assert stored(cluster, pnn, VOLATILE)[b"k"].endswith(b"served")


def test_a_leader_that_is_in_no_map_keeps_its_lease() -> None:
    cluster = Cluster(3, quorum=Quorum.MAJORITY)
    cluster.advance(10)
    assert cluster.ask(2, Control.SET_LMASTERROLE, U32.pack(0))[0] == 0
    cluster.advance(5)
    assert cluster.nodes[1].node.state.lmasters == (0, 1)
    # A node that has just started does not know that the leader may not be in the map.
    cluster.restart(0)
    cluster.advance(10)
    assert cluster.nodes[0].node.state.lmasters == (0, 1)
    assert cluster.nodes[0].node.state.leader == 2
    (*_, told) = of_kind(cluster.nodes[0].effects, TellGuard)
    assert told.linked == (1, 2)
