# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls on one engine: what is answered, what waits and until when, what ends a client, what is refused."""

from __future__ import annotations

import struct

import pytest

from ctdbpy.errors import StoreError
from ctdbpy.store import engine as upcalls
from ctdbpy.store.engine import Engine
from ctdbpy.store.tdb import Tdb, jenkins_hash
from ctdbpy.wire import packets
from ctdbpy.wire.constants import CallFlag, CallId, DbFlag
from ctdbpy.wire.packets import ReplyCall, ReplyDmaster, ReplyError, ReqCall, ReqDmaster
from ctdbpy.wire.records import RecordHeader
from tests.unit.store.network import DB, GENERATION, call, decoded, record, single

OUT, IN = 101, 201


def pair(tdb: Tdb | None = None) -> Engine:
    """Node 0 of two, linked to a node 1 that is played by the test."""
    engine = single(tdb, nodes=2)
    engine.add_link(OUT, 1, outgoing=True)
    engine.add_link(IN, 1, outgoing=False)
    return engine


def key_of(lmaster: int, nodes: int = 2, number: int = 0) -> bytes:
    """A key with this lmaster."""
    found = (b"k%d" % n for n in range(1000) if jenkins_hash(b"k%d" % n) % nodes == lmaster)
    return [next(found) for _ in range(number + 1)][number]


def ask(engine: Engine, packet: bytes) -> tuple[int, list[packets.Packet]]:
    client = engine.add_client()
    engine.feed_client(client, packet)
    engine.run(1.0)
    return client, decoded(engine.take_client(client))


def complaints(engine: Engine) -> list[str]:
    return [data.decode() for kind, _, _, data in engine.take_upcalls() if kind == upcalls.COMPLAINT]


def closed(engine: Engine) -> dict[int, str]:
    return {n: data.decode() for kind, n, _, data in engine.take_upcalls() if kind == upcalls.CLIENT_CLOSED}


# -- answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callid", "data"),
    [
        (CallId.NULL, b""),
        (CallId.FETCH, b"value"),
        (CallId.FETCH_WITH_HEADER, record(4, 0, b"value")),
    ],
)
def test_a_record_owned_here_is_answered_at_once_and_its_rsn_grows(callid: CallId, data: bytes) -> None:
    engine = single()
    engine.tdb(DB).store(b"key", record(3, 0, b"value"))
    _, replies = ask(engine, call(b"key", callid, reqid=77))
    assert replies == [ReplyCall(GENERATION, 0, 0, 77, 0, data)]
    assert engine.tdb(DB).fetch(b"key") == record(4, 0, b"value")


def test_an_empty_record_is_queued_for_deletion_as_the_last_call_left_it() -> None:
    engine = single()
    engine.tdb(DB).store(b"key", record(3, 0, b"", 0x00010000))
    for _ in range(2):
        ask(engine, call(b"key"))
    assert engine.tdb(DB).fetch(b"key") == record(5, 0, b"", 0x00010000)
    assert engine.take_deletions(DB, 10) == [(b"key", record(5, 0, b"", 0x00010000))]


def test_a_record_that_does_not_exist_comes_to_be_on_its_lmaster() -> None:
    engine = single()
    _, replies = ask(engine, call(b"key", CallId.FETCH))
    assert replies == [ReplyCall(GENERATION, 0, 0, 1, 0, b"")]
    assert engine.tdb(DB).fetch(b"key") == record(2, 0)
    assert engine.take_deletions(DB, 10) == [(b"key", record(2, 0))]


def test_a_stump_shorter_than_a_header_counts_as_no_record() -> None:
    engine = single()
    engine.tdb(DB).store(b"key", b"stump")
    _, replies = ask(engine, call(b"key", CallId.FETCH))
    assert replies == [ReplyCall(GENERATION, 0, 0, 1, 0, b"")]
    assert engine.tdb(DB).fetch(b"key") == record(2, 0)


def test_an_unknown_database_is_not_answered() -> None:
    engine = single()
    client, replies = ask(engine, call(b"key", db_id=4711))
    assert replies == [] and not closed(engine)
    engine.feed_client(client, call(b"key", reqid=2))
    assert [reply.reqid for reply in decoded(engine.take_client(client))] == [2]


