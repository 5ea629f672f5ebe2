# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole simulated cluster: nodes, clients on them, faults, and what must hold afterwards.

A run has two phases. In trouble, clients work while nodes crash, lose power, pause, stop and
recover. Then comes peace: everything is mended, and the cluster must come to rest with nothing lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from ctdbpy.core import inputs
from ctdbpy.sim.clients import COUNTER, Client, Ledger
from ctdbpy.sim.network import Network
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World
from ctdbpy.wire import packets
from ctdbpy.wire.constants import ControlFlag, NodeFlag, RecoveryMode, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader, db_id_of
from ctdbpy.wire.tunables import Tunables

DATABASE = "simulated.tdb"
#: The defaults are for wall clocks; these keep a run short without changing the order of things.
TUNABLES = (
    ("KeepaliveInterval", 1),
    ("KeepaliveLimit", 2),
    ("RerecoveryTimeout", 1),
    ("ElectionTimeout", 1),
    ("VacuumInterval", 2),
)
REST_LIMIT_S = 60.0


class Cluster:
    """Nodes and clients from one seed."""

    def __init__(self, seed: int, *, nodes: int = 3, clients: int = 3, keys: int = 5) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.ledger = Ledger()
        self.keys = [f"key-{number}".encode() for number in range(keys)]
        self._clients_per_node = clients
        self._clients: list[Client] = []
        self._db_id = db_id_of(DATABASE)
        tunables = Tunables()
        for name, value in TUNABLES:
            tunables = tunables.replaced(name, value)
        addresses = [f"10.0.0.{pnn + 1}" for pnn in range(nodes)]
        for pnn in range(nodes):
            self.network.nodes[pnn] = SimNode(self.world, self.network, pnn, addresses, tunables)

    @property
    def nodes(self) -> list[SimNode]:
        """All nodes, by pnn."""
        return [self.network.nodes[pnn] for pnn in sorted(self.network.nodes)]

    # -- the run --------------------------------------------------------------------------

    def boot(self) -> None:
        """Start every node within a second of each other, and the clients once the cluster rests."""
        for node in self.nodes:
            self.world.later(self.world.random.uniform(0, 1), node.boot)
        self.world.run(1.0)
        self.come_to_rest()
        for node in self.nodes:
            self._start_clients(node)

    def trouble(self, faults: int) -> None:
        """Let faults happen, one after the other, while clients work."""
        for _ in range(faults):
            self.world.run(self.world.random.uniform(0.05, 1.5))
            for node in self.nodes:
                if node.is_up and node.node.state.runstate is RunState.RUNNING:
                    self._start_clients(node)
            self._fault()

    def peace(self) -> None:
        """Mend everything; the cluster must come to rest, and every acknowledged change must be there."""
        self.world.say("peace")
        self.network.mend()
        # What the last fault began takes effect, and pauses end.
        self.world.run(1.0)
        for node in self.nodes:
            if not node.is_up:
                node.boot()
            elif node.node.state.own.flags & NodeFlag.STOPPED:
                self._set_stopped(node, False)
        self.come_to_rest()
        for node in self.nodes:
            self._start_clients(node)
        self.world.run(2.0)
        for client in self._clients:
            client.is_stopped = True
        self.world.run(2.0)
        self.come_to_rest()
        self.check()

    def come_to_rest(self) -> None:
        """Wait until all nodes agree and nothing waits; AssertionError if they do not."""
        if not self.world.run_until(self._is_at_rest, REST_LIMIT_S):
            raise AssertionError("the cluster does not come to rest: " + "; ".join(self._unrest()))

    # -- faults -----------------------------------------------------------------------------

    def _fault(self) -> None:
        random = self.world.random
        node = random.choice(self.nodes)
        deed = random.choice(
            ["crash", "power", "pause", "recover", "stop", "reset", "revive", "revive", "revive"]
        )
        if deed == "revive":
            for each in self.nodes:
                if not each.is_up:
                    each.boot()
                elif each.node.state.own.flags & NodeFlag.STOPPED:
                    self._set_stopped(each, False)
            return
        if not node.is_up or node.is_paused:
            return
        match deed:
            case "crash" | "power":
                # The last node holds the last copy of everything.
                if sum(each.is_up for each in self.nodes) > 1:
                    self._kill(node, silently=deed == "power")
            case "pause":
                # Shorter than what makes peers give the node up: without quorum it would serve on its own.
                node.pause(random.uniform(0.01, 0.8))
            case "reset":
                # Not the leader's links: whom the leader cannot reach it recovers without, and only a
                # quorum could tell that node to stop serving before that.
                leaders = {each.node.state.leader for each in self.nodes if each.is_up}
                others = [each.pnn for each in self.nodes if each is not node and each.pnn not in leaders]
                if node.pnn not in leaders and others:
                    self.network.reset(node.pnn, random.choice(others))
            case "recover":
                self.world.say(f"n{node.pnn} is told to recover")
                node.node.state.want_recovery("told to")
                node.later(0.0, node.work)
            case "stop":
                active = [each for each in self.nodes if each.is_up and each.node.state.own.is_active]
                if len(active) > 1 and node in active:
                    # A stopped node's volatile records are void, as those of a dead one; its clients
                    # would be gone with its addresses.
                    for client in self._clients:
                        client.is_dead = client.is_dead or client.node is node
                    self._set_stopped(node, True)
                    self.ledger.node_died(self._best_copies(without=node))

    def _kill(self, node: SimNode, *, silently: bool) -> None:
        if silently:
            node.power_off()
        else:
            node.crash()
        self.ledger.node_died(self._best_copies())

    def _set_stopped(self, node: SimNode, stopped: bool) -> None:
        self.world.say(f"n{node.pnn} is {'stopped' if stopped else 'continued'}")
        opcode = Control.STOP_NODE if stopped else Control.CONTINUE_NODE
        control = packets.ReqControl(0, node.pnn, node.pnn, 0, opcode, 0, 0, ControlFlag.NOREPLY, b"")
        node.later(0.0, lambda: node.step(inputs.NodeControlArrived(node.pnn, control)))

    def _start_clients(self, node: SimNode) -> None:
        self._clients = [client for client in self._clients if client.lives]
        if not node.is_up or not node.node.state.own.is_active or node.is_paused:
            return
        if not any(client.node is node for client in self._clients):
            for _ in range(self._clients_per_node):
                self._clients.append(Client(self.world, node, DATABASE, self.keys, self.ledger))

    # -- what must hold ------------------------------------------------------------------------

    def check(self) -> None:
        """Every change that was acknowledged is there, and every record has one owner."""
        for key in self.keys:
            owners = [
                (node.pnn, counter)
                for node, header, counter in self._copies(key)
                if header.dmaster == node.pnn
            ]
            if key not in self.ledger.least:
                continue
            if len(owners) != 1:
                raise AssertionError(f"{key!r} has owners {owners}, not one")
            least, most = self.ledger.least[key], self.ledger.most[key]
            if not least <= owners[0][1] <= most:
                raise AssertionError(f"{key!r} counts {owners[0][1]}, {least} to {most} changes were made")

    def _copies(self, key: bytes) -> Iterator[tuple[SimNode, RecordHeader, int]]:
        for node in self.nodes:
            if not node.is_up or self._db_id not in node.node.state.databases:
                continue
            record = node.workers.committed(self._db_id, key)
            if record is not None and len(record) >= RecordHeader.SIZE:
                value = record[RecordHeader.SIZE :]
                yield node, RecordHeader.unpack(record), COUNTER.unpack(value)[0] if value else 0

    def _best_copies(self, without: SimNode | None = None) -> dict[bytes, int]:
        """The furthest counter of each key on any node but this one, and but those already void."""
        return {
            key: max(
                (
                    counter
                    for node, _, counter in self._copies(key)
                    if node is not without
                    and node.node.state.own.is_active
                    and not node.node.state.databases[self._db_id].is_invalid
                ),
                default=0,
            )
            for key in self.keys
        }

    def _is_at_rest(self) -> bool:
        return not self._unrest()

    def _unrest(self) -> list[str]:
        """What still moves, in words."""
        found = []
        generations, leaders = set(), set()
        for node in self.nodes:
            if not node.is_up or node.is_paused:
                found.append(f"n{node.pnn} is not up")
                continue
            state = node.node.state
            generations.add(state.generation)
            leaders.add(state.leader)
            if state.runstate is not RunState.RUNNING or state.recmode is not RecoveryMode.NORMAL:
                found.append(f"n{node.pnn} is {state.runstate.name}, {state.recmode.name}")
            for peer in state.nodes:
                if peer.flags:
                    found.append(f"n{node.pnn} sees node {peer.pnn} with flags {peer.flags!r}")
            for database in state.databases.values():
                waiting = node.records.queues(database.db_id)
                if waiting["recovery"] or waiting["late"]:
                    found.append(f"n{node.pnn} has waiting packets {waiting}")
        if len(generations) > 1 or len(leaders) > 1:
            found.append(f"generations {sorted(generations)}, leaders {sorted(leaders)}")
        return found


def run(seed: int, *, nodes: int = 3, faults: int = 12) -> Cluster:
    """One whole run; AssertionError when something that must hold does not."""
    cluster = Cluster(seed, nodes=nodes)
    cluster.boot()
    cluster.trouble(faults)
    cluster.peace()
    return cluster
