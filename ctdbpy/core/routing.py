# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls on their way: from clients and procedures to the node they are for, and answers back.

Source: reference/ctdb.md 5.7.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ctdbpy.core.effects import LogLevel, ReplyToClient, ReplyToNode, SendControl
from ctdbpy.core.procedures import Promise
from ctdbpy.core.requests import Asker, ClientAsker, NodeAsker, OwnAsker, Reply, Request, refuse
from ctdbpy.core.state import Client, State
from ctdbpy.wire.constants import BROADCASTS, CURRENT_NODE, ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReplyControl, ReqControl

NOT_CONNECTED: Final = "ctdb_control to disconnected node"
TIMED_OUT: Final = "ctdb_control timed out"
DISCONNECTED: Final = "node is disconnected"

# Where request ids begin and wrap: upstream's range, so that traces of mixed clusters read alike.
_FIRST_REQID: Final = 0x7FFFFFFF - 200
_LAST_REQID: Final = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class _Pending:
    """A control sent to another node; `answered` gets its reply."""

    pnn: int
    opcode: int
    answered: Callable[[Reply], None]


class Routing:
    """Who asked what of whom. Controls for this node queue in `inbox` until `Node` serves them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.inbox: deque[Request] = deque()
        self._pending: dict[int, _Pending] = {}
        self._own: dict[int, Promise[Reply]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._last_reqid = _FIRST_REQID
        self.timeouts = 0

    # -- in -------------------------------------------------------------------------------------

    def client_control(self, client: Client, control: ReqControl) -> None:
        """A local program sent a control, for any node."""
        state = self._state
        wants_reply = not control.flags & ControlFlag.NOREPLY
        destnode = state.pnn if control.destnode == CURRENT_NODE else control.destnode
        asker = ClientAsker(client.client_id, control.reqid) if wants_reply else None
        if destnode in BROADCASTS:
            if wants_reply:
                self.answer(asker, refuse("cannot broadcast a control: a broadcast must not want a reply"))
                return
            for pnn in state.members(destnode):
                self._pass_on(pnn, control, client, None)
            return
        self._pass_on(destnode, control, client, asker)

    def node_control(self, pnn: int, control: ReqControl) -> None:
        """Another node sent a control to this one."""
        asker = None if control.flags & ControlFlag.NOREPLY else NodeAsker(pnn, control.reqid)
        self.inbox.append(Request(control, pnn, None, asker))

    def reply_arrived(self, pnn: int, reply: ReplyControl) -> None:
        """Another node answered; an answer nobody waits for is only noted."""
        pending = self._pending.get(reply.reqid)
        if pending is None or pending.pnn != pnn:
            self._state.log(LogLevel.INFO, f"node {pnn} answered too late or unasked (reqid {reply.reqid})")
            return
        del self._pending[reply.reqid]
        pending.answered(Reply(reply.status, bytes(reply.data), reply.error))

    def node_gone(self, pnn: int) -> None:
        """A node cannot be reached any more: what it was asked has failed."""
        for reqid, pending in list(self._pending.items()):
            if pending.pnn == pnn:
                del self._pending[reqid]
                pending.answered(refuse(DISCONNECTED))

    # -- out ------------------------------------------------------------------------------------

    def call(
        self,
        pnn: int,
        opcode: Control,
        data: bytes = b"",
        *,
        srvid: int = 0,
        client_id: int = 0,
        flags: int = 0,
        timeout_s: float | None = None,
    ) -> Promise[Reply]:
        """Ask a node, this one included; the promise is always kept, at worst by a failed reply."""
        promise: Promise[Reply] = Promise()
        state = self._state
        reqid = self._new_reqid()
        control = self._control(pnn, opcode, data, reqid, srvid, client_id, flags)
        if pnn == state.pnn:
            self._own[reqid] = promise
            self.inbox.append(Request(control, pnn, state.clients.get(client_id), OwnAsker(reqid)))
        else:
            self._send(pnn, control, reqid, promise.resolve, timeout_s)
        return promise

    def tell(
        self, destnode: int, opcode: Control, data: bytes = b"", *, srvid: int = 0, others_only: bool = False
    ) -> None:
        """Send a control that wants no answer to a node or broadcast address."""
        state = self._state
        for pnn in state.members(destnode):
            flags = ControlFlag.NOREPLY
            if pnn != state.pnn:
                state.emit(SendControl(pnn, 0, opcode, srvid, 0, flags, data))
            elif not others_only:
                control = self._control(pnn, opcode, data, 0, srvid, 0, flags)
                self.inbox.append(Request(control, pnn, None, None))

    def answer(self, asker: Asker, reply: Reply) -> None:
        """Give an answer to whoever asked."""
        match asker:
            case ClientAsker(client_id, reqid):
                if client_id in self._state.clients:
                    self._state.emit(ReplyToClient(client_id, reqid, reply.status, reply.data, reply.error))
            case NodeAsker(pnn, reqid):
                self._state.emit(ReplyToNode(pnn, reqid, reply.status, reply.data, reply.error))
            case OwnAsker(reqid):
                promise = self._own.pop(reqid, None)
                if promise is not None:
                    promise.resolve(reply)
            case None:
                pass

    # -- time -----------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When the first control waited for is late."""
        while self._deadlines and self._deadlines[0][1] not in self._pending:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def wake(self, now_s: float) -> None:
        """Fail the controls whose answer is late."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            pending = self._pending.pop(heapq.heappop(self._deadlines)[1], None)
            if pending is not None:
                self.timeouts += 1
                self._state.log(
                    LogLevel.WARNING, f"node {pending.pnn} did not answer control {pending.opcode} in time"
                )
                pending.answered(refuse(TIMED_OUT))

    @property
    def outstanding(self) -> int:
        """How many controls other nodes have not answered yet."""
        return len(self._pending)

    # -- in detail ------------------------------------------------------------------------------

    def _pass_on(self, pnn: int, control: ReqControl, client: Client, asker: Asker) -> None:
        state = self._state
        if pnn == state.pnn:
            self.inbox.append(Request(control, pnn, client, asker))
        elif asker is None:
            peer = state.peer(pnn)
            if peer is not None and peer.is_connected:
                state.emit(
                    SendControl(
                        pnn,
                        0,
                        control.opcode,
                        control.srvid,
                        client.client_id,
                        control.flags,
                        bytes(control.data),
                    )
                )
        else:
            reqid = self._new_reqid()
            forwarded = self._control(
                pnn,
                control.opcode,
                bytes(control.data),
                reqid,
                control.srvid,
                client.client_id,
                control.flags,
            )
            self._send(pnn, forwarded, reqid, lambda reply: self.answer(asker, reply), None)

    def _send(
        self,
        pnn: int,
        control: ReqControl,
        reqid: int,
        answered: Callable[[Reply], None],
        timeout_s: float | None,
    ) -> None:
        state = self._state
        peer = state.peer(pnn)
        if peer is None or not peer.is_connected:
            answered(refuse(NOT_CONNECTED))
            return
        limit_s = state.tunables.control_timeout if timeout_s is None else timeout_s
        self._pending[reqid] = _Pending(pnn, control.opcode, answered)
        heapq.heappush(self._deadlines, (state.now_s + limit_s, reqid))
        state.emit(
            SendControl(
                pnn, reqid, control.opcode, control.srvid, control.client_id, control.flags, control.data
            )
        )

    def _control(
        self, pnn: int, opcode: int, data: bytes, reqid: int, srvid: int, client_id: int, flags: int
    ) -> ReqControl:
        state = self._state
        return ReqControl(
            generation=state.generation,
            destnode=pnn,
            srcnode=state.pnn,
            reqid=reqid,
            opcode=opcode,
            srvid=srvid,
            client_id=client_id,
            flags=flags,
            data=data,
        )

    def _new_reqid(self) -> int:
        while True:
            self._last_reqid = 1 if self._last_reqid >= _LAST_REQID else self._last_reqid + 1
            if self._last_reqid not in self._pending and self._last_reqid not in self._own:
                return self._last_reqid
