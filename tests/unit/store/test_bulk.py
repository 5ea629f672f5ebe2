# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk work on TDBs in memory, as the simulator does it; test_worker does it in a process on files."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError, StoreError
from ctdbpy.store import bulk, jobs
from ctdbpy.store.bulk import RecordRefused
from ctdbpy.store.jobs import Kind, Plain
from ctdbpy.store.sessions import Session, WrongState, status_of
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader, jenkins_hash

DB_ID = 0x1234
MIGRATED_WITH_DATA, VACUUM_MIGRATED, AUTOMATIC = 0x10000, 0x20000, 0x40000
HAVE_DELEGATIONS = 0x01000000
DATABASE = jobs.Database("", 0, DB_ID, is_volatile=True)


@pytest.fixture
def tdb() -> Iterator[Tdb]:
    with Tdb.in_memory(101) as opened:
        yield opened


def record(key: bytes, value: bytes = b"", *, rsn: int = 1, dmaster: int = 0, flags: int = 0) -> RecData:
    return RecData.of(key, RecordHeader(rsn, dmaster, 0, flags), value)


def buffer(*records: RecData, db_id: int = DB_ID) -> bytes:
    return RecBuffer(db_id, records).pack()


def fill(tdb: Tdb, *records: RecData) -> None:
    for each in records:
        tdb.store(each.key, each.data)


def unpack_all(chunks: list[bytes]) -> list[RecData]:
    found = []
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            one, at = RecData.unpack_at(chunk, at)
            found.append(one)
    return found


def stored(tdb: Tdb, key: bytes) -> RecordHeader:
    data = tdb.fetch(key)
    assert data is not None
    return RecordHeader.unpack(data)


# -- walks -------------------------------------------------------------------------------------------


def test_a_volatile_traverse_gives_what_the_node_owns_and_is_not_empty(tdb: Tdb) -> None:
    mine, empty, theirs = (
        record(b"a", b"1", dmaster=2),
        record(b"b", dmaster=2),
        record(b"c", b"1", dmaster=3),
    )
    fill(tdb, mine, empty, theirs)
    tdb.store(b"short", b"x" * 23)
    walk = bulk.traverse(tdb, reqid=77, owner=2)
    assert unpack_all(list(walk)) == [RecData(77, b"a", mine.data)]
    assert walk.count == 1
    with_empty = unpack_all(list(bulk.traverse(tdb, reqid=77, owner=2, with_empty=True)))
    assert {each.key for each in with_empty} == {b"a", b"b"}


def test_a_persistent_traverse_gives_everything(tdb: Tdb) -> None:
    fill(tdb, record(b"a", b"1", dmaster=2), record(b"b", dmaster=3))
    tdb.store(b"short", b"x")
    assert {each.key for each in unpack_all(list(bulk.traverse(tdb, reqid=0)))} == {b"a", b"b", b"short"}


def test_chunks_keep_their_limit_unless_one_record_is_larger(tdb: Tdb) -> None:
    fill(tdb, *(record(b"%d" % number, b"x" * 100) for number in range(500)), record(b"large", b"x" * 5000))
    chunks = list(bulk.traverse(tdb, reqid=1, limit=1000))
    sizes = [len(chunk) for chunk in chunks]
    assert max(sizes) > 5000
    assert sum(size > 1000 for size in sizes) == 1
    assert len(unpack_all(chunks)) == 501
    # Full ones hold as many records as fit.
    assert sum(size > 800 for size in sizes) > len(sizes) - 4


def test_an_empty_database_gives_no_chunk(tdb: Tdb) -> None:
    assert list(bulk.traverse(tdb, reqid=1)) == []
    assert list(bulk.pull(tdb, db_id=DB_ID)) == []


