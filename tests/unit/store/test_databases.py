# SPDX-License-Identifier: GPL-3.0-or-later
"""Database files: flags, what is refused, what is put aside, health."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ctdbpy.errors import StoreError
from ctdbpy.store.databases import (
    CorruptDatabase,
    DatabaseKind,
    Health,
    open_database,
    open_flags,
    persistent_files,
)
from ctdbpy.store.lockwaits import Op
from ctdbpy.store.tdb import OpenError, Tdb, robust_mutexes_supported
from tests.unit.store.conftest import WaiterProcess

VOLATILE, PERSISTENT, REPLICATED = DatabaseKind.VOLATILE, DatabaseKind.PERSISTENT, DatabaseKind.REPLICATED
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def test_flags_are_those_samba_gets_from_ctdbd() -> None:
    assert robust_mutexes_supported()
    assert open_flags(VOLATILE, mutexes=True) == 7233
    assert open_flags(VOLATILE, mutexes=False) == 3137
    assert open_flags(REPLICATED, mutexes=True) == 3137
    assert open_flags(PERSISTENT, mutexes=True) == 1024


@pytest.mark.parametrize("kind", [VOLATILE, REPLICATED])
def test_a_volatile_database_begins_empty(tmp_path: Path, kind: DatabaseKind) -> None:
    for _ in range(2):
        with open_database(tmp_path, "a.tdb", 3, kind, hash_size=101) as tdb:
            assert tdb.path == str(tmp_path / "a.tdb.3")
            assert tdb.hash_size == 101
            assert list(tdb.traverse()) == []
            tdb.store(b"key", b"value")


def test_a_volatile_database_still_in_use_is_refused(
    tmp_path: Path, start_waiter: Callable[[Tdb], WaiterProcess]
) -> None:
    with open_database(tmp_path, "a.tdb", 0, VOLATILE) as tdb:
        tdb.store(b"key", b"value")
        waiter = start_waiter(tdb)
        waiter.ask(Op.CHAIN, b"key")
    with pytest.raises(StoreError, match="it is not empty, so another process has it open"):
        open_database(tmp_path, "a.tdb", 0, VOLATILE)


def test_a_persistent_database_keeps_its_content(tmp_path: Path) -> None:
    with open_database(tmp_path, "a.tdb", 0, PERSISTENT) as tdb:
        tdb.store(b"key", b"value")
    with open_database(tmp_path, "a.tdb", 0, PERSISTENT) as tdb:
        assert tdb.fetch(b"key") == b"value"


def spoil_records(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[600:2000] = b"\xff" * 1400
    path.write_bytes(content)


def spoil_header(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


def truncate(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("spoil", [spoil_records, spoil_header, truncate])
def test_a_corrupt_persistent_database_is_put_aside_and_named(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.tdb.0"
    with open_database(tmp_path, "a.tdb", 0, PERSISTENT, hash_size=101) as tdb:
        for number in range(100):
            tdb.store(b"%d" % number, b"x" * 100)
    spoil(path)
    spoilt = path.read_bytes()
    with pytest.raises(CorruptDatabase, match=r"cannot use database 'a.tdb': .* is corrupt") as caught:
        open_database(tmp_path, "a.tdb", 0, PERSISTENT, now=NOW)
    assert caught.value.name == "a.tdb"
    assert caught.value.moved_to == str(tmp_path / "a.tdb.0.corrupted.20260304050607.0Z")
    assert Path(caught.value.moved_to).read_bytes()[10:] == spoilt[10:]
    assert persistent_files(tmp_path, 0) == {}
    with open_database(tmp_path, "a.tdb", 0, PERSISTENT) as tdb:
        assert list(tdb.traverse()) == []


def test_what_is_not_corruption_moves_no_file(tmp_path: Path) -> None:
    with open_database(tmp_path, "a.tdb", 0, PERSISTENT) as tdb:
        tdb.store(b"key", b"value")
        with pytest.raises(OpenError, match="EBUSY"):
            open_database(tmp_path, "a.tdb", 0, PERSISTENT)
        assert tdb.fetch(b"key") == b"value"
    (tmp_path / "b.tdb.0").mkdir()
    with pytest.raises(OpenError, match="EISDIR"):
        open_database(tmp_path, "b.tdb", 0, PERSISTENT)
    assert sorted(os.listdir(tmp_path)) == ["a.tdb.0", "b.tdb.0"]


def test_persistent_files_are_those_of_this_node(tmp_path: Path) -> None:
    for name in ("b.tdb.1", "a.tdb.1", "a.tdb.11", "c.tdb.0", "a.tdb.1.corrupted.20260304050607.0Z", "x.1"):
        (tmp_path / name).touch()
    (tmp_path / "d.tdb.1").mkdir()
    assert persistent_files(tmp_path, 1) == {"a.tdb": tmp_path / "a.tdb.1", "b.tdb": tmp_path / "b.tdb.1"}


def test_health_outlives_the_daemon(tmp_path: Path) -> None:
    health = Health(tmp_path, 2)
    assert health.reason("a.tdb") is None
    health.set_unhealthy("a.tdb", "corrupt")
    health.set_unhealthy("b.tdb", "lost")
    health.set_healthy("b.tdb")
    health.set_healthy("c.tdb")
    health.close()
    health = Health(tmp_path, 2)
    assert list(health) == [("a.tdb", "corrupt")]
    assert health.reason("a.tdb") == "corrupt"
    health.close()
    with Tdb.open(tmp_path / "persistent_health.tdb.2") as tdb:
        assert list(tdb.traverse()) == [(b"a.tdb", b"corrupt")]


def test_a_corrupt_health_file_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "persistent_health.tdb.0").write_bytes(b"x" * 5000)
    health = Health(tmp_path, 0)
    assert list(health) == []
    health.close()
