# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks over a whole database on all nodes, for one local client.

Records go to the client through the record engine; here only the ends of nodes are counted.
While a client is behind with its reading, the other nodes are told to hold their part (our own daemons
understand that; of upstream's, the records pile up as far as the client's limit).

Source: reference/ctdb.md 7.7.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ctdbpy.core.effects import HoldJob, JobKind, LogLevel
from ctdbpy.core.jobs import Job, Jobs, Outcome
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Client, Database, State
from ctdbpy.wire.constants import BROADCAST_CONNECTED, UNKNOWN_PNN
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecData
from ctdbpy.wire.srvids import SRVID_TRAVERSE_PACE
from ctdbpy.wire.structures import TraverseAll, TraverseAllExt, TraverseStart

_ANY_DMASTER: Final = UNKNOWN_PNN
_PARAMETERS: Final = struct.Struct("=IIB")
#: Traverse id, 1 to hold it and 0 to let it go on.
_PACE: Final = struct.Struct("=II")


@dataclass(slots=True)
class _Asked:
    """A traverse that a local client waits for; `remaining` are the nodes that have not ended."""

    traverse_id: int
    client_id: int
    database: Database
    start: TraverseStart
    remaining: set[int]
    deadline_s: float
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class _Served:
    """A walk over our copy for another node."""

    pnn: int
    start: TraverseStart
    job_id: int


