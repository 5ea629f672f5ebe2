# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiters and workers: what they wait for holds nobody else up, and their death costs no answer."""

from __future__ import annotations

import os
import signal
import time

from ctdbpy.client.connection import Connection
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire import packets
from ctdbpy.wire.constants import CallFlag, CallId, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecData, RecordHeader
from ctdbpy.wire.structures import TunableValue
from tests.unit.daemon.conftest import LIMIT_S, Daemon, is_alive, private_bytes, wait_standstill, wait_until

#: Far from what a wait for a lock would cost, and far above what a loaded machine does to a call.
CALL_P99_S = 1.0
#: An instant, on a machine as busy as it may be.
SOON_S = 5.0


def send_call(connection: Connection, db_id: int, key: bytes, reqid: int) -> None:
    flags = CallFlag.IMMEDIATE_MIGRATION
    connection.send(packets.ReqCall(0, 0, 0, reqid, flags, db_id, CallId.NULL, 0, key, b""))


def p99_s(connection: Connection, db_id: int) -> float:
    """How long calls for keys that nobody locks take."""
    taken = []
    for number in range(300):
        began_s = time.monotonic()
        connection.call(db_id, b"free %d" % number)
        taken.append(time.monotonic() - began_s)
    return sorted(taken)[-3]


def test_a_lock_that_another_program_holds_delays_only_who_wants_it(daemon: Daemon) -> None:
    with daemon.connect() as waiting, daemon.connect() as other:
        db_id, path, flags = other.attach("contended.tdb")
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            tdb.chainlock(b"held")
            send_call(waiting, db_id, b"held", 7)
            assert p99_s(other, db_id) < CALL_P99_S
            assert other.control(Control.PING).status >= 1
            tdb.chainunlock(b"held")
            began_s = time.monotonic()
            answer = waiting.receive()
            assert isinstance(answer, packets.ReplyCall)
            assert answer.reqid == 7
            assert time.monotonic() - began_s < SOON_S


def test_many_locks_held_at_once_are_waited_for_at_once(daemon: Daemon) -> None:
    keys = [b"held %d" % number for number in range(60)]
    with daemon.connect() as waiting, daemon.connect() as other:
        db_id, path, flags = other.attach("contended.tdb")
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            for key in keys:
                tdb.chainlock(key)
            for reqid, key in enumerate(keys, 1):
                send_call(waiting, db_id, key, reqid)
            # As many waiters as there may be.
            wait_until(lambda: len(daemon.children("ctdbpy.store.waiter")) == 32, "32 waiters")
            assert p99_s(other, db_id) < CALL_P99_S
            for key in keys:
                tdb.chainunlock(key)
            answered = {waiting.receive().reqid for _ in keys}
            assert answered == set(range(1, 61))


def test_a_waiter_that_dies_costs_no_answer(daemon: Daemon) -> None:
    with daemon.connect() as waiting, daemon.connect() as other:
        db_id, path, flags = other.attach("contended.tdb")
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            tdb.chainlock(b"held")
            send_call(waiting, db_id, b"held", 7)
            for _ in range(3):
                waiters = daemon.children("ctdbpy.store.waiter")
                for pid in waiters:
                    os.kill(pid, signal.SIGKILL)
                daemon.wait_log(f"waiter process ({'|'.join(map(str, waiters))}) is lost: ")
                assert other.control(Control.PING).status >= 1
                wait_until(lambda: daemon.children("ctdbpy.store.waiter"), "another waiter")
            tdb.chainunlock(b"held")
            assert waiting.receive().reqid == 7


def test_a_database_is_detached_while_somebody_waits_for_its_lock(daemon: Daemon) -> None:
    with daemon.connect() as waiting, daemon.connect() as other:
        db_id, path, flags = other.attach("contended.tdb")
        kept_id, _path, _flags = other.attach("kept.tdb")
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            for number in range(40):
                tdb.chainlock(b"held %d" % number)
                send_call(waiting, db_id, b"held %d" % number, number)
            wait_until(lambda: len(daemon.children("ctdbpy.store.waiter")) == 32, "32 waiters")
            other.ask(Control.SET_TUNABLE, TunableValue("AllowClientDBAttach", 0))
            other.ask(Control.DB_DETACH, db_id)
            wait_until(lambda: other.control(Control.GET_DBNAME, db_id).status != 0, "it is detached")
            other.ask(Control.SET_TUNABLE, TunableValue("AllowClientDBAttach", 1))
            other.call(kept_id, b"key")
        assert other.attach("contended.tdb")[0] == db_id
        other.call(db_id, b"held 0")
    assert "defect" not in daemon.log()


