# SPDX-License-Identifier: GPL-3.0-or-later
"""The room of the cluster lock: one attempt at a time, each with an end, and looks that hold nobody up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.core.effects import DropLock, Effect, Log, LogLevel, TakeLock
from ctdbpy.core.inputs import LockAnswered, LockLost, LockOutcome, NodeAddress
from ctdbpy.core.leader.cluster_lock import CHECK_TIMEOUT_S, CHECK_WAIT_S, LOCK_TIMEOUT_S, ClusterLock
from ctdbpy.core.state import NOBODY, NodeConfig, State
from ctdbpy.wire.constants import RecoveryMode
from ctdbpy.wire.tunables import Tunables
from tests.unit.core.fake_records import FakeRecords

HELD = LockOutcome.HELD
CONTENDED = LockOutcome.CONTENDED


class Stand:
    """The room on node 0 of two, and all that came out of it."""

    def __init__(self, lock: str = "/clusterfs/lock") -> None:
        nodes = (NodeAddress(0, "10.0.0.1"), NodeAddress(1, "10.0.0.2"))
        config = NodeConfig(0, nodes, Tunables(), cluster_lock=lock)
        self.state = State(config, FakeRecords())
        self.room = ClusterLock(self.state)
        self.answers: list[tuple[LockOutcome, str]] = []
        self.losses: list[str] = []
        self.latencies: list[float] = []
        self.check_latencies: list[float] = []
        self.room.on_lost = self.losses.append
        self.room.on_latency = self.latencies.append
        self.room.on_check_latency = self.check_latencies.append

    def take(self) -> None:
        self.room.take(lambda outcome, text: self.answers.append((outcome, text)))

    def answer(self, attempt: int, outcome: LockOutcome, text: str = "") -> None:
        self.room.answered(LockAnswered(attempt, outcome, text))

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping where the room wants to be woken."""
        end_s = self.state.now_s + seconds
        while (due_s := self.room.deadline_s) is not None and due_s <= end_s:
            self.state.now_s = due_s
            self.room.wake(due_s)
            assert self.room.deadline_s is None or self.room.deadline_s > due_s
        self.state.now_s = end_s

    def done(self) -> list[Effect]:
        """What the room wanted done since the last time, without the log."""
        self.room.validate()
        effects, self.state.effects = self.state.effects, []
        return [each for each in effects if not isinstance(each, Log)]

    def logged(self, level: LogLevel) -> list[str]:
        return [each.text for each in self.state.effects if isinstance(each, Log) and each.level == level]

    def hold(self) -> None:
        self.take()
        (take,) = self.done()
        assert isinstance(take, TakeLock)
        self.answer(take.attempt, HELD)
        assert self.done() == []

    def follow(self, leader: int = 1) -> None:
        """Another node leads and recovers."""
        self.state.leader = leader
        self.state.recmode = RecoveryMode.ACTIVE


def test_a_cluster_without_a_lock_needs_none() -> None:
    stand = Stand(lock="")
    assert not stand.room.is_needed
    stand.follow()
    stand.room.begin_check()
    assert stand.room.check().result() == ""
    assert stand.done() == []


def test_an_attempt_ends_with_the_lock_held_and_its_latency_is_counted() -> None:
    stand = Stand()
    stand.take()
    assert stand.room.is_trying
    assert stand.done() == [TakeLock(1)]
    stand.advance(0.25)
    stand.answer(1, HELD)
    assert stand.room.is_held
    assert stand.answers == [(HELD, "")]
    assert stand.latencies == [0.25]
    assert stand.room.deadline_s is None


def test_a_slow_lock_is_said_to_be_slow() -> None:
    stand = Stand()
    stand.take()
    stand.advance(1.5)
    stand.answer(1, HELD)
    assert any("slow" in text for text in stand.logged(LogLevel.WARNING))


def test_a_second_take_joins_the_first() -> None:
    stand = Stand()
    stand.take()
    stand.take()
    assert stand.done() == [TakeLock(1)]
    stand.answer(1, CONTENDED)
    assert stand.answers == [(CONTENDED, ""), (CONTENDED, "")]
    assert not stand.room.is_trying
    assert not stand.room.is_held


def test_who_holds_the_lock_is_answered_at_once() -> None:
    stand = Stand()
    stand.hold()
    stand.take()
    assert stand.answers == [(HELD, ""), (HELD, "")]
    assert stand.done() == []


