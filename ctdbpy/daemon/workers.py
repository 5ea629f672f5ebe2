# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk workers: processes that read and write whole databases on handles of their own.

Three uses, kept apart so that one never waits for another: sessions (everything done to a
frozen database happens in one worker, which has its locks held; a worker has several), writers
(updates of persistent databases, in order per database) and scanners (traverses, vacuum scans).

Records that go out to somebody who reads slowly are produced no faster than they are read.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.core.effects import JobKind, StartJob
from ctdbpy.core.ports import Busy
from ctdbpy.daemon.poller import BEHIND_BYTES
from ctdbpy.daemon.records import LocalRecords, Reader
from ctdbpy.daemon.worker import Worker
from ctdbpy.errors import HostError, StoreError
from ctdbpy.host.children import Children
from ctdbpy.store.jobs import (
    Answer,
    Database,
    Gather,
    Kind,
    Merge,
    Plain,
    Pull,
    Push,
    Request,
    Spread,
    Store,
    Task,
    Traverse,
    Update,
    VacuumScan,
)
from ctdbpy.wire.constants import DbFlag
from ctdbpy.wire.records import RecordHeader

WRITERS_MAX: Final = 4
SCANNERS_MAX: Final = 4
#: Kept ready from the start: a recovery freezes every database at once, and a process takes 40 ms to start.
SESSION_WORKERS: Final = max(2, min(3, os.cpu_count() or 1))
FETCH_RETRY_S: Final = 0.005
FETCH_LIMIT_S: Final = 30.0

#: Id of a request whose answer nobody waits for; jobs count from 1.
_NO_JOB: Final = 0
_NO_DATABASE: Final = Database("", 0, 0, False)
_TRAVERSE: Final = struct.Struct("=IIB")
_PULL: Final = struct.Struct("=II")
_U32: Final = struct.Struct("=I")
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


