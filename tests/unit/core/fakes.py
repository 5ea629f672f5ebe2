# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers made of dictionaries, honest about what they keep; and a pump for one node."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from ctdbpy.core.effects import (
    Effect,
    JobKind,
    Listen,
    PutAddress,
    ReadHomeNodes,
    ReadNodes,
    ReadPublicAddresses,
    RemoveAddress,
    ReplyToClient,
    RunEvent,
    SendMessage,
    StartJob,
    StopJob,
    Unlisten,
)
from ctdbpy.core.inputs import (
    ClientConnected,
    ClientControlArrived,
    ClientGone,
    EventEnded,
    HomeNodesRead,
    Input,
    JobAnswered,
    MessageArrived,
    NodeAddress,
    NodesRead,
    PublicAddressesRead,
    Started,
    TimeElapsed,
)
from ctdbpy.core.node import Node
from ctdbpy.core.state import NodeConfig, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.constants import (
    BROADCASTS,
    CURRENT_NODE,
    Capability,
    ControlFlag,
    DbFlag,
    NodeFlag,
    RecoveryMode,
    RunState,
)
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader
from ctdbpy.wire.tunables import Tunables
from tests.unit.core.fake_records import FakeRecords
from tests.unit.core.hosts import FakeHost
from tests.unit.core.merges import FakeMerge

#: Of the first recovery: the wall clock's hundredths of a second when a harness starts.
FIRST_GENERATION = 1_700_000_100 * 100 % 2**32


class Workers:
    """Bulk jobs on the fake's dictionaries, with sessions, transactions and what may go wrong (`failing`)."""

    def __init__(self, records: FakeRecords) -> None:
        self.records = records
        self.failing: set[JobKind] = set()
        self.seen: list[StartJob] = []
        self._saved: dict[int, dict[bytes, bytes]] = {}
        self._merges: dict[int, FakeMerge] = {}

    def do(self, job: StartJob) -> list[JobAnswered]:
        """Every answer of a job, at once."""
        self.seen.append(job)
        if job.kind in self.failing:
            return [JobAnswered(job.job_id, True, 5, b"", "the worker was told to fail")]
        try:
            parts, last, error = self._act(job)
        except ProtocolError as reason:
            # Clients' buffers go to the workers as they are.
            parts, last, error = [], b"", str(reason)
        answers = [JobAnswered(job.job_id, False, 0, part, "") for part in parts]
        return [*answers, JobAnswered(job.job_id, True, 17 if error else 0, last, error)]

    def _act(self, job: StartJob) -> tuple[list[bytes], bytes, str]:
        stored = self.records.databases[job.db_id].records
        match job.kind:
            case JobKind.UPDATE:
                return self._update(job, stored)
            case JobKind.STORE | JobKind.PUSH:
                buffer = RecBuffer.unpack(job.data)
                stored.update({record.key: record.data for record in buffer.records})
                return [], struct.pack("=I", len(buffer.records)), ""
            case JobKind.TRAVERSE:
                reqid, dmaster, with_empty = struct.unpack("=IIB", job.data)
                wanted = [
                    RecData(reqid, key, data).pack()
                    for key, data in stored.items()
                    if dmaster == 0xFFFFFFFF
                    or (
                        RecordHeader.unpack(data).dmaster == dmaster
                        and (with_empty or len(data) > RecordHeader.SIZE)
                    )
                ]
                return [b"".join(wanted)] if wanted else [], b"", ""
            case JobKind.BEGIN:
                self._saved[job.session] = dict(stored)
            case JobKind.COMMIT:
                del self._saved[job.session]
            case JobKind.CANCEL:
                stored.clear()
                stored.update(self._saved.pop(job.session))
            case JobKind.WIPE:
                stored.clear()
            case JobKind.PULL:
                records = tuple(RecData(0, key, data) for key, data in stored.items())
                part = RecBuffer(job.db_id, records).pack()
                return [part] if records else [], struct.pack("=I", len(records)), ""
            case JobKind.GATHER:
                is_volatile = not self.records.databases[job.db_id].flags & (
                    DbFlag.PERSISTENT | DbFlag.REPLICATED
                )
                merge = self._merges[job.session] = FakeMerge(job.db_id, self.records.pnn, is_volatile)
                records = tuple(RecData(0, key, data) for key, data in stored.items() if job.data[0])
                merge.add(RecBuffer(job.db_id, records).pack(), self.records.pnn)
                return [], struct.pack("=I", len(records)), ""
            case JobKind.MERGE:
                count = self._merges[job.session].add(job.data, job.pnn)
                return [], struct.pack("=I", count), ""
            case JobKind.SPREAD:
                merge, parts, total = self._merges.pop(job.session), [], 0
                while (taken := merge.take(*struct.unpack("=I", job.data)))[1]:
                    parts.append(taken[0])
                    total += taken[1]
                    stored.update({each.key: each.data for each in RecBuffer.unpack(taken[0]).records})
                return parts, struct.pack("=I", total), ""
            case JobKind.FETCH:
                return [], stored.get(job.data, b""), ""
            case JobKind.VACUUM_SCAN:
                empty = [
                    RecData(0, key, data).pack()
                    for key, data in stored.items()
                    if len(data) == RecordHeader.SIZE
                    and RecordHeader.unpack(data).dmaster == self.records.pnn
                ]
                return [b"".join(empty)] if empty else [], b"", ""
            case JobKind.FREEZE | JobKind.THAW | JobKind.CHECK | JobKind.REPACK:
                pass
        return [], b"", ""

    def _update(self, job: StartJob, stored: dict[bytes, bytes]) -> tuple[list[bytes], bytes, str]:
        buffer = RecBuffer.unpack(job.data)
        for record in buffer.records:
            old = stored.get(record.key)
            if old and RecordHeader.unpack(old).rsn >= record.header.rsn and old[24:] != record.value:
                return [], b"", f"the rsn of {record.key!r} is too old"
        stored.update({record.key: record.data for record in buffer.records})
        return [], b"", ""