def test_calls_may_arrive_in_any_portions() -> None:
    engine = single()
    client = engine.add_client()
    stream = b"".join(call(b"key", reqid=n, padded=n % 2 == 0) for n in range(1, 6))
    for at in range(len(stream)):
        engine.feed_client(client, stream[at : at + 1])
    assert [reply.reqid for reply in decoded(engine.take_client(client))] == [1, 2, 3, 4, 5]


def test_the_backlog_of_a_client_is_what_it_has_not_taken() -> None:
    engine = single()
    client = engine.add_client()
    engine.feed_client(client, call(b"key") * 3)
    assert engine.client_backlog(client) == 3 * 40
    engine.take_client(client)
    assert engine.client_backlog(client) == 0
    assert engine.client_backlog(999) == 0


# -- what ends a client ------------------------------------------------------------------------


def _bad(at: int, value: int) -> bytes:
    packet = bytearray(call(b"key", padded=True))
    struct.pack_into("=I", packet, at, value)
    return bytes(packet)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (_bad(0, 8), "packet shorter than its header"),
        (_bad(0, 0xFFFFFFFF), "packet longer than the limit of 256 MiB"),
        (_bad(4, 1), "packet with a wrong magic number or version"),
        (_bad(8, 2), "packet with a wrong magic number or version"),
        (_bad(16, 3), "packet of a kind that clients do not send"),
        (_bad(16, 100), "packet of a kind that clients do not send"),
        (_bad(48, 0), "call shorter than its fields"),
        (_bad(48, 0xFFFFFFFF), "call shorter than its fields"),
        (_bad(52, 0xFFFFFFFE), "call shorter than its fields"),
    ],
)
def test_a_bad_packet_ends_its_client_and_nobody_else(packet: bytes, reason: str) -> None:
    engine = single()
    good = engine.add_client()
    bad, replies = ask(engine, packet + call(b"key"))
    assert replies == []
    assert closed(engine) == {bad: reason}
    engine.feed_client(good, call(b"key", reqid=5))
    assert [reply.reqid for reply in decoded(engine.take_client(good))] == [5]


def test_a_client_with_too_many_calls_waiting_is_ended() -> None:
    engine = single()
    engine.set_frozen(DB, True)
    client = engine.add_client()
    engine.feed_client(client, call(b"key") * 20001)
    engine.run(1.0)
    assert closed(engine) == {client: "it has more than 20000 calls waiting"}
    engine.set_frozen(DB, False)
    assert not any(engine.queues(DB).values())


def test_what_nodes_have_waiting_is_limited_too() -> None:
    engine = pair()
    engine.set_frozen(DB, True)
    big = ReqCall(GENERATION, 0, 1, 1, 0, DB, CallId.NULL, 0, b"key", bytes(60 << 20)).encode()
    for _ in range(10):
        engine.feed_link(IN, big)
    assert engine.queues(DB)["recovery"] == 8
    assert complaints(engine) == ["dmaster"]
    engine.set_frozen(DB, False)
    assert engine.queues(DB)["recovery"] == 0


# -- what waits -----------------------------------------------------------------------------------


def test_a_frozen_database_defers_calls() -> None:
    engine = single()
    engine.set_frozen(DB, True)
    client, replies = ask(engine, call(b"key") + call(b"other", reqid=2))
    assert replies == [] and engine.queues(DB)["recovery"] == 2
    engine.set_frozen(DB, False)
    assert [reply.reqid for reply in decoded(engine.take_client(client))] == [1, 2]


def test_during_recovery_calls_wait_until_the_database_belongs_to_the_new_generation() -> None:
    engine = single()
    engine.set_recovery(True)
    client, replies = ask(engine, call(b"key"))
    assert replies == []
    engine.set_map(GENERATION + 1, (0,))
    engine.set_recovery(False)
    assert engine.take_client(client) == b""
    engine.set_db_generation(DB, GENERATION + 1)
    assert len(decoded(engine.take_client(client))) == 1


def test_an_inactive_node_lets_its_clients_wait() -> None:
    engine = single()
    engine.set_nodes((0x20,))
    client, replies = ask(engine, call(b"key"))
    assert replies == []
    engine.set_nodes((0,))
    assert len(decoded(engine.take_client(client))) == 1


