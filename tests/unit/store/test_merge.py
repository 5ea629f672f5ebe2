# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a database from several nodes become one: the newest of each record, nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.store.bulk import pull
from ctdbpy.store.merge import Merge
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import RecordFlag
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader

DB_ID = 7
LEADER = 9


def buffer(*records: tuple[bytes, int, int, bytes]) -> bytes:
    """A rec_buffer of (key, rsn, dmaster, value)."""
    packed = (RecData.of(key, RecordHeader(rsn, dmaster), value) for key, rsn, dmaster, value in records)
    return RecBuffer(DB_ID, tuple(packed)).pack()


def taken(merge: Merge, limit: int = 1 << 20) -> list[RecData]:
    found: list[RecData] = []
    while True:
        part, count = merge.take(LEADER, limit)
        if not count:
            assert part == b""
            return found
        records = RecBuffer.unpack(part).records
        assert len(records) == count
        assert len(part) <= limit or count == 1
        found += records


def test_the_copy_with_the_highest_rsn_is_kept_and_belongs_to_the_leader() -> None:
    merge = Merge(DB_ID, True, 3)
    assert merge.add(buffer((b"k", 5, 0, b"old"), (b"other", 1, 0, b"x")), 0) == 2
    assert merge.add(buffer((b"k", 6, 1, b"a longer new one")), 1) == 1
    assert merge.add(buffer((b"k", 4, 2, b"older")), 2) == 1
    assert len(merge) == 2
    found = {record.key: record for record in taken(merge)}
    assert found[b"k"].value == b"a longer new one"
    assert found[b"k"].header == RecordHeader(6, LEADER, 0, RecordFlag.MIGRATED_WITH_DATA)
    assert found[b"other"].value == b"x"


def test_among_equal_rsns_the_dmaster_own_copy_is_kept() -> None:
    for order in ((0, 1), (1, 0)):
        merge = Merge(DB_ID, True, 1)
        for pnn in order:
            merge.add(buffer((b"k", 5, 1, b"of node %d" % pnn)), pnn)
        assert [record.value for record in taken(merge)] == [b"of node 1"]


def test_empty_records_are_not_given() -> None:
    merge = Merge(DB_ID, True, 1)
    merge.add(buffer((b"a", 1, 0, b"x"), (b"gone", 3, 0, b"x"), (b"z", 1, 0, b"x")), 0)
    merge.add(buffer((b"gone", 4, 1, b"")), 1)
    assert sorted(record.key for record in taken(merge)) == [b"a", b"z"]


def test_headers_of_a_persistent_database_stay_as_they_are() -> None:
    merge = Merge(DB_ID, False, 1)
    merge.add(buffer((b"k", 5, 3, b"v")), 3)
    assert taken(merge) == [RecData.of(b"k", RecordHeader(5, 3), b"v")]


def test_nothing_comes_of_nothing() -> None:
    assert taken(Merge(DB_ID, True, 10)) == []


def test_records_of_the_own_file_are_taken_in() -> None:
    tdb = Tdb.in_memory(11)
    for number in range(100):
        tdb.store(b"key %d" % number, RecordHeader(2, 0).pack() + b"own")
    merge = Merge(DB_ID, True, tdb.hash_size)
    assert merge.add_own(tdb, 0) == 100
    merge.add(buffer((b"key 5", 3, 1, b"theirs"), (b"key 6", 1, 1, b"stale")), 1)
    found = {record.key: record.value for record in taken(merge, 500)}
    assert (len(found), found[b"key 5"], found[b"key 6"]) == (100, b"theirs", b"own")


def test_records_come_chain_by_chain_as_the_file_has_them() -> None:
    tdb = Tdb.in_memory(11)
    merge = Merge(DB_ID, True, tdb.hash_size)
    merge.add(buffer(*((b"key %d" % number, 1, 0, b"v") for number in range(200))), 0)
    given = [record.key for record in taken(merge)]
    for key in given:
        tdb.store(key, RecordHeader(1, 0).pack())
    chain_of: dict[bytes, int] = {}
    cursor: int | None = 0
    while cursor is not None:
        chain = cursor
        records, cursor = tdb.traverse_chunk(cursor, 1)
        chain_of |= {key: cursor or chain + 1 for key, _value in records}
    assert [chain_of[key] for key in given] == sorted(chain_of.values())


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(
                st.tuples(
                    st.sampled_from([b"a", b"bb", b"ccc", b"dddd"]), st.integers(0, 5), st.binary(max_size=40)
                )
            ),
        )
    ),
    st.integers(1, 5),
)
def test_it_does_what_a_dictionary_would(
    copies: list[tuple[int, list[tuple[bytes, int, bytes]]]], chains: int
) -> None:
    merge = Merge(DB_ID, True, chains)
    model: dict[bytes, tuple[int, bytes]] = {}
    for pnn, records in copies:
        # Nobody says of itself that it is dmaster: then rsn alone counts, and the first among equals.
        merge.add(buffer(*((key, rsn, 99, value) for key, rsn, value in records)), pnn)
        for key, rsn, value in records:
            if key not in model or rsn > model[key][0]:
                model[key] = (rsn, value)
    found = {record.key: (record.header.rsn, record.value) for record in taken(merge, 60)}
    assert found == {key: held for key, held in model.items() if held[1]}


@given(st.binary(max_size=80))
def test_what_is_no_buffer_is_refused(data: bytes) -> None:
    merge = Merge(DB_ID, True, 4)
    head = struct.pack("=II", DB_ID, 3)
    try:
        merge.add(head + data, 0)
    except ProtocolError:
        return
    assert len(merge) <= 3


def test_a_cut_buffer_is_refused() -> None:
    whole = buffer((b"key", 1, 0, b"value"))
    for size in range(len(whole)):
        with pytest.raises(ProtocolError, match="cannot merge"):
            Merge(DB_ID, True, 1).add(whole[:size], 0)


def test_what_is_pulled_can_be_merged() -> None:
    tdb = Tdb.in_memory(7)
    tdb.store(b"k", RecordHeader(2, 1).pack() + b"v")
    merge = Merge(DB_ID, True, 7)
    assert sum(merge.add(part, 1) for part in pull(tdb, db_id=DB_ID)) == 1
    assert [record.key for record in taken(merge)] == [b"k"]
