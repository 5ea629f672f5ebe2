# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody goes on without a lost node before it is fenced, and only lost nodes are."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import Fence, StopFence
from ctdbpy.core.inputs import Fenced, LinkDown, NodeAddress, NodeSeen, Sight, TimeElapsed
from ctdbpy.core.state import Quorum
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import of_kind
from tests.unit.core.test_clusters import VOLATILE, agree, attach
from tests.unit.core.test_quorum import logged


def running(count: int = 3) -> Cluster:
    """A cluster with a fence command; the highest pnn leads."""
    cluster = Cluster(count, quorum=Quorum.MAJORITY, fences=True)
    cluster.advance(10)
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    cluster.advance(5)
    agree(cluster, *range(count))
    assert not any(orders(cluster, pnn) for pnn in range(count))
    return cluster


def lose(cluster: Cluster, pnn: int, sight: Sight = Sight.SILENT) -> None:
    """A node is not heard any more, and does nothing."""
    cluster.dead.add(pnn)
    for other in range(len(cluster.nodes)):
        if (pnn, other) in cluster.links:
            cluster.links -= {(pnn, other), (other, pnn)}
            cluster.give(other, NodeSeen(pnn, sight, "no heartbeat"))
            cluster.give(other, LinkDown(pnn, "silent"))


def orders(cluster: Cluster, pnn: int) -> list[int]:
    """Whom a node has had fenced so far."""
    return [each.pnn for each in of_kind(cluster.nodes[pnn].effects, Fence)]


def stopped(cluster: Cluster, pnn: int) -> list[int]:
    """Whose command a node has ended so far."""
    return [each.pnn for each in of_kind(cluster.nodes[pnn].effects, StopFence)]


def members(cluster: Cluster, pnn: int) -> tuple[int, ...]:
    return cluster.nodes[pnn].node.state.lmasters


def test_a_lost_node_is_fenced_before_the_others_go_on() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(10)
    assert orders(cluster, 2) == [0], "its command runs: it is asked for once"
    assert not orders(cluster, 1), "only the leader fences"
    assert members(cluster, 1) == members(cluster, 2) == (0, 1, 2)
    assert cluster.nodes[1].node.state.is_recovering
    (order,) = of_kind(cluster.nodes[2].effects, Fence)
    assert order.address == cluster.nodes[2].config.nodes[0].address
    cluster.give(2, Fenced(0))
    cluster.advance(1)
    agree(cluster, 1, 2)
    assert members(cluster, 1) == (1, 2)
    assert logged(cluster, 2, "node 0 is fenced")


def test_a_lost_leader_is_fenced_by_the_next() -> None:
    cluster = running()
    lose(cluster, 2)
    cluster.advance(2)
    leader = cluster.nodes[0].node.state.leader
    assert orders(cluster, leader) == [2]
    cluster.give(leader, Fenced(2))
    cluster.advance(1)
    agree(cluster, 0, 1)


def test_a_command_that_fails_is_run_again_until_it_does_not() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(1)
    cluster.give(2, Fenced(0, "the power strip does not answer"))
    assert logged(cluster, 2, "cannot fence node 0: the power strip does not answer")
    assert logged(cluster, 2, "confirm-off 0")
    cluster.advance(1)
    assert orders(cluster, 2) == [0]
    cluster.advance(3)
    assert orders(cluster, 2) == [0, 0]
    assert members(cluster, 2) == (0, 1, 2)
    cluster.give(2, Fenced(0))
    cluster.advance(1)
    agree(cluster, 1, 2)


@pytest.mark.parametrize("sight", [Sight.STILL, Sight.GONE])
def test_who_said_that_nothing_runs_there_is_not_fenced(sight: Sight) -> None:
    cluster = running()
    lose(cluster, 0, sight)
    cluster.advance(5)
    agree(cluster, 1, 2)
    assert members(cluster, 2) == (1, 2)
    assert not orders(cluster, 2)


def test_a_node_that_was_stopped_before_is_not_fenced() -> None:
    cluster = running()
    cluster.ask(0, Control.STOP_NODE)
    cluster.advance(5)
    agree(cluster, 1, 2)
    lose(cluster, 0)
    cluster.advance(5)
    agree(cluster, 1, 2)
    assert not orders(cluster, 2)


def test_who_comes_back_is_not_waited_for() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(1)
    cluster.give(2, Fenced(0, "it does not answer"))
    cluster.dead.discard(0)
    for other in (1, 2):
        cluster.give(0, LinkDown(other, "reset"))
        cluster.link(0, other)
    cluster.advance(1)
    agree(cluster, 0, 1, 2)
    assert orders(cluster, 2) == [0]