def test_a_detached_database_answers_its_waiting_clients_with_an_error() -> None:
    engine = pair()
    client = engine.add_client()
    engine.feed_client(client, call(key_of(1), reqid=1) + call(key_of(1), reqid=2))
    engine.set_frozen(DB, True)
    engine.feed_client(client, call(b"key", reqid=3))
    engine.detach(DB)
    replies = decoded(engine.take_client(client))
    assert [(r.reqid, r.status) for r in replies if isinstance(r, ReplyCall)] == [(1, -1), (2, -1), (3, -1)]
    assert engine.counters_by_name()["pending_calls"] == 0
    with pytest.raises(StoreError, match="not attached"):
        engine.tdb(DB)
    engine.run(5.0)


def test_a_deadline_given_back_is_due() -> None:
    engine = pair()
    client = engine.add_client()
    for number in range(200):
        engine.run(1.0 + number * 0.123457)
        engine.feed_client(client, call(key_of(1)))
        (sent,) = decoded(engine.take_link(OUT))
        engine.feed_link(IN, ReplyError(GENERATION, 0, 1, sent.reqid, -1).encode())
        deadline_s = engine.deadline_s
        assert deadline_s is not None
        engine.run(deadline_s)
        (again,) = decoded(engine.take_link(OUT))
        key, rsn = key_of(1), 1
        engine.feed_link(IN, ReplyDmaster(GENERATION, 0, 1, again.reqid, DB, rsn, key).encode())
        engine.take_client(client)
        engine.tdb(DB).delete(key)


# -- with another node ---------------------------------------------------------------------------------


def test_a_call_goes_to_the_lmaster_and_its_record_comes_back() -> None:
    engine = pair()
    key = key_of(1)
    client, replies = ask(engine, call(key, CallId.FETCH, reqid=9))
    assert replies == []
    (sent,) = decoded(engine.take_link(OUT))
    assert isinstance(sent, ReqCall)
    assert (sent.key, sent.hopcount, sent.srcnode, sent.destnode) == (key, 0, 0, 1)
    engine.feed_link(IN, ReplyDmaster(GENERATION, 0, 1, sent.reqid, DB, 4, key, b"data", 0x10000).encode())
    assert decoded(engine.take_client(client)) == [ReplyCall(GENERATION, 0, 0, 9, 0, b"data")]
    assert engine.tdb(DB).fetch(key) == record(5, 0, b"data", 0x10000)
    assert engine.hot_keys(DB) == [(1, key)]


def test_calls_for_a_record_under_way_are_collapsed() -> None:
    engine = pair()
    key = key_of(1)
    clients = [engine.add_client() for _ in range(3)]
    for client in clients:
        engine.feed_client(client, call(key))
    (sent,) = decoded(engine.take_link(OUT))
    engine.feed_link(IN, ReplyDmaster(GENERATION, 0, 1, sent.reqid, DB, 1, key).encode())
    assert [len(decoded(engine.take_client(client))) for client in clients] == [1, 1, 1]
    assert not any(engine.queues(DB).values())


def test_an_owner_stores_before_it_gives_away() -> None:
    engine = pair()
    engine.set_tunables((("RecordHoldUs", 0),))
    mine, other = key_of(0), key_of(1)
    engine.tdb(DB).store(mine, record(3, 0, b"a"))
    engine.tdb(DB).store(other, record(5, 0, b"b"))
    for key in (mine, other):
        engine.feed_link(IN, ReqCall(GENERATION, 0, 1, 8, 1, DB, CallId.NULL, 2, key).encode())
    assert decoded(engine.take_link(OUT)) == [
        ReplyDmaster(GENERATION, 1, 0, 8, DB, 3, mine, b"a", 0x10000, former=1),
        ReqDmaster(GENERATION, 1, 0, 8, DB, 5, 1, other, b"b", 0x10000),
    ]
    assert engine.tdb(DB).fetch(mine) == record(3, 1, b"a", 0x10000)
    assert engine.tdb(DB).fetch(other) == record(5, 1, b"b", 0x10000)
    assert engine.db_buckets(DB)["hop_count"][2] == 2


def test_a_record_is_not_given_away_without_a_link() -> None:
    engine = pair()
    key = key_of(0)
    engine.tdb(DB).store(key, record(3, 0, b"a"))
    engine.close_link(OUT, "cut")
    engine.run(1.0)
    engine.feed_link(IN, ReqCall(GENERATION, 0, 1, 8, 1, DB, CallId.NULL, 0, key).encode())
    assert engine.tdb(DB).fetch(key) == record(3, 0, b"a")


