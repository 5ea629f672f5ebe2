# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk jobs done on an open TDB: by a worker on its own handle, by the simulator on a TDB in memory."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ctdbpy.errors import StoreError
from ctdbpy.store import bulk, jobs
from ctdbpy.store.jobs import Database, Kind, Task
from ctdbpy.store.merge import Merge
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.records import RecBuffer


class WrongState(StoreError):
    """The job needs a transaction or a frozen database, and there is none, or there is one already."""


class Session:
    """One database and what jobs before have left it in: frozen or not, in a transaction or not.

    Freezing itself, which waits for other processes, is the owner's work: it sets `is_frozen`.
    """

    def __init__(self, tdb: Tdb, database: Database) -> None:
        self.tdb = tdb
        self.database = database
        self.is_frozen = database.is_frozen
        self.in_transaction = False
        # What a TDB in memory held when its transaction began: it has none of its own.
        self._before: dict[bytes, bytes] = {}
        self._merge: Merge | None = None

    @property
    def before(self) -> dict[bytes, bytes] | None:
        """What a TDB in memory comes back to if its open transaction is dropped; None when none is open."""
        return self._before if self.in_transaction else None

    def perform(self, task: Task) -> Generator[bytes, None, bytes]:
        """Yield the parts of the answer and return its end (see `jobs`). Raises StoreError, ProtocolError."""
        match task:
            case jobs.Traverse():
                owner = None if task.owner == jobs.NO_OWNER else task.owner
                walk = bulk.traverse(
                    self.tdb, reqid=task.reqid, owner=owner, with_empty=task.with_empty, limit=task.limit
                )
                return (yield from self._walk(walk))
            case jobs.Pull():
                walk = bulk.pull(
                    self.tdb,
                    db_id=self.database.db_id,
                    lmaster=task.lmaster,
                    lmasters=task.lmasters,
                    limit=task.limit,
                )
                return (yield from self._walk(walk))
            case jobs.VacuumScan():
                return (yield from self._walk(bulk.vacuum_scan(self.tdb, pnn=task.pnn, limit=task.limit)))
            case jobs.Push():
                self._need_transaction("push to")
                return jobs.pack_count(*self._push(task))
            case jobs.Gather():
                return jobs.pack_count(self._gather(task))
            case jobs.Merge():
                if self._merge is None:
                    raise WrongState(f"cannot merge into {self.database.path!r}: nothing is gathered")
                return jobs.pack_count(self._merge.add(task.buffer, task.pnn))
            case jobs.Spread():
                return (yield from self._spread(task))
            case jobs.Update():
                if self.is_frozen:
                    raise WrongState(f"cannot update {self.database.path!r}: it is frozen")
                stored = bulk.update_records(
                    self.tdb,
                    task.buffer,
                    db_id=self.database.db_id,
                    is_volatile=self.database.is_volatile,
                    pnn=task.pnn,
                    lmasters=task.lmasters,
                )
                return jobs.pack_count(stored)
            case jobs.Store():
                return jobs.pack_count(self._store(task))
            case jobs.Plain():
                return self._plain(task.kind)

    def _store(self, task: jobs.Store) -> int:
        stored = 0
        for record in RecBuffer.unpack(task.buffer).records:
            self.tdb.chainlock(record.key)
            try:
                held = self.tdb.read_header(record.key)
                if held is None or held[1] != task.pnn:
                    self.tdb.store(record.key, record.data)
                    stored += 1
            finally:
                self.tdb.chainunlock(record.key)
        self.tdb.sync()
        return stored

    def _gather(self, task: jobs.Gather) -> int:
        self._merge = merge = Merge(self.database.db_id, self.database.is_volatile, self.tdb.hash_size)
        if not task.with_own:
            return 0
        with self._marked():
            return merge.add_own(self.tdb, task.pnn)

    def _spread(self, task: jobs.Spread) -> Generator[bytes, None, bytes]:
        """Others get each buffer first: they store it while we do."""
        self._need_transaction("spread")
        merge, self._merge = self._merge, None
        if merge is None:
            raise WrongState(f"cannot spread {self.database.path!r}: nothing is gathered")
        total = 0
        while True:
            buffer, count = merge.take(task.pnn, task.limit)
            if not count:
                return jobs.pack_count(total)
            yield buffer
            self._push(jobs.Push(buffer, task.pnn, task.lmasters))
            total += count

    def _push(self, task: jobs.Push) -> tuple[int, list[bytes]]:
        return bulk.push(
            self.tdb,
            task.buffer,
            db_id=self.database.db_id,
            is_volatile=self.database.is_volatile,
            pnn=task.pnn,
            lmasters=task.lmasters,
        )

    def _walk(self, walk: bulk.Walk) -> Generator[bytes, None, bytes]:
        with self._marked():
            yield from walk
        return jobs.pack_count(walk.count)

    def _plain(self, kind: Kind) -> bytes:
        match kind:
            case Kind.BEGIN:
                self._begin()
            case Kind.COMMIT:
                self._need_transaction("commit")
                self.in_transaction = False
                self._before.clear()
                if not self.tdb.is_in_memory:
                    self.tdb.transaction_commit(frozen=True)
            case Kind.CANCEL:
                self._need_transaction("cancel")
                self.in_transaction = False
                self._cancel()
            case Kind.WIPE:
                self._need_transaction("wipe")
                self.tdb.wipe_all()
            case Kind.CHECK:
                with self._marked():
                    self.tdb.check()
            case Kind.REPACK:
                if self.is_frozen:
                    raise WrongState(f"cannot repack {self.database.path!r}: it is frozen")
                if not self.tdb.is_in_memory:
                    self.tdb.repack()
            case Kind.COUNT:
                with self._marked():
                    return jobs.pack_counts(*bulk.count(self.tdb))
            case _:
                raise WrongState(
                    f"cannot do {kind.name} on {self.database.path!r}: it is not a job on an open file"
                )
        return b""

    def _begin(self) -> None:
        if not self.is_frozen:
            raise WrongState(f"cannot begin a transaction on {self.database.path!r}: it is not frozen")
        if self.in_transaction:
            # As upstream: a second start drops the first.
            self.in_transaction = False
            self._cancel()
        if self.tdb.is_in_memory:
            self._before = dict(self.tdb.traverse())
        else:
            self.tdb.transaction_start(frozen=True)
        self.in_transaction = True

    def _cancel(self) -> None:
        if not self.tdb.is_in_memory:
            self.tdb.transaction_cancel(frozen=True)
            return
        self.tdb.wipe_all()
        for key, value in self._before.items():
            self.tdb.store(key, value)
        self._before.clear()

    def thaw(self) -> None:
        """Drop what was gathered or not committed, before the locks are given up."""
        self._merge = None
        if self.in_transaction:
            self.in_transaction = False
            self._cancel()
        self.is_frozen = False

    def _need_transaction(self, verb: str) -> None:
        if not self.in_transaction:
            raise WrongState(f"cannot {verb} {self.database.path!r}: no transaction has begun")

    def _marked(self) -> AbstractContextManager[None]:
        # Reading a frozen database would wait for who holds its locks for us. A transaction has them.
        if self.is_frozen and not self.in_transaction and not self.tdb.is_in_memory:
            return _mark(self.tdb)
        return nullcontext()


@contextmanager
def _mark(tdb: Tdb) -> Iterator[None]:
    tdb.lockall_mark()
    try:
        yield
    finally:
        tdb.lockall_unmark()


def status_of(error: Exception) -> int:
    """The errno that answers a job which failed with this error."""
    match error:
        case bulk.RecordRefused():
            return errno.EEXIST
        case WrongState():
            return errno.EINVAL
        case StoreError():
            return errno.EIO
        case _:
            return errno.EPROTO
