# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole simulated cluster: nodes, clients on them, faults, and checkers that watch.

A run has two phases. In trouble, clients work while everything goes wrong that `faults` knows. Then comes
peace: everything is mended, and the cluster must come to rest with nothing lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.core.state import Quorum
from ctdbpy.sim.checkers import Checker, ClientsAnswered, ComesToRest, NoLostWrites, referee
from ctdbpy.sim.clients import COUNTER, OWN_THINK_S, Client, Program
from ctdbpy.sim.faults import Faults
from ctdbpy.sim.fence_checkers import fence_referee
from ctdbpy.sim.history import Change, Copies, History
from ctdbpy.sim.hosts import INTERFACE
from ctdbpy.sim.locks import ClusterLock
from ctdbpy.sim.network import Network
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.power import PowerSwitch
from ctdbpy.sim.transactions import Transactor, Turn
from ctdbpy.sim.world import World
from ctdbpy.wire import packets
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import INVALID_GENERATION, ControlFlag, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader, db_id_of
from ctdbpy.wire.tunables import Tunables

DATABASE: Final = "simulated.tdb"
PERSISTENT: Final = "transactions.tdb"
#: The defaults are for wall clocks; these keep a run short without changing the order of things.
TUNABLES: Final = (
    ("KeepaliveInterval", 1),
    ("KeepaliveLimit", 2),
    ("RerecoveryTimeout", 1),
    ("ElectionTimeout", 1),
    ("VacuumInterval", 2),
    ("RecoverTimeout", 3),
    ("ControlTimeout", 5),
    ("RecoveryBanPeriod", 3),
    ("RecoveryGracePeriod", 5),
)
REST_LIMIT_S: Final = 90.0
#: Many nodes make much work for each change; these keep runs of all sizes about as long.
CLIENTS: Final = ((4, 3), (10_000, 2))
#: On so many nodes programs commit transactions.
TRANSACTORS_MAX: Final = 3
#: And on so many clients work at all.
BUSY_NODES_MAX: Final = 4


