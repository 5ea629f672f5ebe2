# SPDX-License-Identifier: GPL-3.0-or-later
"""One takeover run: ask every node what it has, plan, have each address released, then taken.

Reads top to bottom. Addresses do not wait for each other: one is taken when whoever had it has released it.

Source: reference/ctdb.md 7.14; docs/allocation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.failover.addresses import IN_RECOVERY
from ctdbpy.core.failover.allocation import Algorithm, Plan, Rules, allocate
from ctdbpy.core.failover.transfers import (
    Answer,
    Transfer,
    hindrances_of,
    may_take,
    survey_of,
    transfers_of,
)
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import DISCONNECTED, NOT_CONNECTED, TIMED_OUT, Routing
from ctdbpy.core.state import State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.constants import ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import PublicIpList

#: Of so many moved addresses the story keeps the reasons; the log has all.
NOTES_MAX: Final = 20
#: Nodes are asked so often for things that happen meanwhile; what still happens then has a run of its own.
SURVEYS_MAX: Final = 3


class Run:
    """What one run has found out.

    may_go_on(): asked before each taking; who leads no more has nothing taken.
    take_up(): called before nodes are asked: this run does what was wanted so far; the nodes to rebalance.
    has_news(): whether something has been wanted since.
    planned(plan): called when it is decided what goes where.
    """

    def __init__(
        self,
        state: State,
        runner: Runner,
        routing: Routing,
        may_go_on: Callable[[], bool],
        take_up: Callable[[], frozenset[int]],
        has_news: Callable[[], bool],
        planned: Callable[[Plan], None],
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._may_go_on = may_go_on
        self._take_up = take_up
        self._has_news = has_news
        self._planned = planned
        self._until_s = state.now_s + 3 * max(state.tunables.takeover_timeout, 1)
        self._told: list[tuple[int, Control, Promise[Reply]]] = []
        #: Why it did not work, by the node that did not do its part.
        self.failures: dict[int, str] = {}
        self.was_stopped = False
        #: Some node does not say what it has: nothing may move.
        self.is_blind = False

    # -- the run --------------------------------------------------------------------------------------

    async def move(self) -> None:
        """Have every address where it should be, as far as nodes do their part."""
        state = self._state
        rebalance = self._take_up()
        nodes = state.connected()
        answers = await self._ask(nodes)
        for _ in range(SURVEYS_MAX - 1):
            if answers is None or not self._goes_on() or not self._has_news():
                break
            # What a node said before something happened to it is not so any more.
            rebalance = self._take_up()
            nodes = state.connected()
            answers = await self._ask(nodes)
        if answers is None:
            self.is_blind = True
            return
        if not self._goes_on():
            return
        flags = {node.pnn: node.flags for node in state.nodes}
        everywhere = state.tunables.no_ip_host_on_all_disabled == 0
        survey = survey_of(answers, flags, hosts_when_all_disabled=everywhere)
        plan = allocate(survey.addresses, self._rules(rebalance))
        self._planned(plan)
        if survey.is_idle:
            return
        transfers = transfers_of(survey, plan)
        urgent = [each for each in transfers if each.is_urgent]
        if urgent:
            self._explain(urgent)
            await self._announce(nodes)
        says = {answer.pnn: {ip.address.host: ip.pnn for ip in answer.known} for answer in answers}
        await self._runner.gather("transfer", [self._transfer(each, says) for each in transfers])
        for pnn, opcode, promise in self._told:
            self._note(pnn, opcode, await promise)

    async def tell(self) -> None:
        """Every node's scripts and programs hear that addresses are where they belong."""
        nodes = self._state.connected()
        replies = [(pnn, self._call(pnn, Control.IPREALLOCATED)) for pnn in nodes]
        for pnn, promise in replies:
            self._note(pnn, Control.IPREALLOCATED, await promise)

    def _rules(self, rebalance: frozenset[int]) -> Rules:
        state = self._state
        return Rules(
            nodes=len(state.nodes),
            algorithm=Algorithm.of(state.tunables.ip_alloc_algorithm),
            no_takeover=bool(state.tunables.no_ip_takeover),
            no_failback=bool(state.tunables.no_ip_failback),
            rebalance=rebalance,
            hindrances=hindrances_of({node.pnn: node.flags for node in state.nodes}),
        )

    # -- step by step -----------------------------------------------------------------------------------

    async def _ask(self, nodes: list[int]) -> list[Answer] | None:
        """What each node knows, has and could serve; None if one does not say: it might have anything."""
        only = int(ControlFlag.PUBLIC_IP_ONLY_AVAILABLE)
        asked = [
            (
                pnn,
                self._call(pnn, Control.GET_PUBLIC_IPS),
                self._call(pnn, Control.GET_PUBLIC_IPS, flags=only),
            )
            for pnn in nodes
        ]
        answers = []
        for pnn, known, available in asked:
            lists = [self._ips(pnn, await each) for each in (known, available)]
            if lists[0] is not None and lists[1] is not None:
                answers.append(Answer(pnn, lists[0].ips, lists[1].ips))
        return answers if len(answers) == len(nodes) else None

    def _ips(self, pnn: int, reply: Reply) -> PublicIpList | None:
        if not self._note(pnn, Control.GET_PUBLIC_IPS, reply):
            return None
        try:
            return PublicIpList.unpack(reply.data)
        except ProtocolError as error:
            self.failures.setdefault(pnn, f"GET_PUBLIC_IPS: {error}")
            return None

    async def _announce(self, nodes: list[int]) -> None:
        """Nodes whose scripts want to do something before addresses move answer when it is done."""
        replies = [(pnn, self._call(pnn, Control.START_IPREALLOCATE)) for pnn in nodes]
        for pnn, promise in replies:
            reply = await promise
            if reply.error:
                self._note(pnn, Control.START_IPREALLOCATE, reply)
            # Daemons of upstream before 4.21 refuse without a word: they do not know it.

    async def _transfer(self, transfer: Transfer, says: dict[int, dict[str, int]]) -> None:
        order = transfer.order.pack()
        releases = [(pnn, self._call(pnn, Control.RELEASE_IP, order)) for pnn in transfer.holders]
        for pnn in transfer.others:
            if says[pnn].get(transfer.order.address.host) != transfer.order.pnn:
                self._told.append((pnn, Control.RELEASE_IP, self._call(pnn, Control.RELEASE_IP, order)))
        released = [pnn for pnn, each in releases if self._note(pnn, Control.RELEASE_IP, await each)]
        if not may_take(transfer, released) or not self._goes_on():
            return
        assert transfer.taker is not None
        reply = await self._call(transfer.taker, Control.TAKEOVER_IP, order)
        self._note(transfer.taker, Control.TAKEOVER_IP, reply)

    # -- in detail ----------------------------------------------------------------------------------------

    def _call(self, pnn: int, opcode: Control, data: bytes = b"", *, flags: int = 0) -> Promise[Reply]:
        # A node that is late is so for the whole run, whichever step it is late with.
        left_s = max(self._until_s - self._state.now_s, 0.1)
        promise = self._routing.call(pnn, opcode, data, flags=flags, timeout_s=left_s)
        # Our own scripts may take their time as well.
        return self._runner.limit(promise, left_s, Reply(-1, b"", TIMED_OUT))

    def _goes_on(self) -> bool:
        if not self._may_go_on():
            self.was_stopped = True
        return not self.was_stopped

    def _note(self, pnn: int, opcode: Control, reply: Reply) -> bool:
        if reply.is_good:
            return True
        text = f"{opcode.name}: {reply.error or f'status {reply.status}'}"
        if reply.error in (DISCONNECTED, NOT_CONNECTED, IN_RECOVERY):
            # A recovery follows, and a run after it.
            self.was_stopped = True
        self.failures.setdefault(pnn, text)
        return False

    def culprit(self) -> int | None:
        """The node that spoilt the run, if one alone can be blamed for it."""
        if self.was_stopped or self._state.is_recovering:
            return None
        return next(iter(self.failures), None)

    def _explain(self, urgent: Iterable[Transfer]) -> None:
        state = self._state
        for number, transfer in enumerate(urgent):
            come = " and ".join(f"node {pnn}" for pnn in transfer.holders) or "nowhere"
            go = "nowhere" if transfer.taker is None else f"node {transfer.taker}"
            text = f"{transfer.order.address.host} goes from {come} to {go}: {transfer.reason}"
            state.log(LogLevel.NOTICE, text)
            if number < NOTES_MAX:
                about = (
                    transfer.taker if transfer.taker is not None else next(iter(transfer.holders), state.pnn)
                )
                state.note("address", about, text)