class Workers:
    """All worker processes of the daemon.

    answer(input): takes what comes back, on the loop. backlog(client_id, pnn): bytes that wait to be read
    by a client or node. await_drained(client_id, pnn): have `drained` called when that has become little.
    """

    def __init__(
        self,
        records: LocalRecords,
        children: Children,
        answer: Callable[[inputs.Input], None],
        log: Callable[[str], None],
        *,
        pnn: int,
        backlog: Callable[[int, int], int],
        await_drained: Callable[[int, int], None],
    ) -> None:
        self._records = records
        self._children = children
        self._answer = answer
        self._log = log
        self._pnn = pnn
        self._backlog = backlog
        self._await_drained = await_drained
        self._writers: list[Worker] = []
        self._scanners: list[Worker] = []
        self._session_workers: list[Worker] = []
        #: Sessions by their number: who has them, and of which database.
        self._sessions: dict[int, tuple[Worker, int]] = {}
        self._scans: deque[StartJob] = deque()
        #: Workers whose records somebody here is slow to read, and jobs whose records another node is.
        self._behind: dict[Worker, Reader] = {}
        self._held: set[int] = set()
        self._fetches: dict[int, asyncio.TimerHandle] = {}
        self._is_stopped = False

    def start(self) -> None:
        """Have workers ready, so that neither a commit nor a recovery waits for a process to start."""
        self._writers.append(self._start_one())
        for _ in range(SESSION_WORKERS):
            self._session_workers.append(self._start_one())

    def stop(self) -> None:
        """End every worker; what they had not committed is undone by the kernel and libtdb."""
        self._is_stopped = True
        for timer in self._fetches.values():
            timer.cancel()
        for worker in self._all():
            worker.close()

    # -- jobs -----------------------------------------------------------------------

    def start_job(self, job: StartJob) -> None:
        """Give a job to the worker it belongs to."""
        if self._is_stopped:
            return
        if job.kind is JobKind.FETCH:
            self._fetch(job, asyncio.get_running_loop().time() + FETCH_LIMIT_S)
        elif job.session or job.kind in (JobKind.UPDATE, JobKind.STORE):
            try:
                self._give(self._session(job) if job.session else self._writer(job.db_id), job)
            except (HostError, StoreError) as error:
                self._end_job(job, errno.EIO, str(error))
        else:
            self._scans.append(job)
            self._give_scans()

    def stop_job(self, job_id: int) -> None:
        """End a job; nobody wants its answer."""
        timer = self._fetches.pop(job_id, None)
        if timer is not None:
            timer.cancel()
        self._held.discard(job_id)
        self._scans = deque(job for job in self._scans if job.job_id != job_id)
        for worker in self._all():
            if worker.jobs.pop(job_id, None) is not None:
                worker.ask(Request(job_id, _NO_DATABASE, Plain(Kind.STOP)))
                # It hears of it only once it is rid of what it has produced.
                self._behind.pop(worker, None)
                self._pace(worker)

    def hold_job(self, job_id: int, *, held: bool) -> None:
        """Read no further answers of a job for now, or go on."""
        waiting = any(job.job_id == job_id for job in self._scans)
        having = [worker for worker in self._all() if job_id in worker.jobs]
        if held and (waiting or having):
            self._held.add(job_id)
        elif not held:
            self._held.discard(job_id)
        for worker in having:
            self._pace(worker)

    def forget(self, db_id: int) -> None:
        """Have every worker close a database's file, before it is detached."""
        request = Request(_NO_JOB, self._database(db_id), Plain(Kind.FORGET))
        for worker in self._all():
            worker.ask(request)

    def drained(self) -> None:
        """Somebody who was far behind has read most of what waited, or is gone."""
        for worker, reader in list(self._behind.items()):
            if self._backlog(reader.client_id, reader.pnn) <= BEHIND_BYTES:
                del self._behind[worker]
                self._pace(worker)

    def _pace(self, worker: Worker) -> None:
        if worker in self._behind or not self._held.isdisjoint(worker.jobs):
            worker.pause()
        else:
            worker.resume()

    def _all(self) -> list[Worker]:
        return [*self._writers, *self._scanners, *self._session_workers]

    # -- reading one record: no process is needed for that -----------------------------

    def _fetch(self, job: StartJob, limit_s: float) -> None:
        """Read one record as soon as nobody holds its chain."""
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
        if job.session not in self._sessions:
            raise StoreError(f"cannot read database 0x{job.db_id:08x}: it is not frozen any more")
        worker, _db_id = self._sessions[job.session]
        if any(
            other.kind is JobKind.FREEZE and other.session == job.session for other in worker.jobs.values()
        ):
            raise Busy
        return self._records.fetch_frozen(job.db_id, job.data)

    def _fetched(self, answer: inputs.JobAnswered) -> None:
        self._fetches.pop(answer.job_id, None)
        self._answer(answer)

    # -- which worker ------------------------------------------------------------------

    def _writer(self, db_id: int) -> Worker:
        for worker in self._writers:
            # Updates of one database stay in order.
            if any(job.db_id == db_id for job in worker.jobs.values()):
                return worker
        if all(worker.jobs for worker in self._writers) and len(self._writers) < WRITERS_MAX:
            # A transaction waits as long as some program holds a lock of its database.
            self._writers.append(self._start_one())
        return min(self._writers, key=lambda worker: len(worker.jobs))

    def _give_scans(self) -> None:
        while self._scans:
            worker = next((each for each in self._scanners if not (each.jobs or each.is_paused)), None)
            if worker is None:
                if len(self._scanners) >= SCANNERS_MAX:
                    return
                try:
                    worker = self._start_one()
                except HostError as error:
                    if not self._scanners:
                        self._end_job(self._scans.popleft(), errno.EIO, str(error))
                        continue
                    return
                self._scanners.append(worker)
            job = self._scans.popleft()
            try:
                self._give(worker, job)
                self._pace(worker)
            except StoreError as error:
                self._end_job(job, errno.EIO, str(error))

    def _session(self, job: StartJob) -> Worker:
        known = self._sessions.get(job.session)
        if known is not None:
            return known[0]
        if job.kind is not JobKind.FREEZE:
            raise StoreError(f"cannot {job.kind.value} database 0x{job.db_id:08x}: it is not frozen any more")
        if len(self._session_workers) < SESSION_WORKERS:
            self._session_workers.append(self._start_one())
        having = [worker for worker, _db_id in self._sessions.values()]
        worker = min(self._session_workers, key=having.count)
        self._sessions[job.session] = worker, job.db_id
        return worker

    def _start_one(self) -> Worker:
        return Worker(self._children, self._answered, self._lost)

    # -- there and back -------------------------------------------------------------------

    def _give(self, worker: Worker, job: StartJob) -> None:
        request = Request(job.job_id, self._database(job.db_id), self._task(job))
        worker.jobs[job.job_id] = job
        worker.ask(request)

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
            case JobKind.GATHER:
                return Gather(self._pnn, bool(job.data[0]))
            case JobKind.MERGE:
                return Merge(job.data, job.pnn)
            case JobKind.SPREAD:
                return Spread(self._pnn, self._records.lmasters, _U32.unpack(job.data)[0])
            case JobKind.VACUUM_SCAN:
                return VacuumScan(self._pnn)
            case _:
                return Plain(_PLAIN[job.kind])

    def _answered(self, worker: Worker, answer: Answer) -> None:
        job = worker.jobs.get(answer.job_id)
        if job is None:
            if not worker.jobs:
                self._give_scans()
            return
        if not answer.is_last:
            self._part(worker, answer)
            return
        error, data = "", answer.data
        del worker.jobs[answer.job_id]
        self._held.discard(answer.job_id)
        if answer.status:
            error, data = data.decode(errors="replace"), b""
        elif job.kind is JobKind.PUSH:
            for key in answer.scheduled:
                self._schedule(job.db_id, key)
            data = data[:4]
        if job.kind is JobKind.THAW or (job.kind is JobKind.FREEZE and answer.status):
            self._sessions.pop(job.session, None)
        self._answer(inputs.JobAnswered(answer.job_id, True, answer.status, data, error))
        self._give_scans()

    def _part(self, worker: Worker, answer: Answer) -> None:
        self._records.take_reader()
        self._answer(inputs.JobAnswered(answer.job_id, False, answer.status, answer.data, ""))
        reader = self._records.take_reader()
        if reader is None or answer.job_id not in worker.jobs:
            return
        if self._backlog(reader.client_id, reader.pnn) > BEHIND_BYTES:
            self._behind[worker] = reader
            self._pace(worker)
            self._await_drained(reader.client_id, reader.pnn)

    def _schedule(self, db_id: int, key: bytes) -> None:
        try:
            record = self._records.fetch(db_id, key)
        except (Busy, StoreError):
            # The full vacuum scan finds it.
            return
        if record is not None and len(record) == RecordHeader.SIZE:
            self._records.schedule_deletion(db_id, record, key)

    def _end_job(self, job: StartJob, status: int, error: str) -> None:
        answer = inputs.JobAnswered(job.job_id, True, status, b"", error)
        asyncio.get_running_loop().call_soon(self._answer, answer)

    def _lost(self, worker: Worker, reason: str) -> None:
        if self._is_stopped:
            return
        for kept in (self._writers, self._scanners, self._session_workers):
            if worker in kept:
                kept.remove(worker)
        self._behind.pop(worker, None)
        self._held.difference_update(worker.jobs)
        sessions = [(number, db_id) for number, (owner, db_id) in self._sessions.items() if owner is worker]
        for number, _db_id in sessions:
            del self._sessions[number]
        self._log(f"worker process {worker.pid} is lost: {reason}; its {len(worker.jobs)} jobs fail")
        for job in worker.jobs.values():
            self._end_job(job, errno.EIO, f"its worker is lost: {reason}")
        for number, db_id in sessions:
            self._answer(inputs.SessionLost(number, db_id, reason))
        self._give_scans()
