# SPDX-License-Identifier: GPL-3.0-or-later
"""TDB files: records, traverses, transactions, and what other programs make of them."""

from __future__ import annotations

import gc
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ctdbpy.errors import StoreError
from ctdbpy.store import tdb as store
from ctdbpy.store.tdb import OpenError, Tdb, jenkins_hash
from tests.unit.store.conftest import FCNTL, MUTEX, PERSISTENT

HEADER = struct.Struct("=QIII4x")


def test_records_are_stored_replaced_and_deleted(tdb: Tdb) -> None:
    assert tdb.fetch(b"key") is None
    assert not tdb.delete(b"key")
    tdb.store(b"key", b"value")
    tdb.store(b"key", b"")
    assert tdb.fetch(b"key") == b""
    assert b"key" in tdb
    assert tdb.delete(b"key")
    assert b"key" not in tdb


def test_keys_and_values_may_hold_any_bytes(tdb: Tdb) -> None:
    key, value = bytes(range(256)), bytes(reversed(range(256))) * 1000
    tdb.store(key, value)
    assert tdb.fetch(key) == value
    assert list(tdb.traverse()) == [(key, value)]


def test_a_header_is_read_in_place(tdb: Tdb) -> None:
    tdb.store(b"key", HEADER.pack(7, 3, 0, 0x10000) + b"data")
    assert tdb.read_header(b"key") == (7, 3, 0x10000, 4)
    tdb.store(b"short", b"x" * 23)
    assert tdb.read_header(b"short") is None
    assert tdb.read_header(b"absent") is None


def test_the_hash_is_what_names_databases() -> None:
    # As any Samba cluster shows them.
    assert jenkins_hash(b"secrets.tdb\0") == 0x7132C184
    assert jenkins_hash(b"g_lock.tdb\0") == 0x4D2A432B


def test_a_second_open_is_refused_and_harms_nothing(tdb: Tdb) -> None:
    tdb.store(b"key", b"value")
    with pytest.raises(OpenError, match="libtdb opens a file once per process") as caught:
        Tdb.open(tdb.path, flags=tdb.open_flags)
    assert caught.value.errno == 16
    assert tdb.fetch(b"key") == b"value"


def test_a_file_can_be_opened_again_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "a.tdb"
    with Tdb.open(path, flags=PERSISTENT) as tdb:
        tdb.store(b"key", b"value")
    assert tdb.closed
    with Tdb.open(path, flags=PERSISTENT) as tdb:
        assert tdb.fetch(b"key") == b"value"
    del tdb
    gc.collect()
    Tdb.open(path, flags=PERSISTENT).close()


def test_errors_say_what_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot open '.*/missing': ENOENT .*libtdb: .*could not open"):
        Tdb.open(tmp_path / "missing", open_flags=os.O_RDWR)
    (tmp_path / "text").write_text("not a TDB" * 1000)
    with pytest.raises(OpenError, match=r"cannot open '.*/text': EIO") as caught:
        Tdb.open(tmp_path / "text", open_flags=os.O_RDWR)
    assert caught.value.errno == 5
    tdb = Tdb.open(tmp_path / "closed", flags=PERSISTENT)
    tdb.close()
    tdb.close()
    with pytest.raises(StoreError, match=r"cannot use '.*/closed': it is closed"):
        tdb.fetch(b"key")


def test_libtdb_writes_nothing_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tdb"
    with Tdb.open(path, hash_size=7, flags=PERSISTENT) as tdb:
        for number in range(100):
            tdb.store(b"%d" % number, b"x" * 50)
    content = bytearray(path.read_bytes())
    content[2000:3000] = b"\xff" * 1000
    path.write_bytes(content)
    with (
        Tdb.open(path, flags=PERSISTENT) as tdb,
        pytest.raises(StoreError, match=r"TDB_ERR_CORRUPT.*libtdb: "),
    ):
        tdb.check()
    assert capfd.readouterr().err == ""


def test_open_flags_are_reported_as_other_processes_need_them(tmp_path: Path) -> None:
    with Tdb.open(tmp_path / "a", hash_size=1009, flags=MUTEX) as tdb:
        assert (tdb.open_flags, tdb.flags, tdb.hash_size) == (MUTEX, 7233, 1009)
        assert tdb.map_size > 0
        assert tdb.freelist_size() >= 0


def test_sequence_numbers_count_changes_once_enabled(tdb: Tdb) -> None:
    tdb.store(b"key", b"1")
    assert tdb.seqnum == 0
    tdb.enable_seqnum()
    tdb.store(b"key", b"2")
    assert tdb.seqnum == 1
    tdb.increment_seqnum_nonblock()
    assert tdb.seqnum == 2
    assert tdb.flags & store.SEQNUM