class Cluster:
    """Nodes and clients from one seed."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        clients: int | None = None,
        keys: int = 5,
        quorum: Quorum | None = None,
        only: Collection[str] = (),
        addresses: int = 0,
        fencing: bool = False,
    ) -> None:
        """With `addresses` public ones, for every node to serve; with `fencing` lost nodes are fenced."""
        self.world = World(seed)
        self.network = Network(self.world)
        self.lock = ClusterLock(self.world)
        self.quorum = quorum or (Quorum.LOCK if nodes < 3 else Quorum.MAJORITY)
        self.keys = [f"key-{number}".encode() for number in range(keys)]
        if clients is None:
            clients = next(number for limit, number in CLIENTS if nodes <= limit)
        self._clients_per_node = clients
        self._programs: list[Program] = []
        self._db_id = db_id_of(DATABASE)
        self._tunables = Tunables()
        for name, value in TUNABLES:
            self._tunables = self._tunables.replaced(name, value)
        self._addresses = [f"10.0.0.{pnn + 1}" for pnn in range(nodes)]
        self._public = tuple(
            inputs.PublicAddress(f"192.0.2.{number + 1}", 24, (INTERFACE,)) for number in range(addresses)
        )
        self.nodes: list[SimNode] = []
        self.switch = PowerSwitch(self.world, self.nodes) if fencing else None
        self.nodes += [self._new_node(pnn) for pnn in range(nodes)]
        self.history = History(self.nodes)
        self._turn = Turn(self.history.is_excluded)
        self._rest = ComesToRest(self.history)
        self.checkers: tuple[Checker, ...] = (
            *referee(self.history, self.lock, self.network),
            *fence_referee(self.history, self.lock),
            self._rest,
            ClientsAnswered(self.history, self._programs),
        )
        # Only those that listen are called for each change.
        self._on_change = [each.changed for each in self.checkers if _listens(each, "changed")]
        if self.switch is not None:
            self.switch.on_begin = self._fencing
            self.switch.on_switch = self._switched_off
            self.switch.on_confirm = self.confirm_off
        self.faults = Faults(self, only)
        self._in_recovery: list[Callable[[], None]] = []

    @property
    def changes(self) -> int:
        """How many changes clients have made."""
        return next(each.changes for each in self.checkers if isinstance(each, NoLostWrites))

    # -- the run --------------------------------------------------------------------------

    def boot(self) -> None:
        """Start every node within a second of each other, and the clients once the cluster rests."""
        for node in self.nodes:
            self.world.later(self.world.random.uniform(0, 1), node.boot)
        self.world.run(1.0)
        self.come_to_rest()
        self.start_programs()

    def trouble(self, faults: int) -> None:
        """Let faults happen, one after the other, while clients work."""
        for _ in range(faults):
            self.world.run(self.world.random.uniform(0.05, 1.5))
            self.start_programs()
            self.faults.one()

    def peace(self) -> None:
        """Mend everything; the cluster must come to rest, and every acknowledged change must be there."""
        self.world.say("peace")
        self._in_recovery.clear()
        self.faults.mend()
        # What the last fault began takes effect, and pauses end.
        self.world.run(1.0)
        self.world.run_until(lambda: not any(node.is_held for node in self.nodes), REST_LIMIT_S)
        self.faults.mend()
        self.come_to_rest()
        self.start_programs()
        self.world.run(2.0)
        for program in self._programs:
            program.is_stopped = True
        self.world.run(2.0)
        self.come_to_rest()
        for checker in self.checkers:
            checker.at_rest()

    def come_to_rest(self, limit_s: float = REST_LIMIT_S) -> None:
        """Wait until all nodes agree and nothing waits; a violation if they do not."""
        if not self.world.run_until(lambda: not self._rest.unrest(), limit_s):
            self._rest.give_up()

    def unrest(self) -> list[str]:
        """What still moves, in words."""
        return self._rest.unrest()

    # -- what administrators and operators do -----------------------------------------------------

    def add_node(self) -> SimNode:
        """A new last line in every nodes file, a node that starts with it, and `ctdb reloadnodes`."""
        pnn = len(self.nodes)
        self.world.say(f"node {pnn} is added")
        self._addresses.append(f"10.0.0.{pnn + 1}")
        node = self._new_node(pnn)
        self.nodes.append(node)
        for each in self.nodes[:-1]:
            if each.is_up:
                control = packets.ReqControl(
                    0, each.pnn, each.pnn, 0, Control.RELOAD_NODES_FILE, 0, 0, ControlFlag.NOREPLY, b""
                )
                self.administer(each, control)
        node.boot()
        return node

    def administer(self, node: SimNode, control: packets.ReqControl) -> None:
        """Give a node a control, as from another node."""
        node.later(0.0, lambda: node.step(inputs.NodeControlArrived(node.pnn, control)))

    def shut_down(self, node: SimNode) -> None:
        """The service manager ends a node in an orderly way."""
        self.world.say(f"n{node.pnn} is shut down")
        node.later(0.0, lambda: node.step(inputs.ShutdownAsked("told to")))

    def ask_to_recover(self, node: SimNode) -> None:
        """`ctdb recover`."""
        self.world.say(f"n{node.pnn} is told to recover")
        node.node.state.want_recovery("told to")
        node.later(0.0, node.work)

    def confirm_off(self, node: SimNode, target: SimNode) -> None:
        """`ctdbctl node confirm-off` on a node."""
        data = U32.pack(target.pnn)
        control = packets.ReqControl(
            0, node.pnn, node.pnn, 0, Control.CONFIRM_FENCED, 0, 0, ControlFlag.NOREPLY, data
        )
        self.administer(node, control)

    def _new_node(self, pnn: int) -> SimNode:
        node = SimNode(
            self.world,
            self.network,
            self.lock,
            pnn,
            self._addresses,
            self._tunables,
            self.quorum,
            self._public,
            self.switch,
        )
        node.on_addresses = self._addresses_changed
        node.on_boot = self._watch
        node.on_end = self.node_gone
        node.on_recovered = self._recovered
        self.network.nodes[pnn] = node
        return node

    # -- programs ---------------------------------------------------------------------------

    def start_programs(self) -> None:
        """Start clients on every node that serves and has none."""
        for node in self.nodes[:BUSY_NODES_MAX]:
            if not node.is_up or node.is_held:
                continue
            state = node.node.state
            if state.runstate is not RunState.RUNNING or not state.own.is_active or state.suspended:
                continue
            if any(program.node is node and program.lives for program in self._programs):
                continue
            # One has a record of its own, as smbd for each session: it needs nobody's help to write.
            own = [f"own-{node.pnn}".encode()]
            self._programs.append(Client(self.world, node, DATABASE, own, self._changed, OWN_THINK_S))
            for _ in range(self._clients_per_node - 1):
                self._programs.append(Client(self.world, node, DATABASE, self.keys, self._changed))
            if node.pnn < TRANSACTORS_MAX:
                self._programs.append(Transactor(self.world, node, PERSISTENT, self._turn, self._committed))
        self._programs[:] = [program for program in self._programs if program.lives]

    def end_programs(self, node: SimNode) -> None:
        """Kill the clients of a node."""
        for program in self._programs:
            program.is_dead = program.is_dead or program.node is node

    # -- what checkers hear -----------------------------------------------------------------

    def when_recovering(self, act: Callable[[], None]) -> None:
        """Do something once, as soon as the next recovery has begun."""
        self._in_recovery.append(act)

    def node_gone(self, node: SimNode) -> None:
        """A node is dead, or stopped: what it had is void."""
        for pnn, db_id in list(self.history.copies):
            if pnn == node.pnn:
                del self.history.copies[pnn, db_id]
        if self._db_id in node.node.state.databases:
            # A recovery under way may have taken them already.
            self.history.departed.append(_counters(node.workers.content(self._db_id)))
        for checker in self.checkers:
            checker.node_gone(node)

    def _fencing(self, node: SimNode, target: SimNode) -> None:
        for checker in self.checkers:
            checker.fencing(node, target)

    def _switched_off(self, node: SimNode, target: SimNode) -> None:
        for checker in self.checkers:
            checker.switched_off(node, target)

    def _addresses_changed(self, node: SimNode) -> None:
        for checker in self.checkers:
            checker.addresses_changed(node)

    def _watch(self, node: SimNode) -> None:
        """A node boots: hear of its generations and of what its recoveries find."""
        node.records.on_generation = self._began
        node.workers.on_commit = partial(self._found, node)

    def _began(self, generation: int, lmasters: tuple[int, ...]) -> None:
        if generation == INVALID_GENERATION or generation in self.history.generations:
            return
        self.history.began(generation, lmasters)
        acts, self._in_recovery = self._in_recovery, []
        for act in acts:
            act()

    def _found(self, node: SimNode, db_id: int, before: Mapping[bytes, bytes]) -> None:
        newest = self.history.newest
        if db_id != self._db_id or (newest is not None and newest.number == node.node.state.generation):
            # The first member to have its copy has gone on: what others had was looked at then.
            return
        database = node.node.state.databases[db_id]
        counters = {} if database.is_invalid else _counters(before)
        history = self.history
        copies = Copies(
            history.order(database.generation), history.order(node.node.state.generation), counters
        )
        self.history.copies.setdefault((node.pnn, db_id), []).append(copies)

    def _recovered(self, leader: SimNode) -> None:
        number = leader.node.state.generation
        generation = self.history.began(number)
        if self.history.is_newer(number):
            self._went_on(number)
        generation.leader = leader.pnn
        for checker in self.checkers:
            checker.recovered(generation)

    def _went_on(self, number: int) -> None:
        """Records are changed in a new generation: nobody but its members counts any more."""
        generation = self.history.began(number)
        members = [node for node in self.nodes if node.is_up and self._is_member(node, number)]
        for node in members:
            database = node.node.state.databases.get(self._db_id)
            if database is not None and database.generation != number:
                # It is about to have its copy, too, and until then what it had.
                self._found(node, self._db_id, node.workers.content(self._db_id))
        generation.members = frozenset(node.pnn for node in members)
        self.history.newest = generation
        for checker in self.checkers:
            checker.went_on(generation)
        self.history.copies.clear()
        self.history.departed.clear()

    def _is_member(self, node: SimNode, number: int) -> bool:
        """Told of this generation, or still in its copy: the next recovery has not frozen it yet."""
        database = node.node.state.databases.get(self._db_id)
        return number in (node.node.state.generation, database.generation if database else None)

    def _changed(self, node: SimNode, db_id: int, key: bytes, header: RecordHeader, counter: int) -> None:
        number = node.node.state.databases[db_id].generation
        if self.history.newest is None or (
            number != self.history.newest.number and self.history.is_newer(number)
        ):
            self._went_on(number)
        change = Change(node, db_id, key, header, counter)
        for hear in self._on_change:
            hear(change)

    def _committed(self, node: SimNode, value: int) -> None:
        for checker in self.checkers:
            checker.committed(node, value)


def _counters(content: Mapping[bytes, bytes]) -> dict[bytes, int]:
    return {
        key: COUNTER.unpack_from(record, RecordHeader.SIZE)[0]
        for key, record in content.items()
        if len(record) > RecordHeader.SIZE
    }


def _listens(checker: Checker, method: str) -> bool:
    return getattr(type(checker), method) is not getattr(Checker, method)


def run(
    seed: int,
    *,
    nodes: int = 3,
    faults: int = 12,
    only: Collection[str] = (),
    addresses: int = 0,
    fencing: bool = False,
) -> Cluster:
    """One whole run, with `only` these faults; a `Violation` when something that must hold does not."""
    cluster = Cluster(seed, nodes=nodes, only=only, addresses=addresses, fencing=fencing)
    cluster.boot()
    cluster.trouble(faults)
    cluster.peace()
    return cluster
