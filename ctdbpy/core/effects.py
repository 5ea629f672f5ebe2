# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node wants done: the closed vocabulary that `Node.step` returns, in order.

Names are imperatives. The pump carries them out in the order given and before
the next input; none of them answers. What answers comes back as an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from ctdbpy.core.inputs import NodeAddress, PublicAddress
from ctdbpy.wire.addresses import Connection
from ctdbpy.wire.own import ConfigurationAction
from ctdbpy.wire.tunables import Tunables


class LogLevel(IntEnum):
    """Upstream's debug levels, as GET_DEBUG and SET_DEBUG carry them."""

    ERROR = 0
    WARNING = 1
    NOTICE = 3
    INFO = 5
    DEBUG = 10


@dataclass(frozen=True, slots=True)
class Log:
    """Write one line; the core never logs by itself."""

    level: LogLevel
    text: str


@dataclass(frozen=True, slots=True)
class ReplyToClient:
    """Answer a client's control."""

    client_id: int
    reqid: int
    status: int
    data: bytes = b""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReplyToNode:
    """Answer another node's control."""

    pnn: int
    reqid: int
    status: int
    data: bytes = b""
    error: str = ""


@dataclass(frozen=True, slots=True)
class SendControl:
    """Send a control to exactly one other node. The core does its own broadcasting."""

    pnn: int
    reqid: int
    opcode: int
    srvid: int = 0
    client_id: int = 0
    flags: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send a message to a node or broadcast address (`wire.constants`); includes oneself if addressed."""

    destnode: int
    srvid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Listen:
    """Hand messages for this srvid to the core (`inputs.MessageArrived`) until `Unlisten`."""

    srvid: int


@dataclass(frozen=True, slots=True)
class Unlisten:
    """End `Listen`."""

    srvid: int


@dataclass(frozen=True, slots=True)
class DropClient:
    """End a client's connection."""

    client_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Keep trying to hold a link to this node."""

    pnn: int
    address: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Tear the link to this node down; with `forget`, do not connect again."""

    pnn: int
    reason: str
    forget: bool = False


class JobKind(Enum):
    """Bulk work on one database, done by a worker process with its own handle on the file.

    Jobs with the same `session` run in one worker in the order given; a session is
    what holds a database frozen: FREEZE begins it, THAW (or the worker's death) ends it.

    kind        data of the job               data of the answers
    UPDATE      rec_buffer                    - (status EEXIST-like errno when an rsn is too old)
    TRAVERSE    u32 reqid, u32 dmaster, u8    parts: back-to-back rec_data with this reqid; 0xFFFFFFFF:
                with_empty                    every record, else that dmaster's, empty ones only if asked
    FREEZE      -                             -
    THAW        -                             -
    BEGIN       -                             -      start the transaction of a frozen database
    COMMIT      -                             -
    CANCEL      -                             -
    WIPE        -                             -
    PULL        u32 lmaster, u32 size limit   parts: one rec_buffer each; last: u32 number of records
    PUSH        rec_buffer                    last: u32 number of records stored
    GATHER      u8 with own copy              last: u32 records      begin to merge nodes' copies: ours first
    MERGE       rec_buffer of node `pnn`      last: u32 records      take in what that node has
    SPREAD      u32 size limit                parts: rec_buffers of the result for the other nodes; last: u32
                                              number of records, stored here as well
    STORE       rec_buffer                    -      store each record this node does not own, flush
    FETCH       key                           last: the stored record with its header, empty if there is none
    CHECK       -                             -      tdb_check of the file
    VACUUM_SCAN -                             parts: rec_data (key, header) of empty records owned here
    REPACK      -                             -
    """

    UPDATE = "update"
    TRAVERSE = "traverse"
    FREEZE = "freeze"
    THAW = "thaw"
    BEGIN = "begin"
    COMMIT = "commit"
    CANCEL = "cancel"
    WIPE = "wipe"
    PULL = "pull"
    PUSH = "push"
    GATHER = "gather"
    MERGE = "merge"
    SPREAD = "spread"
    STORE = "store"
    FETCH = "fetch"
    CHECK = "check"
    VACUUM_SCAN = "vacuum_scan"
    REPACK = "repack"


@dataclass(frozen=True, slots=True)
class StartJob:
    """Have a bulk worker do something; answers come as `inputs.JobAnswered` with this id."""

    job_id: int
    kind: JobKind
    db_id: int
    session: int = 0
    data: bytes = b""
    #: Whose records these are, where it matters.
    pnn: int = -1


@dataclass(frozen=True, slots=True)
class StopJob:
    """End a job; no further answer is wanted, none comes."""

    job_id: int


@dataclass(frozen=True, slots=True)
class HoldJob:
    """Have a job that gives records wait (`held`), for whoever reads them is behind, or go on."""

    job_id: int
    held: bool


