# SPDX-License-Identifier: GPL-3.0-or-later
"""Records that many want: hot keys, holds, sticky records, and relief that comes and goes by itself."""

from __future__ import annotations

import pytest

from ctdbpy.store.engine import Engine
from ctdbpy.wire.constants import CallId, DbFlag
from ctdbpy.wire.packets import ReplyDmaster, ReqCall
from tests.unit.store.network import DB, GENERATION, Counting, Network, call, decoded, record, single


def follower() -> Engine:
    """Node 1 of two; node 0, played by the test, is lmaster of everything."""
    engine = single(nodes=2, pnn=1)
    engine.add_link(100, 0, outgoing=True)
    engine.add_link(200, 0, outgoing=False)
    engine.set_map(GENERATION, (0,))
    return engine


def arrive(engine: Engine, key: bytes = b"key", reqid: int = 0) -> None:
    engine.feed_link(200, ReplyDmaster(GENERATION, 1, 0, reqid, DB, 7, key, b"data").encode())


def want(engine: Engine, key: bytes = b"key", hopcount: int = 0) -> None:
    engine.feed_link(200, ReqCall(GENERATION, 1, 0, 6, 1, DB, CallId.NULL, hopcount, key).encode())


def fetch(engine: Engine, clients: int, key: bytes = b"key") -> None:
    """Have so many clients here wait for a record, and let it arrive."""
    for _ in range(clients):
        engine.feed_client(engine.add_client(), call(key))
    (sent,) = decoded(engine.take_link(100))
    arrive(engine, key, sent.reqid)


def test_hot_keys_are_the_ten_most_moved_in_a_second_in_ascending_order() -> None:
    engine = follower()
    for number in range(40):
        for _ in range(number + 1):
            arrive(engine, b"key%d" % number)
    assert engine.hot_keys(DB) == [(number + 1, b"key%d" % number) for number in range(30, 40)]


def test_hot_keys_are_exactly_the_keys_that_moved() -> None:
    engine = follower()
    for number in range(1, 11):
        for turn in range(50):
            engine.run(1.0 + number + turn / 10)
            arrive(engine, b"testkey%d" % number)
        hot = engine.hot_keys(DB)
        assert {key for _, key in hot} == {b"testkey%d" % n for n in range(1, number + 1)}
        assert hot == sorted(hot, key=lambda entry: entry[0])
    engine.reset_counters()
    assert engine.hot_keys(DB) == []
    arrive(engine, b"testkey101")
    assert [key for _, key in engine.hot_keys(DB)] == [b"testkey101"]


def test_a_record_that_has_just_arrived_for_a_client_is_held_until_it_is_used() -> None:
    engine = follower()
    fetch(engine, 1)
    want(engine)
    assert engine.take_link(100) == b"" and engine.db_counters(DB)["holds"] == 1
    assert engine.deadline_s == pytest.approx(1.0003)
    engine.run(1.0002)
    assert engine.take_link(100) == b""
    engine.run(1.0003)
    assert len(decoded(engine.take_link(100))) == 1


def test_a_record_that_was_used_moves_on_at_once() -> None:
    engine = follower()
    fetch(engine, 1)
    engine.tdb(DB).store(b"key", record(8, 1, b"changed"))
    want(engine)
    assert len(decoded(engine.take_link(100))) == 1


def test_a_client_here_does_not_wait_behind_a_request_that_is_held() -> None:
    engine = follower()
    fetch(engine, 1)
    want(engine)
    client = engine.add_client()
    engine.feed_client(client, call(b"key", reqid=4))
    assert [reply.reqid for reply in decoded(engine.take_client(client))] == [4]


def test_a_sticky_record_stays_for_its_pindown_wherever_it_arrives() -> None:
    engine = follower()
    engine.set_flags(DB, DbFlag.STICKY)
    engine.set_tunables(
        (("HopcountMakeSticky", 5), ("StickyDuration", 10), ("StickyPindown", 200), ("RecordHoldUs", 0))
    )
    arrive(engine)
    want(engine, hopcount=5)
    assert len(decoded(engine.take_link(100))) == 1
    arrive(engine)
    want(engine)
    assert engine.deadline_s == pytest.approx(1.2)
    engine.run(1.2)
    assert len(decoded(engine.take_link(100))) == 1
    engine.run(11.1)
    arrive(engine)
    want(engine)
    assert len(decoded(engine.take_link(100))) == 1


def bounce(engine: Engine, times: int, clients: int) -> None:
    for _ in range(times):
        fetch(engine, clients)
        engine.tdb(DB).store(b"key", record(8, 1, b"used"))
        want(engine)
        deadline_s = engine.deadline_s
        if deadline_s is not None:
            engine.run(deadline_s)
        assert len(decoded(engine.take_link(100))) == 1


def test_a_record_that_bounces_between_waiting_clients_is_relieved_for_a_while() -> None:
    engine = follower()
    engine.set_tunables((("RecordReliefMoves", 20), ("RecordReliefSeconds", 5), ("RecordReliefUs", 1000)))
    bounce(engine, 30, clients=3)
    assert engine.db_counters(DB)["relieved"] == 1
    assert engine.db_counters(DB)["holds"] == 11
    fetch(engine, 50)
    engine.tdb(DB).store(b"key", record(8, 1, b"used"))
    now_s = engine.deadline_s
    assert now_s is None
    want(engine)
    deadline_s = engine.deadline_s
    assert deadline_s is not None and deadline_s <= 1.0 + 11 * 0.0004 + 0.001 + 0.0005
    engine.run(30.0)
    engine.take_link(100)
    bounce(engine, 3, clients=3)
    assert engine.db_counters(DB)["relieved"] == 1


def test_a_record_handed_round_in_a_ring_is_not_held_up() -> None:
    engine = follower()
    engine.set_tunables((("RecordReliefMoves", 20),))
    bounce(engine, 200, clients=1)
    assert engine.db_counters(DB)["relieved"] == engine.db_counters(DB)["holds"] == 0


def test_relief_can_be_switched_off() -> None:
    engine = follower()
    engine.set_tunables((("RecordReliefMoves", 0), ("RecordHoldUs", 0)))
    bounce(engine, 500, clients=3)
    assert engine.db_counters(DB)["relieved"] == engine.db_counters(DB)["holds"] == 0


def test_contended_clients_all_get_their_turn() -> None:
    network = Network(5, count=3)
    counting = Counting(network, clients=10, keys=2)
    counting.work(6000)
    counting.check_rest()
    done = [client.done for client in counting.clients]
    assert min(done) * 4 > sum(done) / len(done)
