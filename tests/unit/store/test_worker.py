# SPDX-License-Identifier: GPL-3.0-or-later
"""The bulk worker as a process, on files that this process has open as the daemon would."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctdbpy.store import jobs
from ctdbpy.store.jobs import Database, Kind, Plain
from ctdbpy.store.lockwaits import Op
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader
from tests.unit.store.conftest import LIMIT_S, MUTEX, PERSISTENT, WaiterProcess, WorkerProcess

DB_ID = 0x1234


def database(tdb: Tdb, *, is_frozen: bool = False) -> Database:
    return Database(tdb.path, tdb.flags, DB_ID, tdb.open_flags != PERSISTENT, is_frozen)


def record(key: bytes, value: bytes = b"", *, rsn: int = 1, dmaster: int = 0) -> RecData:
    return RecData.of(key, RecordHeader(rsn, dmaster), value)


def buffer(*records: RecData) -> bytes:
    return RecBuffer(DB_ID, records).pack()


@pytest.fixture
def persistent(tmp_path: Path) -> Iterator[Tdb]:
    with Tdb.open(tmp_path / "p.tdb.0", hash_size=1009, flags=PERSISTENT) as opened:
        yield opened


def test_a_traverse_comes_in_chunks(tdb: Tdb, worker: WorkerProcess) -> None:
    for number in range(2000):
        tdb.store(b"%d" % number, record(b"", b"x" * 100, dmaster=number % 2).data)
    parts, end = worker.run(database(tdb), jobs.Traverse(5, owner=1, limit=10000))
    assert (end.status, end.count) == (0, 1000)
    assert 10 < len(parts) < 20
    found = set()
    for part in parts:
        at = 0
        while at < len(part):
            one, at = RecData.unpack_at(part, at)
            assert one.reqid == 5
            found.add(one.key)
    assert found == {b"%d" % number for number in range(1, 2000, 2)}


def test_a_recovery_rewrites_a_frozen_database(tdb: Tdb, worker: WorkerProcess) -> None:
    here = database(tdb)
    tdb.store(b"old", record(b"", b"1", rsn=4).data)
    assert worker.run(here, Plain(Kind.FREEZE))[1].status == 0
    assert not tdb.chainlock_nonblock(b"any")
    for task in (Plain(Kind.BEGIN), Plain(Kind.WIPE)):
        assert worker.run(here, task)[1].status == 0
    pushed = record(b"new", b"1", dmaster=1)
    assert worker.run(here, jobs.Push(buffer(pushed), 0))[1].count == 1
    assert worker.run(here, Plain(Kind.COMMIT))[1].status == 0
    assert not tdb.chainlock_nonblock(b"any")
    parts, end = worker.run(here, jobs.Pull())
    assert RecBuffer.unpack(parts[0]).records == (pushed,)
    assert end.count == 1
    assert worker.run(here, Plain(Kind.THAW))[1].status == 0
    assert tdb.chainlock_nonblock(b"any")
    assert list(tdb.traverse()) == [(b"new", pushed.data)]


def test_a_thaw_drops_what_was_not_committed(tdb: Tdb, worker: WorkerProcess) -> None:
    here = database(tdb)
    tdb.store(b"old", b"1")
    for kind in (Kind.FREEZE, Kind.BEGIN, Kind.WIPE, Kind.THAW):
        assert worker.run(here, Plain(kind))[1].status == 0
    assert list(tdb.traverse()) == [(b"old", b"1")]
    assert worker.run(here, Plain(Kind.BEGIN))[1].status == errno.EINVAL


def test_a_database_that_a_waiter_froze_is_worked_on_without_locks(
    tdb: Tdb, worker: WorkerProcess, start_waiter: Callable[[Tdb], WaiterProcess]
) -> None:
    tdb.store(b"old", b"1")
    start_waiter(tdb).ask(Op.LOCKALL)
    frozen = database(tdb, is_frozen=True)
    for kind in (Kind.CHECK, Kind.BEGIN, Kind.WIPE, Kind.COMMIT, Kind.COUNT):
        assert worker.run(frozen, Plain(kind))[1].status == 0


def test_a_killed_worker_thaws_its_database(tdb: Tdb, worker: WorkerProcess) -> None:
    tdb.store(b"old", b"1")
    for kind in (Kind.FREEZE, Kind.BEGIN, Kind.WIPE):
        worker.run(database(tdb), Plain(kind))
    worker.kill()
    # The process that held the locks dies with the worker, just after it: this waits for that.
    tdb.lockall()
    tdb.unlockall()
    assert list(tdb.traverse()) == [(b"old", b"1")]


def test_a_freeze_waits_for_clients_and_can_be_stopped(tdb: Tdb, worker: WorkerProcess) -> None:
    tdb.chainlock(b"key")
    freezing = worker.send(database(tdb), Plain(Kind.FREEZE))
    counting = worker.send(database(tdb), Plain(Kind.COUNT))
    worker.stop(database(tdb), counting)
    assert worker.answer() == jobs.Answer(counting, errno.ECANCELED, True)
    worker.stop(database(tdb), freezing)
    assert worker.answer() == jobs.Answer(freezing, errno.ECANCELED, True)
    freezing = worker.send(database(tdb), Plain(Kind.FREEZE))
    tdb.chainunlock(b"key")
    assert worker.answer() == jobs.Answer(freezing, 0, True)
    assert not tdb.chainlock_nonblock(b"key")


def test_a_freeze_that_waits_holds_up_its_own_database_only(
    tdb: Tdb, persistent: Tdb, worker: WorkerProcess
) -> None:
    tdb.chainlock(b"key")
    freezing = worker.send(database(tdb), Plain(Kind.FREEZE))
    counting = worker.send(database(tdb), Plain(Kind.COUNT))
    other = Database(persistent.path, PERSISTENT, DB_ID + 1, False)
    for kind in (Kind.FREEZE, Kind.BEGIN, Kind.WIPE, Kind.COMMIT, Kind.THAW):
        assert worker.run(other, Plain(kind))[1].status == 0
    tdb.chainunlock(b"key")
    assert worker.answer() == jobs.Answer(freezing, 0, True)
    assert worker.answer().job_id == counting


def test_a_traverse_can_be_stopped(tdb: Tdb, worker: WorkerProcess) -> None:
    # More than may be on its way to us while we do not read.
    for number in range(5000):
        tdb.store(b"%d" % number, b"x" * 4000)
    job_id = worker.send(database(tdb), jobs.Traverse(1, limit=20000))
    assert not worker.answer().is_last
    worker.stop(database(tdb), job_id)
    parts = 0
    while not (answer := worker.answer()).is_last:
        parts += 1
    assert answer == jobs.Answer(job_id, errno.ECANCELED, True)
    assert parts < 900
    assert worker.run(database(tdb), Plain(Kind.COUNT))[1].counts == (5000, 5000)


def test_an_update_is_all_or_nothing(persistent: Tdb, worker: WorkerProcess) -> None:
    here = database(persistent)
    good = buffer(record(b"a", b"1"), record(b"b", b"1"))
    assert worker.run(here, jobs.Update(good, 0))[1].count == 2
    bad = buffer(record(b"a", b"2", rsn=2), record(b"b", b"2", rsn=1))
    _, end = worker.run(here, jobs.Update(bad, 0))
    assert end.status == errno.EEXIST
    assert b"cannot update record b'b'" in end.data
    assert persistent.fetch(b"a") == record(b"a", b"1").data
    assert worker.run(here, jobs.Update(good[:-1], 0))[1].status == errno.EPROTO


def test_an_update_is_on_disk_when_answered(persistent: Tdb, worker: WorkerProcess) -> None:
    worker.run(database(persistent), jobs.Update(buffer(record(b"a", b"1")), 0))
    worker.kill()
    persistent.check()
    assert persistent.fetch(b"a") == record(b"a", b"1").data


def test_an_update_counts_for_those_who_watch_the_sequence_number(
    tmp_path: Path, worker: WorkerProcess
) -> None:
    with Tdb.open(tmp_path / "a.tdb.0", flags=MUTEX) as tdb:
        tdb.store(b"a", record(b"", b"1").data)
        worker.run(database(tdb), Plain(Kind.COUNT))
        tdb.enable_seqnum()
        before = tdb.seqnum
        worker.run(database(tdb), jobs.Update(buffer(record(b"a", b"2", rsn=2)), 0))
        assert tdb.seqnum == before + 1


def test_repack_check_and_scan_work_on_a_living_file(tdb: Tdb, worker: WorkerProcess) -> None:
    for number in range(3000):
        tdb.store(b"%d" % number, record(b"", b"x" * (number % 3)).data)
    for number in range(0, 3000, 3):
        tdb.delete(b"%d" % number)
    for kind in (Kind.REPACK, Kind.CHECK):
        assert worker.run(database(tdb), Plain(kind))[1].status == 0
    tdb.check()
    assert len(list(tdb.traverse())) == 2000
    tdb.store(b"empty", record(b"", dmaster=4).data)
    parts, end = worker.run(database(tdb), jobs.VacuumScan(4))
    assert end.count == 1
    assert RecData.unpack(parts[0]).key == b"empty"


def test_a_forgotten_file_is_closed(tdb: Tdb, worker: WorkerProcess) -> None:
    worker.run(database(tdb), Plain(Kind.FREEZE))
    assert worker.run(database(tdb), Plain(Kind.FORGET))[1].status == 0
    assert tdb.chainlock_nonblock(b"key")
    links = [os.readlink(entry) for entry in Path(f"/proc/{worker.child.pid}/fd").iterdir()]
    assert tdb.path not in links


def test_a_missing_file_is_an_answer_not_an_end(tmp_path: Path, tdb: Tdb, worker: WorkerProcess) -> None:
    missing = Database(str(tmp_path / "missing"), MUTEX, DB_ID, True)
    _, end = worker.run(missing, Plain(Kind.COUNT))
    assert end.status == errno.EIO
    assert b"ENOENT" in end.data
    assert worker.run(database(tdb), Plain(Kind.COUNT))[1].counts == (0, 0)


def test_the_worker_ends_with_its_socket(tdb: Tdb, worker: WorkerProcess) -> None:
    worker.run(database(tdb), Plain(Kind.FREEZE))
    worker.socket.close()
    assert worker.child.wait(LIMIT_S) == 0
    tdb.lockall()
    tdb.unlockall()


def test_a_worker_that_loses_its_freeze_ends(tdb: Tdb, worker: WorkerProcess) -> None:
    worker.run(database(tdb), Plain(Kind.FREEZE))
    (holder,) = Path(f"/proc/{worker.child.pid}/task/{worker.child.pid}/children").read_text().split()
    os.kill(int(holder), 9)
    assert worker.child.wait(LIMIT_S) == 1
