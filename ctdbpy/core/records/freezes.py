# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases that stand still: freeze, transaction, wipe, pull, push, thaw.

A worker session holds the locks, so that neither the daemon nor a client's program touches the file.

Source: reference/ctdb.md 7.8, 7.10.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ctdbpy.core.effects import HoldJob, JobKind, LogLevel, SetHealth, Unlisten
from ctdbpy.core.inputs import SessionLost
from ctdbpy.core.jobs import Job, Jobs, Outcome
from ctdbpy.core.procedures import Procedure, Promise, Runner
from ctdbpy.core.requests import OK, Reply, refuse
from ctdbpy.core.state import Database, Freeze, State
from ctdbpy.wire.constants import INVALID_GENERATION, NodeFlag
from ctdbpy.wire.srvids import srvid_of_pace

_PULL: Final = struct.Struct("=II")
_U32: Final = struct.Struct("=I")
_NO_RECORDS: Final = _U32.pack(0)
#: Pushed buffers of a database that may wait for its worker before its sender is to wait, too.
BUFFERS_AHEAD: Final = 8
#: What the reader of a pull says, and how long a hold lasts that is not said again: who said it may be gone.
PACE_HOLD: Final = b"\1"
PACE_GO_ON: Final = b"\0"
PACE_HOLD_S: Final = 1.0
_NO_HEALTHY_NODES: Final = "NO-HEALTHY-NODES - "


@dataclass(slots=True)
class _Push:
    """Records on their way into a frozen database, as messages to a srvid."""

    srvid: int
    stored: int = 0
    error: str = ""
    waiting: list[Promise[Outcome]] = field(default_factory=list)


