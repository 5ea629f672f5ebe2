# SPDX-License-Identifier: GPL-3.0-or-later
"""Takeover runs: who asked for one, whether they are allowed, and the run itself.

Without public addresses a run has one stage: every connected node hears that addresses are where they belong.

Source: reference/ctdb.md 5.8 (TAKEOVER_RUN, DISABLE_TAKEOVER_RUNS, DISABLE_IP_CHECK), 7.14.
"""

from __future__ import annotations

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.procedures import Runner
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.wire.codecs import I32
from ctdbpy.wire.constants import RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import SrvidMessage

#: The answer to a request whose run did not work: -EAGAIN.
_AGAIN = -11


class Takeovers:
    """Requests wait until the leader has made a run; those of other nodes' leaders are not ours to answer."""

    def __init__(self, state: State, runner: Runner, routing: Routing) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._requests: list[SrvidMessage] = []
        self._disabled_until_s: float | None = None
        self._retry_s: float | None = None
        self._busy = False
        self.wanted = False

    def request(self, message: SrvidMessage) -> None:
        """Somebody wants a run; with srvid 0 it wants no answer."""
        self._requests.append(message)

    def disable(self, seconds: int) -> None:
        """No runs for so long; 0 allows them at once."""
        self._disabled_until_s = self._state.now_s + seconds if seconds else None

    @property
    def are_disabled(self) -> bool:
        """True while somebody has asked for no runs."""
        return self._disabled_until_s is not None and self._state.now_s < self._disabled_until_s

    @property
    def deadline_s(self) -> float | None:
        """When runs are allowed again, or one that failed is repeated."""
        moments = [each for each in (self._disabled_until_s, self._retry_s) if each is not None]
        return min(moments, default=None)

    def wake(self, now_s: float) -> None:
        """Allow runs again, repeat one that failed."""
        if self._disabled_until_s is not None and now_s >= self._disabled_until_s:
            self._disabled_until_s = None
        if self._retry_s is not None and now_s >= self._retry_s:
            self._retry_s = None
            self.wanted = True

    def settle(self) -> None:
        """Make a run if one is wanted and this node may; drop requests that the leader answers."""
        state = self._state
        if self._busy or not (self._requests or self.wanted):
            return
        if not state.is_leader:
            self._retry_s = None
            self.wanted = False
            if state.active():
                self._requests.clear()
            elif self._requests:
                # Nobody is active, so nobody leads: there is nothing that could move.
                self._answer(state.pnn)
            return
        if (
            state.is_recovering
            or self.are_disabled
            or self._retry_s is not None
            or state.runstate < RunState.STARTUP
        ):
            return
        self._busy = True
        self._runner.spawn("takeover run", self._run())

    async def _run(self) -> None:
        state = self._state
        self.wanted = False
        requests, self._requests = self._requests, []
        timeout_s = 3 * state.tunables.takeover_timeout
        try:
            nodes = state.connected()
            answers = [self._routing.call(pnn, Control.IPREALLOCATED, timeout_s=timeout_s) for pnn in nodes]
            failed = [pnn for pnn, answer in zip(nodes, answers, strict=True) if not (await answer).is_good]
        finally:
            self._busy = False
        if failed:
            state.log(LogLevel.ERROR, f"takeover run failed on nodes {failed}")
            self._retry_s = state.now_s + max(state.tunables.recover_interval, 1)
        later, self._requests = self._requests, requests
        self._answer(_AGAIN if failed else state.pnn)
        self._requests = later

    def _answer(self, result: int) -> None:
        requests, self._requests = self._requests, []
        for request in requests:
            if request.srvid:
                self._state.send_message(request.pnn, request.srvid, I32.pack(result))