def test_whichever_helper_is_killed_the_daemon_goes_on(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        kept, _path, _flags = connection.attach("kept.tdb", DbFlag.PERSISTENT)
        walked, _path, _flags = connection.attach("walked.tdb")
        for number in range(1, 6):
            for pid in daemon.children():
                os.kill(pid, signal.SIGKILL)
            record = RecData.of(b"key", RecordHeader(number, 0), b"%d" % number)
            # What was on its way is refused; what comes after finds a new process.
            wait_until(
                lambda: connection.commit(kept, (record,)) == 0,  # noqa: B023
                "a commit succeeds",
            )
            assert list(connection.traverse(walked)) == []
        assert [each.data[RecordHeader.SIZE :] for each in connection.traverse(kept)] == [b"5"]
    assert "defect" not in daemon.log()


def test_a_database_whose_worker_dies_is_not_frozen_any_more(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        frozen = [connection.attach(f"frozen{number}.tdb")[0] for number in range(4)]
        for db_id in frozen:
            connection.ask(Control.DB_FREEZE, db_id)
        workers = daemon.children("ctdbpy.store.worker")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        for db_id in frozen:
            connection.call(db_id, b"key")
        for number in range(4):
            daemon.wait_log(rf"ERROR: 'frozen{number}\.tdb' is not frozen any more: ")
        for db_id in frozen:
            connection.ask(Control.DB_FREEZE, db_id)
            connection.ask(Control.DB_THAW, db_id)
            connection.call(db_id, b"key")
    assert not [pid for pid in workers if is_alive(pid)]


def test_a_database_frozen_by_wait_does_not_hold_up_another(daemon: Daemon) -> None:
    with daemon.connect() as waiting, daemon.connect() as other:
        dbs = [other.attach(f"db{number}.tdb") for number in range(8)]
        _db_id, path, flags = dbs[0]
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            tdb.chainlock(b"held")
            control = packets.ReqControl(
                0, 0, 0, 9, Control.DB_FREEZE, 0, 0, 0, dbs[0][0].to_bytes(4, "little")
            )
            waiting.send(control)
            for db_id, _path, _flags in dbs[1:]:
                other.ask(Control.DB_FREEZE, db_id)
                other.ask(Control.DB_THAW, db_id)
            tdb.chainunlock(b"held")
            assert waiting.receive().reqid == 9


def test_a_traverse_waits_for_a_client_that_reads_slowly(daemon: Daemon) -> None:
    count, value = 3000, RecordHeader(1, 0).pack() + bytes(100_000)
    with daemon.connect() as slow, daemon.connect() as other:
        db_id, path, flags = other.attach("large.tdb")
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            for number in range(count):
                tdb.store(b"%d" % number, value)
        before = private_bytes(daemon.pid)
        slow.start_traverse(db_id, 0x88)
        # The walk stands still as soon as a little is on its way; nobody else notices.
        wait_standstill(daemon)
        assert p99_s(other, db_id) < CALL_P99_S
        most = private_bytes(daemon.pid) - before
        keys = set()
        while True:
            record = RecData.unpack(slow.next_message(LIMIT_S).data)
            most = max(most, private_bytes(daemon.pid) - before)
            if not record.key:
                break
            keys.add(record.key)
        assert len(keys) == count
        assert most < 64 << 20


def test_a_client_that_leaves_in_the_middle_of_a_traverse_frees_its_worker(daemon: Daemon) -> None:
    value = RecordHeader(1, 0).pack() + bytes(100_000)
    with daemon.connect() as other:
        db_id, path, flags = other.attach("large.tdb")
        with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
            for number in range(500):
                tdb.store(b"%d" % number, value)
        # More than there are scanners: each has to be used again.
        for _ in range(6):
            with daemon.connect() as leaving:
                leaving.start_traverse(db_id, 0x88)
                leaving.next_message(LIMIT_S)
        assert len(list(other.traverse(db_id))) == 500