def test_a_tdb_in_memory_has_records_but_no_transactions() -> None:
    with Tdb.in_memory(101) as tdb:
        tdb.store(b"key", b"value")
        assert tdb.is_in_memory
        assert tdb.path == ""
        assert list(tdb.traverse()) == [(b"key", b"value")]
        assert tdb.chainlock_nonblock(b"key")
        tdb.chainunlock(b"key")
        with pytest.raises(StoreError, match="cannot start a transaction on 'a TDB in memory'"):
            tdb.transaction_start()
        tdb.wipe_all()
        assert list(tdb.traverse()) == []


# -- traverse ---------------------------------------------------------------------------------------


def test_a_traverse_of_100000_records_gives_each_once(tmp_path: Path) -> None:
    with Tdb.open(tmp_path / "a", hash_size=10007, flags=MUTEX) as tdb:
        for number in range(100_000):
            tdb.store(b"key%d" % number, b"%d" % number)
        found = list(tdb.traverse())
        assert len(found) == 100_000
        assert dict(found) == {b"key%d" % number: b"%d" % number for number in range(100_000)}


def test_a_chunk_ends_with_the_chain_that_filled_it(tdb: Tdb) -> None:
    for number in range(5000):
        tdb.store(b"%d" % number, b"")
    records, cursor = tdb.traverse_chunk(0, 100)
    assert 100 <= len(records) < 150
    assert cursor is not None
    assert 0 < cursor < tdb.hash_size


def test_a_traverse_sees_what_stays_exactly_once_while_records_change(tdb: Tdb) -> None:
    stay = {b"stay%d" % number for number in range(2000)}
    for key in stay:
        tdb.store(key, b"x")
    for number in range(2000):
        tdb.store(b"go%d" % number, b"x")
    seen: list[bytes] = []
    cursor: int | None = 0
    turn = 0
    while cursor is not None:
        records, cursor = tdb.traverse_chunk(cursor, 200)
        seen += [key for key, _ in records]
        for number in range(turn * 100, turn * 100 + 100):
            tdb.delete(b"go%d" % number)
            tdb.store(b"new%d" % number, b"x" * number)
        turn += 1
    assert turn > 10
    assert sorted(key for key in seen if key.startswith(b"stay")) == sorted(stay)


# -- transactions -------------------------------------------------------------------------------------


def test_a_transaction_commits_as_one_or_not_at_all(tdb: Tdb) -> None:
    with tdb.transaction():
        tdb.store(b"a", b"1")
        tdb.store(b"b", b"1")
    with pytest.raises(RuntimeError), tdb.transaction():
        tdb.store(b"a", b"2")
        tdb.delete(b"b")
        raise RuntimeError
    assert sorted(tdb.traverse()) == [(b"a", b"1"), (b"b", b"1")]
    assert tdb.transaction_start_nonblock()
    tdb.store(b"a", b"3")
    tdb.transaction_prepare()
    tdb.transaction_commit()
    assert tdb.fetch(b"a") == b"3"


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("tdb.transaction_commit()", b"new"),
        ("pass", b"old"),
        ("tdb.transaction_prepare()", b"old"),
    ],
    ids=["committed", "unfinished", "prepared"],
)
def test_only_a_committed_transaction_survives_a_kill(
    tmp_path: Path, run_python: Callable[[str], subprocess.CompletedProcess[str]], end: str, expected: bytes
) -> None:
    path = tmp_path / "a.tdb"
    with Tdb.open(path, flags=PERSISTENT) as tdb:
        tdb.store(b"key", b"old")
    run_python(
        "import os, signal\nfrom ctdbpy.store.tdb import Tdb\n"
        f"tdb = Tdb.open({str(path)!r}, flags={PERSISTENT})\n"
        f"tdb.transaction_start()\ntdb.store(b'key', b'new')\n{end}\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    with Tdb.open(path, flags=PERSISTENT) as tdb:
        tdb.check()
        assert tdb.fetch(b"key") == expected


# -- what other programs make of our files -------------------------------------------------------------


@pytest.mark.parametrize("flags", [MUTEX, FCNTL, PERSISTENT], ids=["mutex", "fcntl", "persistent"])
def test_debians_tools_read_our_files(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "a.tdb.0"
    with Tdb.open(path, hash_size=1009, flags=flags) as tdb:
        tdb.store(b"key", b"value")
        dump = subprocess.run(
            ["tdbdump", path], capture_output=True, text=True, check=True, timeout=30
        ).stdout
        info = subprocess.run(
            ["tdbtool", path, "info"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    assert 'key(3) = "key"' in dump
    assert 'data(5) = "value"' in dump
    assert "Number of hash chains: 1009" in info
    assert f"Incompatible hash: {'no' if flags == PERSISTENT else 'yes'}" in info
    assert f"Robust mutexes locking: {'yes' if flags == MUTEX else 'no'}" in info
