# SPDX-License-Identifier: GPL-3.0-or-later
"""Takeover runs: who asked for one, when one has to be, and whether it may be now.

The leader makes one after every recovery and whenever a node's flags change, at once. An address of a node
that cannot be reached is taken only when that node has surely stopped: members of a recovery vouch for it; of
a node that takes no part in recoveries the last lease has run out.

Source: reference/ctdb.md 5.8 (TAKEOVER_RUN, REBALANCE_NODE, DISABLE_TAKEOVER_RUNS, DISABLE_IP_CHECK), 7.14.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ctdbpy.core.effects import LogLevel, Unlisten
from ctdbpy.core.failover.allocation import Plan
from ctdbpy.core.failover.run import Run
from ctdbpy.core.inputs import Sight
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Quorum, State
from ctdbpy.wire.codecs import I32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, Capability, NodeFlag, RunState
from ctdbpy.wire.srvids import SRVID_SERVER_RANGE, SRVID_TAKEOVER_RUN, in_range, srvid_of_server
from ctdbpy.wire.structures import SrvidMessage

#: The answer to a request whose run did not work: -EAGAIN.
_AGAIN: Final = -11
_FAILED: Final = I32.pack(_AGAIN)
#: More than these wait for no answer: whoever asked long ago asks again.
REQUESTS_MAX: Final = 1000
#: A node that does not lead keeps them so long: an election, and the recovery after it, are over by then.
REQUEST_KEPT_S: Final = 3.0
#: `ctdb moveip` holds runs off for 20 s and never lets them on; when something happens to a node, so long.
SOFTLY_DISABLED_S: Final = 1.0
#: A run that a recovery stops begins again after it; so much later if there is none.
STOPPED_AGAIN_S: Final = 0.1
#: A node that ends asks again for somebody to take its addresses.
HAND_OVER_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Request:
    message: SrvidMessage
    at_s: float


class Takeovers:
    """Requests wait until the leader has made a run; those of other nodes' leaders are not ours to answer.

    blame(pnn, why): gives ban credits to a node that spoils runs.
    planned(plan): hears the plan of each run of this node's.
    homes(): where addresses belong, where that counts.
    """

    def __init__(
        self,
        state: State,
        runner: Runner,
        routing: Routing,
        blame: Callable[[int, str], None],
        planned: Callable[[Plan], None],
        homes: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._blame = blame
        self._planned = planned
        self._homes = homes
        self._requests: deque[_Request] = deque()
        self._disabled_since_s = 0.0
        self._disabled_until_s: float | None = None
        self._is_softly_disabled = False
        #: Somebody held runs off, to move addresses himself: look whether he has left some nowhere.
        self._has_to_look = False
        self._retry_s: float | None = None
        self._hold_s: float | None = None
        self._busy = False
        self._rebalance: set[int] = set()
        self._seen: tuple[NodeFlag, ...] = ()
        self._last_srvid = 0
        #: When a node got ban credits last.
        self._blamed_s: dict[int, float] = {}
        self.wanted = False

    # -- asked from outside ---------------------------------------------------------------------------

    def request(self, message: SrvidMessage) -> None:
        """Somebody wants a run; with srvid 0 it wants no answer."""
        if len(self._requests) < REQUESTS_MAX:
            self._requests.append(_Request(message, self._state.now_s))
        if in_range(message.srvid, SRVID_SERVER_RANGE):
            # A node that ends: its addresses are nowhere.
            self.want()
        elif not message.srvid:
            # A daemon, not a tool: something has happened to its interfaces or addresses.
            self.wanted = True

    def want(self) -> None:
        """Addresses may not be where they should be."""
        self._retry_s = None
        self.wanted = True

    def rebalance(self, pnn: int) -> None:
        """A node has new addresses: others' may move to it although it has some."""
        self._rebalance.add(pnn)
        self.want()

    def disable(self, seconds: int, *, softly: bool = False) -> None:
        """No runs for so long; 0 allows them at once. Softly: but if something happens to a node."""
        self._has_to_look |= not seconds and self._disabled_until_s is not None
        self._disabled_since_s = self._state.now_s
        self._disabled_until_s = self._state.now_s + seconds if seconds else None
        self._is_softly_disabled = softly

    @property
    def _allowed_s(self) -> float | None:
        """When there may be a run again, if somebody has asked for none."""
        if self._disabled_until_s is None or not (self.wanted and self._is_softly_disabled):
            return self._disabled_until_s
        return min(self._disabled_until_s, self._disabled_since_s + SOFTLY_DISABLED_S)

    async def hand_over(self) -> None:
        """This node ends and has dropped its addresses: wait until others serve them, or time is up."""
        state = self._state
        until_s = state.now_s + state.config.shutdown_wait_s
        self._last_srvid += 1
        srvid = srvid_of_server(state.pnn, self._last_srvid)
        answer: Promise[bool] = Promise()

        def answered(_pnn: int, data: bytes) -> None:
            if data[: len(_FAILED)] != _FAILED:
                answer.resolve(True)

        state.listen(srvid, answered)
        while not answer.done and state.now_s < until_s and len(state.active()) > 1:
            run = SrvidMessage(state.pnn, srvid)
            state.send_message(BROADCAST_CONNECTED, SRVID_TAKEOVER_RUN, run.pack())
            again: Promise[bool] = Promise()
            answer.when_done(lambda again=again: again.resolve(True))  # type: ignore[misc]
            await self._runner.limit(again, HAND_OVER_AGAIN_S, False)
        state.unlisten(srvid)
        state.emit(Unlisten(srvid))

    # -- when -------------------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When runs are allowed again, one that failed is repeated, or a silent node has surely stopped."""
        moments = (self._allowed_s, self._retry_s, self._hold_s)
        return min((each for each in moments if each is not None), default=None)

    def wake(self, now_s: float) -> None:
        """Allow runs again, repeat one that failed."""
        self._allow_again()
        if self._hold_s is not None and now_s >= self._hold_s:
            self._hold_s = None
        if self._retry_s is not None and now_s >= self._retry_s:
            self._retry_s = None
            self.wanted = True

    def _allow_again(self) -> None:
        """For good: what a run takes up is wanted no more, and it must not be stopped for that."""
        if self._allowed_s is not None and self._state.now_s >= self._allowed_s:
            self._disabled_until_s = None
            self._has_to_look = True

    def settle(self) -> None:
        """Make a run if one is wanted and this node may; drop requests that the leader answers."""
        state = self._state
        if not state.is_leader:
            self._lead_no_more()
            return
        self._look_at_flags()
        self._allow_again()
        if self._busy or self._retry_s is not None:
            return
        if not (self._requests or self.wanted or self._has_to_look):
            return
        if not self._may_run() or state.runstate < RunState.STARTUP:
            return
        wait_s = self._wait_s()
        if wait_s > 0:
            self._hold_s = state.now_s + wait_s
            return
        self._busy = True
        self._runner.spawn("takeover run", self._run())

    def _lead_no_more(self) -> None:
        state = self._state
        self._retry_s = None
        self._hold_s = None
        self.wanted = False
        self._has_to_look = False
        self._seen = ()
        self._rebalance.clear()
        if not state.active():
            # Nobody is active, so nobody leads: there is nothing that could move.
            self._answer(self._requests, state.pnn)
            self._requests.clear()
            return
        # Whoever led when it came may have led no more: the next leader, who may be this node, answers.
        while self._requests and self._requests[0].at_s + REQUEST_KEPT_S <= state.now_s:
            self._requests.popleft()

    def _look_at_flags(self) -> None:
        state = self._state
        flags = tuple(node.flags for node in state.nodes)
        if flags != self._seen:
            self._seen = flags
            self.want()

    def _may_run(self) -> bool:
        """This node leads a consistent cluster: who comes and who goes has been through a recovery."""
        state = self._state
        if not state.is_leader or state.is_electing or state.is_recovering:
            return False
        if self._allowed_s is not None and state.now_s < self._allowed_s:
            return False
        active = {node.pnn for node in state.nodes if not node.flags & NodeFlag.INACTIVE}
        members = {pnn for pnn in active if state.nodes[pnn].capabilities & Capability.LMASTER}
        return members <= set(state.lmasters) <= active

    def _wait_s(self) -> float:
        """How long a node that cannot be reached, and was never in a map, may still have a lease."""
        state = self._state
        if state.quorum is Quorum.NONE:
            return 0.0
        waits = [
            state.out_since_s.get(node.pnn, 0.0) + state.silence_s - state.now_s
            for node in state.others()
            if not node.is_connected and state.sights.get(node.pnn) is Sight.LIVE
        ]
        return max(waits, default=0.0)

    # -- the run ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        state = self._state
        requests: list[_Request] = []
        rebalance: set[int] = set()

        def take_up() -> frozenset[int]:
            self.wanted = False
            requests.extend(self._requests)
            self._requests.clear()
            rebalance.update(self._rebalance)
            return frozenset(rebalance)

        def has_news() -> bool:
            return self.wanted or bool(self._requests)

        only_looks = not (self.wanted or self._requests)
        self._has_to_look = False
        take_up()
        run = Run(
            state,
            self._runner,
            self._routing,
            self._may_run,
            take_up,
            has_news,
            self._planned,
            self._homes,
            only_looks=only_looks,
        )
        try:
            if state.config.moves_addresses:
                await run.move()
        finally:
            # Scripts hear of it without holding the next run up.
            self._busy = False
        if run.was_stopped:
            self._requests.extendleft(reversed(requests))
            if not self.wanted:
                self._retry_s = state.now_s + STOPPED_AGAIN_S
        else:
            if not run.failures:
                self._rebalance -= rebalance
            self._runner.spawn("end of takeover run", self._end(run, requests))

    async def _end(self, run: Run, requests: list[_Request]) -> None:
        state = self._state
        if not run.is_blind and not run.is_needless:
            await run.tell()
        if run.failures:
            words = "; ".join(f"node {pnn}: {why}" for pnn, why in sorted(run.failures.items()))
            state.log(LogLevel.ERROR, f"takeover run failed: {words}")
            self._retry_s = state.now_s + max(state.tunables.recover_interval, 1)
            self._find_fault(run)
        self._answer(requests, _AGAIN if run.failures else state.pnn)

    def _find_fault(self, run: Run) -> None:
        """Give the node that spoilt a run its credits; not twice for what went wrong at the same time."""
        state = self._state
        culprit = run.culprit()
        if culprit is None or not state.is_leader:
            return
        blamed_s = self._blamed_s.get(culprit)
        if blamed_s is None or state.now_s - blamed_s >= max(state.tunables.recover_interval, 1):
            self._blamed_s[culprit] = state.now_s
            self._blame(culprit, f"a takeover run failed: {run.failures[culprit]}")

    def _answer(self, requests: Iterable[_Request], result: int) -> None:
        for request in requests:
            if request.message.srvid:
                self._state.send_message(request.message.pnn, request.message.srvid, I32.pack(result))