def test_a_command_whose_node_is_back_is_ended() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(1)
    assert not stopped(cluster, 2)
    cluster.restart(0)
    cluster.advance(1)
    assert stopped(cluster, 2) == [0]
    cluster.give(2, Fenced(0, "it was ended"))
    cluster.advance(5)
    agree(cluster, 0, 1, 2)
    assert stopped(cluster, 2) == [0]
    assert logged(cluster, 2, "was not wanted any more: it was ended")
    assert not logged(cluster, 2, "cannot fence")


def test_a_command_of_a_node_that_may_not_lead_is_ended() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(1)
    assert orders(cluster, 2) == [0]
    cluster.cut(1, 2)
    cluster.advance(1)
    assert stopped(cluster, 2) == [0]
    # It did its work all the same: whoever leads next, this node too, fences anew.
    cluster.give(2, Fenced(0))
    cluster.link(1, 2)
    cluster.advance(2)
    leader = cluster.nodes[1].node.state.leader
    assert orders(cluster, leader)[-1] == 0
    assert cluster.nodes[1].node.state.is_recovering
    cluster.give(leader, Fenced(0))
    cluster.advance(5)
    agree(cluster, 1, 2)


def test_who_was_fenced_and_came_back_is_fenced_again_when_it_is_lost_again() -> None:
    cluster = running()
    for number in (1, 2):
        lose(cluster, 0)
        cluster.advance(3)
        assert orders(cluster, 2) == [0] * number
        cluster.give(2, Fenced(0))
        cluster.advance(1)
        agree(cluster, 1, 2)
        cluster.restart(0)
        cluster.advance(10)
        agree(cluster, 0, 1, 2)


def test_a_word_that_comes_late_says_nothing_of_a_later_loss() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(1)
    assert orders(cluster, 2) == [0]
    # It was switched on again at once, is here, and is lost once more before the command has ended.
    cluster.restart(0)
    cluster.advance(1)
    lose(cluster, 0)
    cluster.give(2, Fenced(0))
    cluster.advance(5)
    assert orders(cluster, 2) == [0, 0]


def test_a_leader_that_has_just_started_learns_who_was_there() -> None:
    cluster = running()
    lose(cluster, 0)
    cluster.advance(1)
    lose(cluster, 2, Sight.GONE)
    cluster.restart(2)
    cluster.advance(1)
    leader = cluster.nodes[1].node.state.leader
    assert orders(cluster, leader) == [0]
    cluster.give(leader, Fenced(0))
    cluster.advance(1)
    # It had no lease for a while, in which others could have taken node 0 back.
    assert orders(cluster, leader) == [0, 0]
    cluster.give(leader, Fenced(0))
    cluster.advance(10)
    agree(cluster, 1, 2)


def test_who_was_off_for_long_has_no_say_in_who_is_lost() -> None:
    cluster = running()
    # Node 2 misses that node 0 is shut down in good order, and that the others go on.
    for other in (0, 1):
        cluster.cut(2, other)
    cluster.advance(5)
    fenced = cluster.nodes[1].node.state.leader
    assert orders(cluster, fenced) == [2]
    cluster.give(fenced, Fenced(2))
    cluster.advance(2)
    agree(cluster, 0, 1)
    lose(cluster, 0, Sight.GONE)
    cluster.advance(5)
    cluster.link(1, 2)
    cluster.advance(10)
    agree(cluster, 1, 2)
    assert 0 not in orders(cluster, 1) + orders(cluster, 2)


def test_nobody_is_fenced_by_those_who_are_too_few() -> None:
    cluster = running(5)
    for pnn in (0, 1, 2):
        for other in (3, 4):
            cluster.cut(pnn, other)
    cluster.advance(10)
    assert not orders(cluster, 3) and not orders(cluster, 4)
    leader = cluster.nodes[0].node.state.leader
    assert leader in (0, 1, 2)
    assert sorted(set(orders(cluster, leader))) == [3, 4]


def test_where_no_quorum_is_asked_for_nobody_is_fenced() -> None:
    # A nodes file has grown since the start: a configuration of more than one node is refused.
    cluster = Cluster(3, quorum=Quorum.NONE, fences=True)
    cluster.advance(10)
    agree(cluster, 0, 1, 2)
    lose(cluster, 0)
    cluster.advance(5)
    agree(cluster, 1, 2)
    assert not orders(cluster, 2)


