# SPDX-License-Identifier: GPL-3.0-or-later
"""Several nodes with a cluster lock: its holder leads, and who cannot have it keeps nobody from it."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import DropLock, Effect, Log, LogLevel, TakeLock
from ctdbpy.core.inputs import LockAnswered, LockLost, LockOutcome
from ctdbpy.core.leader.cluster_lock import LOCK_TIMEOUT_S
from ctdbpy.core.state import NOBODY, Quorum
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import RecoveryMode, RunState
from ctdbpy.wire.controls import Control
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness

#: Holds the lock, and is none of the cluster's nodes.
STRANGER = (99, 0)


class LockedCluster(Cluster):
    """Nodes with one lock. It answers at once: on `broken` nodes with an error, on `hanging` ones never.

    `late` ones find it held elsewhere whenever they ask, for others were faster. `holder` is a node and its
    attempt. With `is_local` nodes do not see each other's locks.
    """

    def __init__(self, quorum: Quorum, count: int = 3) -> None:
        self.holder: tuple[int, int] | None = None
        self.broken: set[int] = set()
        self.hanging: set[int] = set()
        self.late: set[int] = set()
        self.is_local = False
        self.asked = 0
        super().__init__(count, cluster_lock="/clusterfs/lock", quorum=quorum)

    def kill(self, pnn: int) -> None:
        if self.holder is not None and self.holder[0] == pnn:
            self.holder = None
        super().kill(pnn)

    def lose(self, reason: str) -> None:
        """The file of the lock is removed."""
        assert self.holder is not None
        (pnn, attempt), self.holder = self.holder, None
        self.give(pnn, LockLost(attempt, reason))

    def _send_all(self, harness: Harness, effects: list[Effect]) -> None:
        super()._send_all(harness, effects)
        own = harness.config.pnn
        for effect in effects:
            match effect:
                case TakeLock(attempt, only_look):
                    self.asked += 1
                    if own not in self.hanging:
                        self._queue.append((own, self._answer(own, attempt, only_look)))
                case DropLock(attempt):
                    if self.holder == (own, attempt):
                        self.holder = None
                case _:
                    pass

    def _answer(self, own: int, attempt: int, only_look: bool) -> LockAnswered:
        if own in self.broken:
            return LockAnswered(attempt, LockOutcome.ERROR, "there is no directory '/clusterfs'")
        if own in self.late:
            return LockAnswered(attempt, LockOutcome.CONTENDED)
        if self.holder is not None and not (self.is_local and self.holder[0] != own):
            return LockAnswered(attempt, LockOutcome.CONTENDED)
        if not only_look:
            self.holder = (own, attempt)
        return LockAnswered(attempt, LockOutcome.HELD)

    def leaders(self) -> set[int]:
        """Whom the living nodes follow."""
        return {each.node.state.leader for pnn, each in enumerate(self.nodes) if pnn not in self.dead}

    def is_one_led_by(self, leader: int, *, has_lock: bool = True) -> None:
        """All that live are one cluster in order, and its leader has the lock."""
        assert self.leaders() == {leader}
        assert self.holder is not None
        assert (self.holder[0] == leader) is has_lock
        for pnn, harness in enumerate(self.nodes):
            state = harness.node.state
            if pnn not in self.dead:
                assert (state.recmode, state.runstate) == (RecoveryMode.NORMAL, RunState.RUNNING)
                assert harness.node.rooms.cluster_lock.is_held == (has_lock and pnn == leader)

    def logged(self, level: LogLevel, word: str) -> int:
        lines = [each for harness in self.nodes for each in harness.effects if isinstance(each, Log)]
        return sum(each.level == level and word in each.text for each in lines)


@pytest.fixture(params=[Quorum.MAJORITY, Quorum.LOCK])
def quorum(request: pytest.FixtureRequest) -> Quorum:
    found: Quorum = request.param
    return found


def running(quorum: Quorum, count: int = 3) -> LockedCluster:
    cluster = LockedCluster(quorum, count)
    cluster.advance(10)
    cluster.is_one_led_by(count - 1)
    return cluster


def test_the_leader_holds_the_lock_and_the_others_see_that_it_does(quorum: Quorum) -> None:
    cluster = running(quorum)
    counted = [harness.node.rooms.statistician.current(0) for harness in cluster.nodes]
    assert [each.reclock_recd.num for each in counted] == [0, 0, 1]
    assert [each.reclock_ctdbd.num > 0 for each in counted] == [True, True, False]


def test_a_lone_node_leads_with_the_lock(quorum: Quorum) -> None:
    running(quorum, 1)


def test_another_node_takes_the_lock_of_a_dead_leader(quorum: Quorum) -> None:
    cluster = running(quorum)
    cluster.kill(2)
    cluster.advance(3)
    (leader,) = cluster.leaders()
    cluster.is_one_led_by(leader)
    cluster.restart(2)
    cluster.advance(10)
    cluster.is_one_led_by(leader)


def test_a_leader_that_may_not_lead_any_more_gives_the_lock_to_another(quorum: Quorum) -> None:
    cluster = running(quorum)
    assert cluster.ask(2, Control.STOP_NODE)[0] == 0
    cluster.advance(3)
    assert cluster.leaders() == {1}
    assert cluster.holder is not None
    assert cluster.holder[0] == 1
    assert cluster.ask(2, Control.CONTINUE_NODE)[0] == 0
    cluster.advance(10)
    cluster.is_one_led_by(1)


def test_a_lost_lock_is_taken_again_and_the_cluster_recovers(quorum: Quorum) -> None:
    cluster = running(quorum)
    before = cluster.nodes[0].node.state.generation
    cluster.lose("its file is gone")
    cluster.advance(3)
    (leader,) = cluster.leaders()
    cluster.is_one_led_by(leader)
    assert cluster.nodes[0].node.state.generation > before


def test_a_node_that_cannot_have_the_lock_keeps_nobody_from_it(quorum: Quorum) -> None:
    cluster = LockedCluster(quorum)
    cluster.broken = {2}
    cluster.advance(5)
    cluster.is_one_led_by(1)
    # And when the leader is gone, too.
    cluster.kill(1)
    cluster.advance(5)
    cluster.is_one_led_by(0)


def test_a_node_whose_file_system_hangs_keeps_nobody_from_the_lock(quorum: Quorum) -> None:
    cluster = LockedCluster(quorum)
    cluster.hanging = {2}
    cluster.advance(LOCK_TIMEOUT_S + 5)
    cluster.is_one_led_by(1)


def test_a_leader_whose_file_system_goes_away_is_followed_by_one_that_still_has_it(quorum: Quorum) -> None:
    cluster = running(quorum)
    cluster.broken = {2}
    cluster.lose("its file system is gone")
    cluster.advance(5)
    cluster.is_one_led_by(1)


def test_without_a_file_system_nobody_leads_until_it_is_back_and_little_is_said(quorum: Quorum) -> None:
    cluster = running(quorum)
    cluster.broken = {0, 1, 2}
    cluster.lose("its file system is gone")
    cluster.advance(60)
    assert cluster.holder is None
    assert all(harness.node.state.is_recovering for harness in cluster.nodes)
    assert 0 < cluster.logged(LogLevel.ERROR, "there is no directory") <= 3 * 2
    cluster.broken.clear()
    cluster.advance(10)
    (leader,) = cluster.leaders()
    cluster.is_one_led_by(leader)


def test_a_lone_node_asks_for_the_lock_until_it_is_there(quorum: Quorum) -> None:
    cluster = running(quorum, 1)
    cluster.broken = {0}
    cluster.asked = 0
    cluster.lose("its file system is gone")
    cluster.advance(30)
    assert cluster.nodes[0].node.state.suspended
    assert cluster.asked < 60
    cluster.broken.clear()
    cluster.advance(2)
    cluster.is_one_led_by(0)


def test_a_majority_leads_although_a_stranger_holds_the_lock() -> None:
    cluster = LockedCluster(Quorum.MAJORITY)
    cluster.holder = STRANGER
    cluster.advance(5)
    (leader,) = cluster.leaders()
    cluster.is_one_led_by(leader, has_lock=False)
    assert cluster.logged(LogLevel.NOTICE, "leads without the cluster lock")
    cluster.holder = None
    cluster.advance(2)
    cluster.is_one_led_by(leader)


def test_a_lock_that_its_holder_left_just_now_is_the_leaders_before_anybody_looks() -> None:
    cluster = LockedCluster(Quorum.MAJORITY)
    cluster.holder = STRANGER
    cluster.advance(5)
    (leader,) = cluster.leaders()
    # Its last try was a moment ago; and whoever left was fenced, so that a recovery follows at once.
    cluster.holder = None
    cluster.ask(leader, Control.SET_RECMODE, U32.pack(RecoveryMode.ACTIVE))
    cluster.advance(0.01)
    cluster.is_one_led_by(leader)
    assert not cluster.logged(LogLevel.ERROR, "does not keep locks between nodes")


def test_a_lock_that_a_stranger_holds_is_waited_for() -> None:
    cluster = LockedCluster(Quorum.LOCK)
    cluster.holder = STRANGER
    cluster.advance(30)
    assert all(harness.node.state.is_recovering for harness in cluster.nodes)
    assert cluster.holder == STRANGER
    cluster.holder = None
    cluster.advance(10)
    (leader,) = cluster.leaders()
    cluster.is_one_led_by(leader)


def test_a_lock_that_holds_nobody_off_lets_no_recovery_end(quorum: Quorum) -> None:
    cluster = LockedCluster(quorum)
    cluster.is_local = True
    cluster.advance(10)
    assert cluster.leaders() != {NOBODY}
    assert all(
        harness.node.state.is_recovering for harness in cluster.nodes if not harness.node.state.is_leader
    )
    assert cluster.logged(LogLevel.ERROR, "does not keep locks between nodes")


def test_two_sides_never_serve_at_the_same_time() -> None:
    """The leader's side loses the lock, and the other side gets it."""
    cluster = running(Quorum.LOCK)
    for other in (1, 2):
        cluster.cut(0, other)
    cluster.advance(5)
    assert serving(cluster) == {1, 2}
    # Now their side cannot have the lock any more, but does not know it yet.
    cluster.broken = {2}
    cluster.lose("its file system is gone")
    for _ in range(400):
        cluster.advance(0.05)
        now = serving(cluster)
        assert not (0 in now and now & {1, 2}), now
    assert serving(cluster) in ({0}, {1, 2})


@pytest.mark.parametrize("others_are", ["broken", "late"])
def test_the_side_that_gets_the_lock_serves_once_the_other_has_stopped(others_are: str) -> None:
    cluster = running(Quorum.LOCK)
    for other in (1, 2):
        cluster.cut(0, other)
    cluster.advance(5)
    setattr(cluster, others_are, {1, 2})
    cluster.lose("its file system is gone")
    for _ in range(100):
        cluster.advance(0.05)
        now = serving(cluster)
        assert not (0 in now and now & {1, 2}), now
    assert serving(cluster) == {0}


def serving(cluster: LockedCluster) -> set[int]:
    """Nodes whose records may change now."""
    states = {pnn: harness.node.state for pnn, harness in enumerate(cluster.nodes)}
    return {
        pnn
        for pnn, state in states.items()
        if state.recmode is RecoveryMode.NORMAL and not state.suspended and state.runstate is RunState.RUNNING
    }
