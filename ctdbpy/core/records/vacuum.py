# SPDX-License-Identifier: GPL-3.0-or-later
"""Empty records are removed, in small steps, so that nobody waits for it.

A record may vanish on its lmaster only after every other node has given up its copy: an old
copy left behind would win the next recovery and the record would rise from the dead.

Source: reference/ctdb.md 7.5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from ctdbpy.core.effects import JobKind, LogLevel
from ctdbpy.core.jobs import Jobs
from ctdbpy.core.ports import Busy
from ctdbpy.core.procedures import Cancelled, Procedure, Runner
from ctdbpy.core.requests import OK, Reply, refuse
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Database, Freeze, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.constants import RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader

_T = TypeVar("_T")

#: Records looked at between two pauses; about a millisecond of work.
STEP: Final = 200
_PAUSE_S: Final = 0.002
#: How often to look whether a record that was sent for has come.
_LOOK_S: Final = 0.05
#: A second look at a record somebody holds makes no sense before this.
_RETRY_S: Final = 0.5
#: Records of one database other nodes may name to be fetched; what is left out is named again.
FETCHES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Doomed:
    """An empty record and the header it must still have when it is deleted."""

    key: bytes
    header: RecordHeader

    def rec_data(self, reqid: int = 0) -> RecData:
        """The record as other nodes are told of it."""
        return RecData.of(self.key, self.header, reqid=reqid)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """What is to be done with doomed records, by who has to act."""

    delete_now: list[Doomed]
    try_delete: list[Doomed]
    elsewhere: dict[int, list[Doomed]]


class Vacuum:
    """One vacuum run at a time on this node, and what other nodes ask for theirs."""

    def __init__(self, state: State, runner: Runner, routing: Routing, jobs: Jobs) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._jobs = jobs
        self._due_s: dict[int, float] = {}
        self._fast_runs: dict[int, int] = {}
        self._running: dict[int, Procedure[Reply]] = {}
        # Keys in the order they were named.
        self._fetches: dict[int, dict[bytes, None]] = {}

    # -- runs -----------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When the first database wants vacuuming."""
        return min(self._due_s.values(), default=None)

    def settle(self) -> None:
        """Watch databases that have come, forget those that have gone, end runs when something freezes."""
        databases = self._state.databases
        for db_id, database in databases.items():
            if database.is_volatile and db_id not in self._due_s:
                self._due_s[db_id] = self._state.now_s + self._interval_s
        for db_id in [each for each in self._due_s if each not in databases]:
            del self._due_s[db_id]
            self._fast_runs.pop(db_id, None)
            self._fetches.pop(db_id, None)
        for db_id, procedure in list(self._running.items()):
            if db_id not in databases or not self._may_run(databases[db_id]):
                procedure.cancel()

    def wake(self, now_s: float) -> None:
        """Begin a run where one is due."""
        for db_id, due_s in list(self._due_s.items()):
            if due_s > now_s:
                continue
            database = self._state.databases[db_id]
            if not self._may_run(database):
                self._due_s[db_id] = now_s + self._interval_s
            elif self._running:
                self._due_s[db_id] = now_s + _RETRY_S
            else:
                self._due_s[db_id] = now_s + self._interval_s
                count = self._state.tunables.vacuum_fast_path_count
                full = bool(count) and self._fast_runs.get(db_id, 0) >= count
                self._runner.spawn(f"vacuum {database.name}", self.run(database, full=full))

    async def run(self, database: Database, *, full: bool) -> Reply:
        """Vacuum one database; with `full`, look for empty records that no queue names."""
        if not database.is_volatile:
            return refuse(f"cannot vacuum {database.name!r}: it is not volatile")
        if not self._may_run(database):
            return refuse(f"cannot vacuum {database.name!r}: recovery is active or it is frozen")
        while self._running:
            await self._runner.sleep(_RETRY_S)
        procedure = self._runner.spawn(f"vacuum {database.name}", self._run(database, full))
        self._running[database.db_id] = procedure
        limit = self._runner.sleep(self._state.tunables.vacuum_max_run_time)
        limit.when_done(procedure.cancel)
        began_s = self._state.now_s
        try:
            reply = await procedure
        except Cancelled:
            reply = refuse(f"vacuuming {database.name!r} was cut short")
        finally:
            self._running.pop(database.db_id, None)
            limit.resolve(None)
        if database.db_id in self._state.databases:
            self._state.records.note_vacuum(database.db_id, self._state.now_s - began_s)
        if reply.is_good:
            self._fast_runs[database.db_id] = self._fast_runs.get(database.db_id, 0) + 1
        return reply

    async def _run(self, database: Database, full: bool) -> Reply:
        if full:
            self._fast_runs[database.db_id] = -1
            await self._scan(database)
        # Only what is queued now: what comes meanwhile is for the next run.
        state = self._state
        fetches = self._fetches.pop(database.db_id, {})
        queued: list[tuple[bytes, bytes]] = []
        while batch := state.records.take_deletions(database.db_id, STEP):
            queued += batch
        try:
            while queued:
                batch, queued = queued[:STEP], queued[STEP:]
                reply = await self._vacuum(database, batch)
                if not reply.is_good:
                    return reply
                await self._runner.sleep(_PAUSE_S)
        finally:
            for key, header in queued:
                if database.db_id in state.databases:
                    state.records.schedule_deletion(database.db_id, header, key)
        await self._fetch(database, list(fetches))
        return OK

    async def _fetch(self, database: Database, keys: list[bytes]) -> None:
        """Bring empty records here whose lmaster we are; they are queued as they come, for the next run."""
        expected: deque[bytes] = deque()
        for batch in batches(keys, STEP):
            for key in batch:
                if self._is_elsewhere(database, key):
                    self._state.records.vacuum_fetch(database.db_id, key)
                    expected.append(key)
            await self._runner.sleep(_PAUSE_S)
        # Last, and to the end: deleting waits for nobody, and whoever asked for this run learns how it went.
        while expected:
            for _ in range(min(len(expected), STEP)):
                if self._is_elsewhere(database, expected[0]):
                    break
                expected.popleft()
            await self._runner.sleep(_LOOK_S)

    def _is_elsewhere(self, database: Database, key: bytes) -> bool:
        try:
            stored = self._state.records.fetch(database.db_id, key)
        except Busy:
            return True
        if stored is None or len(stored) < RecordHeader.SIZE:
            return False
        return RecordHeader.unpack(stored[: RecordHeader.SIZE]).dmaster != self._state.pnn

    async def _scan(self, database: Database) -> None:
        """Queue every empty record of ours, as a worker finds them."""

        def found(part: bytes) -> None:
            if database.db_id in self._state.databases:
                for record in records_in(part):
                    self._state.records.schedule_deletion(database.db_id, record.data[:24], record.key)

        job = self._jobs.start(JobKind.VACUUM_SCAN, database.db_id, on_part=found)
        try:
            outcome = await job.ended
        finally:
            self._jobs.stop(job.job_id)
        if not outcome.is_good:
            self._state.log(LogLevel.WARNING, f"cannot scan {database.name!r}: {outcome.error}")

    async def _vacuum(self, database: Database, batch: list[tuple[bytes, bytes]]) -> Reply:
        """Delete one batch of queued records as far as it is allowed."""
        state = self._state
        todo = self._sort(database, batch)
        for doomed in todo.delete_now:
            self._delete(database, doomed)
        for lmaster, theirs in todo.elsewhere.items():
            records = tuple(doomed.rec_data(reqid=state.pnn) for doomed in theirs)
            buffer = RecBuffer(database.db_id, records)
            self._routing.tell(lmaster, Control.VACUUM_FETCH, buffer.pack())
        if not todo.try_delete:
            return OK
        candidates = {doomed.key: doomed for doomed in todo.try_delete}
        for pnn in state.active():
            if pnn == state.pnn or not candidates:
                continue
            records = tuple(doomed.rec_data() for doomed in candidates.values())
            reply = await self._routing.call(
                pnn, Control.TRY_DELETE_RECORDS, RecBuffer(database.db_id, records).pack()
            )
            if not reply.is_good:
                return refuse(f"cannot vacuum {database.name!r}: node {pnn}: {reply.error}")
            try:
                kept = RecBuffer.unpack(reply.data).records
            except ProtocolError as reason:
                return refuse(f"cannot vacuum {database.name!r}: node {pnn} answered nonsense: {reason}")
            for record in kept:
                candidates.pop(record.key, None)
        for doomed in candidates.values():
            if state.lmaster(doomed.key) == state.pnn:
                self._delete(database, doomed)
        return OK

    def _sort(self, database: Database, batch: list[tuple[bytes, bytes]]) -> _Sorted:
        state = self._state
        todo = _Sorted([], [], {})
        for key, packed in batch:
            try:
                stored = state.records.fetch(database.db_id, key)
            except Busy:
                # Somebody works on it: it will be stored or scheduled again, or wait for a full run.
                continue
            if stored is None or len(stored) != RecordHeader.SIZE:
                continue
            header = RecordHeader.unpack(stored)
            if header.dmaster != state.pnn or header.rsn != RecordHeader.unpack(packed).rsn:
                continue
            lmaster = state.lmaster(key)
            doomed = Doomed(key, header)
            if lmaster != state.pnn:
                todo.elsewhere.setdefault(lmaster, []).append(doomed)
            elif header.flags & RecordFlag.RO_FLAGS:
                continue
            elif header.flags & RecordFlag.MIGRATED_WITH_DATA:
                todo.try_delete.append(doomed)
            else:
                todo.delete_now.append(doomed)
        return todo

    def _delete(self, database: Database, doomed: Doomed) -> None:
        header = doomed.header.pack()
        if not self._state.records.delete_if_unchanged(database.db_id, doomed.key, header):
            self._state.log(LogLevel.DEBUG, f"{database.name!r}: record {doomed.key!r} changed, kept")

    # -- for other nodes ------------------------------------------------------------------------

    def try_delete(self, buffer: RecBuffer, database: Database) -> Reply:
        """The lmaster wants these gone: give up our stale copies, name those we keep."""
        state = self._state
        kept = tuple(
            record
            for record in buffer.records
            if not self._gives_up(database, record, state.lmaster(record.key))
        )
        return Reply(data=RecBuffer(buffer.db_id, kept).pack())

    def _gives_up(self, database: Database, record: RecData, lmaster: int) -> bool:
        if lmaster == self._state.pnn or len(record.data) < RecordHeader.SIZE:
            return False
        header = record.header
        if header.flags & RecordFlag.RO_FLAGS:
            return False
        return self._state.records.try_delete(database.db_id, record.key, header.rsn)

    def fetch(self, buffer: RecBuffer, database: Database) -> None:
        """Another node has empty records whose lmaster we are: the next run brings them here."""
        keys = self._fetches.setdefault(database.db_id, {})
        for record in buffer.records:
            if len(keys) >= FETCHES_MAX:
                return
            keys[record.key] = None

    # -- in detail ------------------------------------------------------------------------------

    @property
    def _interval_s(self) -> float:
        return max(self._state.tunables.vacuum_interval, 1)

    def _may_run(self, database: Database) -> bool:
        state = self._state
        return not state.is_recovering and not state.is_inactive and database.freeze is Freeze.THAWED


def records_in(part: bytes) -> Iterator[RecData]:
    """Back-to-back records."""
    offset = 0
    while offset < len(part):
        record, offset = RecData.unpack_at(part, offset)
        yield record


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items in lists of at most so many."""
    batch: list[_T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
