# SPDX-License-Identifier: GPL-3.0-or-later
"""The pump: sockets, timers and children become inputs of the core, its effects become deeds.

One thread, one loop. The record engine serves records inside `select`; here arrive only
controls, messages for the core, ends of connections and the answers of child processes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from ctdbpy.core import effects, inputs
from ctdbpy.core.effects import LogLevel
from ctdbpy.core.node import Node
from ctdbpy.daemon import poller as pollers
from ctdbpy.daemon.addresses import Addresses
from ctdbpy.daemon.cluster_lock import ClusterLocks
from ctdbpy.daemon.configuring import ConfigurationFiles
from ctdbpy.daemon.events import EventRunner, Order, Outcome, Run
from ctdbpy.daemon.fences import Fences
from ctdbpy.daemon.guard import Guard
from ctdbpy.daemon.locks import LockWaiters
from ctdbpy.daemon.poller import Poller
from ctdbpy.daemon.records import LocalRecords
from ctdbpy.daemon.workers import Workers
from ctdbpy.errors import ConfigError, HostError, ProtocolError, StoreError
from ctdbpy.host.logs import python_level
from ctdbpy.host.notify import Notifier
from ctdbpy.host.unix_socket import peer_credentials
from ctdbpy.net.links import Links
from ctdbpy.store import engine as upcalls
from ctdbpy.store.databases import Health
from ctdbpy.wire import packets

log = logging.getLogger("ctdbpy.daemon")

ACCEPTS_A_TURN = 64
#: Without descriptors for another client, those that wait are looked at again so much later.
ACCEPT_AGAIN_S = 0.2
#: And said again so much later.
FULL_AGAIN_S = 60.0


class Pump:
    """Joins one node's brain, its record engine and the machine."""

    def __init__(
        self,
        node: Node,
        records: LocalRecords,
        poller: Poller,
        *,
        listener: socket.socket,
        links: Links,
        workers: Workers,
        waiters: LockWaiters,
        cluster_locks: ClusterLocks,
        fences: Fences,
        guard: Guard,
        addresses: Addresses,
        health: Health,
        events: EventRunner,
        notifier: Notifier,
        files: ConfigurationFiles,
        set_log_level: Callable[[int], None],
        version: int,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._node = node
        self._records = records
        self._poller = poller
        self._listener = listener
        self._links = links
        self._workers = workers
        self._waiters = waiters
        self._cluster_locks = cluster_locks
        self._fences = fences
        self._guard = guard
        self._addresses = addresses
        self._health = health
        self._events = events
        self._event_runs: dict[int, Run] = {}
        self._notifier = notifier
        self._files = files
        self._set_log_level = set_log_level
        self._version = version
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._accept_again: asyncio.TimerHandle | None = None
        self._full_again_s = 0.0
        self._is_ready = False
        self._pending: list[inputs.Input] = []
        self._is_stepping = False
        self.exit: asyncio.Future[effects.Exit] = self._loop.create_future()

    def start(self, upcalls_fd: int) -> None:
        """Begin to serve."""
        self._loop.add_reader(upcalls_fd, self.take_upcalls)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._waiters.start()
        self._workers.start()
        self._cluster_locks.start()
        self._guard.start()
        self._addresses.start()
        self.step(inputs.Started())

    def stop_serving(self) -> None:
        """Take no more clients, nodes or work."""
        self._loop.remove_reader(self._listener.fileno())
        for timer in (self._timer, self._accept_again):
            if timer is not None:
                timer.cancel()
        self._links.stop()
        self._waiters.stop()
        self._workers.stop()
        self._cluster_locks.stop()
        self._guard.stop()
        self._addresses.stop()

    # -- inputs ---------------------------------------------------------------------

    def step(self, happened: inputs.Input) -> None:
        """Give the core one input and carry out what it wants.

        An effect may make the next input at once (a link that breaks while it is written to):
        that one waits until the effects before it are carried out.
        """
        self._pending.append(happened)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._pending:
                for effect in self._node.step(self._loop.time(), self._pending.pop(0)):
                    self._carry_out(effect)
        finally:
            self._is_stepping = False
        self._set_timer()

    def _set_timer(self) -> None:
        deadline_s = self._node.deadline_s
        if self._timer is not None:
            if deadline_s is not None and self._timer.when() == deadline_s:
                return
            self._timer.cancel()
            self._timer = None
        if deadline_s is not None:
            self._timer = self._loop.call_at(deadline_s, self._time_elapsed)

    def _time_elapsed(self) -> None:
        self._timer = None
        self.step(inputs.TimeElapsed())

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            credentials = peer_credentials(connection)
            if not credentials.is_trusted():
                log.warning("refused a client: %s is neither root nor the daemon's user", credentials)
                connection.close()
                continue
            connection.setblocking(False)
            try:
                client_id = self._poller.add_client(connection.detach())
            except HostError as error:
                log.error("cannot serve a client: %s", error)
                continue
            self.step(inputs.ClientConnected(client_id, credentials.pid, credentials.uid))

    def _pause_accepting(self, error: OSError) -> None:
        """Without a descriptor for the next client the listener stays readable: asking at once would spin."""
        if self._loop.time() >= self._full_again_s:
            self._full_again_s = self._loop.time() + FULL_AGAIN_S
            log.error("cannot accept clients: %s; those that come wait until others leave", error.strerror)
        self._loop.remove_reader(self._listener.fileno())
        self._accept_again = self._loop.call_later(ACCEPT_AGAIN_S, self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._accept_again = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def take_upcalls(self) -> None:
        """What the engine left to Python, in order."""
        for kind, number, second, data in self._records.take_upcalls():
            self._take_upcall(kind, number, second, data)

    def _take_upcall(self, kind: int, number: int, second: int, data: bytes) -> None:
        match kind:
            case upcalls.CLIENT_CONTROL:
                self._client_control(number, data)
            case upcalls.NODE_CONTROL | upcalls.NODE_REPLY | upcalls.KEEPALIVE:
                self._node_packet(number, data)
            case upcalls.MESSAGE:
                self.step(inputs.MessageArrived(number, second, data))
            case upcalls.CLIENT_CLOSED:
                self.step(inputs.ClientGone(number, data.decode(errors="replace")))
            case upcalls.LINK_CLOSED:
                self._links.closed(number, data.decode(errors="replace"))
            case upcalls.LOCK_WAIT:
                self._waiters.want(number, data)
            case upcalls.LOCK_DROPPED:
                self._waiters.unwant(number, data)
            case upcalls.COMPLAINT:
                self.step(inputs.RecordsComplained(data.decode(), number, second, ""))
            case upcalls.REVOKE:
                key, nodes, buffer = upcalls.unpack_revoke(data)
                self.step(inputs.RevokeWanted(number, key, buffer, nodes))
            case upcalls.TRAVERSE_END:
                self.step(inputs.TraverseEnded(second, number))
            case upcalls.LEASE_LOST:
                self._guard.expired()
            case pollers.BEHIND:
                self.step(inputs.ClientBehind(number, True))
            case pollers.DRAINED:
                self._workers.drained()
                self.step(inputs.ClientBehind(number, False))
            case _:
                raise AssertionError(f"unknown upcall {kind}")

    def _client_control(self, client_id: int, data: bytes) -> None:
        try:
            packet = packets.decode(data)
        except ProtocolError as error:
            self._records.close_client(client_id, str(error))
            return
        if isinstance(packet, packets.ReqControl):
            self.step(inputs.ClientControlArrived(client_id, packet))

    def _node_packet(self, pnn: int, data: bytes) -> None:
        try:
            packet = packets.decode(data)
        except ProtocolError as error:
            self._links.drop(pnn, str(error), forget=False)
            return
        match packet:
            case packets.ReqControl():
                self.step(inputs.NodeControlArrived(pnn, packet))
            case packets.ReplyControl():
                self.step(inputs.ReplyArrived(pnn, packet))
            case packets.ReqKeepalive():
                self.step(inputs.KeepaliveArrived(pnn, packet.version, packet.uptime_s))
            case _:
                pass

    # -- effects ----------------------------------------------------------------------

    def _carry_out(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Log(level, text):
                log.log(python_level(level), "%s", text)
            case effects.ReplyToClient(client_id, reqid, status, data, error):
                self._records.reply_client(client_id, reqid, status, data, _sendable(error))
            case effects.ReplyToNode(pnn, reqid, status, data, error):
                self._records.reply_node(pnn, reqid, status, data, _sendable(error))
            case effects.SendControl(pnn, reqid, opcode, srvid, client_id, flags, data):
                self._records.send_control(pnn, reqid, opcode, srvid, client_id, flags, data)
            case effects.SendMessage(destnode, srvid, data):
                self._records.send_message(destnode, srvid, data)
            case effects.Listen(srvid):
                self._records.listen_for_core(srvid)
            case effects.Unlisten(srvid):
                self._records.unlisten_for_core(srvid)
            case effects.DropClient(client_id, reason):
                self._records.close_client(client_id, reason)
            case effects.Connect(pnn, address):
                self._links.want(pnn, address)
                # Until now others' connections wait unanswered: none of them was wanted yet.
                self._links.start()
                self._guard.watch(pnn, address)
            case effects.Disconnect(pnn, reason, forget):
                self._links.drop(pnn, reason, forget=forget)
                if forget:
                    self._guard.unwatch(pnn)
            case effects.StartJob():
                self._workers.start_job(effect)
            case effects.StopJob(job_id):
                self._workers.stop_job(job_id)
            case effects.HoldJob(job_id, held):
                self._workers.hold_job(job_id, held=held)
            case effects.SetHealth(name, reason):
                self._set_health(name, reason)
            case effects.ReadNodes(read_id):
                self._spawn(f"read nodes {read_id}", self._answer_nodes(read_id))
            case effects.ReadPublicAddresses(read_id):
                self._spawn(f"read public addresses {read_id}", self._answer_public_addresses(read_id))
            case effects.LookAtConfiguration(look_id):
                self._spawn(f"look at the configuration {look_id}", self._answer_look(effect))
            case effects.ReadHomeNodes(read_id):
                self._spawn(f"read home nodes {read_id}", self._answer_home_nodes(read_id))
            case effects.SetLogLevel(level):
                # Clients may ask for any number; beyond the last level there is nothing more to say.
                self._set_log_level(min(max(level, LogLevel.ERROR), LogLevel.DEBUG))
            case effects.SendKeepalive(pnn, uptime_s):
                self._records.send_keepalive(pnn, self._version, uptime_s)
            case effects.RunEvent():
                self._run_event(effect)
            case effects.StopEvent(event_id):
                if (run := self._event_runs.get(event_id)) is not None:
                    self._events.stop(run)
            case effects.TellAdministrator(word):
                self._events.notify(word)
            case effects.TellGuard():
                self._guard.tell(effect)
            case effects.TakeLock():
                self._cluster_locks.take(effect)
            case effects.DropLock(attempt):
                self._cluster_locks.drop(attempt)
            case effects.Fence():
                self._fences.fence(effect)
            case effects.StopFence(pnn):
                self._fences.stop(pnn)
            case effects.PutAddress() | effects.RemoveAddress() | effects.KillConnections():
                self._addresses.carry_out(effect)
            case effects.AnnounceAddress() | effects.StopAnnouncing() | effects.SendTickles():
                self._addresses.carry_out(effect)
            case effects.Announce(text, ready):
                self._announce(text, ready)
            case effects.Exit():
                if not self.exit.done():
                    self.exit.set_result(effect)

    def _set_health(self, name: str, reason: str) -> None:
        try:
            if reason:
                self._health.set_unhealthy(name, reason)
            else:
                self._health.set_healthy(name)
        except StoreError as error:
            log.error("%s", error)

    def _run_event(self, wanted: effects.RunEvent) -> None:
        def ended(outcome: Outcome) -> None:
            self._event_runs.pop(wanted.event_id, None)
            # A node without a directory of scripts is one whose scripts have nothing against anything.
            status = 0 if outcome.status == errno.ENOENT else outcome.status
            self.step(inputs.EventEnded(wanted.event_id, status, outcome.text if status else ""))

        run = self._events.run(Order(wanted.name, wanted.args, wanted.timeout_s), ended)
        if run.outcome is None:
            self._event_runs[wanted.event_id] = run

    async def _answer_nodes(self, read_id: int) -> None:
        """In a thread, for the nodes may come from a program that takes its time."""
        try:
            answer = inputs.NodesRead(read_id, await asyncio.to_thread(self._files.nodes))
        except ConfigError as error:
            answer = inputs.NodesRead(read_id, (), str(error))
        self.step(answer)

    async def _answer_public_addresses(self, read_id: int) -> None:
        try:
            answer = inputs.PublicAddressesRead(
                read_id, await asyncio.to_thread(self._files.public_addresses)
            )
        except ConfigError as error:
            answer = inputs.PublicAddressesRead(read_id, (), str(error))
        self.step(answer)

    async def _answer_home_nodes(self, read_id: int) -> None:
        try:
            answer = inputs.HomeNodesRead(read_id, await asyncio.to_thread(self._files.home_nodes))
        except ConfigError as error:
            answer = inputs.HomeNodesRead(read_id, (), str(error))
        self.step(answer)

    async def _answer_look(self, look: effects.LookAtConfiguration) -> None:
        report = await asyncio.to_thread(self._files.look, look)
        self.step(inputs.ConfigurationSeen(look.look_id, report.pack()))

    def _announce(self, text: str, ready: bool) -> None:
        if ready and not self._is_ready:
            self._is_ready = True
            self._notifier.ready(text)
        else:
            self._notifier.status(text)


def _sendable(text: str) -> str:
    """An error's text may quote a name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
