# SPDX-License-Identifier: GPL-3.0-or-later
"""One simulated node: the real core, the real engine, and a pump that moves bytes by hand.

A node can crash (its peers notice at once), lose power (they notice by silence), pause with its whole
machine or stall with its daemon alone, be slow, and boot again with what its disk holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ctdbpy.core import effects, inputs
from ctdbpy.core.node import Node
from ctdbpy.core.state import FoundDatabase, NodeConfig, Quorum
from ctdbpy.sim.guards import SimGuard
from ctdbpy.sim.hosts import SimHost
from ctdbpy.sim.jobs import MemoryWorkers
from ctdbpy.sim.records import MemoryRecords
from ctdbpy.sim.world import World
from ctdbpy.store import engine as upcalls
from ctdbpy.wire import packets
from ctdbpy.wire.constants import BROADCAST_CONNECTED
from ctdbpy.wire.srvids import SRVID_RECONFIGURE
from ctdbpy.wire.structures import ConfigurationReport
from ctdbpy.wire.tunables import Tunables

if TYPE_CHECKING:
    from ctdbpy.sim.locks import ClusterLock
    from ctdbpy.sim.network import Network
    from ctdbpy.sim.power import PowerSwitch

VERSION = 4 << 16 | 17
#: A machine needs so long to boot: everybody's wall clock, which may be wrong, moves on by that with each.
BOOT_S = 60.0
CLOCK_ERROR_S = (-2.0, 2.0)
SLOW_TURN_S = (0.01, 0.05)


class SimNode:
    """A node of a simulated cluster."""

    def __init__(
        self,
        world: World,
        network: Network,
        lock: ClusterLock,
        pnn: int,
        addresses: list[str],
        tunables: Tunables,
        quorum: Quorum,
        public_addresses: tuple[inputs.PublicAddress, ...] = (),
        switch: PowerSwitch | None = None,
    ) -> None:
        """With a switch, lost nodes are fenced."""
        self.world = world
        self.network = network
        self.pnn = pnn
        self.is_up = False
        self.is_paused = False
        self.has_power = False
        #: The daemon makes no progress; its machine, its children and its clients do.
        self.is_stalled = False
        self.life = 0
        self.records: MemoryRecords
        self.node: Node
        self.workers: MemoryWorkers
        self.guard: SimGuard
        self.quorum = quorum
        #: Told when a life has begun, has ended, and when this node as leader has completed a recovery.
        self.on_boot: Callable[[SimNode], None] = lambda _node: None
        self.on_end: Callable[[SimNode], None] = lambda _node: None
        self.on_recovered: Callable[[SimNode], None] = lambda _node: None
        #: Told when a machine answers for other addresses than before.
        self.on_addresses: Callable[[SimNode], None] = lambda _node: None
        self.public_addresses = public_addresses
        self.host = SimHost(world, self)
        #: The nodes file.
        self.addresses = addresses
        self.switch = switch
        self._lock = lock
        self._tunables = tunables
        self._disk: dict[str, dict[bytes, bytes]] = {}
        self._wake_s: float | None = None
        self._core_due_s: float | None = None
        # What happened while the machine stood still, and while its daemon did.
        self._machine_held: list[Callable[[], None]] = []
        self._daemon_held: list[Callable[[], None]] = []
        self._slow_until_s = 0.0
        self._clock_error_s = 0.0
        self._still_s = 0.0
        self._still_since_s = 0.0
        self._pending: list[inputs.Input] = []
        self._is_busy = False
        #: Bytes for a local program, by client id.
        self.on_client: dict[int, Callable[[bytes], None]] = {}

    # -- life ---------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the daemon and its guard."""
        # Whatever connection of an earlier life a peer still believes in is reset by the new kernel.
        self.network.node_crashed(self.pnn)
        self.life += 1
        self.world.boots += 1
        self.is_up = self.has_power = True
        self.is_paused = self.is_stalled = False
        self._slow_until_s = 0.0
        self._machine_held.clear()
        self._daemon_held.clear()
        self._wake_s = self._core_due_s = None
        self.on_client.clear()
        self.records = MemoryRecords(self.pnn, self._disk)
        nodes = tuple(inputs.NodeAddress(pnn, address) for pnn, address in enumerate(self.addresses))
        found = tuple(FoundDatabase(name) for name in sorted(self._disk))
        config = NodeConfig(
            self.pnn,
            nodes,
            self._tunables,
            databases=found,
            public_addresses=self.public_addresses,
            quorum=self.quorum,
            cluster_lock="simulated" if self.quorum is Quorum.LOCK else "",
            fences=self.switch is not None,
        )
        self.node = Node(config, self.records)
        error_s = self.world.random.uniform(*CLOCK_ERROR_S)
        # Where one node at a time serves alone, the wall clocks tell who was last: docs/decisions/005.
        self._clock_error_s = 0.0 if self.quorum is Quorum.LOCK else error_s
        for each in self.network.nodes.values():
            if each.is_up:
                each.set_clock(self.world.boots * BOOT_S)
        self.workers = MemoryWorkers(self)
        self.guard = SimGuard(self.world, self)
        self.on_boot(self)
        self.world.say(f"n{self.pnn} boots")
        if self.public_addresses:
            self.host.begin()
        self.step(inputs.Started())

    def set_clock(self, offset_s: float) -> None:
        """Set the wall clock, as ntpd does."""
        object.__setattr__(self.node.state.config, "wall_offset_s", offset_s + self._clock_error_s)

    def crash(self, what: str = "crashes") -> None:
        """The daemon is killed: the kernel closes its sockets."""
        self.world.say(f"n{self.pnn} {what}")
        self.network.node_crashed(self.pnn)
        self.guard.daemon_gone()
        self.host.daemon_gone()
        self._end(silently=False)

    def power_off(self) -> None:
        """The machine is gone without a word."""
        self.world.say(f"n{self.pnn} loses power")
        self.network.node_silent(self.pnn)
        self.has_power = False
        self.host.power_lost()
        self.on_addresses(self)
        self._end(silently=True)

    def switch_off(self) -> None:
        """Its power is taken, whether its daemon runs or not."""
        if self.is_up:
            self.power_off()
        else:
            self.has_power = False
            self.host.power_lost()
            self.on_addresses(self)

    def _end(self, *, silently: bool) -> None:
        self.is_up = False
        self._pending.clear()
        self._lock.node_gone(self, silently=silently)
        self.on_end(self)

    # -- standing still -------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """The daemon does nothing just now."""
        return self.is_paused or self.is_stalled

    @property
    def ran_s(self) -> float:
        """How long this node has run of the world's time, without what it stood still."""
        now_s = self.world.now_s
        return now_s - self._still_s - (now_s - self._still_since_s if self.is_held else 0.0)

    def pause(self, seconds: float) -> None:
        """The machine stands still: what would happen to it happens afterwards."""
        if self.is_paused:
            return
        self.world.say(f"n{self.pnn} pauses for {seconds:.3f} s")
        self._stand_still()
        self.is_paused = True
        self.on_addresses(self)
        self._after(seconds, self._go_on)

    def stall(self, seconds: float) -> None:
        """The daemon hangs; its guard, its children and its clients go on."""
        if self.is_stalled:
            return
        self.world.say(f"n{self.pnn} stalls for {seconds:.3f} s")
        self._stand_still()
        self.is_stalled = True
        self._after(seconds, self._end_stall)

    def slow_down(self, seconds: float) -> None:
        """The daemon's turns, and its children's jobs, take long for a while."""
        self.world.say(f"n{self.pnn} is slow for {seconds:.3f} s")
        self._slow_until_s = self.world.now_s + seconds

    @property
    def is_slow(self) -> bool:
        return self.world.now_s < self._slow_until_s

    def _stand_still(self) -> None:
        if not self.is_held:
            self._still_since_s = self.world.now_s

    def _move_again(self) -> None:
        if not self.is_held:
            self._still_s += self.world.now_s - self._still_since_s

    def _go_on(self) -> None:
        self.world.say(f"n{self.pnn} goes on")
        self.is_paused = False
        self._move_again()
        self.on_addresses(self)
        self.guard.resume()
        held, self._machine_held = self._machine_held, []
        for act in held:
            act()

    def _end_stall(self) -> None:
        if self.is_paused:
            self._machine_held.append(self._end_stall)
            return
        self.world.say(f"n{self.pnn} stalls no more")
        self.is_stalled = False
        self._move_again()
        self._take_turn()

    def _take_turn(self) -> None:
        held, self._daemon_held = self._daemon_held, []
        for act in held:
            act()

    # -- time -----------------------------------------------------------------------------

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        """In so much of the world's time, whatever the machine does, if it is still the same life."""
        life = self.life

        def happen() -> None:
            if self.life == life and self.is_up:
                act()

        self.world.later(seconds, happen)

    def host_later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen on this machine, if it still lives then; when it pauses, afterwards."""
        life = self.life

        def happen() -> None:
            if self.life != life or not self.is_up:
                return
            if self.is_paused:
                self._machine_held.append(act)
            else:
                act()

        self.world.later(seconds, happen)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen in this node's daemon, as `host_later`; when it stalls, afterwards."""
        life = self.life

        def happen() -> None:
            if self.life != life or not self.is_up:
                return
            if self.is_paused:
                self._machine_held.append(happen)
            elif self.is_stalled:
                self._daemon_held.append(act)
            elif self.world.now_s < self._slow_until_s:
                if not self._daemon_held:
                    turn_s = self.world.random.uniform(*SLOW_TURN_S)
                    self.world.later(turn_s, self._slow_turn(life))
                self._daemon_held.append(act)
            else:
                act()

        self.world.later(seconds, happen)

    def _slow_turn(self, life: int) -> Callable[[], None]:
        def turn() -> None:
            if self.life != life or not self.is_up or self.is_stalled:
                return
            if self.is_paused:
                self._machine_held.append(self._take_turn)
            else:
                self._take_turn()

        return turn

    def guard_hears(self, source: int, data: bytes) -> None:
        """A datagram has arrived at this machine."""
        if self.is_paused:
            guard = self.guard
            self._machine_held.append(lambda: guard.hear(source, data))
        else:
            self.guard.hear(source, data)

    @property
    def peers(self) -> tuple[int, ...]:
        """The other nodes of the nodes file."""
        return tuple(pnn for pnn in range(len(self.addresses)) if pnn != self.pnn)

    @property
    def heartbeat_limits(self) -> tuple[int, int, int, int]:
        """Interval in us, limit, stall limit and limit without a guard in us, as the tunables are."""
        values = self.node.state.tunables
        unguarded_s = 2 * values.keepalive_interval * (values.keepalive_limit + 1)
        interval_us, stall_us = values.heartbeat_interval * 1000, values.stall_limit * 1000
        return interval_us, values.heartbeat_limit, stall_us, unguarded_s * 1_000_000

    # -- the pump --------------------------------------------------------------------------

    def step(self, happened: inputs.Input) -> None:
        """Give the core an input, carry out what it wants, move bytes; a dead one's comes to nothing."""
        if not self.is_up:
            return
        self._pending.append(happened)
        self.work()

    def work(self) -> None:
        """Run core and engine until both are quiet, then send what they produced."""
        if self._is_busy or not self.is_up:
            return
        self._is_busy = True
        try:
            self._work()
        finally:
            self._is_busy = False

    def _work(self) -> None:
        now_s = self.world.now_s
        if self.records.look_at_lease(self.guard.lease_is_over()):
            # As the poller: before any packet is handled.
            self.guard.expired()
        while True:
            while self._pending:
                for effect in self.node.step(now_s, self._pending.pop(0)):
                    self._carry_out(effect)
                self._core_due_s = self.node.deadline_s
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
        # The core's changes with its steps only.
        due_s, engine_s = self._core_due_s, self.records.deadline_s
        if due_s is None or (engine_s is not None and engine_s < due_s):
            due_s = engine_s
        if due_s is None:
            return
        wake_s = max(due_s, self.world.now_s + 1e-6)
        if self._wake_s is not None and self.world.now_s < self._wake_s <= wake_s:
            return
        self._wake_s = wake_s
        self.later(wake_s - self.world.now_s, self._wake)

    def _wake(self) -> None:
        if self._wake_s is not None and self._wake_s <= self.world.now_s:
            self._wake_s = None
        if self._core_due_s is not None and self._core_due_s <= self.world.now_s:
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
                if srvid == SRVID_RECONFIGURE and destnode == BROADCAST_CONNECTED:
                    self.on_recovered(self)
            case effects.Listen(srvid):
                self.records.listen_for_core(srvid)
            case effects.Unlisten(srvid):
                self.records.unlisten_for_core(srvid)
            case effects.DropClient(client_id, reason):
                self.records.close_client(client_id, reason)
            case effects.Connect(pnn):
                self.guard.watch(self.peers)
                self.network.want(self.pnn, pnn)
            case effects.Disconnect(pnn, reason, forget):
                self.network.drop(self.pnn, pnn, reason, forget=forget)
            case effects.StartJob():
                self.workers.start(effect, self.world.now_s)
            case effects.StopJob(job_id):
                self.workers.stop(job_id)
            case effects.SendKeepalive(pnn, uptime_s):
                self.records.send_keepalive(pnn, VERSION, uptime_s)
            case effects.RunEvent(event_id):
                # Simulated nodes have no scripts.
                self.later(0.0, lambda: self.step(inputs.EventEnded(event_id, 0)))
            case effects.StopEvent() | effects.TellAdministrator():
                pass
            case effects.PutAddress() | effects.RemoveAddress():
                self.host.carry_out(effect)
            case effects.AnnounceAddress() | effects.StopAnnouncing():
                pass
            case effects.SendTickles() | effects.KillConnections():
                pass
            case effects.TellGuard():
                self.guard.tell(effect)
            case effects.TakeLock(attempt, only_look):
                self._lock.take(self, attempt, only_look=only_look)
            case effects.DropLock(attempt):
                self._lock.drop(self, attempt)
            case effects.Fence():
                assert self.switch is not None
                self.switch.fence(self, effect)
            case effects.StopFence(pnn):
                assert self.switch is not None
                self.switch.stop(self, pnn)
            case effects.ReadPublicAddresses(read_id):
                read = inputs.PublicAddressesRead(read_id, self.node.state.config.public_addresses)
                self.later(0.0, lambda: self.step(read))
            case effects.ReadHomeNodes(read_id):
                self.later(0.0, lambda: self.step(inputs.HomeNodesRead(read_id, ())))
            case effects.LookAtConfiguration(look_id):
                seen = inputs.ConfigurationSeen(look_id, ConfigurationReport(0).pack())
                self.later(0.0, lambda: self.step(seen))
            case effects.ReadNodes(read_id):
                nodes = tuple(inputs.NodeAddress(pnn, address) for pnn, address in enumerate(self.addresses))
                self.later(0.0, lambda: self.step(inputs.NodesRead(read_id, nodes)))
            case effects.Exit(_code, reason):
                self.later(0.0, lambda: self.crash(f"exits: {reason}"))
            case effects.SetHealth() | effects.SetLogLevel() | effects.Announce():
                pass
