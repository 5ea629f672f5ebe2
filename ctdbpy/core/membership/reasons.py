# SPDX-License-Identifier: GPL-3.0-or-later
"""Why nodes are as they are: each tells the others why it wears its flags, and who ordered it to.

An account is the whole of what a node has to say of itself: it goes to every connected node when it changes,
and to a node whose link has come up. An order is the reason for a control that follows it on the same link.
Upstream's daemons have nobody who listens to either; of them we know what our own links and their leader say.

Source: docs/protocol.md, "Own controls and messages".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.requests import Request
from ctdbpy.core.state import Client, State
from ctdbpy.core.story import FLAGS, SAYS_SO, SUSPENDED
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.own import ACCOUNT_MAX
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.srvids import SRVID_ACCOUNT, SRVID_ORDER
from ctdbpy.wire.structures import Reason, ReasonReport, Reasons, reason_text

#: Controls by which somebody else changes a node's flags, or gives it an address.
ORDERS: Final = frozenset(
    {
        Control.SET_BAN_STATE,
        Control.STOP_NODE,
        Control.CONTINUE_NODE,
        Control.DISABLE_NODE,
        Control.ENABLE_NODE,
        Control.TAKEOVER_IP,
    }
)

#: Nobody is believed who says of himself that he cannot be reached, or is deleted.
_OURS: Final = frozenset({int(NodeFlag.DISCONNECTED), int(NodeFlag.DELETED)})

_ORDER: Final = "order"
#: The control follows at once; a reason without one is forgotten.
_ORDER_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Order:
    text: str
    until_s: float


class Accounts:
    """What nodes say of themselves, and why somebody else changes them."""

    def __init__(self, state: State) -> None:
        self._state = state
        #: By pnn: what another node has said of itself.
        self._told: dict[int, tuple[Reason, ...]] = {}
        #: Nodes that have heard the present account, and what it is.
        self._heard: set[int] = set()
        self._account: tuple[Reason, ...] = ()
        self._suspended: Reason | None = None
        #: By sending node: the reason for its next order.
        self._orders: dict[int, _Order] = {}

    def begin(self) -> None:
        """Listen, and say why this node wears the flags it is born with."""
        state = self._state
        state.listen(SRVID_ACCOUNT, self._account_heard)
        state.listen(SRVID_ORDER, self._order_heard)
        state.story.flags_changed(
            state.wall_us, state.pnn, NodeFlag(0), state.own.flags, "the node has just started"
        )

    # -- our own account ------------------------------------------------------------------------

    def settle(self) -> None:
        """Tell our account to whoever has not heard it."""
        state = self._state
        if reason_text(state.suspended) != (self._suspended.text if self._suspended else ""):
            self._suspended = self._reason(SUSPENDED, state.pnn, state.suspended) if state.suspended else None
            state.note(SUSPENDED, state.pnn, state.suspended or "serves again")
        account = tuple(state.story.standing(state.pnn).values())
        if self._suspended is not None:
            account += (self._suspended,)
        if account != self._account:
            self._account = account
            self._heard.clear()
        connected = {node.pnn for node in state.others() if node.is_connected}
        self._heard &= connected
        for pnn in sorted(connected - self._heard):
            state.send_message(pnn, SRVID_ACCOUNT, Reasons(account).pack())
        self._heard |= connected

    # -- what others say of themselves ----------------------------------------------------------

    def _account_heard(self, pnn: int, data: bytes) -> None:
        account = self._read(pnn, data)
        if account is None:
            return
        if len(account) > ACCOUNT_MAX or any(each.pnn != pnn or each.source != pnn for each in account):
            self._state.log(LogLevel.WARNING, f"account of node {pnn} dropped: it is not one of itself")
            return
        account = tuple(_clean(each) for each in account)
        new = [each for each in account if each not in self._told.get(pnn, ())]
        events = self._state.story.events
        if new and events and (events[-1].pnn, events[-1].text) == (pnn, SAYS_SO):
            # It has said that its flags change, now it says why: that is one event.
            events.pop()
        events.extend(new)
        self._told[pnn] = account

    def _read(self, pnn: int, data: bytes) -> tuple[Reason, ...] | None:
        if self._state.peer(pnn) is None or pnn == self._state.pnn:
            return None
        try:
            return Reasons.unpack(data).entries
        except ProtocolError as reason:
            self._state.log(LogLevel.WARNING, f"reasons of node {pnn} dropped: {reason}")
            return None

    # -- orders -----------------------------------------------------------------------------------

    def order(self, pnn: int, text: str) -> None:
        """Say why the control that is sent to a node next is sent."""
        state = self._state
        if pnn == state.pnn:
            self._orders[pnn] = _Order(reason_text(text), state.now_s + _ORDER_LIMIT_S)
        else:
            reason = self._reason(_ORDER, pnn, text)
            state.send_message(pnn, SRVID_ORDER, Reasons((reason,)).pack())

    def explain(self, client: Client, control: ReqControl) -> None:
        """A client's control is about to be passed on: if it is an order, say whose."""
        state = self._state
        if control.opcode not in ORDERS:
            return
        for pnn in state.members(control.destnode):
            peer = state.peer(pnn)
            if peer is not None and peer is not state.own and peer.is_connected:
                self.order(pnn, f"{_program(client)} on node {state.pnn}")

    def _order_heard(self, pnn: int, data: bytes) -> None:
        entries = self._read(pnn, data) or ()
        if len(entries) == 1 and entries[0].pnn == self._state.pnn:
            text = reason_text(entries[0].text)
            self._orders[pnn] = _Order(text, self._state.now_s + _ORDER_LIMIT_S)

    def asked_by(self, request: Request) -> str:
        """Who asks for this, and why as far as he said."""
        if request.client is not None:
            return f"asked for by {_program(request.client)} on this node"
        order = self._orders.pop(request.pnn, None)
        if order is None or order.until_s < self._state.now_s:
            return f"asked for by node {request.pnn}"
        return f"asked for by {order.text}"

    # -- asked why --------------------------------------------------------------------------------

    def report(self, pnn: int) -> ReasonReport:
        """All that is known of a node, or with UNKNOWN_PNN of every one."""
        state = self._state
        wanted = [each.pnn for each in state.nodes] if pnn == UNKNOWN_PNN else [pnn]
        standing = tuple(reason for each in wanted for reason in self._standing(each))
        events = tuple(each for each in state.story.events if pnn in (UNKNOWN_PNN, each.pnn))
        return ReasonReport(Reasons(standing), Reasons(events))

    def _standing(self, pnn: int) -> tuple[Reason, ...]:
        """Why a node wears each of its flags: in its own words where it has said so."""
        state = self._state
        if pnn == state.pnn:
            return self._account
        flags = state.nodes[pnn].flags
        reasons = {int(flag): reason for flag, reason in state.story.standing(pnn).items()}
        told = self._told.get(pnn, ())
        reasons |= {each.flags: each for each in told if each.kind == FLAGS and each.flags not in _OURS}
        worn = tuple(
            reasons[each]
            for each in (0, *NodeFlag)
            if each in reasons and (flags & each if each else not flags)
        )
        if flags & NodeFlag.DISCONNECTED:
            return worn
        return worn + tuple(each for each in told if each.kind == SUSPENDED)

    def _reason(self, kind: str, pnn: int, text: str) -> Reason:
        state = self._state
        return Reason(state.wall_us, pnn, state.pnn, int(state.nodes[pnn].flags), kind, reason_text(text))


def _program(client: Client) -> str:
    return f"process {client.pid} (uid {client.uid})"


def _clean(reason: Reason) -> Reason:
    return replace(reason, kind=reason_text(reason.kind), text=reason_text(reason.text))
