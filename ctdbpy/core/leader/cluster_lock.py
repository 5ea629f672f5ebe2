# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster lock: who holds it may lead, and only one side of a split cluster can.

One attempt at a time, each with a bound of its own, so that a file system that hangs holds no election up.
Whoever does not lead looks in each recovery whether the lock could be had although the leader holds it.

Source: reference/ctdb.md 7.8, 7.11.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ctdbpy.core.effects import DropLock, LogLevel, TakeLock
from ctdbpy.core.inputs import LockAnswered, LockLost, LockOutcome
from ctdbpy.core.procedures import Promise
from ctdbpy.core.state import NOBODY, State

#: An attempt without an answer for so long is given up. A cluster file system that recovers from a node's
#: death answers nobody for many seconds; whoever asks then asks again.
LOCK_TIMEOUT_S: Final = 10.0
#: A look whether the lock could be had ends after so long, as upstream's.
CHECK_TIMEOUT_S: Final = 5.0
#: And the end of a recovery waits for it no longer than this; what it finds later still counts.
CHECK_WAIT_S: Final = 0.1

#: What goes wrong in the same way again is said again so much later.
SAY_AGAIN_S: Final = 60.0

OnAnswer = Callable[[LockOutcome, str], None]


class Hold(Enum):
    """Where this node stands: IDLE -> TRYING -> HELD -> IDLE, or back from TRYING to IDLE."""

    IDLE = "idle"
    TRYING = "trying"
    HELD = "held"


@dataclass(slots=True)
class _Check:
    """A look under way; `waited` are the ends of recoveries that wait for it, until `wait_until_s`."""

    attempt: int
    leader: int
    began_s: float
    waited: list[Promise[str]] = field(default_factory=list)
    wait_until_s: float | None = None
    #: A recovery ended without it: what it finds needs another one.
    is_late: bool = False