def test_a_call_without_a_link_starts_again_with_the_next_generation() -> None:
    engine = pair()
    key = key_of(1)
    engine.close_link(OUT, "cut")
    client, replies = ask(engine, call(key))
    assert replies == [] and engine.queues(DB)["calls"] == 1
    engine.set_nodes((0, 1))
    engine.set_map(GENERATION + 1, (0,))
    engine.set_db_generation(DB, GENERATION + 1)
    assert len(decoded(engine.take_client(client))) == 1
    assert not any(engine.queues(DB).values())


def test_packets_of_another_generation_are_dropped() -> None:
    engine = pair()
    key = key_of(0)
    engine.tdb(DB).store(key, record(3, 0, b"a"))
    engine.feed_link(IN, ReqCall(GENERATION - 1, 0, 1, 8, 1, DB, CallId.NULL, 0, key).encode())
    assert engine.take_link(OUT) == b""
    assert engine.counters_by_name()["dropped"] == 1


def test_a_client_that_is_gone_leaves_the_record_here() -> None:
    engine = pair()
    key = key_of(1)
    client, _ = ask(engine, call(key))
    (sent,) = decoded(engine.take_link(OUT))
    engine.close_client(client, "it is gone")
    engine.run(1.0)
    other = engine.add_client()
    engine.feed_client(other, call(key, reqid=2))
    engine.feed_link(IN, ReplyDmaster(GENERATION, 0, 1, sent.reqid, DB, 1, key, b"x").encode())
    assert [reply.reqid for reply in decoded(engine.take_client(other))] == [2]
    header = engine.tdb(DB).read_header(key)
    # Once for the record's arrival, once for the call that found it here.
    assert header is not None and header[:2] == (3, 0)


def test_an_unknown_database_elsewhere_is_asked_for_again_soon() -> None:
    engine = pair()
    client, _ = ask(engine, call(key_of(1)))
    (sent,) = decoded(engine.take_link(OUT))
    engine.feed_link(IN, ReplyError(GENERATION, 0, 1, sent.reqid, -1).encode())
    assert engine.take_link(OUT) == b"" and engine.queues(DB)["late"] == 1
    engine.run(1.2)
    (again,) = decoded(engine.take_link(OUT))
    assert isinstance(again, ReqCall) and again.reqid != sent.reqid
    assert engine.take_client(client) == b""


def test_a_node_that_asks_for_an_unknown_database_hears_so() -> None:
    engine = pair()
    engine.feed_link(IN, ReqCall(GENERATION, 0, 1, 8, 0, 4711, CallId.NULL, 0, b"key").encode())
    (answer,) = decoded(engine.take_link(OUT))
    assert isinstance(answer, ReplyError) and (answer.reqid, answer.status) == (8, -1)


def test_a_record_given_away_by_a_stranger_is_complained_about_and_the_call_waits_on() -> None:
    engine = pair()
    key = key_of(0)
    engine.tdb(DB).store(key, record(9, 1, b"a"))
    client, _ = ask(engine, call(key))
    (sent,) = decoded(engine.take_link(OUT))
    engine.set_nodes((0, 0, 0))
    stranger = ReqDmaster(GENERATION, 0, 2, sent.reqid, DB, 20, 0, key, b"b")
    engine.feed_link(IN, stranger.encode())
    assert complaints(engine) == ["dmaster"]
    assert engine.tdb(DB).fetch(key) == record(9, 1, b"a")
    assert engine.take_client(client) == b"" and engine.queues(DB)["calls"] == 1


def test_an_answer_for_another_record_does_not_end_a_call() -> None:
    engine = pair()
    key = key_of(1)
    client, _ = ask(engine, call(key))
    (sent,) = decoded(engine.take_link(OUT))
    wrong = key_of(1, number=1)
    engine.feed_link(IN, ReplyDmaster(GENERATION, 0, 1, sent.reqid, DB, 4, wrong, b"x").encode())
    assert engine.queues(DB)["calls"] == 1 and engine.take_client(client) == b""
    engine.feed_link(IN, ReplyDmaster(GENERATION, 0, 1, sent.reqid, DB, 4, key, b"y").encode())
    assert len(decoded(engine.take_client(client))) == 1


