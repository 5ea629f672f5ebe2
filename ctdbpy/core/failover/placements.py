# SPDX-License-Identifier: GPL-3.0-or-later
"""Why each public address is where it is: every node knows, whoever has decided it.

Whoever moves an address (the leader, or a tool by way of the node that takes it) tells all connected nodes;
who leads tells a node that has just come all it knows. So the answer outlives the leader, and any node can
give it.

Source: docs/protocol.md, "Own controls and messages".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.failover.allocation import Plan
from ctdbpy.core.failover.table import ADDRESSES_MAX
from ctdbpy.core.state import NOBODY, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.srvids import SRVID_PLACEMENTS
from ctdbpy.wire.structures import Placement, Placements, Reason, SockAddr, reason_text

KIND: Final = "address"
#: So many go in one message.
PART: Final = 500


class Placed:
    """The last reason for each address, as far as this node has heard."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, Reason] = {}
        #: Decided here, and not told yet.
        self._news: dict[str, Reason] = {}
        #: Nodes that have been told everything by this one as their leader.
        self._told: set[int] = set()

    def begin(self) -> None:
        """Listen."""
        self._state.listen(SRVID_PLACEMENTS, self._heard)

    # -- decided here -------------------------------------------------------------------------------

    def planned(self, plan: Plan) -> None:
        """A takeover run of this node's has this plan: what it changes has its reason."""
        for address, placement in plan.placements.items():
            pnn = NOBODY if placement.pnn is None else placement.pnn
            known = self._known.get(address)
            if known is None or known.pnn != pnn or placement.is_move:
                self.decided(address, pnn, placement.reason)

    def decided(self, address: str, pnn: int, why: str) -> None:
        """An address goes to a node, or nowhere, for this reason."""
        state = self._state
        reason = Reason(state.wall_us, pnn, state.pnn, 0, KIND, reason_text(why))
        self._keep(address, reason)
        self._news[address] = reason

    def settle(self) -> None:
        """Tell what is new to all, and all to who is new."""
        state = self._state
        others = {pnn for pnn in state.connected() if pnn != state.pnn}
        self._told &= others
        late = others - self._told if state.is_leader and not state.is_electing else set()
        if late:
            self._tell(late, self._known, is_news=False)
        self._told |= late
        if not state.is_leader:
            self._told.clear()
        if self._news:
            self._tell(others - late, self._news, is_news=True)
            self._news = {}

    def _tell(self, pnns: set[int], reasons: dict[str, Reason], *, is_news: bool) -> None:
        for part in _parts(reasons.items()):
            entries = tuple(Placement(SockAddr(address), reason) for address, reason in part)
            data = Placements(is_news, entries).pack()
            for pnn in sorted(pnns):
                self._state.send_message(pnn, SRVID_PLACEMENTS, data)

    # -- decided elsewhere ----------------------------------------------------------------------------

    def _heard(self, pnn: int, data: bytes) -> None:
        if self._state.peer(pnn) is None or pnn == self._state.pnn:
            return
        try:
            placements = Placements.unpack(data)
        except ProtocolError as error:
            self._state.log(LogLevel.WARNING, f"reasons of node {pnn} dropped: {error}")
            return
        for each in placements.entries:
            reason = replace(each.reason, kind=KIND, text=reason_text(each.reason.text))
            address = each.address.canonical().host
            known = self._known.get(address)
            if placements.is_news or known is None or known.wall_us < reason.wall_us:
                self._keep(address, reason)

    def _keep(self, address: str, reason: Reason) -> None:
        """The newest last; of too many the oldest is forgotten."""
        self._known.pop(address, None)
        if len(self._known) >= ADDRESSES_MAX:
            del self._known[next(iter(self._known))]
        self._known[address] = reason

    # -- asked why --------------------------------------------------------------------------------------

    def why(self, address: str) -> str:
        """Why an address is where it is, "" if nobody has said so."""
        reason = self._known.get(address)
        return reason.text if reason else ""

    def report(self, address: str | None) -> Placements:
        """What is known of one address, or of all."""
        chosen = self._known if address is None else {address} & self._known.keys()
        return Placements(False, tuple(Placement(SockAddr(each), self._known[each]) for each in chosen))


def _parts(items: Iterable[tuple[str, Reason]]) -> Iterator[list[tuple[str, Reason]]]:
    rest = iter(items)
    while part := list(islice(rest, PART)):
        yield part
