# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker brings the copies of a frozen database together, gives the result and stores it."""

from __future__ import annotations

import pytest

from ctdbpy.store import jobs
from ctdbpy.store.jobs import Database, Gather, Kind, Merge, Plain, Spread, Task
from ctdbpy.store.sessions import Session, WrongState
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader

DB_ID = 7
PNN = 2


def session() -> Session:
    """Of a frozen database with two records."""
    made = Session(Tdb.in_memory(16), Database("", 0, DB_ID, is_volatile=True))
    made.is_frozen = True
    made.tdb.store(b"mine", RecordHeader(5, PNN).pack() + b"here")
    made.tdb.store(b"both", RecordHeader(5, PNN).pack() + b"old")
    return made


def perform(at: Session, task: Task) -> tuple[list[bytes], int]:
    work = at.perform(task)
    parts = []
    while True:
        try:
            parts.append(next(work))
        except StopIteration as end:
            return parts, jobs.Answer(1, 0, True, end.value).count if end.value else 0


def theirs(*records: tuple[bytes, int, bytes]) -> bytes:
    packed = (RecData.of(key, RecordHeader(rsn, 0), value) for key, rsn, value in records)
    return RecBuffer(DB_ID, tuple(packed)).pack()


def test_what_is_gathered_is_given_and_stored() -> None:
    at = session()
    assert perform(at, Gather(PNN, with_own=True)) == ([], 2)
    assert perform(at, Merge(theirs((b"both", 6, b"new"), (b"theirs", 1, b"there")), 0)) == ([], 2)
    perform(at, Plain(Kind.BEGIN))
    perform(at, Plain(Kind.WIPE))
    parts, count = perform(at, Spread(PNN, (0, PNN), limit=64))
    assert (len(parts), count) == (3, 3)
    given = {each.key: each for part in parts for each in RecBuffer.unpack(part).records}
    values = {key: each.value for key, each in given.items()}
    assert values == {b"mine": b"here", b"both": b"new", b"theirs": b"there"}
    assert {each.header.dmaster for each in given.values()} == {PNN}
    stored = {key: RecData(0, key, data) for key, data in at.tdb.traverse()}
    assert {key: each.value for key, each in stored.items()} == values
    # The dmaster's own copy is the newest, as after upstream's recoveries.
    assert [stored[key].header.rsn - given[key].header.rsn for key in given] == [1, 1, 1]


def test_a_copy_that_does_not_count_is_left_out() -> None:
    at = session()
    assert perform(at, Gather(PNN, with_own=False)) == ([], 0)
    perform(at, Plain(Kind.BEGIN))
    perform(at, Plain(Kind.WIPE))
    assert perform(at, Spread(PNN, (PNN,))) == ([], 0)
    assert not list(at.tdb.traverse())


def test_a_dropped_transaction_brings_the_old_copy_back() -> None:
    at = session()
    before = dict(at.tdb.traverse())
    perform(at, Gather(PNN, with_own=True))
    perform(at, Plain(Kind.BEGIN))
    perform(at, Plain(Kind.WIPE))
    perform(at, Spread(PNN, (PNN,)))
    at.thaw()
    assert dict(at.tdb.traverse()) == before


def test_nothing_is_merged_or_spread_that_was_not_gathered() -> None:
    at = session()
    with pytest.raises(WrongState, match="nothing is gathered"):
        perform(at, Merge(theirs(), 0))
    perform(at, Gather(PNN, with_own=True))
    with pytest.raises(WrongState, match="no transaction"):
        perform(at, Spread(PNN))
    perform(at, Plain(Kind.BEGIN))
    perform(at, Spread(PNN))
    with pytest.raises(WrongState, match="nothing is gathered"):
        perform(at, Spread(PNN))
    perform(at, Gather(PNN, with_own=True))
    at.thaw()
    with pytest.raises(WrongState, match="nothing is gathered"):
        perform(at, Merge(theirs(), 0))