@dataclass(frozen=True, slots=True)
class SetHealth:
    """Note in the health database that a persistent database is unhealthy (`reason`) or healthy ("")."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadNodes:
    """Read the nodes file; `inputs.NodesRead` with this id answers."""

    read_id: int


@dataclass(frozen=True, slots=True)
class ReadPublicAddresses:
    """Read the public_addresses file; `inputs.PublicAddressesRead` with this id answers."""

    read_id: int


@dataclass(frozen=True, slots=True)
class ReadHomeNodes:
    """Read the home_nodes file; `inputs.HomeNodesRead` with this id answers."""

    read_id: int


@dataclass(frozen=True, slots=True)
class LookAtConfiguration:
    """See how the node would run with its files, or with a cluster file; `inputs.ConfigurationSeen` answers.

    The rest says how it runs: what may have changed since it was started. unheard: connected nodes whose
    heartbeats do not come through.
    """

    look_id: int
    action: ConfigurationAction
    text: str
    nodes: tuple[NodeAddress, ...]
    public_addresses: tuple[PublicAddress, ...]
    tunables: Tunables
    log_level: int
    unheard: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SetLogLevel:
    """Log from this level on."""

    level: int


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Send one keepalive to a connected node, so that peers without a guard know we live."""

    pnn: int
    uptime_s: int


@dataclass(frozen=True, slots=True)
class TellGuard:
    """Facts the guard needs from now on; sent whenever one of them changes.

    needed: how many other nodes must confirm that they hear this one, 0 if none need to.
    leader: node that must be among them, NOBODY if none must (this node leads, or no lease is wanted).
    linked: nodes whose link stands; to others the guard says that they are out, and confirms nothing.
    still: every database of this node is frozen, and it has no public address.
    keeps: its addresses need the confirmation of `needed` nodes, but not the leader's.
    """

    needed: int
    leader: int
    linked: tuple[int, ...]
    still: bool
    generation: int
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class TakeLock:
    """Try to take the cluster lock; `inputs.LockAnswered` with this number answers, `LockLost` may follow.

    only_look: another node should hold it. HELD means that it could be had; it is given back by itself.
    """

    attempt: int
    only_look: bool = False


@dataclass(frozen=True, slots=True)
class DropLock:
    """Give the cluster lock back, or end the attempt; nothing more is heard of it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Fence:
    """Have the administrator's fence command take the power from a node; `inputs.Fenced` answers."""

    pnn: int
    address: str


@dataclass(frozen=True, slots=True)
class StopFence:
    """End a node's fence command: the node is back, or another's to fence; `inputs.Fenced` still answers."""

    pnn: int


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Run an event's scripts, one after the other in order of name; `inputs.EventEnded` with this id answers.

    Events run one at a time in the order asked for. `monitor` gives way: it ends when another event comes,
    and is not begun while one runs.
    """

    event_id: int
    name: str
    args: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class StopEvent:
    """End an event's scripts, or do not begin them; `inputs.EventEnded` tells that it was cancelled."""

    event_id: int


@dataclass(frozen=True, slots=True)
class TellAdministrator:
    """Run the administrator's notify.sh with this word: init, setup, startup, healthy or unhealthy."""

    word: str


@dataclass(frozen=True, slots=True)
class PutAddress:
    """Have an interface of this host carry an address, and no other interface; `inputs.AddressDone` answers.

    It can be used at once, IPv6 too. Done already if it stands there. Deeds on one address are done in order.
    """

    deed_id: int
    address: str
    prefix: int
    interface: str


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Take an address from an interface ("": from all), end its connections; `inputs.AddressDone` answers.

    Announcing it ends at once. Done already if it stands nowhere. Its connections last while another
    interface carries it. `prefix` is for the log: what stands there is what goes.
    """

    deed_id: int
    address: str
    prefix: int = 0
    interface: str = ""


@dataclass(frozen=True, slots=True)
class AnnounceAddress:
    """Tell the interface's network that the address is here, now and twice again, 1.1 s apart.

    connections: clients (`src`) of the address (`dst`) that are woken each time. Announced anew, it is
    announced for the new reason only.
    """

    address: str
    interface: str
    connections: tuple[Connection, ...] = ()


@dataclass(frozen=True, slots=True)
class StopAnnouncing:
    """Send no more for `AnnounceAddress`."""

    address: str


@dataclass(frozen=True, slots=True)
class SendTickles:
    """Wake clients (`src`) of connections to public addresses (`dst`): they find out who serves them now."""

    connections: tuple[Connection, ...]


@dataclass(frozen=True, slots=True)
class KillConnections:
    """End every TCP connection that this host has at the address; who listens there goes on."""

    address: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the service manager where the node stands (`READY=1` once `ready`)."""

    text: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Exit:
    """End the process in an orderly way."""

    code: int
    reason: str


Effect = (
    Log
    | ReplyToClient
    | ReplyToNode
    | SendControl
    | SendMessage
    | Listen
    | Unlisten
    | DropClient
    | Connect
    | Disconnect
    | StartJob
    | StopJob
    | HoldJob
    | SetHealth
    | ReadNodes
    | ReadPublicAddresses
    | ReadHomeNodes
    | LookAtConfiguration
    | SetLogLevel
    | SendKeepalive
    | TellGuard
    | TakeLock
    | DropLock
    | Fence
    | StopFence
    | RunEvent
    | StopEvent
    | TellAdministrator
    | PutAddress
    | RemoveAddress
    | AnnounceAddress
    | StopAnnouncing
    | SendTickles
    | KillConnections
    | Announce
    | Exit
)