def test_a_pull_gives_rec_buffers_that_hold_everything(tdb: Tdb) -> None:
    records = {b"%d" % number: record(b"%d" % number, b"x" * (number % 90)) for number in range(1000)}
    fill(tdb, *records.values())
    walk = bulk.pull(tdb, db_id=DB_ID, limit=4096)
    chunks = list(walk)
    assert len(chunks) > 10
    assert max(len(chunk) for chunk in chunks) <= 4096
    buffers = [RecBuffer.unpack(chunk) for chunk in chunks]
    assert {each.db_id for each in buffers} == {DB_ID}
    found = [each for one in buffers for each in one.records]
    assert walk.count == len(found) == 1000
    assert {each.key: each for each in found} == records


def test_a_pull_by_lmaster_gives_that_nodes_share(tdb: Tdb) -> None:
    keys = [b"%d" % number for number in range(300)]
    fill(tdb, *(record(key) for key in keys))
    lmasters = (4, 0, 7)
    shares = []
    for lmaster in lmasters:
        chunks = list(bulk.pull(tdb, db_id=DB_ID, lmaster=lmaster, lmasters=lmasters))
        found = {each.key for chunk in chunks for each in RecBuffer.unpack(chunk).records}
        assert found == {key for key in keys if lmasters[jenkins_hash(key) % 3] == lmaster}
        shares.append(found)
    assert sum(len(share) for share in shares) == 300
    assert all(shares)


def test_a_vacuum_scan_gives_empty_records_owned_here(tdb: Tdb) -> None:
    fill(tdb, record(b"a", b"1", dmaster=2), record(b"b", dmaster=2, rsn=9), record(b"c", dmaster=3))
    assert unpack_all(list(bulk.vacuum_scan(tdb, pnn=2))) == [record(b"b", dmaster=2, rsn=9)]


def test_counting_tells_records_with_data_apart(tdb: Tdb) -> None:
    fill(tdb, record(b"a", b"1"), record(b"b"), record(b"c"))
    assert bulk.count(tdb) == (3, 1)


# -- push: the store rule -----------------------------------------------------------------------------

LMASTER, OTHER = 1, 2


@pytest.mark.parametrize(
    ("pnn", "value", "dmaster", "flags", "expected"),
    [
        # data is kept; the dmaster counts it as a change
        (LMASTER, b"1", OTHER, 0, (5, 0)),
        (LMASTER, b"1", LMASTER, 0, (6, 0)),
        (LMASTER, b"1", LMASTER, VACUUM_MIGRATED | MIGRATED_WITH_DATA, (6, MIGRATED_WITH_DATA)),
        # recovery ends delegations
        (LMASTER, b"1", LMASTER, HAVE_DELEGATIONS, (6, 0)),
        # empty ones: dropped by whoever is neither lmaster nor dmaster
        (OTHER, b"", LMASTER, 0, None),
        (OTHER, b"", LMASTER, MIGRATED_WITH_DATA, (5, MIGRATED_WITH_DATA)),
        (OTHER, b"", OTHER, 0, (6, 0)),
        (LMASTER, b"", OTHER, 0, (5, 0)),
        # and by the lmaster that got them back to delete them
        (LMASTER, b"", LMASTER, VACUUM_MIGRATED, None),
        (LMASTER, b"", OTHER, AUTOMATIC, (5, 0)),
    ],
)
def test_push_stores_by_the_rule_of_volatile_databases(
    tdb: Tdb, pnn: int, value: bytes, dmaster: int, flags: int, expected: tuple[int, int] | None
) -> None:
    tdb.store(b"key", b"x" * 30)
    data = buffer(record(b"key", value, rsn=5, dmaster=dmaster, flags=flags))
    count, scheduled = bulk.push(tdb, data, db_id=DB_ID, is_volatile=True, pnn=pnn, lmasters=(LMASTER,))
    assert count == 1
    if expected is None:
        assert tdb.fetch(b"key") is None
        assert scheduled == []
        return
    header = stored(tdb, b"key")
    assert (header.rsn, header.flags) == expected
    assert header.dmaster == dmaster
    assert scheduled == ([b"key"] if not value and (dmaster == pnn or flags & AUTOMATIC) else [])


