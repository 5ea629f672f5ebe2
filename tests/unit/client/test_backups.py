# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup is there whole or not at all, and one that is damaged is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.client.backups import BUFFER_SIZE, NoBackup, check_backup, read_backup, read_buffers, write_backup
from ctdbpy.errors import ClientError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag
from ctdbpy.wire.records import RecordHeader


def backup_of(path: Path, records: dict[bytes, bytes]) -> None:
    with Tdb.in_memory() as tdb:
        for key, value in records.items():
            tdb.store(key, RecordHeader(7, 1).pack() + value)
        tdb.store(b"torn", b"short")
        write_backup(str(path), "secrets.tdb", DbFlag.PERSISTENT, 0x1234, tdb)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    records = {f"key{number}".encode(): bytes(1000) for number in range(3 * BUFFER_SIZE // 1000)}
    backup_of(path, records)
    backup = read_backup(str(path))
    assert (backup.name, backup.flags, backup.records) == ("secrets.tdb", DbFlag.PERSISTENT, len(records))
    buffers = list(read_buffers(backup))
    assert len(buffers) == backup.buffers > 2
    assert {each.key: each.value for buffer in buffers for each in buffer.records} == records
    assert {each.header for buffer in buffers for each in buffer.records} == {RecordHeader(7, 1)}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    backup_of(path, {b"a": b"1", b"b": b"2"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ClientError, match="cannot read backup"):
            list(read_buffers(read_backup(str(path))))


def test_one_that_lacks_records_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    backup_of(path, {b"a": b"1", b"b": b"2"})
    whole = bytearray(path.read_bytes())
    check_backup(read_backup(str(path)))
    whole[32:40] = (3).to_bytes(8, "little")
    path.write_bytes(whole)
    with pytest.raises(ClientError, match="it has 2 of 3 records"):
        check_backup(read_backup(str(path)))


def test_lengths_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    backup_of(path, {b"a": b"1"})
    whole = bytearray(path.read_bytes())
    whole[104 + 8 : 104 + 16] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(whole)
    with pytest.raises(ClientError, match="ends in the middle"):
        list(read_buffers(read_backup(str(path))))


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_bytes((2).to_bytes(8, "little") + bytes(96))
    with pytest.raises(NoBackup, match="its version is 2, not 3"):
        read_backup(str(path))