class Freezes:
    """Every database's freeze, and what is done to it meanwhile."""

    def __init__(self, state: State, runner: Runner, jobs: Jobs) -> None:
        self._state = state
        self._runner = runner
        self._jobs = jobs
        #: Freezes and thaws under way, by database.
        self._changes: dict[int, Procedure[Reply]] = {}
        self._pushes: dict[int, _Push] = {}
        #: Commits under way, by database.
        self._commits: dict[int, Promise[Outcome]] = {}
        #: The last thing asked of a database, while it is not done.
        self._turns: dict[int, Promise[None]] = {}

    async def in_turn(
        self, database: Database, act: Callable[[], Reply | Coroutine[Any, Any, Reply]]
    ) -> Reply:
        """Do what is asked of a database after all that was asked before.

        A leader of ours asks for what builds on each other without waiting for answers.
        """
        before = self._turns.get(database.db_id)
        mine: Promise[None] = Promise()
        self._turns[database.db_id] = mine
        try:
            if before is not None:
                await before
            answer = act()
            return answer if isinstance(answer, Reply) else await answer
        finally:
            if self._turns.get(database.db_id) is mine:
                del self._turns[database.db_id]
            mine.resolve(None)

    # -- freeze and thaw ------------------------------------------------------------------------

    async def freeze(self, database: Database) -> Reply:
        """Have a worker take every lock of the database; at once true if it has."""
        while database.freeze is not Freeze.FROZEN:
            if database.freeze is Freeze.THAWED:
                self._change(database, Freeze.FREEZING, self._freeze(database))
            reply = await self._changes[database.db_id]
            if not reply.is_good:
                return reply
        # A leader that is gone may have left a transaction, with the database wiped in it: whoever freezes
        # anew wants what was there before.
        return await self.cancel(database)

    async def freeze_anew(self, database: Database) -> Reply:
        """Freeze it for a recovery: what an earlier one has left open in it is undone first."""
        reply = await self.freeze(database)
        return await self.cancel(database) if reply.is_good else reply

    async def freeze_all(self) -> Reply:
        """Freeze every database of a node that takes no part any more; its volatile records are void."""
        for database in self._state.databases.values():
            if database.is_volatile:
                database.is_invalid = True
        return await self.stand_still()

    async def stand_still(self) -> Reply:
        """Freeze every database and keep what is in it; a recovery decides what that is worth."""
        databases = list(self._state.databases.values())
        replies = await self._runner.gather("freeze", [self.freeze(database) for database in databases])
        return next((reply for reply in replies if not reply.is_good), OK)

    async def thaw(self, database: Database) -> Reply:
        """Let the database move again; an open transaction is cancelled, calls that waited are resent."""
        while database.freeze is not Freeze.THAWED:
            if database.freeze is Freeze.FROZEN:
                self._change(database, Freeze.THAWING, self._thaw(database))
            await self._changes[database.db_id]
        return OK

    async def thaw_all(self) -> None:
        """Thaw whatever is frozen."""
        frozen = [each for each in self._state.databases.values() if each.freeze is not Freeze.THAWED]
        await self._runner.gather("thaw", [self.thaw(database) for database in frozen])

    def session_lost(self, lost: SessionLost) -> None:
        """The worker that held a database died: nothing is locked any more."""
        database = self._state.databases.get(lost.db_id)
        if database is None or database.session != lost.session:
            return
        self._state.log(LogLevel.ERROR, f"{database.name!r} is not frozen any more: {lost.reason}")
        if database.freeze is Freeze.FROZEN:
            self._thawed(database)
        else:
            # The freeze or thaw under way ends with an error, and with that.
            database.session = 0

    # -- transactions ---------------------------------------------------------------------------

    async def begin(self, database: Database, transaction: int) -> Reply:
        """Begin a transaction of a frozen database; one that is open is cancelled first."""
        if not database.is_frozen:
            return refuse(f"cannot begin a transaction on {database.name!r}: it is not frozen")
        if not self._state.is_recovering and transaction != self._state.generation:
            return refuse(
                f"cannot begin a transaction on {database.name!r}: {transaction} is not the generation"
            )
        if database.transaction is not None:
            await self.cancel(database)
        outcome = await self._do(JobKind.BEGIN, database)
        if not outcome.is_good:
            return refuse(f"cannot begin a transaction on {database.name!r}: {outcome.error}")
        database.transaction = transaction
        return OK

    async def commit(self, database: Database, transaction: int) -> Reply:
        """Make the transaction's changes durable; the database belongs to this generation now."""
        reason = self._cannot(database, transaction)
        if reason:
            return refuse(f"cannot commit on {database.name!r}: {reason}")
        job = self._jobs.start(JobKind.COMMIT, database.db_id, session=database.session)
        self._commits[database.db_id] = job.ended
        outcome = await job.ended
        self._commits.pop(database.db_id, None)
        database.transaction = None
        if not outcome.is_good:
            return refuse(f"cannot commit on {database.name!r}: {outcome.error}")
        self._state.set_db_generation(database, transaction)
        if database.is_persistent and database.unhealthy:
            self._mend(database)
        return OK

    async def finish_commits(self) -> None:
        """Wait until what a leader has had committed is, though that leader may be gone."""
        for ended in list(self._commits.values()):
            await ended

    async def cancel(self, database: Database) -> Reply:
        """Drop the transaction's changes."""
        if database.transaction is None:
            return OK
        outcome = await self._drop_transaction(database)
        return OK if outcome.is_good else refuse(f"cannot cancel on {database.name!r}: {outcome.error}")

    async def wipe(self, database: Database, transaction: int) -> Reply:
        """Remove every record, inside the transaction."""
        reason = self._cannot(database, transaction)
        if reason:
            return refuse(f"cannot wipe {database.name!r}: {reason}")
        outcome = await self._do(JobKind.WIPE, database)
        return OK if outcome.is_good else refuse(f"cannot wipe {database.name!r}: {outcome.error}")

    # -- records out and in ---------------------------------------------------------------------

    async def pull(self, database: Database, lmaster: int, asker: int, srvid: int) -> Reply:
        """Send the records to `asker` as messages; the reply says how many there were."""
        if not database.is_frozen:
            return refuse(f"cannot pull {database.name!r}: it is not frozen")
        if database.is_invalid:
            return Reply(data=_NO_RECORDS)
        state = self._state
        job = self._jobs.start(
            JobKind.PULL,
            database.db_id,
            _PULL.pack(lmaster, state.tunables.rec_buffer_size_limit),
            session=database.session,
            on_part=lambda part: state.send_message(asker, srvid, part),
        )
        pace = srvid_of_pace(srvid)
        state.listen(pace, self._pacing(job))
        try:
            outcome = await job.ended
        finally:
            state.unlisten(pace)
            state.emit(Unlisten(pace))
        if not outcome.is_good or len(outcome.data) != _U32.size:
            return refuse(f"cannot pull {database.name!r}: {outcome.error}")
        return Reply(data=outcome.data)

    def _pacing(self, job: Job) -> Callable[[int, bytes], None]:
        """Holds a job that gives records while the one who reads them says so."""
        times = 0

        def go_on(number: int) -> None:
            if number == times and not job.ended.done:
                self._state.emit(HoldJob(job.job_id, False))

        def told(_pnn: int, data: bytes) -> None:
            nonlocal times
            times += 1
            if data == PACE_GO_ON:
                go_on(times)
            else:
                self._state.emit(HoldJob(job.job_id, True))
                number = times
                self._runner.sleep(PACE_HOLD_S).when_done(lambda: go_on(number))

        return told

    def push_start(self, database: Database, srvid: int) -> Reply:
        """Store records that come as messages to `srvid`, until `push_confirm`."""
        if not database.is_frozen:
            return refuse(f"cannot push to {database.name!r}: it is not frozen")
        # One that its sender gave up is forgotten.
        self._end_push(database)
        push = _Push(srvid)
        self._pushes[database.db_id] = push

        def arrived(_pnn: int, data: bytes) -> None:
            # A backup of one database may be restored into another: the buffer's own id means nothing.
            db_id = _U32.pack(database.db_id)
            buffer = data if data[: _U32.size] == db_id else db_id + data[_U32.size :]
            job = self._jobs.start(JobKind.PUSH, database.db_id, buffer, session=database.session)
            push.waiting.append(job.ended)

        self._state.listen(srvid, arrived)
        return OK

    @property
    def is_behind(self) -> bool:
        """True while records have been pushed that are not stored yet."""
        return next(self._unstored(), None) is not None

    async def catch_up(self) -> None:
        """Wait until all but the last of the records pushed so far are stored."""
        for ended in list(self._unstored()):
            await ended

    def _unstored(self) -> Iterator[Promise[Outcome]]:
        for push in self._pushes.values():
            for ended in push.waiting[:-BUFFERS_AHEAD]:
                if not ended.done:
                    yield ended

    async def push_confirm(self, database: Database) -> Reply:
        """How many records have been stored since `push_start`."""
        push = self._pushes.get(database.db_id)
        if push is None:
            return refuse(f"cannot confirm a push to {database.name!r}: none is under way")
        while push.waiting:
            outcome = await push.waiting.pop(0)
            if outcome.is_good and len(outcome.data) == _U32.size:
                push.stored += _U32.unpack(outcome.data)[0]
            else:
                push.error = push.error or outcome.error or "the worker did not say how many"
        self._end_push(database)
        if push.error:
            return refuse(f"cannot push to {database.name!r}: {push.error}")
        return Reply(data=_U32.pack(push.stored))

    # -- in detail ------------------------------------------------------------------------------

    def _change(self, database: Database, to: Freeze, work: Coroutine[Any, Any, Reply]) -> None:
        database.freeze = to
        if to is Freeze.FREEZING:
            database.session = self._jobs.new_session()
            self._state.records.set_frozen(database.db_id, True)
        self._changes[database.db_id] = self._runner.spawn(f"{to.value} {database.name}", work)

    async def _freeze(self, database: Database) -> Reply:
        session = database.session
        outcome = await self._jobs.start(JobKind.FREEZE, database.db_id, session=session).ended
        del self._changes[database.db_id]
        if outcome.is_good and database.session == session:
            database.freeze = Freeze.FROZEN
            return OK
        self._thawed(database)
        return refuse(f"cannot freeze {database.name!r}: {outcome.error or 'its worker died'}")

    async def _thaw(self, database: Database) -> Reply:
        if database.transaction is not None:
            await self._drop_transaction(database)
        outcome = await self._jobs.start(JobKind.THAW, database.db_id, session=database.session).ended
        del self._changes[database.db_id]
        if not outcome.is_good:
            self._state.log(LogLevel.WARNING, f"cannot thaw {database.name!r}: {outcome.error}")
        self._thawed(database)
        return OK

    async def _drop_transaction(self, database: Database) -> Outcome:
        database.transaction = None
        return await self._do(JobKind.CANCEL, database)

    async def _do(self, kind: JobKind, database: Database) -> Outcome:
        return await self._jobs.start(kind, database.db_id, session=database.session).ended

    def _thawed(self, database: Database) -> None:
        self._end_push(database)
        database.freeze = Freeze.THAWED
        database.session = 0
        database.transaction = None
        # Banned or stopped meanwhile, it is about to be frozen again.
        database.is_invalid = database.is_volatile and self._state.is_inactive
        if database.db_id in self._state.databases:
            self._state.records.set_frozen(database.db_id, False)

    def _cannot(self, database: Database, transaction: int) -> str:
        if not database.is_frozen:
            return "it is not frozen"
        if database.transaction is None:
            return "no transaction is open"
        if database.transaction != transaction:
            return f"transaction {transaction:#x} is not the open one, {database.transaction:#x}"
        return ""

    def _end_push(self, database: Database) -> None:
        push = self._pushes.pop(database.db_id, None)
        if push is not None:
            self._state.unlisten(push.srvid)
            self._state.emit(Unlisten(push.srvid))

    def _mend(self, database: Database) -> None:
        """A recovery has given the database new contents: healthy again if any node was to give good ones."""
        if any(node.flags == NodeFlag(0) for node in self._state.nodes):
            database.unhealthy = ""
        elif not database.unhealthy.startswith(_NO_HEALTHY_NODES):
            database.unhealthy = _NO_HEALTHY_NODES + database.unhealthy
        self._state.emit(SetHealth(database.name, database.unhealthy))

    def invalidate(self) -> None:
        """This node left the cluster: map and databases belong to no generation."""
        self._state.lineage.clear()
        self._state.set_map(INVALID_GENERATION, self._state.lmasters)
        for database in self._state.databases.values():
            self._state.set_db_generation(database, INVALID_GENERATION)