def test_an_attempt_without_an_answer_ends_as_a_timeout_and_leaves_nothing_behind() -> None:
    stand = Stand()
    stand.take()
    stand.done()
    stand.advance(LOCK_TIMEOUT_S - 0.01)
    assert stand.answers == []
    stand.advance(0.02)
    assert [outcome for outcome, _text in stand.answers] == [LockOutcome.TIMEOUT]
    assert "hangs" in stand.answers[0][1]
    assert stand.done() == [DropLock(1)]
    # It answers after all: the lock must not stay with an attempt that nobody knows of.
    stand.answer(1, HELD)
    assert stand.done() == [DropLock(1)]
    assert not stand.room.is_held


def test_an_error_says_what_is_wrong() -> None:
    stand = Stand()
    stand.take()
    stand.answer(1, LockOutcome.ERROR, "there is no directory '/clusterfs'")
    assert stand.answers == [(LockOutcome.ERROR, "there is no directory '/clusterfs'")]
    assert any("there is no directory" in text for text in stand.logged(LogLevel.ERROR))


def test_a_callback_may_try_again_at_once() -> None:
    stand = Stand()
    stand.room.take(lambda _outcome, _text: stand.take())
    stand.answer(1, CONTENDED)
    assert stand.done() == [TakeLock(1), TakeLock(2)]


def test_a_dropped_attempt_is_not_heard_of_again() -> None:
    stand = Stand()
    stand.take()
    stand.room.drop("another node leads")
    assert stand.done() == [TakeLock(1), DropLock(1)]
    assert stand.answers == []
    stand.answer(1, CONTENDED)
    assert stand.answers == []
    stand.room.drop("again")
    assert stand.done() == []


def test_a_held_lock_is_given_back_and_can_be_had_again() -> None:
    stand = Stand()
    stand.hold()
    stand.room.drop("this node is stopped")
    assert stand.done() == [DropLock(1)]
    assert not stand.room.is_held
    stand.take()
    assert stand.done() == [TakeLock(2)]


def test_a_lost_lock_is_told_once() -> None:
    stand = Stand()
    stand.hold()
    stand.room.lost(LockLost(7, "another attempt"))
    assert stand.losses == []
    stand.room.lost(LockLost(1, "its file is gone"))
    stand.room.lost(LockLost(1, "its file is gone"))
    assert stand.losses == ["its file is gone"]
    assert not stand.room.is_held
    assert stand.done() == []


def test_a_loss_after_the_drop_means_nothing() -> None:
    stand = Stand()
    stand.hold()
    stand.room.drop("this node is stopped")
    stand.room.lost(LockLost(1, "its helper has ended"))
    assert stand.losses == []


def test_a_lock_held_by_the_leader_lets_the_recovery_end() -> None:
    stand = Stand()
    stand.follow()
    stand.room.begin_check()
    assert stand.done() == [TakeLock(1, only_look=True)]
    stand.advance(0.003)
    stand.answer(1, CONTENDED)
    assert stand.check_latencies == [0.003]
    promise = stand.room.check()
    assert promise.result() == ""
    assert stand.done() == []


def test_a_lock_that_could_be_had_keeps_the_recovery_from_ending() -> None:
    stand = Stand()
    stand.follow()
    promise = stand.room.check()
    joined = stand.room.check()
    assert stand.done() == [TakeLock(1, only_look=True)]
    assert not promise.done
    stand.answer(1, HELD)
    assert stand.done() == [DropLock(1)]
    assert "although leader 1 holds it" in promise.result()
    assert joined.result() == promise.result()


def test_what_a_look_found_counts_for_one_recovery() -> None:
    stand = Stand()
    stand.follow()
    stand.room.begin_check()
    stand.answer(1, HELD)
    assert stand.room.check().result()
    assert not stand.room.check().done
    stand.room.begin_check()
    assert stand.done() == [TakeLock(1, only_look=True), DropLock(1), TakeLock(2, only_look=True)]


def test_a_slow_look_holds_no_recovery_up_but_still_counts() -> None:
    stand = Stand()
    stand.follow()
    promise = stand.room.check()
    stand.advance(CHECK_WAIT_S)
    assert promise.result() == ""
    stand.state.recmode = RecoveryMode.NORMAL
    stand.advance(1)
    stand.answer(1, HELD)
    assert "although leader 1" in stand.state.recovery_wanted
    assert stand.state.recmode is RecoveryMode.ACTIVE


def test_a_look_that_hangs_ends() -> None:
    stand = Stand()
    stand.follow()
    stand.room.begin_check()
    stand.advance(CHECK_TIMEOUT_S)
    assert stand.done() == [TakeLock(1, only_look=True), DropLock(1)]
    assert stand.room.deadline_s is None
    assert stand.state.recovery_wanted == ""