class Traverses:
    """Walks asked for here, and walks served for others."""

    def __init__(self, state: State, routing: Routing, jobs: Jobs) -> None:
        self._state = state
        self._routing = routing
        self._jobs = jobs
        self._asked: dict[int, _Asked] = {}
        self._served: dict[tuple[int, int], _Served] = {}
        self._last_id = 0
        self.timeouts = 0

    def begin(self) -> None:
        """Hear of clients of other nodes that are behind."""
        self._state.listen(SRVID_TRAVERSE_PACE, self._pace)

    # -- for our own clients --------------------------------------------------------------------

    def start(self, client: Client, database: Database, start: TraverseStart, with_empty: bool) -> None:
        """Begin; records come to the client as messages, an empty one at the end."""
        state = self._state
        self._last_id = self._last_id % 0x7FFFFFFF + 1
        traverse_id = self._last_id
        deadline_s = state.now_s + state.tunables.traverse_timeout
        asked = _Asked(traverse_id, client.client_id, database, start, self._nodes(database), deadline_s)
        self._asked[traverse_id] = asked
        state.records.open_traverse(traverse_id, client.client_id, start.srvid, start.reqid)
        for pnn in sorted(asked.remaining):
            if pnn == state.pnn:
                asked.job = self._walk_here(asked, with_empty)
            else:
                fields = (start.db_id, traverse_id, state.pnn, start.reqid, start.srvid)
                if with_empty:
                    self._routing.tell(pnn, Control.TRAVERSE_ALL_EXT, TraverseAllExt(*fields, True).pack())
                else:
                    self._routing.tell(pnn, Control.TRAVERSE_ALL, TraverseAll(*fields).pack())
        self._finish_if_done(asked)

    def data(self, pnn: int, part: bytes) -> bool:
        """A record of another node, or its end; False for a traverse that is over."""
        record = RecData.unpack(part)
        asked = self._asked.get(record.reqid)
        if asked is None:
            return False
        if record.is_end:
            self.node_ended(pnn, record.reqid)
        else:
            self._state.records.forward_traverse(asked.traverse_id, part)
        return True

    def node_ended(self, pnn: int, traverse_id: int) -> None:
        """A node has sent all it had."""
        asked = self._asked.get(traverse_id)
        if asked is not None:
            asked.remaining.discard(pnn)
            self._finish_if_done(asked)

    def client_behind(self, client_id: int, behind: bool) -> None:
        """A client reads too slowly, or has caught up: that is no standstill, its time begins anew."""
        state = self._state
        for asked in self._asked.values():
            if asked.client_id == client_id:
                asked.deadline_s = state.now_s + state.tunables.traverse_timeout
                for pnn in sorted(asked.remaining - {state.pnn}):
                    state.send_message(pnn, SRVID_TRAVERSE_PACE, _PACE.pack(asked.traverse_id, behind))

    def client_gone(self, client: Client) -> None:
        """Nobody listens any more: end its walks everywhere."""
        for asked in [each for each in self._asked.values() if each.client_id == client.client_id]:
            self._end(asked, finish=False)

    def node_gone(self, pnn: int) -> None:
        """A node left: it ends nothing any more, and nobody there waits for our records."""
        for asked in list(self._asked.values()):
            if pnn in asked.remaining:
                self._state.log(
                    LogLevel.WARNING, f"traverse of {asked.database.name!r}: node {pnn} left before its end"
                )
                asked.remaining.discard(pnn)
                self._finish_if_done(asked)
        for key, served in list(self._served.items()):
            if served.pnn == pnn:
                del self._served[key]
                self._jobs.stop(served.job_id)

    @property
    def deadline_s(self) -> float | None:
        """When the first walk has taken too long."""
        return min((asked.deadline_s for asked in self._asked.values()), default=None)

    def wake(self, now_s: float) -> None:
        """End walks that took longer than TraverseTimeout as if complete: clients know no other end."""
        for asked in [each for each in self._asked.values() if each.deadline_s <= now_s]:
            self.timeouts += 1
            self._state.log(
                LogLevel.ERROR,
                f"traverse of {asked.database.name!r} timed out waiting for nodes {sorted(asked.remaining)}",
            )
            self._end(asked, finish=True)

    # -- for other nodes ------------------------------------------------------------------------

    def serve(self, database: Database, wanted: TraverseAll, with_empty: bool) -> None:
        """Walk our copy and send what is ours to the node that asks."""
        state = self._state
        key = (wanted.pnn, wanted.reqid)
        if key in self._served:
            return

        def send(part: bytes) -> None:
            state.records.send_traverse(wanted.pnn, wanted.reqid, part, False)

        def ended() -> None:
            if self._served.pop(key, None) is not None:
                self._complain(database, job.ended.result())
                state.records.send_traverse(wanted.pnn, wanted.reqid, b"", True)

        parameters = self._parameters(database, wanted.reqid, with_empty)
        job = self._jobs.start(JobKind.TRAVERSE, database.db_id, parameters, on_part=send)
        start = TraverseStart(wanted.db_id, wanted.client_reqid, wanted.srvid)
        self._served[key] = _Served(wanted.pnn, start, job.job_id)
        job.ended.when_done(ended)

    def _pace(self, pnn: int, data: bytes) -> None:
        if len(data) != _PACE.size:
            return
        traverse_id, held = _PACE.unpack(data)
        served = self._served.get((pnn, traverse_id))
        if served is not None:
            self._state.emit(HoldJob(served.job_id, bool(held)))

    def kill(self, pnn: int, start: TraverseStart) -> None:
        """The node that asked wants no more of it."""
        for key, served in list(self._served.items()):
            if served.pnn == pnn and served.start == start:
                del self._served[key]
                self._jobs.stop(served.job_id)

    # -- in detail ------------------------------------------------------------------------------

    def _nodes(self, database: Database) -> set[int]:
        state = self._state
        if database.is_volatile:
            return set(state.active())
        if state.pnn in state.lmasters or not state.lmasters:
            return {state.pnn}
        return {state.lmasters[0]}

    def _walk_here(self, asked: _Asked, with_empty: bool) -> Job:
        def forward(part: bytes) -> None:
            asked.deadline_s = self._state.now_s + self._state.tunables.traverse_timeout
            self._state.records.forward_traverse(asked.traverse_id, part)

        def ended() -> None:
            if asked.traverse_id in self._asked:
                asked.job = None
                self._complain(asked.database, job.ended.result())
                asked.remaining.discard(self._state.pnn)
                self._finish_if_done(asked)

        parameters = self._parameters(asked.database, asked.traverse_id, with_empty)
        job = self._jobs.start(JobKind.TRAVERSE, asked.database.db_id, parameters, on_part=forward)
        job.ended.when_done(ended)
        return job

    def _parameters(self, database: Database, reqid: int, with_empty: bool) -> bytes:
        dmaster = self._state.pnn if database.is_volatile else _ANY_DMASTER
        return _PARAMETERS.pack(reqid, dmaster, with_empty)

    def _complain(self, database: Database, outcome: Outcome) -> None:
        if not outcome.is_good:
            self._state.log(LogLevel.ERROR, f"traverse of {database.name!r} is not complete: {outcome.error}")

    def _finish_if_done(self, asked: _Asked) -> None:
        if not asked.remaining and asked.traverse_id in self._asked:
            del self._asked[asked.traverse_id]
            self._state.records.close_traverse(asked.traverse_id, True)

    def _end(self, asked: _Asked, *, finish: bool) -> None:
        del self._asked[asked.traverse_id]
        if asked.job is not None:
            self._jobs.stop(asked.job.job_id)
        self._state.records.close_traverse(asked.traverse_id, finish)
        self._routing.tell(BROADCAST_CONNECTED, Control.TRAVERSE_KILL, asked.start.pack(), others_only=True)
