# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-only copies, packet by packet: handed out, kept, taken back, forgotten with a recovery."""

from __future__ import annotations

from ctdbpy.store import engine as upcalls
from ctdbpy.store.engine import Engine, unpack_revoke
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import CallFlag, CallId, DbFlag
from ctdbpy.wire.packets import ReplyCall, ReplyDmaster, ReqCall
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader
from tests.unit.store.network import (
    DB,
    GENERATION,
    HAVE_DELEGATIONS,
    HAVE_READONLY,
    call,
    decoded,
    record,
)

MIGRATED = 0x00010000
REVOKING = 0x04000000
COMPLETE = 0x08000000
READ = CallFlag.WANT_READONLY
KEY = b"key"


def owner(nodes: int = 3) -> Engine:
    """Node 0, lmaster of everything, owner of one record, with read-only copies switched on."""
    engine = Engine(0)
    engine.set_nodes((0,) * nodes)
    engine.set_tunables((("RecordHoldUs", 0),))
    engine.set_map(GENERATION, (0,))
    engine.attach_tdb(DB, 0, Tdb.in_memory())
    engine.set_flags(DB, DbFlag.READONLY, Tdb.in_memory())
    for peer in range(1, nodes):
        engine.add_link(100 + peer, peer, outgoing=True)
        engine.add_link(200 + peer, peer, outgoing=False)
    engine.set_recovery(False)
    engine.run(1.0)
    engine.tdb(DB).store(KEY, record(10, 0, b"data"))
    return engine


def read_from(engine: Engine, pnn: int, reqid: int = 5) -> None:
    packet = ReqCall(GENERATION, 0, pnn, reqid, READ, DB, CallId.FETCH_WITH_HEADER, 0, KEY)
    engine.feed_link(200 + pnn, packet.encode())


def write_from(engine: Engine, pnn: int, reqid: int = 6) -> None:
    engine.feed_link(200 + pnn, ReqCall(GENERATION, 0, pnn, reqid, 1, DB, CallId.NULL, 0, KEY).encode())


def revokes(engine: Engine) -> list[tuple[bytes, tuple[int, ...], bytes]]:
    return [unpack_revoke(data) for kind, _, _, data in engine.take_upcalls() if kind == upcalls.REVOKE]


def counted(engine: Engine) -> tuple[int, int]:
    counters = engine.db_counters(DB)
    return counters["db_ro_delegations"], counters["db_ro_revokes"]


def test_a_reader_gets_a_copy_of_an_older_version_than_the_record_has_then() -> None:
    engine = owner()
    read_from(engine, 1)
    read_from(engine, 2, reqid=8)
    copy = record(11, 0, b"data", HAVE_READONLY | MIGRATED)
    assert decoded(engine.take_link(101)) == [ReplyCall(GENERATION, 1, 0, 5, 0, copy)]
    assert decoded(engine.take_link(102)) == [ReplyCall(GENERATION, 2, 0, 8, 0, copy)]
    assert engine.tdb(DB).fetch(KEY) == record(13, 0, b"data", HAVE_DELEGATIONS | MIGRATED)
    assert counted(engine) == (2, 0)


def test_a_writer_waits_until_every_copy_is_back() -> None:
    engine = owner()
    read_from(engine, 1)
    read_from(engine, 2)
    client = engine.add_client()
    engine.feed_client(client, call(KEY, reqid=3))
    assert engine.take_client(client) == b""
    recall = RecBuffer(DB, (RecData.of(KEY, RecordHeader(12, 0, 0, MIGRATED), b"data"),)).pack()
    assert revokes(engine) == [(KEY, (1, 2), recall)]
    header = engine.tdb(DB).read_header(KEY)
    assert header is not None and header[2] & REVOKING
    engine.take_link(102)
    write_from(engine, 2)
    assert revokes(engine) == [] and engine.queues(DB)["revoke"] == 2
    engine.revoked(DB, KEY, True)
    assert [reply.reqid for reply in decoded(engine.take_client(client))] == [3]
    assert [(p.reqid, type(p)) for p in decoded(engine.take_link(102))] == [(6, ReplyDmaster)]
    assert engine.tdb(DB).fetch(KEY) == record(15, 2, b"data", MIGRATED)
    assert counted(engine) == (2, 1)
    assert not any(engine.queues(DB).values())


def test_a_reader_that_comes_while_copies_come_back_is_served_a_little_later() -> None:
    engine = owner()
    read_from(engine, 1)
    engine.take_link(101)
    client = engine.add_client()
    engine.feed_client(client, call(KEY, reqid=3))
    read_from(engine, 1, reqid=9)
    engine.revoked(DB, KEY, True)
    assert len(decoded(engine.take_client(client))) == 1
    assert engine.take_link(101) == b""
    engine.run(1.11)
    assert [reply.reqid for reply in decoded(engine.take_link(101))] == [9]


def test_a_copy_that_cannot_be_had_back_is_asked_for_again() -> None:
    engine = owner()
    read_from(engine, 1)
    client = engine.add_client()
    engine.feed_client(client, call(KEY, reqid=3))
    assert len(revokes(engine)) == 1
    engine.revoked(DB, KEY, False)
    header = engine.tdb(DB).read_header(KEY)
    assert header is not None and header[2] == HAVE_DELEGATIONS | MIGRATED
    assert engine.take_client(client) == b""
    engine.run(1.11)
    assert len(revokes(engine)) == 1
    engine.revoked(DB, KEY, True)
    assert len(decoded(engine.take_client(client))) == 1


