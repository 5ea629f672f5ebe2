# SPDX-License-Identifier: GPL-3.0-or-later
"""Pushed records (PUSH_RECORD) are stored unless this node owns what they would replace."""

from __future__ import annotations

from ctdbpy.store import jobs
from ctdbpy.store.jobs import Database, Store
from ctdbpy.store.sessions import Session
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader

PNN = 1
OTHER = 0


def _store(tdb: Tdb, *records: RecData) -> int:
    session = Session(tdb, Database("", 0, 7, is_volatile=True))
    work = session.perform(Store(RecBuffer(7, records).pack(), PNN))
    try:
        next(work)
    except StopIteration as end:
        return jobs.Answer(1, 0, True, end.value).count
    raise AssertionError("a store answers in one piece")


def _record(key: bytes, dmaster: int, rsn: int, value: bytes) -> RecData:
    return RecData.of(key, RecordHeader(rsn=rsn, dmaster=dmaster), value)


def test_a_pushed_record_replaces_what_is_not_owned_here() -> None:
    tdb = Tdb.in_memory(16)
    assert _store(tdb, _record(b"k", OTHER, 4, b"old")) == 1
    assert _store(tdb, _record(b"k", OTHER, 5, b"new")) == 1
    assert tdb.fetch(b"k") == _record(b"k", OTHER, 5, b"new").data


def test_a_pushed_record_leaves_an_owned_one_alone() -> None:
    tdb = Tdb.in_memory(16)
    mine = _record(b"k", PNN, 4, b"mine")
    tdb.store(b"k", mine.data)
    assert _store(tdb, _record(b"k", OTHER, 9, b"theirs"), _record(b"free", OTHER, 1, b"x")) == 1
    assert tdb.fetch(b"k") == mine.data
    assert tdb.fetch(b"free") is not None


def test_the_job_travels() -> None:
    request = jobs.Request(3, Database("/x", 0, 7, is_volatile=True), Store(b"buffer", PNN, (0, 1)))
    received = bytearray(request.pack())
    assert jobs.take_request(received) == request
    assert not received
