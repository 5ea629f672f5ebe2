# SPDX-License-Identifier: GPL-3.0-or-later
"""Change counters: a database tells the other nodes, at most once per SeqnumInterval, that it changed.

Source: reference/ctdb.md 5.6 (26, 27), 3.6 (SeqnumInterval).
"""

from __future__ import annotations

from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Database, State
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_ACTIVE
from ctdbpy.wire.controls import Control


class Seqnums:
    """The counters last seen of each database that counts."""

    def __init__(self, state: State, routing: Routing) -> None:
        self._state = state
        self._routing = routing
        self._seen: dict[int, int] = {}
        self.deadline_s: float | None = None

    def enable(self, database: Database) -> None:
        """Count changes of this database from now on, and announce them."""
        if not database.counts_seqnum:
            database.counts_seqnum = True
            self._state.records.enable_seqnum(database.db_id)
            self._seen[database.db_id] = self._state.records.tdb_seqnum(database.db_id)
        if self.deadline_s is None:
            self._arm()

    def update(self, database: Database) -> None:
        """Another node's copy changed; our counter moves too, and that is no news to anybody."""
        records = self._state.records
        before = records.tdb_seqnum(database.db_id)
        records.bump_seqnum(database.db_id)
        moved = records.tdb_seqnum(database.db_id) - before
        if database.db_id in self._seen:
            self._seen[database.db_id] += moved

    def wake(self, now_s: float) -> None:
        """Announce the databases that changed since the last time."""
        if self.deadline_s is None or now_s < self.deadline_s:
            return
        for db_id in list(self._seen):
            if db_id not in self._state.databases:
                del self._seen[db_id]
                continue
            current = self._state.records.tdb_seqnum(db_id)
            if current != self._seen[db_id]:
                self._seen[db_id] = current
                self._routing.tell(BROADCAST_ACTIVE, Control.UPDATE_SEQNUM, U32.pack(db_id), others_only=True)
        self._arm()

    def _arm(self) -> None:
        # A database detached meanwhile needs no watching; one without change costs one look a second.
        interval_s = max(self._state.tunables.seqnum_interval, 1) / 1000
        self.deadline_s = self._state.now_s + interval_s if self._seen else None
