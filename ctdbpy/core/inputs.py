# SPDX-License-Identifier: GPL-3.0-or-later
"""What can happen to a node: the closed vocabulary of `Node.step`.

Names are past participles. Each value is complete: the core never asks the
outside for more, except through `ports.Records`, which answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ctdbpy.wire.packets import ReplyControl, ReqControl


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon has its sockets and its persistent databases; the brain may begin."""


@dataclass(frozen=True, slots=True)
class TimeElapsed:
    """A deadline that `Node.deadline_s` named has come (or the pump woke anyway)."""


@dataclass(frozen=True, slots=True)
class ClientConnected:
    """A local program connected to the Unix socket; pid and uid come from the kernel."""

    client_id: int
    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A local program's connection ended, for whatever reason; it answers nothing any more."""

    client_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClientControlArrived:
    """A local program sent a control, to this node or through it to others."""

    client_id: int
    control: ReqControl


@dataclass(frozen=True, slots=True)
class NodeControlArrived:
    """Another node (or this one, by broadcast) sent a control to this node."""

    pnn: int
    control: ReqControl


@dataclass(frozen=True, slots=True)
class ReplyArrived:
    """Another node answered a control that this node sent."""

    pnn: int
    reply: ReplyControl


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A message for a srvid that the core itself listens to (`effects.Listen`)."""

    pnn: int
    srvid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Both directions of the link to a node stand."""

    pnn: int


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link to a node broke; `reason` names errno and likely cause."""

    pnn: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeepaliveArrived:
    """A node said that it lives: version is (major << 16) | minor, 0 for a node too old to say."""

    pnn: int
    version: int
    uptime_s: int


@dataclass(frozen=True, slots=True)
class JobAnswered:
    """A bulk worker produced a part of its answer (`last=False`) or ended (`last=True`).

    status: 0 success, otherwise a positive errno; `error` then says in words what failed.
    data: what the job kind defines (see `effects.StartJob`).
    """

    job_id: int
    last: bool
    status: int
    data: bytes
    error: str


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The worker that held a database frozen died: its lock is gone, the database is not frozen any more.

    Jobs of the session that were not answered yet get their `JobAnswered` with an error first.
    """

    session: int
    db_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class TraverseEnded:
    """The last record of a node's share of a traverse asked for here has been delivered by the engine."""

    pnn: int
    traverse_id: int


@dataclass(frozen=True, slots=True)
class ClientBehind:
    """Much waits to be read by a client (`behind`), or little does again."""

    client_id: int
    behind: bool


@dataclass(frozen=True, slots=True)
class RevokeWanted:
    """A record with read-only copies on `nodes` has to be written: `buffer` (rec_buffer) takes them back.

    The core has every node store it (UPDATE_RECORD) and tells the engine by `ports.Records.revoked`.
    """

    db_id: int
    key: bytes
    buffer: bytes
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """One line of the nodes file: its number is the pnn, a commented line is a deleted node."""

    pnn: int
    address: str
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class NodesRead:
    """The nodes file was read (`effects.ReadNodes`); with `error`, it could not be, and `nodes` is empty."""

    read_id: int
    nodes: tuple[NodeAddress, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """One line of the public_addresses file: an address, and the interfaces that could carry it."""

    address: str
    prefix: int
    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublicAddressesRead:
    """The public_addresses file was read; with `error`, it could not be, and `addresses` is empty."""

    read_id: int
    addresses: tuple[PublicAddress, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class HomeNodesRead:
    """The home_nodes file was read: pairs of address and node; with `error`, it could not be."""

    read_id: int
    homes: tuple[tuple[str, int], ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class ConfigurationSeen:
    """How the node would run (`effects.LookAtConfiguration`): a ConfigurationReport for whoever asked."""

    look_id: int
    report: bytes


@dataclass(frozen=True, slots=True)
class RecordsComplained:
    """The record engine met something only the core can decide.

    what: `dmaster` (a node gave away a record it did not own: recover), `generation`
    (frames of another generation keep coming), `hot` (a record bounces).
    """

    what: str
    db_id: int
    pnn: int
    text: str


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """A signal or the service manager asks the node to end."""

    reason: str


class Sight(Enum):
    """What the guard knows of another node.

    UNKNOWN  no heartbeat was ever heard since its link stood: a node without a guard, or a blocked port
    LIVE     heartbeats come, its daemon makes progress
    STILL    it says that its databases are frozen: whoever recovers without it takes nothing from it
    STALLED  its guard lives, its daemon has made no progress for StallLimit
    GONE     its guard says that its daemon has ended
    SILENT   no heartbeat for HeartbeatLimit intervals
    """

    UNKNOWN = "unknown"
    LIVE = "live"
    STILL = "still"
    STALLED = "stalled"
    GONE = "gone"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """The guard sees another node in a new way; `text` says how it knows, in words and figures."""

    pnn: int
    sight: Sight
    text: str


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Too few nodes confirm that they hear this one, or its leader does not: others may go on without it.

    The engine holds calls back already. `text` says who has not confirmed, and for how long.
    """

    text: str


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """Enough nodes confirm again that they hear this one, its leader (if it has another) among them."""


@dataclass(frozen=True, slots=True)
class Paused:
    """This host, or its guard, stood still: what it knew is so old."""

    seconds: float


class LockOutcome(Enum):
    """How an attempt to take the cluster lock ended, in the order of the helper's characters 0 to 3."""

    HELD = "held"
    CONTENDED = "contended"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LockAnswered:
    """An attempt to take the cluster lock (`effects.TakeLock`) ended; `text` is for the log."""

    attempt: int
    outcome: LockOutcome
    text: str = ""


@dataclass(frozen=True, slots=True)
class LockLost:
    """The cluster lock was held and is not any more."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """A node has no power now (`effects.Fence`), for certain; with `error` nobody knows."""

    pnn: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class EventEnded:
    """The scripts of an event (`effects.RunEvent`) have run, all or up to the first that failed.

    status: 0 if none failed, ENOEXEC if one did, ETIMEDOUT if time was up, ECANCELED if the event gave way
    or was stopped, another errno if it could not be run. `text` then says which script did what.
    """

    event_id: int
    status: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class AddressDone:
    """What `effects.PutAddress` or `RemoveAddress` with this id wanted is so; with `error`, it is not."""

    deed_id: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface of this host; `is_up`: it is switched on and has a carrier."""

    name: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address that an interface of this host carries, in its canonical text."""

    address: str
    prefix: int
    interface: str


@dataclass(frozen=True, slots=True)
class HostSeen:
    """All interfaces of this host and all addresses on them: at the start, and soon after each change.

    It comes after the `AddressDone` of a deed that it shows.
    """

    links: tuple[LinkState, ...]
    addresses: tuple[HostAddress, ...]


Input = (
    Started
    | TimeElapsed
    | ClientConnected
    | ClientGone
    | ClientControlArrived
    | NodeControlArrived
    | ReplyArrived
    | MessageArrived
    | LinkUp
    | LinkDown
    | KeepaliveArrived
    | JobAnswered
    | SessionLost
    | TraverseEnded
    | ClientBehind
    | RevokeWanted
    | NodesRead
    | PublicAddressesRead
    | HomeNodesRead
    | ConfigurationSeen
    | RecordsComplained
    | NodeSeen
    | LeaseLost
    | LeaseHeld
    | Paused
    | LockAnswered
    | LockLost
    | Fenced
    | EventEnded
    | AddressDone
    | HostSeen
    | ShutdownAsked
)
