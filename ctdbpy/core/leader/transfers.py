# SPDX-License-Identifier: GPL-3.0-or-later
"""Records on their way through a recovery: from every node into the leader's worker, and out to all.

The worker that holds the database frozen on the leader has the table in which copies are brought
together; this process only passes buffers on, and has no more of them than are on their way.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from ctdbpy.core.effects import HoldJob, JobKind
from ctdbpy.core.jobs import Jobs, Outcome
from ctdbpy.core.leader.asking import Asking, Failed, told
from ctdbpy.core.procedures import Procedure, Promise
from ctdbpy.core.records.freezes import PACE_GO_ON, PACE_HOLD, PACE_HOLD_S
from ctdbpy.core.requests import Reply
from ctdbpy.core.state import Database
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import LMASTER_ANY
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import srvid_of_pace
from ctdbpy.wire.structures import PullDbExt

#: Buffers after which nodes are asked whether most are stored; twice as many may be unanswered.
BUFFERS_IN_FLIGHT: Final = 8
#: Bytes that may wait for the worker here before the nodes that send them are held.
BYTES_AHEAD: Final = 16 << 20
_BUFFER_HEAD: Final = struct.Struct("=II")
_LATE: Final = Outcome(errno.ETIMEDOUT, b"", "it takes too long")


class Table:
    """The copies of one database, in the worker that has it frozen here; this node's first, if it counts."""

    def __init__(self, asking: Asking, jobs: Jobs, database: Database, *, with_own: bool) -> None:
        self._asking = asking
        self._jobs = jobs
        self._database = database
        # What is frozen now: another freeze would know nothing of this table.
        self._session = database.session
        self._waiting = 0
        self._held_s: float | None = None
        self.pulls: list[Pull] = []
        # Others' copies come while it reads this node's own, and wait their turn.
        self._begun = self._start(JobKind.GATHER, bytes([with_own]))

    async def begun(self) -> None:
        """This node's own copy is in. Raises Failed."""
        await self.count(self._begun, self._asking.state.pnn)

    def add(self, pnn: int, buffer: bytes) -> Promise[Outcome]:
        """Take a buffer of records in, in the order given."""
        ended = self._start(JobKind.MERGE, buffer, pnn)
        self._waiting += len(buffer)
        ended.when_done(lambda: self._took(len(buffer)))
        now_s = self._asking.state.now_s
        is_held = self._held_s is not None and now_s < self._held_s + PACE_HOLD_S / 2
        if self._waiting > BYTES_AHEAD and not is_held:
            self._held_s = now_s
            self._pace(PACE_HOLD)
        return ended

    def _took(self, size: int) -> None:
        self._waiting -= size
        if self._held_s is not None and self._waiting < BYTES_AHEAD // 2:
            self._held_s = None
            self._pace(PACE_GO_ON)

    def _pace(self, said: bytes) -> None:
        for pull in self.pulls:
            pull.pace(said)

    async def count(self, ended: Promise[Outcome], pnn: int) -> int:
        """How many records a job has taken in; if it failed, node pnn is to blame."""
        outcome = await self._asking.runner.limit(ended, self._asking.timeout_s, _LATE)
        if not outcome.is_good:
            own = self._asking.state.pnn
            text = f"cannot bring copies of {self._database.name!r} together: {outcome.error}"
            raise Failed(text, pnn if outcome.status == errno.EPROTO else own)
        return U32.unpack(outcome.data)

    async def spread(self, others: Sequence[int], srvid: int) -> int:
        """Store the result here, and send it to the other nodes; the number of records. Raises Failed."""
        asking, state = self._asking, self._asking.state
        sent = settled = asked = 0
        settling: Procedure[Mapping[int, Reply]] | None = None
        is_held = False
        more: Promise[None] = Promise()

        def wake() -> None:
            nonlocal more
            before, more = more, Promise()
            before.resolve(None)

        def came(buffer: bytes) -> None:
            nonlocal sent
            sent += 1
            for pnn in others:
                state.send_message(pnn, srvid, buffer)
            wake()

        limit = U32.pack(state.tunables.rec_buffer_size_limit)
        job = self._jobs.start(
            JobKind.SPREAD, self._database.db_id, limit, session=self._session, on_part=came
        )
        job.ended.when_done(wake)
        try:
            while not job.ended.done:
                if settling is not None and settling.done:
                    # Raises what has failed.
                    settling.result()
                    settling, settled = None, asked
                if settling is None and sent - settled >= BUFFERS_IN_FLIGHT:
                    asked = sent
                    # Answered when most of what came before it is stored.
                    ping = asking.all(others, Control.PING, is_count=True)
                    settling = asking.runner.spawn("settle", ping)
                    settling.when_done(wake)
                if is_held is not (sent - settled >= 2 * BUFFERS_IN_FLIGHT):
                    is_held = not is_held
                    state.emit(HoldJob(job.job_id, is_held))
                before = more
                await asking.runner.limit(more, asking.timeout_s, None)
                if before is more:
                    raise Failed(f"cannot spread {self._database.name!r}: {_LATE.error}", state.pnn)
        finally:
            self._jobs.stop(job.job_id)
            if settling is not None:
                settling.cancel()
        return await self.count(job.ended, state.pnn)

    def _start(self, kind: JobKind, data: bytes, pnn: int = -1) -> Promise[Outcome]:
        return self._jobs.start(kind, self._database.db_id, data, session=self._session, pnn=pnn).ended


class Pull:
    """One node's copy on its way into the table; `end` it whatever happens."""

    def __init__(self, asking: Asking, table: Table, db_id: int, pnn: int) -> None:
        self._asking = asking
        self._table = table
        self._pnn = pnn
        self._received = 0
        self._merging: list[Promise[Outcome]] = []
        self._more: Promise[None] = Promise()
        self._srvid = asking.listen(self._arrived)
        table.pulls.append(self)
        #: The data of DB_PULL.
        self.request = PullDbExt(db_id, LMASTER_ANY, self._srvid).pack()

    async def complete(self, reply: Reply) -> None:
        """All that DB_PULL's answer speaks of is in the table. Raises Failed."""
        expected = told(U32, reply, "its number of records", self._pnn)
        while self._received < expected:
            before = self._received
            await self._asking.runner.limit(self._more, self._asking.timeout_s, None)
            if self._received == before:
                break
        merged = 0
        for ended in self._merging:
            merged += await self._table.count(ended, self._pnn)
        if merged != expected:
            raise Failed(f"DB_PULL from node {self._pnn}: {merged} of {expected} records", self._pnn)

    def end(self) -> None:
        """Take no more records."""
        self._table.pulls.remove(self)
        self._asking.end(self._srvid)

    def pace(self, said: bytes) -> None:
        """Have the node hold its records or go on; a C daemon does not hear it."""
        self._asking.state.send_message(self._pnn, srvid_of_pace(self._srvid), said)

    def _arrived(self, _pnn: int, buffer: bytes) -> None:
        # Only the worker looks at what is in it.
        if len(buffer) >= _BUFFER_HEAD.size:
            self._received += _BUFFER_HEAD.unpack_from(buffer)[1]
        self._merging.append(self._table.add(self._pnn, buffer))
        before, self._more = self._more, Promise()
        before.resolve(None)
