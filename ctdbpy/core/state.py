# SPDX-License-Identifier: GPL-3.0-or-later
"""What is true of a node right now: the facts that every room of the core reads, and ways to change them.

Rooms never call each other. One changes a fact here, another reads it when it is woken or
when `Rooms.settle` asks it to look again at the end of each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ctdbpy.core.effects import Effect, Listen, Log, LogLevel, SendMessage
from ctdbpy.core.inputs import NodeAddress, PublicAddress, Sight
from ctdbpy.core.ports import Records
from ctdbpy.core.story import Story
from ctdbpy.wire.constants import (
    BROADCAST_ACTIVE,
    BROADCAST_ALL,
    BROADCAST_CONNECTED,
    INVALID_GENERATION,
    UNKNOWN_PNN,
    Capability,
    DbFlag,
    NodeFlag,
    RecoveryMode,
    RunState,
    flag_names,
)
from ctdbpy.wire.records import jenkins_hash
from ctdbpy.wire.structures import Connection, Timeval
from ctdbpy.wire.tunables import Tunables


class Quorum(Enum):
    """What a node needs in order to serve (`[cluster] quorum`, decided).

    MAJORITY  more than half of the configured nodes, and its leader
    LOCK      its leader, who holds the cluster lock
    NONE      nothing, as upstream
    """

    MAJORITY = "majority"
    LOCK = "lock"
    NONE = "none"


#: Sights of a node that takes part in nothing any more, whatever its link says.
DEAD: Final = (Sight.SILENT, Sight.STALLED, Sight.GONE)

# Every step asks these of every node; as plain numbers they are tested ten times as fast.
_UNCONNECTED: Final = int(NodeFlag.DISCONNECTED | NodeFlag.DELETED)
_INACTIVE: Final = int(NodeFlag.INACTIVE)
_DELETED: Final = int(NodeFlag.DELETED)

#: Sights of a node whose daemon lives.
HEARD: Final = (Sight.LIVE, Sight.STILL)

#: A pnn, or nobody.
NOBODY: Final = UNKNOWN_PNN


@dataclass(frozen=True, slots=True)
class FoundDatabase:
    """A persistent database whose file was there at start; `unhealthy` says what is wrong, if anything."""

    name: str
    unhealthy: str = ""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is born with.

    Wall clock time is the step's `now_s` plus `wall_offset_s`. `databases` are the persistent
    ones found on disk, with what the health database says of them.

    moves_addresses: False ([failover] disabled): takeover runs move nothing.
    puts_addresses: False: something else puts addresses where they are decided to be; nothing is done to this
    host, and nothing that is seen of it counts.
    fences: There is a command that takes the power from a node: nobody goes on without a lost one before.
    scripts_first: Event scripts have run before an address comes or goes.
    shutdown_wait_s: How long a node that ends waits until others have taken its addresses.
    """

    pnn: int
    nodes: tuple[NodeAddress, ...]
    tunables: Tunables
    capabilities: Capability = Capability.DEFAULT
    stopped: bool = False
    disabled: bool = False
    cluster_lock: str = ""
    quorum: Quorum = Quorum.NONE
    leader_timeout_s: float = 5.0
    fences: bool = False
    databases: tuple[FoundDatabase, ...] = ()
    public_addresses: tuple[PublicAddress, ...] = ()
    moves_addresses: bool = True
    puts_addresses: bool = True
    scripts_first: bool = False
    shutdown_wait_s: float = 10.0
    wall_offset_s: float = 0.0
    pid: int = 0
    version: tuple[int, int] = (4, 17)
    mutexes: bool = True
    log_level: int = LogLevel.NOTICE


@dataclass(slots=True)
class Peer:
    """A line of the nodes file, this node's own included, and what is known of that node."""

    pnn: int
    address: str
    flags: NodeFlag
    capabilities: Capability = Capability.DEFAULT

    @property
    def is_connected(self) -> bool:
        return not int.__and__(self.flags, _UNCONNECTED)

    @property
    def is_active(self) -> bool:
        return not int.__and__(self.flags, _INACTIVE)


@dataclass(slots=True)
class Client:
    """A local program connected to the Unix socket, and what it left with us."""

    client_id: int
    pid: int
    uid: int
    notifications: dict[int, bytes] = field(default_factory=dict)
    connections: list[Connection] = field(default_factory=list)
    #: Databases this client has persistent updates of the old kind open on, and how many.
    updates: dict[int, int] = field(default_factory=dict)