class ClusterLock:
    """This node's hold on the cluster lock. The election takes and drops it.

    Whoever makes it sets the callbacks: `on_lost(reason)` for a held lock that is gone, `on_latency` and
    `on_check_latency` for how many seconds an attempt or a look took.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.on_lost: Callable[[str], None] = _ignore_reason
        self.on_latency: Callable[[float], None] = _ignore_seconds
        self.on_check_latency: Callable[[float], None] = _ignore_seconds
        self._hold = Hold.IDLE
        #: When it was had last; nobody else had it between then and now, if this host has run since.
        self.held_since_s = 0.0
        self._last_attempt = 0
        self._attempt = 0
        self._began_s = 0.0
        self._waiting: list[OnAnswer] = []
        self._check: _Check | None = None
        self._said = ("", 0.0)
        #: What the look of the present recovery found, until somebody has asked.
        self._found: str | None = None

    # -- what there is to know ------------------------------------------------------------------

    @property
    def is_needed(self) -> bool:
        """Whether this cluster has a lock."""
        return bool(self._state.cluster_lock)

    @property
    def is_held(self) -> bool:
        return self._hold is Hold.HELD

    @property
    def is_trying(self) -> bool:
        return self._hold is Hold.TRYING

    # -- taking and dropping --------------------------------------------------------------------

    def take(self, on_answer: OnAnswer) -> None:
        """Try once; `on_answer(outcome, text)` is called once, at once if the lock is held.

        Joins an attempt under way. After `drop` it is not called any more.
        """
        assert self.is_needed
        if self.is_held:
            on_answer(LockOutcome.HELD, "")
            return
        self._waiting.append(on_answer)
        if self.is_trying:
            return
        # What a look finds now says nothing about another node's lock, and it might be in our own way.
        self._end_check("an election began")
        self._found = None
        self._hold = Hold.TRYING
        self._attempt = self._new_attempt()
        self._began_s = self._state.now_s
        self._state.emit(TakeLock(self._attempt))

    def renew(self) -> Promise[bool]:
        """Give the held lock back and take it again; True once it is held since now, for certain.

        False after `on_lost`: somebody else has it. Never done if it is dropped meanwhile.
        """
        promise: Promise[bool] = Promise()

        def answered(outcome: LockOutcome, text: str) -> None:
            if outcome is not LockOutcome.HELD:
                self.on_lost(
                    f"it was given back to be taken anew, and is not to be had: {text or outcome.value}"
                )
            promise.resolve(outcome is LockOutcome.HELD)

        if self.is_held:
            self._release()
        self.take(answered)
        return promise

    def drop(self, reason: str) -> None:
        """Give the lock back, or end the attempt; nothing happens without either."""
        if self._hold is Hold.IDLE:
            return
        if self.is_held:
            self._state.log(LogLevel.NOTICE, f"{self._name} is given back: {reason}")
        self._release()

    def answered(self, answer: LockAnswered) -> None:
        """An attempt or a look has ended."""
        if self._check is not None and answer.attempt == self._check.attempt:
            self._checked(self._check, answer)
        elif self.is_trying and answer.attempt == self._attempt:
            self._tried(answer)
        elif answer.outcome is LockOutcome.HELD and not (self.is_held and answer.attempt == self._attempt):
            # An attempt given up meanwhile: nobody else could ever have the lock again.
            self._state.emit(DropLock(answer.attempt))

    def lost(self, loss: LockLost) -> None:
        """The held lock is gone; whoever leads by it must stop."""
        if not self.is_held or loss.attempt != self._attempt:
            return
        self._state.log(LogLevel.ERROR, f"{self._name} is lost: {loss.reason}")
        self._hold = Hold.IDLE
        self.on_lost(loss.reason)

    # -- looking whether another node's lock holds us off -----------------------------------------

    def begin_check(self) -> None:
        """A recovery begins: look already, so that its end need not wait. Not where the lock is held."""
        self._found = None
        if self._may_check and self._check is None:
            attempt = self._new_attempt()
            self._check = _Check(attempt, self._state.leader, self._state.now_s)
            self._state.emit(TakeLock(attempt, only_look=True))

    def check(self) -> Promise[str]:
        """Why the recovery must not end, "" if it may: the lock holds us off, or does not say in time."""
        promise: Promise[str] = Promise()
        if not self._may_check:
            promise.resolve("")
        elif self._found is not None:
            promise.resolve(self._found)
            self._found = None
        else:
            if self._check is None:
                self.begin_check()
            assert self._check is not None
            self._check.waited.append(promise)
            self._check.wait_until_s = self._state.now_s + CHECK_WAIT_S
        return promise

    @property
    def deadline_s(self) -> float | None:
        """When an attempt, a look, or the wait for one has lasted long enough."""
        moments: list[float] = []
        if self.is_trying:
            moments.append(self._began_s + LOCK_TIMEOUT_S)
        if self._check is not None:
            moments.append(self._check.began_s + CHECK_TIMEOUT_S)
            if self._check.wait_until_s is not None:
                moments.append(self._check.wait_until_s)
        return min(moments, default=None)

    def wake(self, now_s: float) -> None:
        """Give up what has lasted too long."""
        check = self._check
        if check is not None and check.wait_until_s is not None and now_s >= check.wait_until_s:
            check.is_late = True
            self._let_go(check, "")
        if check is not None and now_s >= check.began_s + CHECK_TIMEOUT_S:
            self._state.log(
                LogLevel.WARNING, f"{self._name} did not say within {CHECK_TIMEOUT_S:g} s whether it is held"
            )
            self._end_check("")
        if self.is_trying and now_s >= self._began_s + LOCK_TIMEOUT_S:
            self._state.emit(DropLock(self._attempt))
            text = f"no answer within {LOCK_TIMEOUT_S:g} s; its file system or its service hangs"
            self._tried(LockAnswered(self._attempt, LockOutcome.TIMEOUT, text))

    def validate(self) -> None:
        """Every relation between the facts of this room."""
        assert bool(self._waiting) == self.is_trying
        assert self._check is None or self._hold is Hold.IDLE
        assert self.is_needed or self._hold is Hold.IDLE

    # -- in detail --------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"cluster lock {self._state.cluster_lock!r}"

    @property
    def _may_check(self) -> bool:
        return self.is_needed and self._hold is Hold.IDLE and not self._state.is_leader

    def _new_attempt(self) -> int:
        self._last_attempt += 1
        return self._last_attempt

    def _release(self) -> None:
        self._hold = Hold.IDLE
        self._waiting.clear()
        self._state.emit(DropLock(self._attempt))

    def _tried(self, answer: LockAnswered) -> None:
        state = self._state
        took_s = state.now_s - self._began_s
        match answer.outcome:
            case LockOutcome.HELD:
                self._hold = Hold.HELD
                self.held_since_s = state.now_s
                self._said = ("", 0.0)
                self.on_latency(took_s)
                state.log(LogLevel.NOTICE, f"{self._name} is held, {took_s:.3f} s after it was asked for")
                if took_s * 1000 > state.tunables.reclock_latency_ms:
                    state.log(LogLevel.WARNING, f"{self._name} is slow: {took_s:.3f} s until it was held")
            case LockOutcome.CONTENDED:
                self._hold = Hold.IDLE
                self._say(LogLevel.INFO, f"{self._name} is held elsewhere")
            case LockOutcome.TIMEOUT | LockOutcome.ERROR:
                self._hold = Hold.IDLE
                self._say(LogLevel.ERROR, f"cannot take {self._name}: {answer.text or 'it does not say why'}")
        waiting, self._waiting = self._waiting, []
        for on_answer in waiting:
            on_answer(answer.outcome, answer.text)

    def _say(self, level: LogLevel, text: str) -> None:
        """Log what comes again with every attempt, now and then."""
        said, again_s = self._said
        if text != said or self._state.now_s >= again_s:
            self._said = (text, self._state.now_s + SAY_AGAIN_S)
            self._state.log(level, text)

    def _checked(self, check: _Check, answer: LockAnswered) -> None:
        state = self._state
        self._check = None
        self.on_check_latency(state.now_s - check.began_s)
        reason = ""
        if answer.outcome is LockOutcome.HELD:
            state.emit(DropLock(check.attempt))
            if check.leader == state.leader != NOBODY:
                reason = (
                    f"{self._name} can be had here although leader {state.leader} holds it: its file system "
                    "does not keep locks between nodes, the nodes name different locks, or it was just lost"
                )
                state.log(LogLevel.ERROR, reason)
        elif answer.outcome is not LockOutcome.CONTENDED:
            state.log(
                LogLevel.WARNING, f"cannot look at {self._name}: {answer.text or 'it does not say why'}"
            )
        if check.waited:
            self._let_go(check, reason)
        elif state.is_recovering and not check.is_late:
            self._found = reason
        elif reason:
            state.want_recovery(reason)

    def _end_check(self, reason: str) -> None:
        check, self._check = self._check, None
        if check is not None:
            self._state.emit(DropLock(check.attempt))
            self._let_go(check, reason)

    def _let_go(self, check: _Check, reason: str) -> None:
        check.wait_until_s = None
        waited, check.waited = check.waited, []
        for promise in waited:
            promise.resolve(reason)


def _ignore_reason(_reason: str) -> None:
    """Until the election says what to do."""


def _ignore_seconds(_seconds: float) -> None:
    """Until somebody counts."""
