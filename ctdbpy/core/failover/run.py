# SPDX-License-Identifier: GPL-3.0-or-later
"""One takeover run: ask every node what it has, plan, have each address released, then taken.

Reads top to bottom. Addresses do not wait for each other: one is taken when whoever had it has released it.

Source: reference/ctdb.md 7.14; docs/allocation.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.failover.addresses import IN_RECOVERY
from ctdbpy.core.failover.allocation import Algorithm, Plan, Rules, allocate_in_slices
from ctdbpy.core.failover.slices import DECODED, ORDERED, SLICE, Pace
from ctdbpy.core.failover.transfers import (
    Answer,
    Survey,
    Transfer,
    hindrances_of,
    may_take,
    survey_in_slices,
    transfers_in_slices,
)
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import DISCONNECTED, NOT_CONNECTED, TIMED_OUT, Routing
from ctdbpy.core.state import State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.constants import ControlFlag, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import PublicIpList

#: Of so many moved addresses the story keeps the reasons; the log has all.
NOTES_MAX: Final = 20
#: Nodes are asked so often for things that happen meanwhile; what still happens then has a run of its own.
SURVEYS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class _Decision:
    """Who was asked, what they said, and what shall be."""

    nodes: list[int]
    answers: list[Answer]
    survey: Survey
    plan: Plan


class Run:
    """What one run has found out.

    may_go_on(): asked before each taking; who leads no more has nothing taken.
    take_up(): called before nodes are asked: this run does what was wanted so far; the nodes to rebalance.
    has_news(): whether something has been wanted since.
    planned(plan): called when it is decided what goes where.
    homes(): where addresses belong.
    only_looks: nothing moves unless some address is nowhere, or in two places.
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
        homes: Callable[[], Awaitable[Mapping[str, int]]],
        *,
        only_looks: bool = False,
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._may_go_on = may_go_on
        self._take_up = take_up
        self._has_news = has_news
        self._planned = planned
        self._homes = homes
        self._only_looks = only_looks
        self._until_s = state.now_s + 3 * max(state.tunables.takeover_timeout, 1)
        self._told: list[tuple[int, Control, Promise[Reply]]] = []
        #: Why it did not work, by the node that did not do its part.
        self.failures: dict[int, str] = {}
        self._pace = Pace(runner)
        self.was_stopped = False
        #: Some node does not say what it has: nothing may move.
        self.is_blind = False
        #: It had only to look, and all was well.
        self.is_needless = False

    # -- the run --------------------------------------------------------------------------------------

    async def move(self) -> None:
        """Have every address where it should be, as far as nodes do their part."""
        decision = await self._decide()
        if decision is None:
            return
        self._planned(decision.plan)
        if decision.survey.is_idle:
            return
        transfers = await self._pace.do(transfers_in_slices(decision.survey, decision.plan))
        urgent = [each for each in transfers if each.is_urgent]
        if urgent:
            self._explain(urgent)
            await self._announce(decision.nodes)
        says: dict[int, dict[str, int]] = {}
        for answer in decision.answers:
            says[answer.pnn] = {ip.address.host: ip.pnn for ip in answer.known}
            await self._pace.spend(len(answer.known))
        await self._order(transfers, says)
        for pnn, opcode, promise in self._told:
            self._note(pnn, opcode, await promise)

    async def _decide(self) -> _Decision | None:
        """Ask everybody, and plan; anew if something has happened meanwhile: the answers may be wrong."""
        state = self._state
        for rounds in count(1):
            # What has happened since is more than looking.
            self._only_looks &= rounds == 1
            rebalance = self._take_up()
            nodes = state.connected()
            homes = await self._homes()
            answers = await self._ask(nodes)
            if answers is None:
                self.is_blind = True
                return None
            if not self._goes_on():
                return None
            is_last = rounds == SURVEYS_MAX
            if self._has_news() and not is_last:
                continue
            flags = {node.pnn: node.flags for node in state.nodes}
            everywhere = state.tunables.no_ip_host_on_all_disabled == 0
            survey = await self._pace.do(survey_in_slices(answers, flags, hosts_when_all_disabled=everywhere))
            if self._only_looks and not survey.is_wrong:
                self.is_needless = True
                return None
            plan = await self._pace.do(
                allocate_in_slices(survey.addresses, self._rules(rebalance, homes, flags))
            )
            if not self._goes_on():
                return None
            if is_last or not self._has_news():
                return _Decision(nodes, answers, survey, plan)
        raise AssertionError("nodes are asked only so often")

    async def _order(self, transfers: Iterable[Transfer], says: dict[int, dict[str, int]]) -> None:
        """Transfers go side by side; of many some begin while the loop has others to serve."""
        batches = []
        for batch in _batches(transfers, says):
            if not self._goes_on():
                # What is released now nobody would take.
                break
            coros = [self._transfer(transfer, unaware) for transfer, unaware in batch]
            batches.append(self._runner.spawn("transfers", self._runner.gather("transfer", coros)))
            await self._pace.spend(sum(_work(transfer, unaware) for transfer, unaware in batch))
        for each in batches:
            await each

    async def tell(self) -> None:
        """Every node's scripts and programs hear that addresses are where they belong."""
        nodes = self._state.connected()
        replies = [(pnn, self._call(pnn, Control.IPREALLOCATED)) for pnn in nodes]
        for pnn, promise in replies:
            self._note(pnn, Control.IPREALLOCATED, await promise)

    def _rules(
        self, rebalance: frozenset[int], homes: Mapping[str, int], flags: dict[int, NodeFlag]
    ) -> Rules:
        state = self._state
        return Rules(
            nodes=len(state.nodes),
            algorithm=Algorithm.of(state.tunables.ip_alloc_algorithm),
            no_takeover=bool(state.tunables.no_ip_takeover),
            no_failback=bool(state.tunables.no_ip_failback),
            rebalance=rebalance,
            homes=homes,
            hindrances=hindrances_of(flags),
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
            await self._pace.spend(sum(DECODED * len(each.ips) for each in lists if each is not None))
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

    async def _transfer(self, transfer: Transfer, unaware: list[int]) -> None:
        order = transfer.order.pack()
        releases = [(pnn, self._call(pnn, Control.RELEASE_IP, order)) for pnn in transfer.holders]
        for pnn in unaware:
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


def _batches(
    transfers: Iterable[Transfer], says: dict[int, dict[str, int]]
) -> Iterator[list[tuple[Transfer, list[int]]]]:
    """Transfers, each with the nodes that do not know yet where it will be, in parts of a slice's work."""
    batch: list[tuple[Transfer, list[int]]] = []
    work = 0
    for transfer in transfers:
        host, taker = transfer.order.address.host, transfer.order.pnn
        unaware = [pnn for pnn in transfer.others if says[pnn].get(host) != taker]
        batch.append((transfer, unaware))
        work += _work(transfer, unaware)
        if work >= SLICE:
            yield batch
            batch, work = [], 0
    if batch:
        yield batch


def _work(transfer: Transfer, unaware: list[int]) -> int:
    return ORDERED * (1 + len(transfer.holders) + len(unaware)) + len(transfer.others)