class Freeze(Enum):
    """Whether a database stands still for a recovery or a restore."""

    THAWED = "thawed"
    FREEZING = "freezing"
    FROZEN = "frozen"
    THAWING = "thawing"


@dataclass(slots=True)
class Database:
    """An attached database: its kind, where it stands, who works on it."""

    db_id: int
    name: str
    flags: DbFlag
    generation: int = INVALID_GENERATION
    unhealthy: str = ""
    freeze: Freeze = Freeze.THAWED
    #: Worker session that holds it frozen, 0 for none.
    session: int = 0
    #: Transaction id while a transaction of a frozen database is open.
    transaction: int | None = None
    #: A volatile database of a node that became inactive: its records count no more until thawed.
    is_invalid: bool = False
    counts_seqnum: bool = False
    #: Client whose TRANS3_COMMIT is under way, 0 for none.
    committing: int = 0

    @property
    def is_volatile(self) -> bool:
        return not self.flags & (DbFlag.PERSISTENT | DbFlag.REPLICATED)

    @property
    def is_persistent(self) -> bool:
        return bool(self.flags & DbFlag.PERSISTENT)

    @property
    def is_frozen(self) -> bool:
        return self.freeze is Freeze.FROZEN


class State:
    """The facts. `effects` is what the current step wants done, in order."""

    def __init__(self, config: NodeConfig, records: Records) -> None:
        self.config = config
        self.records = records
        self.effects: list[Effect] = []
        self.now_s = 0.0
        self.started_s = 0.0
        self.runstate = RunState.INIT
        self.recmode = RecoveryMode.ACTIVE
        self.generation = INVALID_GENERATION
        self.lmasters = tuple(node.pnn for node in config.nodes if not node.deleted)
        self.leader = NOBODY
        self.capabilities = config.capabilities
        self.tunables = config.tunables
        self.log_level = config.log_level
        self.cluster_lock = config.cluster_lock
        self.nodes = [self._peer(node) for node in config.nodes]
        self.clients: dict[int, Client] = {}
        self.databases: dict[int, Database] = {}
        self.recovery_started_s: float | None = None
        self.recovery_ended_s: float | None = None
        self.recoveries = 0
        #: Why the next recovery has to happen, "" if it does not; only the leader acts on it.
        self.recovery_wanted = ""
        #: A link to another node has stood: copies and dmasters of ours may lie elsewhere.
        self.had_company = False
        #: What the guard sees of other nodes, by pnn; a node that is not there was never heard.
        self.sights: dict[int, Sight] = {}
        #: By pnn: since when its heartbeats are heard again.
        self.heard_since_s: dict[int, float] = {}
        #: Generations in line with the one this node serves, or has served without a doubt: begun since by
        #: recoveries it took part in. Empty once it had to stand still: others may have gone on.
        self.lineage: set[int] = set()
        #: The last map this daemon was given, whatever it was told to forget since.
        self.last_generation = INVALID_GENERATION
        #: Nodes that may serve, by the map in force and by those begun since.
        self.serving: set[int] = set()
        #: Those of them that took part when the map in force was made, whether they may be in it or not.
        self.mapped: set[int] = set()
        #: By pnn: since when its link is broken. It has had no lease from here since then.
        self.out_since_s: dict[int, float] = {}
        #: `leader` is only who may become it: claims are compared, or the cluster lock is not had yet.
        self.is_electing = False
        #: Nodes whose link stands but that the leader goes on without, since when: they get no lease either.
        self.left_out_s: dict[int, float] = {}
        #: Enough nodes confirm that they hear this one (`inputs.LeaseHeld`); true where none need to.
        self.has_lease = False
        #: The map was set in the recovery under way: it says who takes part.
        self.map_is_new = False
        #: Why this node stands still although it is active, "" if it does not.
        self.suspended = ""
        #: Why others may have taken this node's addresses already, "" until a recovery if they have not.
        self.given_up = ""
        #: When this host was last found to have stood still for longer than a lease lasts.
        self.stood_still_s = 0.0
        #: Public addresses are on this host, or are being removed from it.
        self.holds_addresses = False
        self.story = Story(config.pnn)
        self._listeners: dict[int, Callable[[int, bytes], None]] = {}

    # -- who we are ---------------------------------------------------------------------

    @property
    def pnn(self) -> int:
        """This node's own number."""
        return self.config.pnn

    @property
    def own(self) -> Peer:
        """This node as a line of the nodes file."""
        return self.nodes[self.config.pnn]

    @property
    def is_inactive(self) -> bool:
        """True while this node is stopped or banned."""
        return not self.own.is_active

    @property
    def is_leader(self) -> bool:
        return self.leader == self.config.pnn

    @property
    def is_led(self) -> bool:
        """By another node, and nobody disputes it."""
        return self.leader not in (NOBODY, self.config.pnn) and not self.is_electing

    @property
    def is_recovering(self) -> bool:
        return self.recmode is RecoveryMode.ACTIVE

    @property
    def quorum(self) -> Quorum:
        """What this node needs in order to serve."""
        return self.config.quorum

    @property
    def keeps_addresses(self) -> bool:
        """Addresses stay while a leader is looked for.

        Whoever goes on without this node first has all members give it no lease. They do so for a node that
        may be in the map, and a lease of theirs is needed only where a majority is what a node needs.
        """
        return self.quorum is Quorum.MAJORITY and bool(self.capabilities & Capability.LMASTER)

    @property
    def has_majority(self) -> bool:
        """More than half of the configured nodes can be reached, this one included."""
        others = self.others()
        return 2 * sum(node.is_connected for node in others) >= len(others)

    def can_lead(self) -> bool:
        """Active, not about to end, configured to be a leader, and heard by as many as it takes."""
        if self.runstate is RunState.SHUTDOWN:
            return False
        # Without a leader, who takes the lock needs nobody's lease: it waits for theirs to end.
        needs_lease = self.quorum is Quorum.MAJORITY or (self.quorum is Quorum.LOCK and self.is_led)
        if needs_lease and not self.has_lease:
            return False
        return not self.is_inactive and bool(self.capabilities & Capability.RECMASTER)

    # -- who else there is ----------------------------------------------------------------

    def peer(self, pnn: int) -> Peer | None:
        """The node with this number, deleted ones included."""
        return self.nodes[pnn] if pnn < len(self.nodes) else None

    def others(self) -> list[Peer]:
        """All configured nodes but this one."""
        own = self.config.pnn
        return [node for node in self.nodes if node.pnn != own and not int.__and__(node.flags, _DELETED)]

    def connected(self) -> list[int]:
        """Nodes a packet can reach, this one included."""
        return [node.pnn for node in self.nodes if node.is_connected]

    def active(self) -> list[int]:
        """Nodes that take part in the cluster, this one included if it does."""
        return [node.pnn for node in self.nodes if node.is_active]

    def members(self, destnode: int) -> list[int]:
        """The nodes a broadcast address or a number means."""
        match destnode:
            case _ if destnode == BROADCAST_ALL:
                return [node.pnn for node in self.nodes if not node.flags & NodeFlag.DELETED]
            case _ if destnode == BROADCAST_ACTIVE:
                return self.active()
            case _ if destnode == BROADCAST_CONNECTED:
                return self.connected()
        return [destnode]

    def lmaster(self, key: bytes) -> int:
        """The node that knows who owns this key."""
        return self.lmasters[jenkins_hash(key) % len(self.lmasters)] if self.lmasters else NOBODY

    # -- changing what the record engine is told -----------------------------------------------

    def set_flags(self, pnn: int, flags: NodeFlag, reason: str) -> bool:
        """Give a node these flags; False if it had them."""
        node = self.nodes[pnn]
        if node.flags == flags:
            return False
        whose = "own" if pnn == self.pnn else f"node {pnn}"
        self.log(LogLevel.NOTICE, f"{whose} flags {flag_names(node.flags)} -> {flag_names(flags)}: {reason}")
        self.story.flags_changed(self.wall_us, pnn, node.flags, flags, reason)
        node.flags = flags
        self.records.set_nodes(tuple(int(each.flags) for each in self.nodes))
        return True

    def set_recmode(self, mode: RecoveryMode, reason: str) -> None:
        """Recovery begins or is over."""
        if self.recmode is mode:
            return
        self.log(LogLevel.NOTICE, f"recovery mode {mode.name}: {reason}")
        self.recmode = mode
        self.map_is_new = False
        self.records.set_recovery(mode is RecoveryMode.ACTIVE)

    def set_map(self, generation: int, lmasters: tuple[int, ...]) -> None:
        """The vnnmap that a recovery decided."""
        self.generation = generation
        if generation != INVALID_GENERATION:
            self.last_generation = generation
        self.lmasters = lmasters
        self.records.set_map(generation, lmasters)

    def set_db_generation(self, database: Database, generation: int) -> None:
        """The database has been through the recovery of this generation."""
        database.generation = generation
        self.records.set_db_generation(database.db_id, generation)

    def want_recovery(self, reason: str) -> None:
        """The cluster is not consistent: recover. Known to the leader through the recovery mode."""
        if not self.recovery_wanted:
            self.recovery_wanted = reason
        self.set_recmode(RecoveryMode.ACTIVE, reason)

    def set_tunables(self, tunables: Tunables) -> None:
        """Tunables changed, by the administrator or at start."""
        self.tunables = tunables
        self.records.set_tunables(tunables.pairs())

    def rebuild_nodes(self, nodes: tuple[NodeAddress, ...]) -> None:
        """The nodes file has been read anew: keep what is known of nodes that are still there."""
        known = {node.pnn: node for node in self.nodes}
        rebuilt: list[Peer] = []
        for line in nodes:
            old = known.get(line.pnn)
            keeps = (
                old is not None
                and old.address == line.address
                and line.deleted == bool(old.flags & NodeFlag.DELETED)
            )
            rebuilt.append(old if keeps and old is not None else self._peer(line))
        self.nodes = rebuilt
        self.records.set_nodes(tuple(int(each.flags) for each in self.nodes))

    # -- what a step leaves behind --------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Have this done after the step."""
        self.effects.append(effect)

    def log(self, level: LogLevel, text: str) -> None:
        """Have a line written."""
        self.effects.append(Log(level, text))

    def note(self, kind: str, pnn: int, text: str) -> None:
        """Remember what happened to a node, for whoever asks why; `kind` is one short word."""
        self.story.note(self.wall_us, kind, pnn, self.nodes[pnn].flags, text)

    def listen(self, srvid: int, handler: Callable[[int, bytes], None]) -> None:
        """Take messages for this srvid: (sending node, data)."""
        self._listeners[srvid] = handler
        self.effects.append(Listen(srvid))

    def unlisten(self, srvid: int) -> Callable[[int, bytes], None] | None:
        """Take no more of them; the caller has the effect sent if it is still wanted."""
        return self._listeners.pop(srvid, None)

    def listener(self, srvid: int) -> Callable[[int, bytes], None] | None:
        """Who takes messages for this srvid."""
        return self._listeners.get(srvid)

    def send_message(self, destnode: int, srvid: int, data: bytes) -> None:
        """Send a message; to a broadcast address, this node hears it too."""
        self.effects.append(SendMessage(destnode, srvid, data))

    @property
    def wall_us(self) -> int:
        """The step's wall clock time, in microseconds since 1970."""
        return round((self.now_s + self.config.wall_offset_s) * 1_000_000)

    def timeval(self, moment_s: float | None) -> Timeval:
        """A moment of the step's clock as wall clock time; none is the epoch."""
        if moment_s is None:
            return Timeval(0, 0)
        micro = round((moment_s + self.config.wall_offset_s) * 1_000_000)
        return Timeval(*divmod(micro, 1_000_000))

    def _peer(self, node: NodeAddress) -> Peer:
        if node.deleted:
            return Peer(node.pnn, "0.0.0.0", NodeFlag.DELETED | NodeFlag.DISCONNECTED)
        if node.pnn != self.config.pnn:
            return Peer(node.pnn, node.address, NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY)
        flags = NodeFlag.UNHEALTHY
        if self.config.stopped:
            flags |= NodeFlag.STOPPED
        if self.config.disabled:
            flags |= NodeFlag.PERMANENTLY_DISABLED
        return Peer(node.pnn, node.address, flags)

    @property
    def silence_s(self) -> float:
        """After so long without a heartbeat a node is silent, and surely has no lease any more."""
        # A little longer than the guard's limit, for its ticks and for messages under way.
        return self.tunables.heartbeat_interval * self.tunables.heartbeat_limit / 1000 + 0.02
