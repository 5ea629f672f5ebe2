# SPDX-License-Identifier: GPL-3.0-or-later
"""One node's whole brain: `Node.step(now_s, input)` returns the effects, in order.

It owns no socket, clock, file, thread, random source or logger. The same inputs at the same times give
the same effects.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from ctdbpy.core import messages
from ctdbpy.core.controls import RAW, TABLE
from ctdbpy.core.effects import Announce, Disconnect, Effect, Exit, LogLevel, TellAdministrator
from ctdbpy.core.inputs import (
    AddressDone,
    ClientBehind,
    ClientConnected,
    ClientControlArrived,
    ClientGone,
    ConfigurationSeen,
    EventEnded,
    Fenced,
    HomeNodesRead,
    HostSeen,
    Input,
    JobAnswered,
    KeepaliveArrived,
    LeaseHeld,
    LeaseLost,
    LinkDown,
    LinkUp,
    LockAnswered,
    LockLost,
    MessageArrived,
    NodeControlArrived,
    NodeSeen,
    NodesRead,
    Paused,
    PublicAddressesRead,
    RecordsComplained,
    ReplyArrived,
    RevokeWanted,
    SessionLost,
    ShutdownAsked,
    Started,
    TimeElapsed,
    TraverseEnded,
)
from ctdbpy.core.messaging import notify
from ctdbpy.core.ports import Records
from ctdbpy.core.records.revokes import revoke
from ctdbpy.core.requests import Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.core.state import Client, Freeze, NodeConfig, State
from ctdbpy.errors import CtdbpyError
from ctdbpy.wire.constants import RecoveryMode, RunState
from ctdbpy.wire.controls import CONTROLS, Control, decode_request

#: Rounds of settling in one step; rooms that keep each other busy longer have a mistake in them.
_ROUNDS_MAX: Final = 1000


class Node:
    """The brain. Create it, give it `Started`, then every input there is, in order."""

    def __init__(self, config: NodeConfig, records: Records) -> None:
        self.state = State(config, records)
        self.rooms = Rooms(self.state)
        self._has_started = False
        #: Links and elections have begun; before, rooms have nothing to say to each other.
        self._has_joined = False

    @property
    def deadline_s(self) -> float | None:
        """When the node wants `TimeElapsed` if nothing else happens."""
        return self.rooms.deadline_s

    def step(self, now_s: float, happened: Input) -> list[Effect]:
        """Take one input; what is due by now is done first."""
        state = self.state
        state.now_s = now_s
        if self._has_started and self.rooms.wake(now_s):
            self._settle()
        self._take(happened)
        self._settle()
        effects, state.effects = state.effects, []
        return effects

    # -- inputs ---------------------------------------------------------------------------------

    def _take(self, happened: Input) -> None:
        rooms = self.rooms
        match happened:
            case Started():
                self._start()
            case TimeElapsed():
                pass
            case ClientConnected(client_id, pid, uid):
                self.state.clients[client_id] = Client(client_id, pid, uid)
            case ClientGone(client_id):
                self._client_gone(client_id)
            case ClientControlArrived(client_id, control):
                client = self.state.clients.get(client_id)
                if client is not None:
                    rooms.accounts.explain(client, control)
                    rooms.routing.client_control(client, control)
            case NodeControlArrived(pnn, control):
                rooms.routing.node_control(pnn, control)
            case ReplyArrived(pnn, reply):
                rooms.routing.reply_arrived(pnn, reply)
            case MessageArrived(pnn, srvid, data):
                listener = self.state.listener(srvid)
                if listener is not None:
                    listener(pnn, data)
            case LinkUp(pnn):
                rooms.links.up(pnn)
                rooms.election.link_up(pnn)
                rooms.connections.link_up(pnn)
            case LinkDown(pnn, reason):
                self._link_down(pnn, reason)
            case NodeSeen(pnn):
                reason = rooms.links.seen(happened)
                rooms.standing.seen()
                if reason:
                    self.state.emit(Disconnect(pnn, reason))
                    self._link_down(pnn, reason)
            case LeaseLost(text):
                rooms.standing.lease_lost(text)
            case LeaseHeld():
                rooms.standing.lease_held()
            case Paused(seconds):
                rooms.standing.paused(seconds)
            case LockAnswered():
                rooms.cluster_lock.answered(happened)
            case LockLost(_, reason):
                rooms.standing.lock_lost(reason)
                rooms.cluster_lock.lost(happened)
            case Fenced():
                rooms.fencing.done(happened)
            case KeepaliveArrived():
                reason = rooms.links.keepalive(happened)
                if reason:
                    rooms.shut_down(reason)
            case JobAnswered():
                rooms.jobs.answered(happened)
            case SessionLost():
                rooms.freezes.session_lost(happened)
            case TraverseEnded(pnn, traverse_id):
                rooms.traverses.node_ended(pnn, traverse_id)
            case ClientBehind(client_id, behind):
                rooms.traverses.client_behind(client_id, behind)
            case RevokeWanted():
                rooms.runner.spawn("revoke", revoke(self.state, rooms.routing, happened))
            case NodesRead():
                rooms.links.file_read(happened)
            case HomeNodesRead():
                rooms.homes.file_read(happened)
            case PublicAddressesRead():
                rooms.addresses.file_read(happened)
            case ConfigurationSeen():
                rooms.configuration.seen(happened)
            case RecordsComplained():
                self._complained(happened)
            case EventEnded():
                rooms.events.ended(happened)
            case AddressDone():
                rooms.addresses.deeds.done(happened)
            case HostSeen():
                rooms.upkeep.see(happened)
            case ShutdownAsked(reason):
                rooms.shut_down(reason)

    def _link_down(self, pnn: int, reason: str) -> None:
        rooms = self.rooms
        rooms.standing.leader_unreachable(pnn, reason)
        rooms.links.down(pnn, reason)
        rooms.traverses.node_gone(pnn)
        rooms.election.link_down(pnn)

    def _start(self) -> None:
        state, rooms = self.state, self.rooms
        config = state.config
        state.started_s = state.now_s
        self._has_started = True
        state.log(
            LogLevel.NOTICE,
            f"node {state.pnn} of {len(config.nodes)} starts, pid {config.pid}, "
            f"robust mutexes {'on' if config.mutexes else 'off'}",
        )
        state.set_tunables(state.tunables)
        state.records.set_nodes(tuple(int(node.flags) for node in state.nodes))
        state.records.set_recovery(True)
        state.set_map(state.generation, state.lmasters)
        rooms.addresses.begin()
        rooms.runner.spawn("come up", self._come_up())

    async def _come_up(self) -> None:
        """Scripts look at the files, then at the node, before any other node hears of it."""
        state, rooms = self.state, self.rooms
        if not await self._passes("init"):
            return
        state.runstate = RunState.SETUP
        rooms.attaches.attach_found()
        messages.listen(rooms)
        rooms.traverses.begin()
        rooms.statistician.begin()
        rooms.accounts.begin()
        rooms.placed.begin()
        if not await self._passes("setup"):
            return
        rooms.links.begin()
        rooms.election.begin()
        self._has_joined = True
        state.runstate = RunState.FIRST_RECOVERY
        state.emit(Announce("first recovery", True))

    async def _passes(self, event: str) -> bool:
        """Run an event without which the node cannot be; False if it ends."""
        state = self.state
        result = await self.rooms.events.run(event)
        if state.runstate is RunState.SHUTDOWN:
            return False
        if not result.is_good:
            state.emit(Exit(1, f"cannot start: {result.text}"))
            return False
        state.emit(TellAdministrator(event))
        return True

    def _client_gone(self, client_id: int) -> None:
        client = self.state.clients.pop(client_id, None)
        if client is None:
            return
        notify.send_all(self.state, client)
        self.rooms.connections.client_gone(client)
        self.rooms.traverses.client_gone(client)
        self.rooms.commits.client_gone(client)

    def _complained(self, complaint: RecordsComplained) -> None:
        state = self.state
        database = state.databases.get(complaint.db_id)
        where = f"{database.name!r}" if database else f"database {complaint.db_id:#010x}"
        if complaint.what == "dmaster":
            text = complaint.text or f"node {complaint.pnn} gave away a record it did not own in {where}"
            state.log(LogLevel.ERROR, text)
            state.want_recovery(text)
        elif complaint.what == "unstorable":
            reason = "libtdb refuses (disk full, or the file damaged?)"
            text = f"cannot store records in {where}: {reason}; none is given away, each is tried again"
            state.log(LogLevel.ERROR, text)
        else:
            text = complaint.text or f"{complaint.what} records in {where} (node {complaint.pnn})"
            state.log(LogLevel.WARNING, text)

    # -- serving ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Serve, run and look at facts until nothing moves any more."""
        if not self._has_started:
            return
        inbox, runner = self.rooms.routing.inbox, self.rooms.runner
        for _ in range(_ROUNDS_MAX):
            self._serve_all()
            before = len(self.state.effects)
            if self._has_joined:
                self.rooms.settle()
            if not (inbox or runner.has_ready) and len(self.state.effects) == before:
                return
        raise AssertionError("the rooms do not come to rest")

    def _serve_all(self) -> None:
        inbox, runner = self.rooms.routing.inbox, self.rooms.runner
        while inbox or runner.has_ready:
            while inbox:
                self._serve(inbox.popleft())
            runner.run()

    def _serve(self, request: Request) -> None:
        control = request.control
        try:
            answer = self._handle(request)
        except CtdbpyError as reason:
            answer = refuse(str(reason))
        if isinstance(answer, Reply):
            self._answer(request, answer)
        else:
            name = f"control {control.opcode}"
            self.rooms.runner.spawn(name, self._serve_later(request, answer))

    def _handle(self, request: Request) -> Reply | Coroutine[Any, Any, Reply]:
        try:
            opcode = Control(request.control.opcode)
        except ValueError:
            return refuse(f"there is no control {request.control.opcode}")
        handler = TABLE.get(opcode)
        if handler is None:
            assert CONTROLS[opcode].obsolete
            return refuse(f"control {opcode.name} is obsolete")
        data = bytes(request.control.data)
        return handler(self.rooms, request, data if opcode in RAW else decode_request(opcode, data))

    async def _serve_later(self, request: Request, answer: Coroutine[Any, Any, Reply]) -> None:
        try:
            reply = await answer
        except CtdbpyError as reason:
            reply = refuse(str(reason))
        self._answer(request, reply)

    def _answer(self, request: Request, reply: Reply) -> None:
        if reply.error:
            whose = f"client {request.client.pid}" if request.client else f"node {request.pnn}"
            self.state.log(LogLevel.INFO, f"control {request.control.opcode} of {whose}: {reply.error}")
        self.rooms.routing.answer(request.asker, reply)

    # -- what must always be true -------------------------------------------------------------------

    def validate(self) -> None:
        """Every relation between the node's facts; run after each step in tests and simulation."""
        state = self.state
        assert not state.effects
        assert [node.pnn for node in state.nodes] == list(range(len(state.nodes)))
        for database in state.databases.values():
            assert database.freeze is not Freeze.THAWED or database.session == 0, database
            assert not database.is_frozen or database.session != 0, database
            assert database.transaction is None or database.is_frozen, database
            assert not (database.is_volatile and database.unhealthy), database
            if state.recmode is RecoveryMode.NORMAL and state.runstate > RunState.FIRST_RECOVERY:
                assert database.generation == state.generation, database
        for pnn in state.lmasters:
            assert state.peer(pnn) is not None, pnn
        assert not (state.is_leader and state.is_inactive)
        self.rooms.addresses.validate()
        assert not self.rooms.routing.inbox
        assert not self.rooms.runner.has_ready
