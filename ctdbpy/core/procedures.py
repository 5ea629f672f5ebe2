# SPDX-License-Identifier: GPL-3.0-or-later
"""The small runner that drives procedures: `async def` jobs that read top to bottom, without an event loop.

A procedure awaits promises (another node's answer, a worker's result, a moment in time)
and other procedures. It advances only inside `Runner.run`, one after the other in the order
in which what they waited for came, so that a run is repeated exactly by the same inputs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cancelled(BaseException):
    """Raised inside a procedure that was cancelled, so that its `finally` blocks run."""


class Promise(Generic[T]):
    """A value that comes later, once; whoever awaits it goes on when it is there."""

    __slots__ = ("_error", "_value", "_waiters", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], None]] = []

    def resolve(self, value: T) -> None:
        """Give the value; a promise that is already done keeps what it has."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """End it with an exception instead of a value."""
        if not self.done:
            self._error = error
            self._finish()

    def when_done(self, act: Callable[[], None]) -> None:
        """Call `act` once it is done; at once if it is."""
        if self.done:
            act()
        else:
            self._waiters.append(act)

    @property
    def awaited(self) -> bool:
        """True if somebody waits for it."""
        return bool(self._waiters)

    def result(self) -> T:
        """The value, or the exception raised; only when done."""
        assert self.done
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def __await__(self) -> Generator[Promise[Any], None, T]:
        if not self.done:
            yield self
        return self.result()

    def _finish(self) -> None:
        self.done = True
        waiters, self._waiters = self._waiters, []
        for act in waiters:
            act()


class Procedure(Promise[T]):
    """A running procedure; awaiting it gives what its function returns."""

    __slots__ = ("_coro", "_runner", "_throw", "_waits_for", "name")

    def __init__(self, runner: Runner, name: str, coro: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self.name = name
        self._runner = runner
        self._coro = coro
        self._throw: BaseException | None = None
        self._waits_for: Promise[Any] | None = None

    def cancel(self) -> None:
        """Have `Cancelled` raised where it waits, at the runner's next turn."""
        if not self.done and self._throw is None:
            self._throw = Cancelled()
            self._waits_for = None
            self._runner.make_ready(self)

    def woken_by(self, promise: Promise[Any]) -> None:
        """What it waited for is done; a cancelled procedure waits for nothing any more."""
        if self._waits_for is promise:
            self._waits_for = None
            self._runner.make_ready(self)

    def advance(self) -> None:
        """Run up to the next promise that is not done. Raises what a procedure nobody awaits raised."""
        throw, self._throw = self._throw, None
        try:
            promise: Promise[Any] = self._coro.send(None) if throw is None else self._coro.throw(throw)
        except StopIteration as end:
            self.resolve(end.value)
        except Cancelled as cancelled:
            self.fail(cancelled)
        except Exception as error:
            if not self.awaited:
                raise
            self.fail(error)
        else:
            self._waits_for = promise
            promise.when_done(lambda: self.woken_by(promise))


class Runner:
    """All procedures of one node."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._ready: deque[Procedure[Any]] = deque()
        self._sleepers: list[tuple[float, int, Promise[None]]] = []
        self._slept = 0

    @property
    def has_ready(self) -> bool:
        """True if `run` has something to do."""
        return bool(self._ready)

    @property
    def deadline_s(self) -> float | None:
        """When the first sleeper wants to be woken."""
        while self._sleepers and self._sleepers[0][2].done:
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def spawn(self, name: str, coro: Coroutine[Any, Any, T]) -> Procedure[T]:
        """Start a procedure; it takes its first step at the runner's next turn."""
        procedure = Procedure(self, name, coro)
        self._ready.append(procedure)
        return procedure

    def make_ready(self, procedure: Procedure[Any]) -> None:
        """Let it advance at the next turn."""
        if procedure not in self._ready:
            self._ready.append(procedure)

    def sleep(self, seconds: float) -> Promise[None]:
        """A promise that is done in so many seconds."""
        promise: Promise[None] = Promise()
        self._slept += 1
        heapq.heappush(self._sleepers, (self.now_s + seconds, self._slept, promise))
        return promise

    def limit(self, promise: Promise[T], seconds: float, late: T) -> Promise[T]:
        """The promise, or `late` if it is not done in time (what comes after is dropped)."""
        alarm = self.sleep(seconds)
        alarm.when_done(lambda: promise.resolve(late))
        promise.when_done(lambda: alarm.resolve(None))
        return promise

    def wake(self, now_s: float) -> None:
        """Wake the sleepers whose time has come."""
        self.now_s = now_s
        while self._sleepers and (self._sleepers[0][0] <= now_s or self._sleepers[0][2].done):
            heapq.heappop(self._sleepers)[2].resolve(None)

    def run(self) -> None:
        """Advance every procedure that can, until each waits for something."""
        while self._ready:
            self._ready.popleft().advance()

    async def gather(self, name: str, coros: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run them side by side; their results in order. Cancelled or failing, the others are cancelled."""
        procedures = [self.spawn(name, coro) for coro in coros]
        for procedure in procedures:
            procedure.when_done(_nothing)
        try:
            return [await procedure for procedure in procedures]
        finally:
            for procedure in procedures:
                procedure.cancel()


def _nothing() -> None:
    """Waits with `gather`, so that a failing procedure's exception goes to it and not to the runner."""