def test_who_is_lost_while_others_wait_until_it_stands_still_is_fenced() -> None:
    cluster = running()
    cluster.nodes[0].hold_jobs = True
    cluster.ask(0, Control.STOP_NODE)
    cluster.advance(0.2)
    assert members(cluster, 2) == (0, 1, 2), "its databases are not frozen yet"
    lose(cluster, 0)
    cluster.advance(5)
    assert orders(cluster, 2) == [0]
    assert cluster.nodes[1].node.state.is_recovering
    assert not cluster.nodes[1].node.state.own.flags & NodeFlag.BANNED, "it is not to blame"
    cluster.give(2, Fenced(0))
    cluster.advance(5)
    agree(cluster, 1, 2)
    assert members(cluster, 2) == (1, 2)


def test_who_is_lost_while_another_is_fenced_is_fenced_at_once() -> None:
    cluster = running(5)
    lose(cluster, 0)
    cluster.advance(0.1)
    assert orders(cluster, 4) == [0]
    lose(cluster, 1)
    cluster.advance(0.1)
    assert orders(cluster, 4) == [0, 1]
    cluster.give(4, Fenced(0))
    cluster.advance(5)
    assert members(cluster, 4) == (0, 1, 2, 3, 4)
    cluster.give(4, Fenced(1))
    cluster.advance(1)
    agree(cluster, 2, 3, 4)


@pytest.mark.parametrize("error", ["", "it does not answer"])
def test_a_node_that_the_nodes_file_does_not_have_any_more_is_not_waited_for(error: str) -> None:
    cluster = running()
    lose(cluster, 2)
    cluster.advance(2)
    leader = cluster.nodes[0].node.state.leader
    assert orders(cluster, leader) == [2]
    nodes = (NodeAddress(0, "10.0.0.1"), NodeAddress(1, "10.0.0.2"), NodeAddress(2, "0.0.0.0", deleted=True))
    for pnn in (0, 1):
        assert not cluster.nodes[pnn].node.rooms.links.reload(nodes)
        cluster.give(pnn, TimeElapsed())
    cluster.give(leader, Fenced(2, error))
    cluster.advance(5)
    agree(cluster, 0, 1)
    assert members(cluster, leader) == (0, 1)


def test_a_node_that_is_in_no_map_serves_as_well() -> None:
    cluster = running()
    assert cluster.ask(0, Control.SET_LMASTERROLE, U32.pack(0))[0] == 0
    cluster.advance(5)
    assert members(cluster, 2) == (1, 2)
    # A recovery ends for it and the others, and it goes before it has ended for the leader.
    cluster.nodes[2].hold_jobs = True
    cluster.ask(2, Control.SET_RECMODE, U32.pack(RecoveryMode.ACTIVE))
    cluster.advance(1)
    lose(cluster, 0)
    cluster.release(2)
    cluster.advance(1)
    assert orders(cluster, 2) == [0]


def test_a_cluster_that_starts_fences_nobody() -> None:
    cluster = Cluster(3, quorum=Quorum.MAJORITY, fences=True)
    lose(cluster, 0)
    cluster.advance(10)
    agree(cluster, 1, 2)
    assert not orders(cluster, 1) and not orders(cluster, 2)


def test_without_a_command_nobody_waits() -> None:
    cluster = Cluster(3, quorum=Quorum.MAJORITY)
    cluster.advance(10)
    lose(cluster, 0)
    cluster.advance(5)
    agree(cluster, 1, 2)
    assert not orders(cluster, 2)


def test_an_administrator_may_say_that_a_node_is_off() -> None:
    cluster = running()

    def confirm(pnn: int, *, at: int = 2) -> int:
        return cluster.ask(at, Control.CONFIRM_FENCED, U32.pack(pnn))[0]

    assert confirm(0) == -1, "it is there"
    lose(cluster, 0)
    cluster.advance(1)
    cluster.give(2, Fenced(0, "it does not answer"))
    cluster.advance(0.5)
    assert confirm(7) == confirm(1) == -1
    assert confirm(0, at=1) == -1, "only the leader waits"
    assert confirm(0) == 0
    cluster.advance(1)
    agree(cluster, 1, 2)
    assert logged(cluster, 2, "node 0 is taken for fenced: asked for by")
    assert confirm(0) == -1, "nothing waits for it any more"
    assert not cluster.nodes[2].node.state.own.flags & NodeFlag.BANNED