def test_push_stores_persistent_records_as_they_come(tdb: Tdb) -> None:
    pushed = record(b"key", b"1", rsn=5, dmaster=1, flags=VACUUM_MIGRATED)
    bulk.push(tdb, buffer(pushed, record(b"empty")), db_id=DB_ID, is_volatile=False, pnn=1)
    assert tdb.fetch(b"key") == pushed.data
    assert tdb.fetch(b"empty") == record(b"empty").data


def test_what_is_pulled_can_be_pushed(tdb: Tdb) -> None:
    fill(tdb, *(record(b"%d" % number, b"x" * number) for number in range(100)))
    with Tdb.in_memory() as other:
        for chunk in bulk.pull(tdb, db_id=DB_ID, limit=1000):
            bulk.push(other, chunk, db_id=DB_ID, is_volatile=False, pnn=0)
        assert dict(other.traverse()) == dict(tdb.traverse())


# -- updates ------------------------------------------------------------------------------------------


def test_an_update_stores_newer_and_equal_records(tdb: Tdb) -> None:
    fill(tdb, record(b"old", b"1", rsn=1), record(b"same", b"1", rsn=9))
    data = buffer(
        record(b"old", b"2", rsn=2),
        record(b"same", b"1", rsn=3),
        record(b"new", b"1"),
        record(b"old", b"3", rsn=3),
    )
    assert bulk.update_records(tdb, data, db_id=DB_ID) == 4
    assert tdb.fetch(b"old") == record(b"old", b"3", rsn=3).data
    assert tdb.fetch(b"same") == record(b"same", b"1", rsn=3).data
    assert tdb.fetch(b"new") == record(b"new", b"1").data


def test_a_refused_record_undoes_the_whole_update(tdb: Tdb) -> None:
    fill(tdb, record(b"a", b"1", rsn=1), record(b"z", b"1", rsn=5))
    before = dict(tdb.traverse())
    data = buffer(record(b"a", b"2", rsn=2), record(b"new", b"1"), record(b"z", b"2", rsn=5))
    with pytest.raises(RecordRefused, match=r"cannot update record b'z' in .*: it has rsn 5 already, 5 came"):
        bulk.update_records(tdb, data, db_id=DB_ID)
    assert dict(tdb.traverse()) == before


def test_an_absent_record_counts_as_empty_with_rsn_0(tdb: Tdb) -> None:
    with pytest.raises(RecordRefused):
        bulk.update_records(tdb, buffer(record(b"key", b"1", rsn=0)), db_id=DB_ID)
    assert bulk.update_records(tdb, buffer(record(b"key", b"", rsn=0)), db_id=DB_ID) == 1


def test_a_volatile_update_replaces_only_what_exists(tdb: Tdb) -> None:
    fill(tdb, record(b"here", b"1", rsn=1))
    data = buffer(record(b"here", b"2", rsn=2, dmaster=3), record(b"absent", b"2", rsn=2))
    updated = bulk.update_records(tdb, data, db_id=DB_ID, is_volatile=True, pnn=0, lmasters=(0,))
    assert updated == 1
    assert tdb.fetch(b"here") == record(b"here", b"2", rsn=2, dmaster=3).data
    assert tdb.fetch(b"absent") is None


@pytest.mark.parametrize("rsn", [3, 9])
def test_a_late_update_does_not_roll_the_owner_of_a_volatile_record_back(tdb: Tdb, rsn: int) -> None:
    fill(tdb, record(b"same", b"1", rsn=9, dmaster=4))
    data = buffer(record(b"same", b"1", rsn=rsn, dmaster=3))
    assert bulk.update_records(tdb, data, db_id=DB_ID, is_volatile=True, pnn=0, lmasters=(0,)) == 0
    assert tdb.fetch(b"same") == record(b"same", b"1", rsn=9, dmaster=4).data


# -- malformed buffers ----------------------------------------------------------------------------------


