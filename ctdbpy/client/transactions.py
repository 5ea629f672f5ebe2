# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions on persistent and replicated databases, under the lock that upstream's tool takes for them.

Source: Samba's ctdb/client/client_db.c. The lock is a record of g_lock.tdb. Samba's own programs take a lock
of the same name, whose record looks different: one of theirs is waited for here, though they do not see ours.
"""

from __future__ import annotations

import os
import struct
import time
from types import TracebackType
from typing import Final, Self

from ctdbpy.client.connection import Connection, Refused, TimeUp
from ctdbpy.client.databases import Database, attach, open_file
from ctdbpy.client.records import locked
from ctdbpy.errors import ClientError, ProtocolError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.buffers import Reader, read_entries
from ctdbpy.wire.constants import UNKNOWN_PNN, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.misc import GLock, GLockRecord, ServerId
from ctdbpy.wire.records import SEQNUM_KEY, RecData, RecordHeader

LOCK_DATABASE: Final = "g_lock.tdb"
#: Between two looks at a lock that another process holds.
_PAUSE_S: Final = 0.02
_SEQNUM: Final = struct.Struct("=Q")
_COMMIT_TRIES: Final = 100
#: Samba's record: watchers behind their number, the exclusive holder, two epochs, shared holders, data.
_WATCHER_SIZE: Final = 32
_EPOCHS_SIZE: Final = 16


class Transaction:
    """`with Transaction(…) as it:` commits at the end of the block unless an exception leaves it.

    One that stores nothing changes nothing, the sequence number neither.
    """

    def __init__(
        self, connection: Connection, database: Database, *, readonly: bool = False, limit_s: float = 120.0
    ) -> None:
        if database.is_volatile:
            raise ClientError(f"cannot begin a transaction on '{database.name}': it is volatile")
        self._connection = connection
        self._database = database
        self._limit_s = limit_s
        self._records: dict[bytes, RecData] = {}
        self._tdb = open_file(connection, database)
        self._locks: Tdb | None = None
        self._lock_name = f"transaction_db_0x{database.db_id:08x}".encode() + b"\0"
        pid, db_id = os.getpid(), database.db_id
        self._mine = GLock(not readonly, ServerId(pid, db_id, connection.pnn, db_id << 32 | pid))
        try:
            lock_database = attach(connection, LOCK_DATABASE, DbFlag(0))
            self._lock_database = lock_database
            self._locks = open_file(connection, lock_database)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        try:
            self._lock()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._records:
                self._commit()
        finally:
            try:
                self._unlock()
            finally:
                self._close()

    def fetch(self, key: bytes) -> bytes:
        """The value as this transaction sees it; nothing for a record that is not there."""
        if key in self._records:
            return self._records[key].value
        return self._read(key)[1]

    def store(self, key: bytes, value: bytes) -> None:
        """Store a value when the transaction is committed; nothing deletes the record."""
        header, old = self._read(key)
        if key in self._records:
            header, old = self._records[key].header, self._records[key].value
        if value != old:
            stored = RecordHeader(header.rsn + 1, self._connection.pnn, header.reserved, header.flags)
            self._records[key] = RecData.of(key, stored, value)
        if not value and self._tdb.fetch(key) is None:
            # Stored and deleted in the same transaction: it was never there.
            self._records.pop(key, None)

    def _read(self, key: bytes) -> tuple[RecordHeader, bytes]:
        data = self._tdb.fetch(key)
        if data is None or len(data) < RecordHeader.SIZE:
            return RecordHeader(0, UNKNOWN_PNN), b""
        return RecordHeader.unpack(data), data[RecordHeader.SIZE :]

    def _seqnum(self) -> int:
        value = self._read(SEQNUM_KEY)[1]
        if value and len(value) != _SEQNUM.size:
            raise ClientError(f"cannot commit to '{self._database.name}': its sequence number is damaged")
        return int(_SEQNUM.unpack(value)[0]) if value else 0

    def _commit(self) -> None:
        before = self._seqnum()
        self.store(SEQNUM_KEY, _SEQNUM.pack(before + 1))
        records = tuple(self._records.values())
        for _ in range(_COMMIT_TRIES):
            status = self._connection.commit(self._database.db_id, records)
            if status == 0:
                return
            # A recovery may have ended it before or after it was stored: the sequence number tells.
            now = self._seqnum()
            if now == before + 1:
                return
            if now != before:
                raise ClientError(
                    f"cannot commit to '{self._database.name}': its sequence number was {before} and is {now}"
                )
        raise Refused(f"cannot commit to '{self._database.name}': recoveries end it again and again", status)

    # -- the lock ----------------------------------------------------------------------

    def _lock(self) -> None:
        deadline = time.monotonic() + self._limit_s
        while (holder := self._try_lock()) is not None:
            if time.monotonic() >= deadline:
                raise TimeUp(
                    f"cannot begin a transaction on '{self._database.name}': process {holder.pid} "
                    f"of node {holder.vnn} has had one for {self._limit_s:g} s"
                )
            # Nobody tells that a lock is given up; what arrives meanwhile is kept.
            self._connection.message_to(timeout_s=_PAUSE_S)

    def _try_lock(self) -> ServerId | None:
        """Take the lock, or say who has it: a process that is gone does not."""
        assert self._locks is not None
        with locked(self._connection, self._locks, self._lock_database, self._lock_name) as record:
            foreign = _samba_holders(record.value)
            for holder in foreign or ():
                if self._exists(holder):
                    return holder
            holders = [] if foreign is not None else _holders(record.value)
            for each in list(holders):
                if not (each.is_write or self._mine.is_write):
                    continue
                if self._exists(each.server_id):
                    return each.server_id
                holders.remove(each)
            record.store(GLockRecord((*holders, self._mine)).pack())
        return None

    def _unlock(self) -> None:
        assert self._locks is not None
        with locked(self._connection, self._locks, self._lock_database, self._lock_name) as record:
            if _samba_holders(record.value) is not None:
                return
            holders = [each for each in _holders(record.value) if each != self._mine]
            if holders:
                record.store(GLockRecord(tuple(holders)).pack())
            else:
                record.delete()

    def _exists(self, holder: ServerId) -> bool:
        reply = self._connection.control(Control.PROCESS_EXISTS, holder.pid, destnode=holder.vnn)
        return reply.status == 0

    def _close(self) -> None:
        self._tdb.close()
        if self._locks is not None:
            self._locks.close()


def _holders(value: bytes) -> list[GLock]:
    return list(GLockRecord.unpack(value).locks)


def _samba_holders(value: bytes) -> list[ServerId] | None:
    """Who holds the lock according to a record that Samba's programs wrote; None if it is none of theirs."""
    if len(value) % GLock.SIZE == 0:
        return None
    try:
        reader = Reader(value, "lock of g_lock.tdb")
        reader.skip(_WATCHER_SIZE * reader.count(_WATCHER_SIZE, "watchers"), "watchers")
        exclusive = ServerId.read(reader)
        reader.skip(_EPOCHS_SIZE, "epochs")
        shared = read_entries(reader, ServerId, reader.count(ServerId.SIZE, "shared"))
    except ProtocolError as error:
        raise ClientError(f"cannot begin a transaction: {error}") from error
    return [each for each in (exclusive, *shared) if each.pid]
