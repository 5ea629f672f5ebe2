# SPDX-License-Identifier: GPL-3.0-or-later
"""The record engine with real files underneath: what the core of this process talks to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ctdbpy.core.ports import Busy
from ctdbpy.store.databases import DatabaseKind, file_name, open_database
from ctdbpy.store.engine import Engine
from ctdbpy.store.tdb import CLEAR_IF_FIRST, NOLOCK, NOSYNC, Tdb
from ctdbpy.wire.constants import BROADCASTS, DbFlag


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Where database files live and how they are opened."""

    volatile: Path
    persistent: Path
    hash_size: int
    max_dead: int
    mutexes: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """Who records in bulk are sent to: a client of ours, or a node."""

    client_id: int = 0
    pnn: int = -1


def kind_of(flags: DbFlag) -> DatabaseKind:
    """The kind of file that a database with these flags lives in."""
    if flags & DbFlag.PERSISTENT:
        return DatabaseKind.PERSISTENT
    return DatabaseKind.REPLICATED if flags & DbFlag.REPLICATED else DatabaseKind.VOLATILE


class LocalRecords(Engine):
    """`core.ports.Records`: the engine answers, files are opened here."""

    def __init__(self, pnn: int, layout: FileLayout) -> None:
        super().__init__(pnn)
        self._pnn = pnn
        self._layout = layout
        self._flags: dict[int, DbFlag] = {}
        self._names: dict[int, str] = {}
        #: Told of each database that is about to be detached: whoever else has its file open closes it.
        self.on_detach: list[Callable[[int], None]] = []
        #: Told of SpinUs whenever tunables change.
        self.set_spin: Callable[[int], None] = lambda spin_us: None
        #: Told of all tunables whenever they change.
        self.on_tunables: list[Callable[[Mapping[str, int]], None]] = []
        self._reader: Reader | None = None
        self._walks: dict[int, int] = {}
        self.lmasters: tuple[int, ...] = ()

    def set_map(self, generation: int, lmasters: tuple[int, ...]) -> None:
        """Use this vnnmap from now on."""
        self.lmasters = lmasters
        super().set_map(generation, lmasters)

    def set_tunables(self, values: tuple[tuple[str, int], ...]) -> None:
        """Use these tunables; those of the files count from the next attach on."""
        super().set_tunables(values)
        named = dict(values)
        self._layout = replace(
            self._layout, hash_size=named["DatabaseHashSize"], max_dead=named["DatabaseMaxDead"]
        )
        self.set_spin(named["SpinUs"])
        for tell in self.on_tunables:
            tell(named)

    def flags(self, db_id: int) -> DbFlag:
        """Flags of an attached database."""
        return self._flags[db_id]

    def attach(self, db_id: int, name: str, flags: int) -> None:
        """Open the file of a database and serve it. Raises StoreError."""
        kind = kind_of(DbFlag(flags))
        layout = self._layout
        directory = layout.persistent if kind is DatabaseKind.PERSISTENT else layout.volatile
        tdb = open_database(
            directory,
            name,
            self._pnn,
            kind,
            hash_size=layout.hash_size,
            max_dead=layout.max_dead,
            mutexes=layout.mutexes,
        )
        self.attach_tdb(db_id, flags & (DbFlag.PERSISTENT | DbFlag.REPLICATED), tdb)
        self._names[db_id] = name
        self._flags[db_id] = DbFlag(flags & (DbFlag.PERSISTENT | DbFlag.REPLICATED))
        self.set_db_flags(db_id, flags)

    def detach(self, db_id: int) -> None:
        """Close and forget a database, and whatever helpers of ours have open of it."""
        for tell in self.on_detach:
            tell(db_id)
        tdb = self.tdb(db_id)
        # Emptied now: the helpers close it in their own time, and until then libtdb would not clear it
        # for the next one who attaches it, who must find it empty.
        if tdb.lockall_nonblock():
            try:
                tdb.wipe_all()
            finally:
                tdb.unlockall()
        super().detach(db_id)
        self._names.pop(db_id, None)
        self._flags.pop(db_id, None)

    def path(self, db_id: int) -> str:
        """Path of the database's file."""
        return self.tdb(db_id).path

    def set_db_flags(self, db_id: int, flags: int) -> None:
        """Switch sticky and read-only on. Raises StoreError if the tracking file cannot be opened."""
        wanted = DbFlag(flags)
        tracking = None
        if wanted & DbFlag.READONLY and not self._flags[db_id] & DbFlag.READONLY:
            path = self._layout.volatile / (file_name(self._names[db_id], self._pnn) + ".RO")
            tracking = Tdb.open(path, flags=NOLOCK | CLEAR_IF_FIRST | NOSYNC)
        self.set_flags(db_id, wanted, tracking)
        self._flags[db_id] = wanted

    def fetch(self, db_id: int, key: bytes) -> bytes | None:
        """Stored record with its header. Raises Busy when its chain is locked."""
        is_read, record = self.try_fetch(db_id, key)
        if not is_read:
            raise Busy
        return record

    def fetch_frozen(self, db_id: int, key: bytes) -> bytes | None:
        """As fetch, of a database whose every chain a worker session holds on our behalf."""
        tdb = self.tdb(db_id)
        tdb.lockall_mark()
        try:
            return tdb.fetch(key)
        finally:
            tdb.lockall_unmark()

    def counters(self) -> dict[str, int]:
        """Counters by their name in upstream's statistics."""
        return self.counters_by_name()

    # -- records on their way out in bulk --------------------------------------------------------

    def take_reader(self) -> Reader | None:
        """Whom records were sent to since the last call, so that their producer sees who is behind."""
        reader, self._reader = self._reader, None
        return reader

    def open_traverse(self, traverse_id: int, client_id: int, srvid: int, reqid: int) -> None:
        """Records of this traverse go to a client of ours."""
        self._walks[traverse_id] = client_id
        super().open_traverse(traverse_id, client_id, srvid, reqid)

    def close_traverse(self, traverse_id: int, finish: bool) -> None:
        """Forget it."""
        self._walks.pop(traverse_id, None)
        super().close_traverse(traverse_id, finish)

    def forward_traverse(self, traverse_id: int, part: bytes) -> None:
        """Deliver records to the traverse's client."""
        super().forward_traverse(traverse_id, part)
        self._reader = Reader(client_id=self._walks.get(traverse_id, 0))

    def send_traverse(self, pnn: int, traverse_id: int, part: bytes, last: bool) -> None:
        """Send records to the node that asked for them."""
        super().send_traverse(pnn, traverse_id, part, last)
        self._reader = Reader(pnn=pnn)

    def send_message(self, destnode: int, srvid: int, data: bytes) -> None:
        """Send a message; what a recovery pulls goes out this way."""
        super().send_message(destnode, srvid, data)
        if destnode not in BROADCASTS and destnode != self._pnn:
            self._reader = Reader(pnn=destnode)