def test_a_look_that_fails_lets_the_recovery_end() -> None:
    stand = Stand()
    stand.follow()
    promise = stand.room.check()
    stand.answer(1, LockOutcome.ERROR, "there is no such file")
    assert promise.result() == ""
    assert any("there is no such file" in text for text in stand.logged(LogLevel.WARNING))


def test_an_election_ends_a_look() -> None:
    stand = Stand()
    stand.follow()
    promise = stand.room.check()
    stand.state.leader = NOBODY
    stand.take()
    assert stand.done() == [TakeLock(1, only_look=True), DropLock(1), TakeLock(2)]
    assert promise.result() == "an election began"
    stand.answer(1, CONTENDED)
    assert stand.room.is_trying


def test_a_lock_that_is_free_since_the_leader_changed_is_no_reproach() -> None:
    stand = Stand()
    stand.follow(leader=1)
    stand.room.begin_check()
    stand.state.leader = NOBODY
    stand.answer(1, HELD)
    assert stand.room.check().result() == ""
    assert stand.logged(LogLevel.ERROR) == []


def test_the_leader_does_not_look_at_its_own_lock() -> None:
    stand = Stand()
    stand.hold()
    stand.follow(leader=0)
    stand.room.begin_check()
    assert stand.room.check().result() == ""
    assert stand.done() == []


ACTS = st.sampled_from(
    [
        "take",
        "drop",
        "held",
        "contended",
        "timeout",
        "error",
        "lost",
        "begin",
        "check",
        "wait",
        "long",
        "elect",
    ]
)


@given(st.lists(st.tuples(ACTS, st.integers(0, 3)), max_size=60))
def test_whatever_happens_at_most_one_lock_is_held_and_each_attempt_ends(
    story: list[tuple[str, int]],
) -> None:
    """A model of the outside: which attempts it still works on, which hold the lock."""
    stand = Stand()
    stand.follow()
    open_attempts: dict[int, bool] = {}
    last = 0
    for act, back in story:
        attempt = max(last - back, 1)
        match act:
            case "take":
                stand.take()
            case "drop":
                stand.room.drop("a test")
            case "held" | "contended" | "timeout" | "error":
                if open_attempts.get(attempt):
                    # An attempt answers once.
                    continue
                # What was dropped may still answer: it was under way already.
                stand.answer(attempt, LockOutcome(act))
                if act == "held" and attempt in open_attempts:
                    open_attempts[attempt] = True
                elif act != "held":
                    open_attempts.pop(attempt, None)
            case "lost":
                stand.room.lost(LockLost(attempt, "a test"))
                if open_attempts.get(attempt):
                    del open_attempts[attempt]
            case "begin":
                stand.room.begin_check()
            case "check":
                stand.room.check()
            case "wait":
                stand.advance(CHECK_WAIT_S)
            case "long":
                stand.advance(LOCK_TIMEOUT_S)
            case _:
                stand.state.leader = (0, 1, NOBODY)[back % 3]
        for effect in stand.done():
            if isinstance(effect, TakeLock):
                last = effect.attempt
                assert effect.attempt not in open_attempts
                open_attempts[effect.attempt] = False
            elif isinstance(effect, DropLock):
                open_attempts.pop(effect.attempt, None)
        assert len(open_attempts) <= 1
        assert stand.room.is_held == any(open_attempts.values())
    stand.room.drop("the end")
    stand.advance(LOCK_TIMEOUT_S)
    for effect in stand.done():
        if isinstance(effect, DropLock):
            open_attempts.pop(effect.attempt, None)
    assert not open_attempts
    assert stand.room.deadline_s is None


def test_a_lock_that_is_renewed_is_given_back_and_taken_again() -> None:
    stand = Stand()
    stand.take()
    stand.answer(1, HELD)
    stand.done()
    stand.advance(5)
    renewed = stand.room.renew()
    assert stand.done() == [DropLock(1), TakeLock(2)]
    assert not renewed.done
    stand.answer(2, HELD)
    assert renewed.result() is True
    assert stand.room.is_held
    assert stand.room.held_since_s == stand.state.now_s
    assert stand.losses == []


def test_one_that_another_has_meanwhile_is_lost() -> None:
    stand = Stand()
    stand.take()
    stand.answer(1, HELD)
    renewed = stand.room.renew()
    stand.answer(2, CONTENDED, "held elsewhere")
    assert renewed.result() is False
    (loss,) = stand.losses
    assert "held elsewhere" in loss
    stand.done()


def test_a_renewal_that_is_dropped_ends_nothing() -> None:
    stand = Stand()
    stand.take()
    stand.answer(1, HELD)
    renewed = stand.room.renew()
    stand.room.drop("it leads no more")
    stand.answer(2, HELD)
    assert not renewed.done
    assert DropLock(2) in stand.done()
    assert stand.losses == []
