# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of `ctdb backupdb`: a header, then buffers of records, as C structures of the machine.

Source: Samba's ctdb/tools/ctdb.c (db_header) and ctdb_rec_buffer_write.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ctdbpy.errors import ClientError, ProtocolError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader

VERSION: Final = 3
#: A buffer is closed once it is as long as this.
BUFFER_SIZE: Final = 100_000
NAME_SIZE: Final = 64

_HEADER: Final = struct.Struct(f"=QqQQQ{NAME_SIZE}s")
_BUFFER: Final = struct.Struct("=IIQ")


class NoBackup(ClientError):
    """The file is not a backup, or of a version nobody writes any more."""

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version


@dataclass(frozen=True, slots=True)
class Backup:
    """What the header of a backup says."""

    path: str
    name: str
    flags: DbFlag
    time_s: int
    buffers: int
    records: int


def write_backup(
    path: str,
    name: str,
    flags: DbFlag,
    db_id: int,
    tdb: Tdb,
    on_progress: Callable[[int], None] = lambda _records: None,
) -> Backup:
    """Write the records of an open file, and return what the header says.

    `on_progress` hears now and then how many are written.

    The backup is there whole or not at all: it is written beside `path` and put in its place at the end.
    Raises OSError.
    """
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(bytes(_HEADER.size))
            buffers, records = _write_records(file, db_id, tdb, on_progress)
            backup = Backup(path, name, flags, int(time.time()), buffers, records)
            file.seek(0)
            encoded = name.encode()[: NAME_SIZE - 1]
            file.write(_HEADER.pack(VERSION, backup.time_s, int(flags), buffers, records, encoded))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return backup


def _write_records(
    file: IO[bytes], db_id: int, tdb: Tdb, on_progress: Callable[[int], None]
) -> tuple[int, int]:
    buffers = total = size = 0
    waiting: list[RecData] = []

    def flush() -> None:
        body = b"".join(record.pack() for record in waiting)
        file.write(_BUFFER.pack(db_id, len(waiting), len(body)) + body)

    for key, data in tdb.traverse():
        if len(data) < RecordHeader.SIZE:
            continue
        record = RecData(0, key, data)
        waiting.append(record)
        size += len(record.pack())
        total += 1
        if size >= BUFFER_SIZE:
            flush()
            waiting, size, buffers = [], 0, buffers + 1
            on_progress(total)
    if waiting:
        flush()
        buffers += 1
    return buffers, total


def read_backup(path: str) -> Backup:
    """The header of a backup. Raises OSError, NoBackup."""
    with open(path, "rb") as file:
        return _read_header(path, file)


def read_buffers(backup: Backup) -> Iterator[RecBuffer]:
    """The records of a backup, buffer by buffer. Raises ClientError when the file is damaged."""
    with open(backup.path, "rb") as file:
        _read_header(backup.path, file)
        left = os.fstat(file.fileno()).st_size - _HEADER.size
        for _ in range(backup.buffers):
            head = file.read(_BUFFER.size)
            if len(head) < _BUFFER.size:
                raise _cut_off(backup.path)
            db_id, count, length = _BUFFER.unpack(head)
            left -= _BUFFER.size
            if length > left:
                raise _cut_off(backup.path)
            left -= length
            try:
                yield RecBuffer.unpack(struct.pack("=II", db_id, count) + file.read(length))
            except ProtocolError as error:
                raise ClientError(f"cannot read backup '{backup.path}': it is damaged: {error}") from error


def check_backup(backup: Backup) -> None:
    """Read all of it, for whoever is about to replace other records by these. Raises ClientError."""
    found = sum(len(buffer.records) for buffer in read_buffers(backup))
    if found != backup.records:
        raise ClientError(f"cannot use backup '{backup.path}': it has {found} of {backup.records} records")


def _read_header(path: str, file: IO[bytes]) -> Backup:
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size:
        version = int.from_bytes(data[:8].ljust(8, b"\0"), "little")
        raise NoBackup(f"cannot read backup '{path}': it has only {len(data)} bytes", version)
    version, time_s, flags, buffers, records, name = _HEADER.unpack(data)
    if version != VERSION:
        raise NoBackup(f"cannot read backup '{path}': its version is {version}, not {VERSION}", version)
    text = name.split(b"\0", 1)[0].decode(errors="replace")
    return Backup(path, text, DbFlag(flags & 0xFF), time_s, buffers, records)


def _cut_off(path: str) -> ClientError:
    return ClientError(f"cannot read backup '{path}': it ends in the middle of its records")
