# SPDX-License-Identifier: GPL-3.0-or-later
"""Which databases are attached, and clients that wait until they may attach one.

Source: reference/ctdb.md 7.6.
"""

from __future__ import annotations

from ctdbpy.core.effects import LogLevel, SetHealth
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.state import Database, State
from ctdbpy.errors import StoreError
from ctdbpy.wire.constants import INVALID_GENERATION, DbFlag, RunState
from ctdbpy.wire.records import db_id_of


class Attaches:
    """Databases come and go."""

    def __init__(self, state: State, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        self._parked: list[Promise[bool]] = []

    @property
    def are_open(self) -> bool:
        """True while local clients may attach at once."""
        return not self._state.is_recovering and self._state.runstate >= RunState.STARTUP

    def wait_until_open(self) -> Promise[bool]:
        """Done with True as soon as clients may attach, with False after DeferredAttachTO."""
        promise: Promise[bool] = Promise()
        if self.are_open:
            promise.resolve(True)
            return promise
        self._parked.append(promise)
        return self._runner.limit(promise, self._state.tunables.deferred_attach_timeout, False)

    def attach(self, name: str, flags: DbFlag) -> Database:
        """The database of this name, opened if it was not.

        Raises:
            StoreError: its file cannot be used, or it is attached with another kind.
        """
        db_id = db_id_of(name)
        known = self._state.databases.get(db_id)
        if known is not None:
            if known.name != name:
                raise StoreError(f"cannot attach {name!r}: {known.name!r} has the same id {db_id:#010x}")
            if flags & ~known.flags:
                raise StoreError(f"cannot attach {name!r}: it is attached with flags {int(known.flags):#x}")
            return known
        self._state.records.attach(db_id, name, flags)
        database = Database(db_id, name, flags)
        self._state.databases[db_id] = database
        # In a recovery the map is new already. An empty copy must not pass for one that the recovery has
        # committed, should it fail before the others' are.
        is_valid = not self._state.is_recovering
        self._state.set_db_generation(database, self._state.generation if is_valid else INVALID_GENERATION)
        self._state.log(LogLevel.NOTICE, f"attached {name!r} {db_id:#010x} flags {int(flags):#x}")
        return database

    def attach_found(self) -> None:
        """At start: attach the persistent databases found.

        A corrupt one is begun anew, empty and unhealthy: clients are refused until a recovery brings
        another node's contents, or an administrator says that it is good. One that cannot be opened at all
        is left out.
        """
        state = self._state
        for found in state.config.databases:
            unhealthy = found.unhealthy
            try:
                database = self.attach(found.name, DbFlag.PERSISTENT)
            except StoreError as reason:
                unhealthy = str(reason)
                state.log(LogLevel.ERROR, f"{reason}; the other databases are attached without it")
                state.emit(SetHealth(found.name, unhealthy))
                try:
                    # Its file has been put aside if it was that: this makes a new one.
                    database = self.attach(found.name, DbFlag.PERSISTENT)
                except StoreError:
                    continue
            if unhealthy:
                database.unhealthy = unhealthy
                state.log(LogLevel.ERROR, f"{found.name!r} is unhealthy: {unhealthy}")

    def detach(self, database: Database) -> None:
        """Close a volatile database and forget it."""
        del self._state.databases[database.db_id]
        self._state.records.detach(database.db_id)
        self._state.log(LogLevel.NOTICE, f"detached {database.name!r}")

    def settle(self) -> None:
        """Let the parked clients in once recovery is done."""
        if self._parked and self.are_open:
            parked, self._parked = self._parked, []
            for promise in parked:
                promise.resolve(True)

    @property
    def parked(self) -> int:
        """Clients that wait to attach (the late ones included until the next recovery is done)."""
        return sum(not promise.done for promise in self._parked)
