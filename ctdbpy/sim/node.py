# SPDX-License-Identifier: GPL-3.0-or-later
"""One simulated node: the real core, the real engine, and a pump that moves bytes by hand.

A node can crash (its peers notice at once), lose power (they notice by silence), pause, and
boot again with what its disk holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ctdbpy.core import effects, inputs
from ctdbpy.core.node import Node
from ctdbpy.core.state import FoundDatabase, NodeConfig
from ctdbpy.sim.jobs import MemoryWorkers
from ctdbpy.sim.records import MemoryRecords
from ctdbpy.sim.world import World
from ctdbpy.store import engine as upcalls
from ctdbpy.wire import packets
from ctdbpy.wire.tunables import Tunables

if TYPE_CHECKING:
    from ctdbpy.sim.network import Network

VERSION = 4 << 16 | 17


class WorldEntropy:
    """Randomness from the world's seed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def number(self) -> int:
        """32 bits by chance."""
        return self._world.random.getrandbits(32)


class SimNode:
    """A node of a simulated cluster."""

    def __init__(
        self, world: World, network: Network, pnn: int, addresses: list[str], tunables: Tunables
    ) -> None:
        self.world = world
        self.network = network
        self.pnn = pnn
        self.is_up = False
        self.is_paused = False
        self.life = 0
        self.records: MemoryRecords
        self.node: Node
        self._addresses = addresses
        self._tunables = tunables
        self._disk: dict[str, dict[bytes, bytes]] = {}
        self.workers: MemoryWorkers
        self._wake_s: float | None = None
        self._held: list[Callable[[], None]] = []
        self._pending: list[inputs.Input] = []
        self._is_busy = False
        #: Bytes for a local program, by client id.
        self.on_client: dict[int, Callable[[bytes], None]] = {}

    # -- life ---------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the daemon."""
        # Whatever connection of an earlier life a peer still believes in is reset by the new kernel.
        self.network.node_crashed(self.pnn)
        self.life += 1
        self.is_up = True
        self.is_paused = False
        self._held.clear()
        self._wake_s = None
        self.on_client.clear()
        self.records = MemoryRecords(self.pnn, self._disk)
        nodes = tuple(inputs.NodeAddress(pnn, address) for pnn, address in enumerate(self._addresses))
        found = tuple(FoundDatabase(name) for name in sorted(self._disk))
        config = NodeConfig(self.pnn, nodes, self._tunables, databases=found)
        self.node = Node(config, self.records, WorldEntropy(self.world))
        delay = self.world.random.uniform
        self.workers = MemoryWorkers(
            self.records, self.pnn, self.later, self.step, lambda: delay(0.0001, 0.003)
        )
        self.world.say(f"n{self.pnn} boots")
        self.step(inputs.Started())

    def crash(self) -> None:
        """The daemon is killed: the kernel closes its sockets."""
        self.world.say(f"n{self.pnn} crashes")
        self.is_up = False
        self.network.node_crashed(self.pnn)

    def power_off(self) -> None:
        """The machine is gone without a word."""
        self.world.say(f"n{self.pnn} loses power")
        self.is_up = False
        self.network.node_silent(self.pnn)

    def pause(self, seconds: float) -> None:
        """The machine stands still: what would happen to it happens afterwards."""
        self.world.say(f"n{self.pnn} pauses for {seconds:.3f} s")
        self.is_paused = True
        life = self.life

        def resume() -> None:
            if self.life == life and self.is_up:
                self.world.say(f"n{self.pnn} goes on")
                self.is_paused = False
                held, self._held = self._held, []
                for act in held:
                    act()

        self.world.later(seconds, resume)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen to this node, if it still lives then; a paused node gets it later."""
        life = self.life

        def happen() -> None:
            if self.life != life or not self.is_up:
                return
            if self.is_paused:
                self._held.append(act)
            else:
                act()

        self.world.later(seconds, happen)

    # -- the pump --------------------------------------------------------------------------

    def step(self, happened: inputs.Input) -> None:
        """Give the core an input, carry out what it wants, move bytes."""
        self._pending.append(happened)
        self.work()

    def work(self) -> None:
        """Run core and engine until both are quiet, then send what they produced."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            self._work()
        finally:
            self._is_busy = False

    def _work(self) -> None:
        now_s = self.world.now_s
        while True:
            while self._pending:
                for effect in self.node.step(now_s, self._pending.pop(0)):
                    self._carry_out(effect)
                self.node.validate()
            self.records.run(now_s)
            taken = self.records.take_upcalls()
            for kind, number, second, data in taken:
                self._take_upcall(kind, number, second, data)
            if not self._pending and not taken:
                break
        self.network.collect(self.pnn)
        for client_id, deliver in list(self.on_client.items()):
            data = self.records.take_client(client_id)
            if data:
                deliver(data)
        self._set_timer()

    def _set_timer(self) -> None:
        due = [each for each in (self.node.deadline_s, self.records.deadline_s) if each is not None]
        if not due:
            return
        wake_s = max(min(due), self.world.now_s + 1e-6)
        if self._wake_s is not None and self.world.now_s < self._wake_s <= wake_s:
            return
        self._wake_s = wake_s
        self.later(wake_s - self.world.now_s, self._wake)

    def _wake(self) -> None:
        if self._wake_s is not None and self._wake_s <= self.world.now_s:
            self._wake_s = None
        deadline_s = self.node.deadline_s
        if deadline_s is not None and deadline_s <= self.world.now_s:
            self.step(inputs.TimeElapsed())
        else:
            self.work()

    def _take_upcall(self, kind: int, number: int, second: int, data: bytes) -> None:
        match kind:
            case upcalls.CLIENT_CONTROL | upcalls.NODE_CONTROL | upcalls.NODE_REPLY | upcalls.KEEPALIVE:
                self._take_packet(kind, number, packets.decode(data))
            case upcalls.MESSAGE:
                self._pending.append(inputs.MessageArrived(number, second, data))
            case upcalls.CLIENT_CLOSED:
                self.on_client.pop(number, None)
                self._pending.append(inputs.ClientGone(number, data.decode()))
            case upcalls.LINK_CLOSED:
                pass
            case upcalls.COMPLAINT:
                self._pending.append(inputs.RecordsComplained(data.decode(), number, second, data.decode()))
            case upcalls.TRAVERSE_END:
                self._pending.append(inputs.TraverseEnded(second, number))
            case upcalls.REVOKE:
                key, nodes, buffer = upcalls.unpack_revoke(data)
                self._pending.append(inputs.RevokeWanted(number, key, buffer, nodes))
            case _:
                raise AssertionError(f"upcall {kind} has no place in a simulation: nobody else holds locks")

    def _take_packet(self, kind: int, number: int, packet: packets.Packet) -> None:
        match packet:
            case packets.ReqControl():
                if kind == upcalls.CLIENT_CONTROL:
                    self._pending.append(inputs.ClientControlArrived(number, packet))
                else:
                    self._pending.append(inputs.NodeControlArrived(number, packet))
            case packets.ReplyControl():
                self._pending.append(inputs.ReplyArrived(number, packet))
            case packets.ReqKeepalive():
                self._pending.append(inputs.KeepaliveArrived(number, packet.version, packet.uptime_s))
            case _:
                raise AssertionError(f"unexpected packet {packet}")

    def _carry_out(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Log(level, text):
                if level <= effects.LogLevel.NOTICE:
                    self.world.say(f"n{self.pnn} {text}")
            case effects.ReplyToClient(client_id, reqid, status, data, error):
                self.records.reply_client(client_id, reqid, status, data, error)
            case effects.ReplyToNode(pnn, reqid, status, data, error):
                self.records.reply_node(pnn, reqid, status, data, error)
            case effects.SendControl(pnn, reqid, opcode, srvid, client_id, flags, data):
                self.records.send_control(pnn, reqid, opcode, srvid, client_id, flags, data)
            case effects.SendMessage(destnode, srvid, data):
                self.records.send_message(destnode, srvid, data)
            case effects.Listen(srvid):
                self.records.listen_for_core(srvid)
            case effects.Unlisten(srvid):
                self.records.unlisten_for_core(srvid)
            case effects.DropClient(client_id, reason):
                self.records.close_client(client_id, reason)
            case effects.Connect(pnn):
                self.network.want(self.pnn, pnn)
            case effects.Disconnect(pnn):
                self.network.drop(self.pnn, pnn)
            case effects.StartJob():
                self.workers.start(effect, self.world.now_s)
            case effects.StopJob(job_id):
                self.workers.stop(job_id)
            case effects.SendKeepalive(pnn, uptime_s):
                self.records.send_keepalive(pnn, VERSION, uptime_s)
            case effects.RunEvent(event_id):
                # Simulated nodes have no scripts.
                self._pending.append(inputs.EventEnded(event_id, 0))
            case effects.StopEvent() | effects.TellAdministrator():
                pass
            case effects.PutAddress(deed_id) | effects.RemoveAddress(deed_id):
                self._pending.append(inputs.AddressDone(deed_id))
            case effects.AnnounceAddress() | effects.StopAnnouncing():
                pass
            case effects.SendTickles() | effects.KillConnections():
                pass
            case effects.TellGuard() | effects.TakeLock() | effects.DropLock():
                pass
            case effects.Exit(_code, reason):
                self.world.say(f"n{self.pnn} exits: {reason}")
                self.later(0.0, self.crash)
            case effects.SetHealth() | effects.SetLogLevel() | effects.Announce() | effects.ReadNodes():
                pass
