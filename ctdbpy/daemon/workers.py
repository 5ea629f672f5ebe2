# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk workers: processes that read and write whole databases on handles of their own.

Three uses, kept apart so that one never waits for another: a session (everything done to a
frozen database happens in one worker, which holds its lock), writers (updates of persistent
databases, in order per database) and scanners (traverses, pulls, vacuum scans).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.core.effects import JobKind, StartJob
from ctdbpy.core.ports import Busy
from ctdbpy.daemon.processes import spawn_module
from ctdbpy.daemon.records import LocalRecords
from ctdbpy.errors import HostError, ProtocolError, StoreError
from ctdbpy.host.children import Child, Children
from ctdbpy.store import jobs
from ctdbpy.store.jobs import (
    Answer,
    Database,
    Kind,
    Plain,
    Pull,
    Push,
    Request,
    Store,
    Task,
    Traverse,
    Update,
    VacuumScan,
)
from ctdbpy.wire.constants import DbFlag

WRITERS: Final = 2
SCANNERS_MAX: Final = 4
SESSIONS_KEPT: Final = 2
FETCH_RETRY_S: Final = 0.005
FETCH_LIMIT_S: Final = 30.0
READ_BYTES: Final = 1 << 18

#: Id of a request whose answer nobody waits for; jobs count from 1.
_NO_JOB: Final = 0
_TRAVERSE: Final = struct.Struct("=IIB")
_PULL: Final = struct.Struct("=II")
_PLAIN: Final = {
    JobKind.FREEZE: Kind.FREEZE,
    JobKind.THAW: Kind.THAW,
    JobKind.BEGIN: Kind.BEGIN,
    JobKind.COMMIT: Kind.COMMIT,
    JobKind.CANCEL: Kind.CANCEL,
    JobKind.WIPE: Kind.WIPE,
    JobKind.CHECK: Kind.CHECK,
    JobKind.REPACK: Kind.REPACK,
}


@dataclass(slots=True)
class _Worker:
    child: Child
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    #: Jobs it has, oldest first, with what to do about their answers.
    jobs: dict[int, StartJob] = field(default_factory=dict)
    session: int = 0
    session_db: int = 0


