# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk workers of a simulated node: the same jobs on the same TDBs, each part after a random delay."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ctdbpy.core import inputs
from ctdbpy.core.effects import JobKind, StartJob
from ctdbpy.errors import StoreError
from ctdbpy.store import jobs
from ctdbpy.store.jobs import (
    Database,
    Gather,
    Kind,
    Merge,
    Plain,
    Pull,
    Push,
    Spread,
    Store,
    Task,
    Traverse,
    Update,
    VacuumScan,
)
from ctdbpy.store.sessions import Session
from ctdbpy.wire.constants import DbFlag

if TYPE_CHECKING:
    from ctdbpy.sim.node import SimNode

JOB_S: Final = (0.0001, 0.003)
SLOW_JOB_S: Final = (0.01, 0.05)
_WRITES: Final = (
    JobKind.UPDATE,
    JobKind.STORE,
    JobKind.BEGIN,
    JobKind.PUSH,
    JobKind.SPREAD,
    JobKind.COMMIT,
    JobKind.WIPE,
)
_TRAVERSE: Final = struct.Struct("=IIB")
_PULL: Final = struct.Struct("=II")
_U32: Final = struct.Struct("=I")


class MemoryWorkers:
    """Runs jobs on one node. They go on while the daemon stalls; its answers wait for it."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._records = node.records
        self._sessions: dict[int, Session] = {}
        self._stopped: set[int] = set()
        #: Work on one database is done in the order given: when its last job so far ends.
        self._busy_until_s: dict[int, float] = {}
        self._is_disk_full = False
        self._hangs = False
        self._hung: list[StartJob] = []
        #: Called with the database and what it held, just before a recovery's result takes that place.
        self.on_commit: Callable[[int, Mapping[bytes, bytes]], None] = lambda _db_id, _before: None

    # -- faults ---------------------------------------------------------------------------------

    def fill_disk(self) -> None:
        """Nothing can be written any more."""
        self._is_disk_full = True

    def hang(self) -> None:
        """No job ends any more that needs the disk."""
        self._hangs = True

    @property
    def is_well(self) -> bool:
        return not self._is_disk_full and not self._hangs

    def mend(self) -> None:
        """The disk has room and answers again; what hung goes on."""
        self._is_disk_full = self._hangs = False
        hung, self._hung = self._hung, []
        for job in hung:
            self._run(job)

    # -- jobs -----------------------------------------------------------------------------------

    def start(self, job: StartJob, now_s: float) -> None:
        """Begin a job; its answers come later."""
        delay_s = self._node.world.random.uniform(*(SLOW_JOB_S if self._node.is_slow else JOB_S))
        begin_s = max(now_s, self._busy_until_s.get(job.db_id, 0.0)) + delay_s
        self._busy_until_s[job.db_id] = begin_s
        self._node.host_later(begin_s - now_s, lambda: self._run(job))

    def stop(self, job_id: int) -> None:
        """Let nothing more of a job be heard."""
        self._stopped.add(job_id)

    def committed(self, db_id: int, key: bytes) -> bytes | None:
        """A record as it would be found if everything under way came to nothing."""
        before = self._session(db_id).before
        return self._records.tdb(db_id).fetch(key) if before is None else before.get(key)

    def content(self, db_id: int) -> Mapping[bytes, bytes]:
        """All records, as they would be if everything under way came to nothing."""
        before = self._session(db_id).before
        return dict(self._records.tdb(db_id).traverse()) if before is None else before

    def is_locked(self, db_id: int) -> bool:
        """A worker holds every chain of this database: programs that want one hang in libtdb."""
        session = self._sessions.get(db_id)
        return session is not None and session.is_frozen

    def _run(self, job: StartJob) -> None:
        if job.job_id in self._stopped:
            return
        if self._hangs and job.kind is not JobKind.FREEZE:
            # Locks need no disk.
            self._hung.append(job)
            return
        if self._is_disk_full and job.kind in _WRITES:
            self._say(job, True, errno.ENOSPC, b"", "no space left on device")
            return
        if job.db_id not in self._node.node.state.databases:
            self._say(job, True, errno.EIO, b"", "the database is detached")
            return
        try:
            parts = list(self._parts(job))
        except StoreError as error:
            self._say(job, True, errno.EIO, b"", str(error))
            return
        for part in parts[:-1]:
            self._say(job, False, 0, part, "")
        self._say(job, True, 0, parts[-1], "")

    def _say(self, job: StartJob, last: bool, status: int, data: bytes, error: str) -> None:
        def say() -> None:
            if job.job_id not in self._stopped:
                self._node.step(inputs.JobAnswered(job.job_id, last, status, data, error))

        if self._node.is_stalled or self._node.is_slow:
            self._node.later(0.0, say)
        else:
            say()

    def _parts(self, job: StartJob) -> Iterator[bytes]:
        """The parts of a job's answer; the last one is its end."""
        session = self._session(job.db_id)
        match job.kind:
            case JobKind.FREEZE:
                session.is_frozen = True
                yield b""
            case JobKind.THAW:
                if session.in_transaction:
                    list(_drain(session, Plain(Kind.CANCEL)))
                session.is_frozen = False
                yield b""
            case JobKind.FETCH:
                yield self._records.tdb(job.db_id).fetch(job.data) or b""
            case _:
                yield from self._perform(session, job)

    def _perform(self, session: Session, job: StartJob) -> Iterator[bytes]:
        if job.kind is JobKind.COMMIT:
            self.on_commit(job.db_id, session.before or {})
        *parts, end = _drain(session, self._task(job))
        yield from parts
        if job.kind is JobKind.PUSH:
            answer = jobs.Answer(job.job_id, 0, True, end)
            for key in answer.scheduled:
                record = self._records.fetch(job.db_id, key)
                if record is not None and len(record) == 24:
                    self._records.schedule_deletion(job.db_id, record, key)
            end = end[:4]
        if job.kind in (JobKind.UPDATE, JobKind.COMMIT):
            self._records.sync(job.db_id)
        yield end

    def _session(self, db_id: int) -> Session:
        session = self._sessions.get(db_id)
        tdb = self._records.tdb(db_id)
        if session is None or session.tdb is not tdb:
            flags = self._records.flags(db_id)
            is_volatile = not flags & (DbFlag.PERSISTENT | DbFlag.REPLICATED)
            session = Session(tdb, Database(self._records.path(db_id), 0, db_id, is_volatile))
            self._sessions[db_id] = session
        return session

    def _task(self, job: StartJob) -> Task:
        lmasters, pnn = self._records.lmasters, self._node.pnn
        match job.kind:
            case JobKind.UPDATE:
                return Update(job.data, pnn, lmasters)
            case JobKind.STORE:
                return Store(job.data, pnn)
            case JobKind.PUSH:
                return Push(job.data, pnn, lmasters)
            case JobKind.TRAVERSE:
                reqid, owner, with_empty = _TRAVERSE.unpack(job.data)
                return Traverse(reqid, owner, bool(with_empty))
            case JobKind.PULL:
                lmaster, limit = _PULL.unpack(job.data)
                return Pull(lmaster, lmasters, limit)
            case JobKind.GATHER:
                return Gather(pnn, bool(job.data[0]))
            case JobKind.MERGE:
                return Merge(job.data, job.pnn)
            case JobKind.SPREAD:
                return Spread(pnn, lmasters, _U32.unpack(job.data)[0])
            case JobKind.VACUUM_SCAN:
                return VacuumScan(pnn)
            case _:
                return Plain(Kind[job.kind.name])


def _drain(session: Session, task: Task) -> list[bytes]:
    """Every part of an answer, its end last."""
    work = session.perform(task)
    parts = []
    while True:
        try:
            parts.append(next(work))
        except StopIteration as end:
            parts.append(end.value)
            return parts
