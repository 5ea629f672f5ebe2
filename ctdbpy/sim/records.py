# SPDX-License-Identifier: GPL-3.0-or-later
"""The record engine on TDBs in memory, and bulk jobs on the same TDBs: one simulated node's storage."""

from __future__ import annotations

from collections.abc import Callable

from ctdbpy.core.ports import Busy
from ctdbpy.store.engine import Engine
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag

HASH_SIZE = 101


class MemoryRecords(Engine):
    """`core.ports.Records` without files. `disk` keeps persistent TDBs over a crash."""

    def __init__(self, pnn: int, disk: dict[str, dict[bytes, bytes]]) -> None:
        super().__init__(pnn)
        self._disk = disk
        self._flags: dict[int, DbFlag] = {}
        self._names: dict[int, str] = {}
        self.lmasters: tuple[int, ...] = ()
        # The lease had run out when that was looked at last; and nothing is served since it did.
        self._expired = False
        self._held = False
        #: Told of each generation this node is given, and of its lmasters.
        self.on_generation: Callable[[int, tuple[int, ...]], None] = lambda _generation, _lmasters: None

    def set_recovery(self, active: bool) -> None:
        """The core begins a recovery, or one is over: that alone ends a hold, if there is a lease."""
        if not active:
            self._held = self._expired
        super().set_recovery(active or self._held)

    def look_at_lease(self, expired: bool) -> bool:
        """Serve nothing from the end of a lease until a recovery is over; True when that has just begun."""
        self._expired = expired
        if not expired or self._held:
            return False
        self._held = True
        super().set_recovery(True)
        return True

    def set_map(self, generation: int, lmasters: tuple[int, ...]) -> None:
        """Use this vnnmap from now on."""
        self.lmasters = lmasters
        super().set_map(generation, lmasters)
        self.on_generation(generation, lmasters)

    def flags(self, db_id: int) -> DbFlag:
        """Flags of an attached database."""
        return self._flags[db_id]

    def attach(self, db_id: int, name: str, flags: int) -> None:
        """Open a database: empty, or with what a persistent one held before the crash."""
        tdb = Tdb.in_memory(HASH_SIZE)
        if flags & DbFlag.PERSISTENT:
            for key, value in self._disk.get(name, {}).items():
                tdb.store(key, value)
        self.attach_tdb(db_id, flags, tdb)
        self._flags[db_id] = DbFlag(flags)
        self._names[db_id] = name

    def sync(self, db_id: int) -> None:
        """A transaction of a persistent database has been committed: it survives a crash from now on."""
        if self._flags[db_id] & DbFlag.PERSISTENT:
            self._disk[self._names[db_id]] = dict(self.tdb(db_id).traverse())

    def path(self, db_id: int) -> str:
        """A name; no file has it."""
        return f"memory/{self._names[db_id]}"

    def set_db_flags(self, db_id: int, flags: int) -> None:
        """Switch sticky and read-only on."""
        wanted = DbFlag(flags)
        tracking = None
        if wanted & DbFlag.READONLY and not self._flags[db_id] & DbFlag.READONLY:
            tracking = Tdb.in_memory(HASH_SIZE)
        self.set_flags(db_id, wanted, tracking)
        self._flags[db_id] = wanted

    def fetch(self, db_id: int, key: bytes) -> bytes | None:
        """Stored record with its header."""
        is_read, record = self.try_fetch(db_id, key)
        if not is_read:
            raise Busy
        return record

    def counters(self) -> dict[str, int]:
        """Counters by their name in upstream's statistics."""
        return self.counters_by_name()
