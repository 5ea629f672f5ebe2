# SPDX-License-Identifier: GPL-3.0-or-later
"""Chain locks that other processes hold, and disks that are full: real files, a real waiter process."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from ctdbpy.store import engine as upcalls
from ctdbpy.store.engine import Engine
from ctdbpy.store.lockwaits import Op
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import CallId
from ctdbpy.wire.packets import ReplyCall, ReplyDmaster, ReqCall
from tests.unit.store.conftest import WaiterProcess
from tests.unit.store.network import DB, GENERATION, call, decoded, record, single

Start = Callable[[Tdb], WaiterProcess]


def reqids(engine: Engine, client: int) -> list[int]:
    return [reply.reqid for reply in decoded(engine.take_client(client))]


def lock_upcalls(engine: Engine) -> list[int]:
    wanted = {upcalls.LOCK_WAIT, upcalls.LOCK_DROPPED}
    return [kind for kind, _, _, _ in engine.take_upcalls() if kind in wanted]


def test_a_locked_record_is_tried_again_until_it_is_free(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    waiter = start_waiter(tdb)
    assert waiter.ask(Op.CHAIN, b"key").status == 0
    client = engine.add_client()
    engine.feed_client(client, call(b"key", reqid=1) + call(b"key", reqid=2))
    deadline_s = engine.deadline_s
    assert deadline_s == pytest.approx(1.00005)
    for _ in range(5):
        assert deadline_s is not None
        engine.run(deadline_s)
        assert engine.take_client(client) == b""
        deadline_s = engine.deadline_s
    assert engine.counters_by_name()["locks.num_pending"] == 1
    assert waiter.ask(Op.RELEASE).status == 0
    assert deadline_s is not None
    engine.run(deadline_s)
    assert reqids(engine, client) == [1, 2]
    assert engine.deadline_s is None
    assert engine.counters_by_name()["locks.num_pending"] == 0
    assert engine.db_latencies(DB)["lock"][0] == 1
    assert lock_upcalls(engine) == []


def test_a_long_lock_is_left_to_a_waiter_and_borrowed_from_it(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    holder, waiter = start_waiter(tdb), start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    client = engine.add_client()
    engine.feed_client(client, call(b"key", reqid=1))
    engine.run(1.0041)
    assert lock_upcalls(engine) == [upcalls.LOCK_WAIT]
    assert engine.counters_by_name()["locks.num_current"] == 1
    waiter.send(Op.CHAIN, b"key")
    engine.feed_client(client, call(b"key", reqid=2))
    holder.ask(Op.RELEASE)
    assert waiter.answer().status == 0
    engine.lock_granted(DB, b"key")
    assert reqids(engine, client) == [1, 2]
    assert lock_upcalls(engine) == []
    assert engine.counters_by_name()["locks.num_current"] == 0
    # What was borrowed is given back: the lock is the waiter's alone.
    engine.feed_client(client, call(b"key", reqid=3))
    assert reqids(engine, client) == []
    waiter.ask(Op.RELEASE)
    engine.run(2.0)
    assert reqids(engine, client) == [3]


def test_a_waiter_that_is_not_needed_any_more_is_called_off(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    client = engine.add_client()
    engine.feed_client(client, call(b"key"))
    engine.run(1.0041)
    holder.ask(Op.RELEASE)
    engine.run(1.1)
    assert lock_upcalls(engine) == [upcalls.LOCK_WAIT, upcalls.LOCK_DROPPED]
    assert reqids(engine, client) == [1]
    engine.lock_granted(DB, b"key")
    engine.lock_failed(DB, b"key")


def test_without_a_waiter_the_engine_keeps_trying_and_asks_again(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    client = engine.add_client()
    engine.feed_client(client, call(b"key"))
    engine.run(1.0041)
    engine.lock_failed(DB, b"key")
    engine.run(1.1)
    assert lock_upcalls(engine) == [upcalls.LOCK_WAIT] * 2
    assert engine.db_counters(DB)["locks.num_failed"] == 1
    holder.kill()
    engine.run(1.2)
    assert reqids(engine, client) == [1]


def test_other_records_do_not_wait_for_a_locked_one(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    client = engine.add_client()
    engine.feed_client(client, call(b"key", reqid=1) + call(b"another", reqid=2))
    assert reqids(engine, client) == [2]


def test_calls_that_wait_for_a_lock_are_parked_when_the_database_freezes(
    tdb: Tdb, start_waiter: Start
) -> None:
    engine = single(tdb)
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    client = engine.add_client()
    engine.feed_client(client, call(b"key"))
    engine.set_frozen(DB, True)
    holder.ask(Op.RELEASE)
    engine.run(1.1)
    assert reqids(engine, client) == [] and engine.queues(DB)["recovery"] == 1
    engine.set_frozen(DB, False)
    assert reqids(engine, client) == [1]


def test_packets_for_a_locked_record_keep_their_order(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb, nodes=2, pnn=1)
    engine.add_link(100, 0, outgoing=True)
    engine.add_link(200, 0, outgoing=False)
    engine.set_map(GENERATION, (0,))
    engine.set_tunables((("RecordHoldUs", 0),))
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    engine.feed_link(200, ReplyDmaster(GENERATION, 1, 0, 5, DB, 7, b"key", b"data").encode())
    engine.feed_link(200, ReqCall(GENERATION, 1, 0, 6, 1, DB, CallId.NULL, 0, b"key").encode())
    holder.ask(Op.RELEASE)
    engine.run(1.1)
    (given,) = decoded(engine.take_link(100))
    assert (given.reqid, given.OPERATION.name) == (6, "REQ_DMASTER")
    assert tdb.fetch(b"key") == record(8, 0, b"data", 0x10000)


def test_a_client_that_goes_while_it_waits_for_a_lock_is_forgotten(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    gone, stays = engine.add_client(), engine.add_client()
    engine.feed_client(gone, call(b"key"))
    engine.feed_client(stays, call(b"key", reqid=2))
    engine.close_client(gone, "it is gone")
    engine.run(1.0)
    holder.ask(Op.RELEASE)
    engine.run(1.1)
    assert reqids(engine, stays) == [2]
    assert not any(engine.queues(DB).values())


def test_a_database_may_be_detached_while_calls_wait_for_a_lock(tdb: Tdb, start_waiter: Start) -> None:
    engine = single(tdb)
    holder = start_waiter(tdb)
    holder.ask(Op.CHAIN, b"key")
    client = engine.add_client()
    engine.feed_client(client, call(b"key"))
    engine.run(1.0041)
    engine.detach(DB)
    assert lock_upcalls(engine) == [upcalls.LOCK_WAIT, upcalls.LOCK_DROPPED]
    (reply,) = decoded(engine.take_client(client))
    assert isinstance(reply, ReplyCall) and reply.status == -1
    engine.lock_granted(DB, b"key")
    engine.run(2.0)
    assert engine.deadline_s is None
    assert engine.counters_by_name()["locks.num_pending"] == 0


@pytest.fixture
def full_disk(tdb: Tdb) -> Callable[[bool], None]:
    """Files may not grow beyond the size of this one, or may again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(full: bool) -> None:
        soft = tdb.map_size if full else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1]))

    return fill


def test_a_record_that_cannot_be_stored_is_kept_and_nobody_is_told_it_is_here(
    tdb: Tdb, full_disk: Callable[[bool], None]
) -> None:
    engine = single(tdb, nodes=2)
    engine.add_link(101, 1, outgoing=True)
    engine.add_link(201, 1, outgoing=False)
    engine.set_map(GENERATION, (1,))
    client = engine.add_client()
    engine.feed_client(client, call(b"key", CallId.FETCH))
    (sent,) = decoded(engine.take_link(101))
    data = bytes(16 << 20)
    full_disk(True)
    try:
        engine.feed_link(201, ReplyDmaster(GENERATION, 0, 1, sent.reqid, DB, 7, b"key", data).encode())
        assert engine.take_client(client) == b""
        assert tdb.fetch(b"key") is None
        assert engine.counters_by_name()["write_errors"] == 1
        assert [text for kind, _, _, text in engine.take_upcalls() if kind == upcalls.COMPLAINT] == [
            b"unstorable"
        ]
    finally:
        full_disk(False)
    engine.run(2.1)
    assert decoded(engine.take_client(client)) == [ReplyCall(GENERATION, 0, 0, 1, 0, data)]
    assert tdb.fetch(b"key") == record(8, 0, data)
