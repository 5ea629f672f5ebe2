# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of volatile databases, locked as Samba does it: this node becomes dmaster, the chain is locked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ctdbpy.client.connection import Connection
from ctdbpy.client.databases import Database
from ctdbpy.errors import ClientError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import CallFlag, CallId, RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import KeyData
from ctdbpy.wire.records import RecordHeader

_COPIES = RecordFlag.RO_HAVE_READONLY | RecordFlag.RO_HAVE_DELEGATIONS
#: A record that goes on being taken away before it can be locked is hot beyond use for a tool.
TRIES_MAX = 10000


@dataclass(slots=True)
class Locked:
    """A record whose chain this process has locked."""

    connection: Connection
    tdb: Tdb
    database: Database
    key: bytes
    header: RecordHeader
    value: bytes

    def store(self, value: bytes) -> None:
        """Store another value; it leaves the node only when another asks for it."""
        self._check_writable()
        self.tdb.store(self.key, self.header.pack() + value)
        self.value = value

    def delete(self) -> None:
        """Empty the record and have vacuuming remove it."""
        self._check_writable()
        self.tdb.store(self.key, self.header.pack())
        self.value = b""
        # It is empty whether or not vacuuming hears of it at once.
        self.connection.control(
            Control.SCHEDULE_FOR_DELETION,
            KeyData(self.database.db_id, self.header, self.key),
            srvid=self.database.db_id,
        )

    def _check_writable(self) -> None:
        if self.header.flags & _COPIES:
            raise ClientError(f"cannot change a record of '{self.database.name}': this is a read-only copy")


@contextmanager
def locked(
    connection: Connection, tdb: Tdb, database: Database, key: bytes, *, readonly: bool = False
) -> Iterator[Locked]:
    """Have the record here and hold its chain lock; with `readonly` a read-only copy does."""
    for _ in range(TRIES_MAX):
        tdb.chainlock(key)
        try:
            data = tdb.fetch(key)
            if data is not None and len(data) >= RecordHeader.SIZE:
                header = RecordHeader.unpack(data)
                if _is_usable(header, connection.pnn, readonly=readonly):
                    yield Locked(connection, tdb, database, key, header, data[RecordHeader.SIZE :])
                    return
        finally:
            tdb.chainunlock(key)
        flags = CallFlag.IMMEDIATE_MIGRATION | (CallFlag.WANT_READONLY if readonly else 0)
        connection.call(database.db_id, key, CallId.NULL, flags)
    raise ClientError(f"cannot lock a record of '{database.name}': other nodes keep taking it away")


def _is_usable(header: RecordHeader, pnn: int, *, readonly: bool) -> bool:
    if readonly:
        return header.dmaster == pnn or bool(header.flags & _COPIES)
    return header.dmaster == pnn and not header.flags & RecordFlag.RO_HAVE_DELEGATIONS