class Harness:
    """One node with its fakes and a clock: carries out effects, keeps the rest in `effects`."""

    def __init__(self, config: NodeConfig | None = None, *, start: bool = True, **changes: Any) -> None:
        self.config = config or one_node(**changes)
        self.records = FakeRecords(self.config.pnn)
        self.workers = Workers(self.records)
        self.node = Node(self.config, self.records)
        self.now_s = 100.0
        self.effects: list[Effect] = []
        self.listening: set[int] = set()
        self.nodes_file = NodesRead(0, self.config.nodes)
        self.host = FakeHost()
        self.addresses_file = PublicAddressesRead(0, self.config.public_addresses)
        #: None: a disk that hangs.
        self.homes_file: HomeNodesRead | None = HomeNodesRead(0, ())
        self.hold_jobs = False
        self.held: list[StartJob] = []
        #: What scripts say of an event by name; of those not here, nothing bad.
        self.verdicts: dict[str, tuple[int, str]] = {}
        #: Every event run; while they are held they do not end.
        self.events: list[RunEvent] = []
        self.hold_events = False
        self._reqid = 0
        if start:
            self.begin()

    def begin(self) -> None:
        """Start the node."""
        self.give(Started())

    def give(self, happened: Input) -> list[Effect]:
        """One input and everything that follows from it at once."""
        new: list[Effect] = []
        queue: list[Input] = [happened]
        while queue:
            effects = self.node.step(self.now_s, queue.pop(0))
            self.node.validate()
            for effect in effects:
                new.append(effect)
                queue.extend(self._carry_out(effect))
        self.effects += new
        return new

    def advance(self, seconds: float) -> list[Effect]:
        """Let time pass, stopping at every moment the node asks for."""
        end_s = self.now_s + seconds
        new: list[Effect] = []
        while (due_s := self.node.deadline_s) is not None and due_s <= end_s:
            self.now_s = max(self.now_s, due_s)
            new += self.give(TimeElapsed())
            after = self.node.deadline_s
            assert after is None or after > self.now_s, "the node asks for the same moment again"
        self.now_s = end_s
        return new

    def pause_recoveries(self) -> None:
        """Recovery mode that no leader ends, until `resume_recoveries`."""
        state = self.node.state
        state.capabilities &= ~Capability.RECMASTER
        state.set_recmode(RecoveryMode.ACTIVE, "a test")
        self.give(TimeElapsed())

    def resume_recoveries(self) -> list[Effect]:
        """Let the node lead and recover again."""
        self.node.state.capabilities |= Capability.RECMASTER
        return self.give(TimeElapsed())

    def running_with_all(self) -> State:
        """Put one of several nodes into a running cluster: linked nodes are in its map, another leads."""
        state = self.node.state
        lmasters = tuple(node.pnn for node in state.nodes if node.is_connected)
        for node in state.nodes:
            if node.is_connected:
                state.set_flags(node.pnn, NodeFlag(0), "a test")
        state.capabilities &= ~Capability.RECMASTER
        state.runstate = RunState.RUNNING
        state.set_map(FIRST_GENERATION, lmasters)
        state.set_recmode(RecoveryMode.NORMAL, "a test")
        self.give(TimeElapsed())
        self.effects.clear()
        return state

    def connect(self, client_id: int = 7, pid: int = 4711) -> int:
        """A local program."""
        self.give(ClientConnected(client_id, pid, 0))
        return client_id

    def hang_up(self, client_id: int) -> list[Effect]:
        self.records.srvids.pop(client_id, None)
        return self.give(ClientGone(client_id, "end of file"))

    def send(
        self,
        client_id: int,
        opcode: int,
        data: bytes = b"",
        *,
        srvid: int = 0,
        flags: int = 0,
        dest: int = CURRENT_NODE,
    ) -> tuple[int, list[Effect]]:
        """A client's control; gives its reqid and what followed."""
        self._reqid += 1
        control = ReqControl(
            generation=0,
            destnode=dest,
            srcnode=0,
            reqid=self._reqid,
            opcode=opcode,
            srvid=srvid,
            client_id=0,
            flags=flags,
            data=data,
        )
        return self._reqid, self.give(ClientControlArrived(client_id, control))

    def ask(self, opcode: int, data: bytes = b"", **where: Any) -> ReplyToClient:
        """A control of a client that is connected for it if there is none; its one reply."""
        client_id = (
            where.pop("client_id", None) or next(iter(self.node.state.clients), None) or self.connect()
        )
        reqid, effects = self.send(client_id, opcode, data, **where)
        replies = self.replies(effects, reqid)
        assert len(replies) == 1, effects
        return replies[0]

    @staticmethod
    def replies(effects: list[Effect], reqid: int) -> list[ReplyToClient]:
        """The replies among effects to one control of a client."""
        return [each for each in effects if isinstance(each, ReplyToClient) and each.reqid == reqid]

    def attach(self, name: str = "test.tdb", opcode: Control = Control.DB_ATTACH) -> int:
        """Attach a database; its id."""
        reply = self.ask(opcode, name.encode() + b"\0")
        assert reply.status == 0, reply
        number: int = struct.unpack("=I", reply.data)[0]
        return number

    def release_jobs(self) -> list[Effect]:
        """Let workers do what they were held back from."""
        self.hold_jobs = False
        held, self.held = self.held, []
        new: list[Effect] = []
        for job in held:
            for answer in self.workers.do(job):
                new += self.give(answer)
        return new

    def release_deeds(self) -> list[Effect]:
        """Let the host do what it was held back from."""
        return [effect for happened in self.host.release() for effect in self.give(happened)]

    def _carry_out(self, effect: Effect) -> list[Input]:
        match effect:
            case Listen(srvid):
                self.listening.add(srvid)
            case Unlisten(srvid):
                self.listening.discard(srvid)
            case SendMessage(destnode, srvid, data):
                own = destnode == self.config.pnn or destnode in BROADCASTS
                if own and srvid in self.listening:
                    return [MessageArrived(self.config.pnn, srvid, data)]
            case StartJob():
                if self.hold_jobs:
                    self.held.append(effect)
                    return []
                return [*self.workers.do(effect)]
            case StopJob(job_id):
                self.held = [job for job in self.held if job.job_id != job_id]
            case RunEvent(event_id, name):
                self.events.append(effect)
                if not self.hold_events:
                    return [EventEnded(event_id, *self.verdicts.get(name, (0, "")))]
            case PutAddress() | RemoveAddress():
                return self.host.take(effect)
            case ReadPublicAddresses(read_id):
                return [replace(self.addresses_file, read_id=read_id)]
            case ReadHomeNodes(read_id):
                return [] if self.homes_file is None else [replace(self.homes_file, read_id=read_id)]
            case ReadNodes(read_id):
                return [NodesRead(read_id, self.nodes_file.nodes, self.nodes_file.error)]
            case _:
                pass
        return []


def one_node(**changes: Any) -> NodeConfig:
    """The configuration of a node that is alone."""
    settings: dict[str, Any] = {
        "pnn": 0,
        "nodes": (NodeAddress(0, "10.0.0.1"),),
        "tunables": Tunables(),
        "pid": 123,
        "wall_offset_s": 1_700_000_000.0,
    }
    return NodeConfig(**(settings | changes))


def several_nodes(count: int, pnn: int = 0, **changes: Any) -> NodeConfig:
    """The configuration of one of several nodes."""
    nodes = tuple(NodeAddress(number, f"10.0.0.{number + 1}") for number in range(count))
    return one_node(pnn=pnn, nodes=nodes, **changes)


def of_kind(effects: list[Effect], kind: type[Any]) -> list[Any]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


NOREPLY = int(ControlFlag.NOREPLY)