def test_a_record_of_a_dmaster_that_is_not_configured_is_complained_about() -> None:
    engine = single()
    engine.tdb(DB).store(b"key", record(3, 17, b"a"))
    _, replies = ask(engine, call(b"key"))
    assert replies == [] and complaints(engine) == ["dmaster"]


def test_a_call_that_finds_no_owner_is_complained_about() -> None:
    engine = pair()
    engine.tdb(DB).store(key_of(0), record(3, 1, b"a"))
    for hopcount in (98, 9999):
        engine.feed_link(IN, ReqCall(GENERATION, 0, 1, 8, 1, DB, CallId.NULL, hopcount, key_of(0)).encode())
    assert [packet.hopcount for packet in decoded(engine.take_link(OUT)) if isinstance(packet, ReqCall)] == [
        99,
        10000,
    ]
    assert complaints(engine) == ["dmaster"]


def test_replicated_records_follow_the_rules_of_persistent_ones() -> None:
    engine = Engine(0)
    engine.set_nodes((0,))
    engine.set_map(GENERATION, (0,))
    engine.attach_tdb(DB, DbFlag.REPLICATED, Tdb.in_memory())
    engine.set_recovery(False)
    _, replies = ask(engine, call(b"key"))
    assert len(replies) == 1
    assert engine.tdb(DB).fetch(b"key") == record(0, 0)
    engine.schedule_deletion(DB, record(0, 0), b"key")
    assert engine.take_deletions(DB, 10) == []


# -- vacuuming ------------------------------------------------------------------------------------------


def test_a_late_word_of_an_older_version_does_not_replace_the_queued_one() -> None:
    engine = single()
    engine.schedule_deletion(DB, record(4, 0), b"key")
    engine.schedule_deletion(DB, record(3, 0), b"key")
    assert engine.take_deletions(DB, 10) == [(b"key", record(4, 0))]
    engine.schedule_deletion(DB, record(3, 0), b"key")
    engine.schedule_deletion(DB, record(4, 0), b"key")
    assert engine.take_deletions(DB, 10) == [(b"key", record(4, 0))]


def test_a_vacuum_fetch_brings_an_empty_record_home_and_deletes_it() -> None:
    engine = pair()
    key = key_of(0)
    engine.tdb(DB).store(key, record(3, 1))
    engine.vacuum_fetch(DB, key)
    engine.vacuum_fetch(DB, key)
    (sent,) = decoded(engine.take_link(OUT))
    assert isinstance(sent, ReqCall) and sent.flags == CallFlag.VACUUM_MIGRATION | 1
    engine.feed_link(IN, ReqDmaster(GENERATION, 0, 1, sent.reqid, DB, 3, 0, key).encode())
    assert engine.tdb(DB).fetch(key) is None
    assert not any(engine.queues(DB).values())


def test_try_delete_refuses_what_somebody_may_still_need() -> None:
    engine = pair()
    keys = [key_of(1, number=number) for number in range(5)]
    stored = {
        keys[0]: record(3, 1),
        keys[1]: record(9, 1),
        keys[2]: record(3, 0),
        keys[3]: record(3, 1, b"x", 0x02000000),
    }
    for key, value in stored.items():
        engine.tdb(DB).store(key, value)
    assert [engine.try_delete(DB, key, 5) for key in keys] == [True, False, False, False, True]
    mine = key_of(0)
    engine.tdb(DB).store(mine, record(3, 1))
    assert not engine.try_delete(DB, mine, 5)
    assert engine.tdb(DB).fetch(keys[0]) is None


def test_only_an_unchanged_empty_record_is_deleted() -> None:
    engine = single()
    ask(engine, call(b"key"))
    ((key, header),) = engine.take_deletions(DB, 10)
    engine.tdb(DB).store(b"key", header + b"x")
    assert not engine.delete_if_unchanged(DB, key, header)
    engine.tdb(DB).store(b"key", RecordHeader(3, 0, 0, 0).pack())
    assert not engine.delete_if_unchanged(DB, key, header)
    engine.tdb(DB).store(b"key", header)
    assert engine.delete_if_unchanged(DB, key, header)
    assert engine.tdb(DB).fetch(b"key") is None