@given(
    position=st.integers(0, 200),
    replacement=st.binary(max_size=12),
    cut=st.integers(0, 200),
)
def test_a_malformed_buffer_stores_nothing(position: int, replacement: bytes, cut: int) -> None:
    whole = buffer(*(record(b"key%d" % number, b"value" * number, rsn=2) for number in range(3)))
    data = bytearray(whole)
    data[position : position + len(replacement)] = replacement
    mutated = bytes(data[: len(data) - cut])
    with Tdb.in_memory() as tdb:
        try:
            bulk.push(tdb, mutated, db_id=DB_ID, is_volatile=True, pnn=0, lmasters=(0,))
        except ProtocolError:
            assert list(tdb.traverse()) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes, 8 needed"),
        (buffer(db_id=9), "it is of database 0x00000009"),
        (struct.pack("=II", DB_ID, 0xFFFFFFFF), "record 0 of 4294967295 begins behind its end"),
        (struct.pack("=IIIIII", DB_ID, 1, 16, 0, 0xFFFFFFFF, 0xFFFFFFFF), "a length that does not fit"),
        (struct.pack("=IIIIII", DB_ID, 1, 40, 0, 0, 24), "a length that does not fit"),
        (RecBuffer(DB_ID, (RecData(0, b"key", b"x" * 23),)).pack(), "has no record header"),
    ],
)
def test_lengths_are_checked_before_anything_is_stored(tdb: Tdb, data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        bulk.update_records(tdb, data, db_id=DB_ID)


# -- sessions in memory ------------------------------------------------------------------------------------


def perform(session: Session, task: jobs.Task) -> tuple[list[bytes], bytes]:
    parts = []
    steps = session.perform(task)
    while True:
        try:
            parts.append(next(steps))
        except StopIteration as end:
            return parts, end.value


def test_a_recovery_in_memory_commits_or_cancels(tdb: Tdb) -> None:
    fill(tdb, record(b"old", b"1"))
    session = Session(tdb, DATABASE)
    session.is_frozen = True
    before = dict(tdb.traverse())
    for end in (Kind.CANCEL, Kind.COMMIT):
        perform(session, Plain(Kind.BEGIN))
        perform(session, Plain(Kind.WIPE))
        parts, last = perform(session, jobs.Push(buffer(record(b"new", b"1", dmaster=1)), 0))
        assert parts == []
        assert jobs.Answer(1, 0, True, last).count == 1
        perform(session, Plain(end))
        assert (dict(tdb.traverse()) == before) == (end is Kind.CANCEL)
    assert [key for key, _ in tdb.traverse()] == [b"new"]


def test_a_second_begin_drops_the_first_and_thaw_drops_both(tdb: Tdb) -> None:
    fill(tdb, record(b"old", b"1"))
    session = Session(tdb, DATABASE)
    session.is_frozen = True
    for _ in range(2):
        perform(session, Plain(Kind.BEGIN))
        assert [key for key, _ in tdb.traverse()] == [b"old"]
        perform(session, Plain(Kind.WIPE))
    session.thaw()
    assert [key for key, _ in tdb.traverse()] == [b"old"]
    assert not session.in_transaction


@pytest.mark.parametrize(
    "task", [Plain(Kind.BEGIN), Plain(Kind.COMMIT), Plain(Kind.CANCEL), Plain(Kind.WIPE), jobs.Push(b"", 0)]
)
def test_recovery_work_needs_a_frozen_database(tdb: Tdb, task: jobs.Task) -> None:
    with pytest.raises(WrongState) as caught:
        perform(Session(tdb, DATABASE), task)
    assert status_of(caught.value) == errno.EINVAL


def test_a_frozen_database_takes_no_update(tdb: Tdb) -> None:
    session = Session(tdb, DATABASE)
    session.is_frozen = True
    for task in (jobs.Update(buffer(), 0), Plain(Kind.REPACK)):
        with pytest.raises(WrongState, match="it is frozen"):
            perform(session, task)


def test_errors_become_an_errno() -> None:
    assert status_of(RecordRefused("x")) == errno.EEXIST
    assert status_of(StoreError("x")) == errno.EIO
    assert status_of(ProtocolError("x")) == errno.EPROTO
