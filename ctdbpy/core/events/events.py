# SPDX-License-Identifier: GPL-3.0-or-later
"""Events a node runs: a promise for each, and the rules about when and with what they may run.

Source: reference/ctdb.md 4.1, 4.2.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from ctdbpy.core.effects import LogLevel, RunEvent, StopEvent
from ctdbpy.core.inputs import EventEnded
from ctdbpy.core.procedures import Promise
from ctdbpy.core.state import State


@dataclass(frozen=True, slots=True)
class Event:
    """What is true of an event wherever it runs.

    in_recovery: it may run while the databases are not consistent; others are not begun then.
    forgives_timeout: scripts that are too slow count as having worked; they are killed all the same.
    """

    args: int = 0
    in_recovery: bool = False
    forgives_timeout: bool = False


EVENTS: Final = {
    "init": Event(in_recovery=True),
    "setup": Event(in_recovery=True),
    "startup": Event(),
    "startrecovery": Event(in_recovery=True, forgives_timeout=True),
    "recovered": Event(forgives_timeout=True),
    "takeip": Event(args=3, forgives_timeout=True),
    "releaseip": Event(args=3, in_recovery=True, forgives_timeout=True),
    "updateip": Event(args=4),
    "monitor": Event(),
    "shutdown": Event(in_recovery=True),
    "startipreallocate": Event(in_recovery=True),
    "ipreallocated": Event(in_recovery=True),
}


@dataclass(frozen=True, slots=True)
class EventResult:
    """How an event ended, as in `inputs.EventEnded`; `text` is a reason for people, "" if all is well."""

    status: int
    text: str = ""

    @property
    def is_good(self) -> bool:
        return self.status == 0

    @property
    def timed_out(self) -> bool:
        return self.status == errno.ETIMEDOUT

    @property
    def was_cancelled(self) -> bool:
        return self.status == errno.ECANCELED


class Events:
    """Events under way. Scripts run one event at a time, so an event may wait for those before it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._last_id = 0
        self._running: dict[int, tuple[str, Promise[EventResult]]] = {}

    def run(self, name: str, *args: str) -> Promise[EventResult]:
        """Run an event with these arguments; what must not run in a recovery is cancelled at once then."""
        event = EVENTS[name]
        assert len(args) == event.args, (name, args)
        promise: Promise[EventResult] = Promise()
        state = self._state
        if state.is_recovering and not event.in_recovery:
            promise.resolve(EventResult(errno.ECANCELED, f"event '{name}' does not run in a recovery"))
            return promise
        self._last_id += 1
        self._running[self._last_id] = (name, promise)
        state.emit(RunEvent(self._last_id, name, args, float(state.tunables.script_timeout)))
        return promise

    def stop(self, name: str) -> None:
        """End every run of an event, begun or not."""
        for event_id, (running, _promise) in self._running.items():
            if running == name:
                self._state.emit(StopEvent(event_id))

    def ended(self, ended: EventEnded) -> None:
        """The scripts have run, or could not."""
        name, promise = self._running.pop(ended.event_id)
        result = EventResult(ended.status, ended.text)
        if result.timed_out and EVENTS[name].forgives_timeout:
            self._state.log(LogLevel.ERROR, f"{ended.text}; the node goes on without it")
            result = EventResult(0)
        if promise.done and not result.is_good:
            self._state.log(LogLevel.ERROR, f"{result.text}; the node has gone on without it")
        promise.resolve(result)

    @property
    def running(self) -> int:
        """How many have been asked for and have not ended."""
        return len(self._running)