def test_an_answer_nobody_waits_for_changes_nothing() -> None:
    engine = owner()
    engine.revoked(DB, KEY, True)
    engine.revoked(DB, b"other", True)
    engine.revoked(4711, KEY, True)
    assert engine.tdb(DB).fetch(KEY) == record(10, 0, b"data")
    read_from(engine, 1)
    engine.revoked(DB, KEY, True)
    header = engine.tdb(DB).read_header(KEY)
    assert header is not None and header[2] & HAVE_DELEGATIONS


def test_readers_here_need_no_revocation() -> None:
    engine = owner()
    read_from(engine, 1)
    client = engine.add_client()
    engine.feed_client(client, call(KEY, CallId.FETCH, flags=READ))
    assert decoded(engine.take_client(client)) == [ReplyCall(GENERATION, 0, 0, 1, 0, b"data")]
    assert revokes(engine) == []
    # Its rsn must stay above that of the copies, by no more and no less.
    assert engine.tdb(DB).fetch(KEY) == record(13, 0, b"data", HAVE_DELEGATIONS | MIGRATED)


def test_flags_left_by_a_revocation_that_another_process_finished_are_cleared() -> None:
    engine = owner()
    engine.tdb(DB).store(KEY, record(10, 0, b"data", HAVE_DELEGATIONS | REVOKING | COMPLETE))
    client = engine.add_client()
    engine.feed_client(client, call(KEY))
    assert len(decoded(engine.take_client(client))) == 1
    assert engine.tdb(DB).fetch(KEY) == record(12, 0, b"data", MIGRATED)


def test_a_recovery_ends_delegations_and_starts_their_writers_again() -> None:
    engine = owner()
    read_from(engine, 1)
    client = engine.add_client()
    engine.feed_client(client, call(KEY))
    assert len(revokes(engine)) == 1
    engine.set_recovery(True)
    engine.set_map(GENERATION + 1, (0,))
    engine.tdb(DB).store(KEY, record(15, 0, b"data"))
    engine.set_db_generation(DB, GENERATION + 1)
    engine.set_recovery(False)
    assert len(decoded(engine.take_client(client))) == 1
    engine.revoked(DB, KEY, True)
    assert engine.tdb(DB).fetch(KEY) == record(16, 0, b"data")
    engine.take_link(101)
    engine.feed_link(201, ReqCall(GENERATION + 1, 0, 1, 5, READ, DB, 0xFF000003, 0, KEY).encode())
    client = engine.add_client()
    engine.feed_client(client, call(KEY))
    ((_, nodes, _),) = revokes(engine)
    assert nodes == (1,)


# -- the reader's side --------------------------------------------------------------------------


def reader() -> Engine:
    """Node 1, which asks node 0 for a copy."""
    engine = Engine(1)
    engine.set_nodes((0, 0))
    engine.set_map(GENERATION, (0,))
    engine.attach_tdb(DB, 0, Tdb.in_memory())
    engine.set_flags(DB, DbFlag.READONLY, Tdb.in_memory())
    engine.add_link(100, 0, outgoing=True)
    engine.add_link(200, 0, outgoing=False)
    engine.set_recovery(False)
    engine.run(1.0)
    return engine


def copied(engine: Engine, callid: CallId, copy: bytes) -> tuple[int, ReplyCall]:
    client = engine.add_client()
    engine.feed_client(client, call(KEY, callid, flags=READ))
    (sent,) = decoded(engine.take_link(100))
    assert isinstance(sent, ReqCall) and (sent.flags, sent.callid) == (READ, CallId.FETCH_WITH_HEADER)
    engine.feed_link(200, ReplyCall(GENERATION, 1, 0, sent.reqid, 0, copy).encode())
    (reply,) = decoded(engine.take_client(client))
    assert isinstance(reply, ReplyCall)
    return client, reply


COPY = record(11, 0, b"data", HAVE_READONLY)


def test_a_copy_is_kept_and_the_next_reader_is_answered_from_it() -> None:
    engine = reader()
    client, reply = copied(engine, CallId.FETCH, COPY)
    assert reply.data == b"data"
    assert engine.tdb(DB).fetch(KEY) == COPY
    engine.feed_client(client, call(KEY, CallId.FETCH_WITH_HEADER, flags=READ, reqid=2))
    assert decoded(engine.take_client(client)) == [ReplyCall(GENERATION, 1, 1, 2, 0, COPY)]
    engine.feed_client(client, call(KEY, reqid=3))
    assert len(decoded(engine.take_link(100))) == 1


def test_a_reader_that_wants_the_header_gets_it() -> None:
    _, reply = copied(reader(), CallId.FETCH_WITH_HEADER, COPY)
    assert reply.data == COPY


def test_a_copy_older_than_what_is_here_is_not_kept() -> None:
    engine = reader()
    engine.tdb(DB).store(KEY, record(12, 0, b"newer"))
    _, reply = copied(engine, CallId.FETCH, COPY)
    assert reply.data == b"data"
    assert engine.tdb(DB).fetch(KEY) == record(12, 0, b"newer")


def test_a_copy_that_is_no_record_is_an_error() -> None:
    engine = reader()
    _, reply = copied(engine, CallId.FETCH, b"short")
    assert (reply.status, reply.data) == (-1, b"")
    assert engine.tdb(DB).fetch(KEY) is None


def test_a_copy_that_arrives_while_the_database_is_frozen_is_not_kept() -> None:
    engine = reader()
    client = engine.add_client()
    engine.feed_client(client, call(KEY, CallId.FETCH, flags=READ))
    (sent,) = decoded(engine.take_link(100))
    engine.set_frozen(DB, True)
    engine.feed_link(200, ReplyCall(GENERATION, 1, 0, sent.reqid, 0, COPY).encode())
    assert len(decoded(engine.take_client(client))) == 1
    assert engine.tdb(DB).fetch(KEY) is None
