# SPDX-License-Identifier: GPL-3.0-or-later
"""Health: what the scripts say of a node that has come through its first recovery.

`startup` runs until it succeeds; then the node runs, and `monitor` says again and again whether it is well.

Source: reference/ctdb.md 7.1, 7.13.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from ctdbpy.core.effects import Announce, LogLevel, TellAdministrator
from ctdbpy.core.events.events import EventResult, Events
from ctdbpy.core.procedures import Runner
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.wire.constants import BROADCAST_CONNECTED, NodeFlag, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_TAKEOVER_RUN
from ctdbpy.wire.structures import SrvidMessage

STARTUP_RETRY_S: Final = 5.0
FIRST_INTERVAL_S: Final = 2.0
#: After a change, so that one that passes is not believed for long.
CHANGED_INTERVAL_S: Final = 5.0
#: After an event that gave way: what it gave way to is short, and a node waits for its verdict.
CANCELLED_INTERVAL_S: Final = 0.5


class Health:
    """When `startup` and `monitor` run, and this node's flag UNHEALTHY.

    change_own(add, remove, reason): sets and clears own flags.
    """

    def __init__(
        self,
        state: State,
        runner: Runner,
        routing: Routing,
        events: Events,
        change_own: Callable[[NodeFlag, NodeFlag, str], bool],
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._events = events
        self._change_own = change_own
        self._is_busy = False
        self._due_s: float | None = None
        self._interval_s = FIRST_INTERVAL_S
        self._timeouts = 0
        self._complaint = ""

    # -- when ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Run what is due; a node that has just come to `startup` runs it at once."""
        state = self._state
        if state.runstate is RunState.STARTUP and not self._is_busy and self._due_s is None:
            self._due_s = state.now_s
        self.wake(state.now_s)

    @property
    def deadline_s(self) -> float | None:
        """When an event is due, if it may run."""
        return self._due_s if self._may_run else None

    def wake(self, now_s: float) -> None:
        """Run what is due."""
        if self._due_s is None or now_s < self._due_s or not self._may_run:
            return
        if self._state.runstate is RunState.STARTUP:
            self._begin("startup event", self._start_up())
        elif self._stands_still:
            self._due_s = now_s + self._interval_s
        else:
            self._begin("monitor event", self._look())

    @property
    def _may_run(self) -> bool:
        state = self._state
        if state.runstate is RunState.STARTUP:
            return not state.is_recovering
        return state.runstate is RunState.RUNNING

    @property
    def _stands_still(self) -> bool:
        """What scripts find now says nothing of how well this node serves."""
        state = self._state
        databases = state.databases.values()
        is_frozen = bool(databases) and all(database.is_frozen for database in databases)
        return state.is_recovering or state.is_inactive or bool(state.suspended) or is_frozen

    def _begin(self, name: str, procedure: Coroutine[Any, Any, None]) -> None:
        self._due_s = None
        self._is_busy = True
        self._runner.spawn(name, procedure)

    # -- startup --------------------------------------------------------------------------------

    async def _start_up(self) -> None:
        state = self._state
        result = await self._events.run("startup")
        self._is_busy = False
        if state.runstate is not RunState.STARTUP:
            return
        if result.was_cancelled:
            self._due_s = state.now_s + CANCELLED_INTERVAL_S
            return
        if not result.is_good:
            self._due_s = state.now_s + STARTUP_RETRY_S
            text = f"cannot come up, tried again in {STARTUP_RETRY_S:g} s: {result.text}"
            state.log(LogLevel.ERROR, text)
            self._complain(text)
            return
        state.runstate = RunState.RUNNING
        state.log(LogLevel.NOTICE, "runstate RUNNING")
        state.emit(Announce("running", True))
        state.emit(TellAdministrator("startup"))
        self._routing.tell(BROADCAST_CONNECTED, Control.STARTUP, others_only=True)
        self._due_s = state.now_s

    # -- monitor --------------------------------------------------------------------------------

    async def _look(self) -> None:
        state = self._state
        result = await self._events.run("monitor")
        self._is_busy = False
        if state.runstate is not RunState.RUNNING:
            return
        if result.was_cancelled:
            state.log(LogLevel.INFO, result.text)
            self._due_s = state.now_s + CANCELLED_INTERVAL_S
            return
        if self._judge(result):
            self._interval_s = CHANGED_INTERVAL_S
            run = SrvidMessage(state.pnn, 0)
            state.send_message(BROADCAST_CONNECTED, SRVID_TAKEOVER_RUN, run.pack())
        self._due_s = state.now_s + self._interval_s
        self._interval_s = min(2 * self._interval_s, max(state.tunables.monitor_interval, 1))

    def _judge(self, result: EventResult) -> bool:
        """Believe the scripts; True if the node is not as well, or as unwell, as it was."""
        state = self._state
        self._timeouts = self._timeouts + 1 if result.timed_out else 0
        limit = max(state.tunables.monitor_timeout_count, 1)
        if 0 < self._timeouts < limit:
            text = (
                f"{result.text}; the node is unhealthy after {limit} times, this was number {self._timeouts}"
            )
            state.log(LogLevel.WARNING, text)
            return False
        return self._recover() if result.is_good else self._fail(result.text)

    def _recover(self) -> bool:
        self._complaint = ""
        if not self._change_own(NodeFlag(0), NodeFlag.UNHEALTHY, "no event script says otherwise"):
            return False
        self._state.emit(TellAdministrator("healthy"))
        return True

    def _fail(self, reason: str) -> bool:
        if self._change_own(NodeFlag.UNHEALTHY, NodeFlag(0), reason):
            self._complaint = reason
            self._state.emit(TellAdministrator("unhealthy"))
            return True
        if reason != self._complaint:
            self._state.log(LogLevel.NOTICE, f"still unhealthy: {reason}")
            self._complain(reason)
        return False

    def _complain(self, reason: str) -> None:
        """This node is unhealthy already: whoever asks why hears the newest reason."""
        state = self._state
        self._complaint = reason
        state.story.renew(state.wall_us, "health", state.pnn, NodeFlag.UNHEALTHY, state.own.flags, reason)