class Workers:
    """All worker processes of the daemon. `answer(input)` takes what comes back, on the loop."""

    def __init__(
        self,
        records: LocalRecords,
        children: Children,
        answer: Callable[[inputs.Input], None],
        log: Callable[[str], None],
        *,
        pnn: int,
    ) -> None:
        self._records = records
        self._children = children
        self._answer = answer
        self._log = log
        self._pnn = pnn
        self._workers: list[_Worker] = []
        self._writers: list[_Worker] = []
        self._scanners: list[_Worker] = []
        self._idle_sessions: list[_Worker] = []
        self._sessions: dict[int, _Worker] = {}
        self._scans: deque[StartJob] = deque()
        self._fetches: dict[int, asyncio.TimerHandle] = {}
        self._is_stopped = False

    def start(self) -> None:
        """Have a writer ready, so that the first commit does not wait for a process to start."""
        self._writer(0)

    def stop(self) -> None:
        """End every worker; what they had not committed is undone by the kernel and libtdb."""
        self._is_stopped = True
        for timer in self._fetches.values():
            timer.cancel()
        for worker in self._workers:
            self._close(worker)
        self._workers.clear()

    # -- jobs -----------------------------------------------------------------------

    def start_job(self, job: StartJob) -> None:
        """Give a job to the worker it belongs to."""
        if job.kind is JobKind.FETCH:
            self._fetch(job, asyncio.get_running_loop().time() + FETCH_LIMIT_S)
            return
        try:
            if job.session:
                self._send(self._session(job), job)
            elif job.kind in (JobKind.UPDATE, JobKind.STORE):
                self._send(self._writer(job.db_id), job)
            else:
                self._scans.append(job)
                self._give_scans()
        except (HostError, StoreError) as error:
            self._end_job(job, errno.EIO, str(error))

    def stop_job(self, job_id: int) -> None:
        """End a job; nobody wants its answer."""
        timer = self._fetches.pop(job_id, None)
        if timer is not None:
            timer.cancel()
        self._scans = deque(job for job in self._scans if job.job_id != job_id)
        for worker in self._workers:
            job = worker.jobs.pop(job_id, None)
            if job is not None:
                self._write(worker, Request(job_id, self._database(job.db_id), Plain(Kind.STOP)).pack())

    def forget(self, db_id: int) -> None:
        """Have every worker close a database's file, before it is detached."""
        request = Request(_NO_JOB, self._database(db_id), Plain(Kind.FORGET)).pack()
        for worker in self._workers:
            self._write(worker, request)

    def _fetch(self, job: StartJob, limit_s: float) -> None:
        """Read one record as soon as nobody holds its chain; no process is needed for that."""
        loop = asyncio.get_running_loop()
        self._fetches.pop(job.job_id, None)
        try:
            record = self._read(job)
        except Busy:
            if loop.time() >= limit_s:
                self._end_job(job, errno.ETIMEDOUT, "its chain stayed locked for 30 seconds")
                return
            self._fetches[job.job_id] = loop.call_later(FETCH_RETRY_S, self._fetch, job, limit_s)
        except StoreError as error:
            self._end_job(job, errno.EIO, str(error))
        else:
            # Not from within the step that asked for it.
            answer = inputs.JobAnswered(job.job_id, True, 0, record or b"", "")
            self._fetches[job.job_id] = loop.call_later(0, self._fetched, answer)

    def _read(self, job: StartJob) -> bytes | None:
        if not job.session:
            return self._records.fetch(job.db_id, job.data)
        worker = self._sessions.get(job.session)
        if worker is None:
            raise StoreError(f"cannot read database 0x{job.db_id:08x}: it is not frozen any more")
        if any(other.kind is JobKind.FREEZE for other in worker.jobs.values()):
            raise Busy
        return self._records.fetch_frozen(job.db_id, job.data)

    def _fetched(self, answer: inputs.JobAnswered) -> None:
        self._fetches.pop(answer.job_id, None)
        self._answer(answer)

    def _end_job(self, job: StartJob, status: int, error: str) -> None:
        answer = inputs.JobAnswered(job.job_id, True, status, b"", error)
        asyncio.get_running_loop().call_soon(self._answer, answer)

    def _database(self, db_id: int) -> Database:
        tdb = self._records.tdb(db_id)
        # As they are now, not as it was opened: what counts changes (SEQNUM) must count the worker's, too.
        flags = self._records.flags(db_id)
        return Database(tdb.path, tdb.flags, db_id, not flags & (DbFlag.PERSISTENT | DbFlag.REPLICATED))

    def _task(self, job: StartJob) -> Task:
        match job.kind:
            case JobKind.UPDATE:
                return Update(job.data, self._pnn, self._records.lmasters)
            case JobKind.STORE:
                return Store(job.data, self._pnn)
            case JobKind.PUSH:
                return Push(job.data, self._pnn, self._records.lmasters)
            case JobKind.TRAVERSE:
                reqid, owner, with_empty = _TRAVERSE.unpack(job.data)
                return Traverse(reqid, owner, bool(with_empty))
            case JobKind.PULL:
                lmaster, limit = _PULL.unpack(job.data)
                return Pull(lmaster, self._records.lmasters, limit)
            case JobKind.VACUUM_SCAN:
                return VacuumScan(self._pnn)
            case _:
                return Plain(_PLAIN[job.kind])

    # -- which worker ------------------------------------------------------------------

    def _writer(self, db_id: int) -> _Worker:
        if len(self._writers) < WRITERS and (not self._writers or all(w.jobs for w in self._writers)):
            busy = any(job.db_id == db_id for w in self._writers for job in w.jobs.values())
            if not busy:
                self._writers.append(self._start_one())
        for worker in self._writers:
            # Updates of one database stay in order.
            if any(job.db_id == db_id for job in worker.jobs.values()):
                return worker
        return min(self._writers, key=lambda worker: len(worker.jobs))

    def _give_scans(self) -> None:
        while self._scans:
            worker = next((w for w in self._scanners if not w.jobs), None)
            if worker is None:
                if len(self._scanners) >= SCANNERS_MAX:
                    return
                worker = self._start_one()
                self._scanners.append(worker)
            self._send(worker, self._scans.popleft())

    def _session(self, job: StartJob) -> _Worker:
        worker = self._sessions.get(job.session)
        if worker is None:
            if job.kind is not JobKind.FREEZE:
                raise StoreError(
                    f"cannot {job.kind.value} database 0x{job.db_id:08x}: it is not frozen any more"
                )
            worker = self._idle_sessions.pop() if self._idle_sessions else self._start_one()
            worker.session = job.session
            worker.session_db = job.db_id
            self._sessions[job.session] = worker
        return worker

    def _end_session(self, worker: _Worker) -> None:
        self._sessions.pop(worker.session, None)
        worker.session = 0
        if len(self._idle_sessions) < SESSIONS_KEPT:
            self._idle_sessions.append(worker)
        else:
            self._workers.remove(worker)
            self._close(worker)

    # -- one worker ----------------------------------------------------------------------

    def _start_one(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            child = spawn_module(self._children, "ctdbpy.store.worker", theirs)
        except HostError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        worker = _Worker(child, ours)
        self._workers.append(worker)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable, worker)
        return worker

    def _send(self, worker: _Worker, job: StartJob) -> None:
        request = Request(job.job_id, self._database(job.db_id), self._task(job))
        worker.jobs[job.job_id] = job
        self._write(worker, request.pack())

    def _write(self, worker: _Worker, data: bytes) -> None:
        is_waiting = bool(worker.unsent)
        worker.unsent += data
        if not is_waiting:
            self._writable(worker)

    def _writable(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        try:
            while worker.unsent:
                del worker.unsent[: worker.socket.send(worker.unsent)]
        except (BlockingIOError, InterruptedError):
            loop.add_writer(worker.socket.fileno(), self._writable, worker)
            return
        except OSError as error:
            loop.call_soon(self._lost, worker, os.strerror(error.errno or 0))
            return
        loop.remove_writer(worker.socket.fileno())

    def _readable(self, worker: _Worker) -> None:
        try:
            data = worker.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(worker, os.strerror(error.errno or 0))
            return
        if not data:
            self._lost(worker, "it ended")
            return
        worker.received += data
        try:
            while (answer := jobs.take_answer(worker.received)) is not None:
                self._answered(worker, answer)
        except ProtocolError as error:
            self._lost(worker, str(error))

    def _answered(self, worker: _Worker, answer: Answer) -> None:
        job = worker.jobs.get(answer.job_id)
        if job is None:
            return
        error, data = "", answer.data
        if answer.is_last:
            del worker.jobs[answer.job_id]
            if answer.status:
                error, data = data.decode(errors="replace"), b""
            elif job.kind is JobKind.PUSH:
                for key in answer.scheduled:
                    self._schedule(job.db_id, key)
                data = data[:4]
            if job.kind is JobKind.THAW or (job.kind is JobKind.FREEZE and answer.status):
                self._end_session(worker)
        self._answer(inputs.JobAnswered(answer.job_id, answer.is_last, answer.status, data, error))
        if answer.is_last:
            try:
                self._give_scans()
            except HostError as reason:
                self._log(str(reason))

    def _schedule(self, db_id: int, key: bytes) -> None:
        try:
            record = self._records.fetch(db_id, key)
        except (Busy, StoreError):
            # The full vacuum scan finds it.
            return
        if record is not None and len(record) == 24:
            self._records.schedule_deletion(db_id, record, key)

    def _lost(self, worker: _Worker, reason: str) -> None:
        if worker not in self._workers or self._is_stopped:
            return
        self._workers.remove(worker)
        for kept in (self._writers, self._scanners, self._idle_sessions):
            if worker in kept:
                kept.remove(worker)
        self._close(worker)
        self._log(f"worker process {worker.child.pid} is lost: {reason}; its {len(worker.jobs)} jobs fail")
        for job in worker.jobs.values():
            self._answer(
                inputs.JobAnswered(job.job_id, True, errno.EIO, b"", f"its worker is lost: {reason}")
            )
        if worker.session:
            del self._sessions[worker.session]
            self._answer(inputs.SessionLost(worker.session, worker.session_db, reason))
        self._give_scans()

    def _close(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.socket.fileno())
        loop.remove_writer(worker.socket.fileno())
        worker.socket.close()
        worker.child.kill()
