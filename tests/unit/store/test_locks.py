# SPDX-License-Identifier: GPL-3.0-or-later
"""Chain locks between processes: contention, waiters, marks, dead holders."""

from __future__ import annotations

import errno
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ctdbpy.errors import ProtocolError, StoreError
from ctdbpy.store import lockwaits
from ctdbpy.store.lockwaits import Op, WaitAnswer, WaitRequest
from ctdbpy.store.tdb import Tdb
from tests.unit.store.conftest import LIMIT_S, MUTEX, WaiterProcess

Start = Callable[[Tdb], WaiterProcess]


def until_blocked(waiter: WaiterProcess) -> None:
    """Returns when the kernel shows the waiter asleep in its lock wait."""
    nobody = threading.Event()
    for _ in range(int(LIMIT_S / 0.005)):
        if waiter.is_blocked:
            return
        nobody.wait(0.005)
    raise AssertionError("the waiter never came to wait for the lock")


def test_a_chain_that_another_process_locked_is_busy_until_released(tdb: Tdb, start_waiter: Start) -> None:
    waiter = start_waiter(tdb)
    assert waiter.ask(Op.CHAIN, b"key") == WaitAnswer(0, 0)
    assert not tdb.chainlock_nonblock(b"key")
    assert not tdb.lockall_nonblock()
    assert tdb.chainlock_nonblock(b"elsewhere")
    tdb.chainunlock(b"elsewhere")
    assert waiter.ask(Op.RELEASE).status == 0
    assert tdb.chainlock_nonblock(b"key")
    tdb.chainunlock(b"key")


def test_a_waiter_answers_when_the_lock_becomes_free(tdb: Tdb, start_waiter: Start) -> None:
    waiter = start_waiter(tdb)
    tdb.chainlock(b"key")
    waiter.send(Op.CHAIN, b"key", number=7)
    until_blocked(waiter)
    assert not select.select([waiter.socket], [], [], 0)[0]
    tdb.chainunlock(b"key")
    assert waiter.answer() == WaitAnswer(7, 0)
    assert not tdb.chainlock_nonblock(b"key")


def test_under_a_mark_the_waiters_lock_is_ours(tdb: Tdb, start_waiter: Start) -> None:
    waiter = start_waiter(tdb)
    waiter.ask(Op.CHAIN, b"key")
    tdb.chainlock_mark(b"key")
    tdb.store(b"key", b"value")
    assert tdb.fetch(b"key") == b"value"
    tdb.chainlock_unmark(b"key")
    assert not tdb.chainlock_nonblock(b"key")
    waiter.ask(Op.RELEASE)
    assert tdb.chainlock_nonblock(b"key")


def test_a_frozen_database_can_be_read_and_rewritten_in_a_transaction(tdb: Tdb, start_waiter: Start) -> None:
    tdb.store(b"old", b"1")
    waiter = start_waiter(tdb)
    assert waiter.ask(Op.LOCKALL).status == 0
    assert not tdb.chainlock_nonblock(b"any")
    tdb.lockall_mark()
    assert list(tdb.traverse()) == [(b"old", b"1")]
    tdb.lockall_unmark()
    with tdb.transaction(frozen=True):
        tdb.wipe_all()
        tdb.store(b"new", b"2")
    with pytest.raises(RuntimeError), tdb.transaction(frozen=True):
        tdb.wipe_all()
        raise RuntimeError
    assert not tdb.chainlock_nonblock(b"any")
    waiter.ask(Op.RELEASE)
    assert tdb.chainlock_nonblock(b"any")
    assert list(tdb.traverse()) == [(b"new", b"2")]


def test_a_killed_holder_leaves_the_chain_free(tdb: Tdb, start_waiter: Start) -> None:
    waiter = start_waiter(tdb)
    waiter.ask(Op.CHAIN, b"key")
    waiter.kill()
    assert tdb.chainlock_nonblock(b"key")
    tdb.chainunlock(b"key")
    tdb.check()


def test_a_killed_holder_of_everything_leaves_the_file_usable(tdb: Tdb, start_waiter: Start) -> None:
    tdb.store(b"key", b"value")
    waiter = start_waiter(tdb)
    waiter.ask(Op.LOCKALL)
    waiter.kill()
    assert tdb.lockall_nonblock()
    tdb.unlockall()
    assert tdb.fetch(b"key") == b"value"


def test_a_waiter_whose_socket_closes_ends_and_frees_its_lock(tdb: Tdb, start_waiter: Start) -> None:
    waiter = start_waiter(tdb)
    waiter.ask(Op.CHAIN, b"key")
    waiter.socket.close()
    assert waiter.child.wait(LIMIT_S) == 0
    assert tdb.chainlock_nonblock(b"key")


def test_closing_a_file_frees_its_locks(tdb: Tdb, start_waiter: Start) -> None:
    path, flags = tdb.path, tdb.open_flags
    waiter = start_waiter(tdb)
    waiter.ask(Op.CHAIN, b"other")
    tdb.chainlock(b"key")
    tdb.close()
    waiter.ask(Op.RELEASE)
    assert waiter.ask(Op.CHAIN, b"key").status == 0
    waiter.ask(Op.RELEASE)
    with Tdb.open(path, flags=flags) as again:
        assert waiter.ask(Op.CHAIN, b"key").status == 0
        assert not again.chainlock_nonblock(b"key")


def test_a_blocked_waiter_dies_with_its_daemon(
    tmp_path: Path, run_python: Callable[[str], object], start_waiter: Start
) -> None:
    with Tdb.open(tmp_path / "a.tdb.0", flags=MUTEX) as tdb:
        tdb.chainlock(b"key")
        # A daemon of few words: it starts a waiter, sees it blocked, says its pid and is killed.
        pid_file = tmp_path / "pid"
        run_python(
            "import os, signal, sys\n"
            "sys.path.insert(0, '.')\n"
            "from pathlib import Path\n"
            "from ctdbpy.store.lockwaits import Op\n"
            "from tests.unit.store.conftest import WaiterProcess\n"
            "from tests.unit.store.test_locks import until_blocked\n"
            "class File:\n"
            f"    path, open_flags = {tdb.path!r}, {MUTEX}\n"
            "waiter = WaiterProcess(File)\n"
            "waiter.send(Op.CHAIN, b'key')\n"
            "until_blocked(waiter)\n"
            f"Path({str(pid_file)!r}).write_text(str(waiter.child.pid))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        pid = int(pid_file.read_text())
        nobody = threading.Event()
        for _ in range(int(LIMIT_S / 0.005)):
            status = Path(f"/proc/{pid}/stat")
            if not status.exists() or ") Z " in status.read_text():
                break
            nobody.wait(0.005)
        else:
            raise AssertionError(f"the waiter {pid} outlived its daemon")
        tdb.chainunlock(b"key")


def test_a_waiter_refuses_what_it_cannot_do(tdb: Tdb, start_waiter: Start) -> None:
    waiter = start_waiter(tdb)
    assert waiter.ask(Op.RELEASE) == WaitAnswer(0, -1, errno.ENOLCK)
    waiter.ask(Op.CHAIN, b"key")
    assert waiter.ask(Op.CHAIN, b"key") == WaitAnswer(0, -1, errno.EBUSY)
    assert waiter.ask(Op.FORGET) == WaitAnswer(0, -1, errno.EBUSY)
    waiter.ask(Op.RELEASE)
    assert waiter.ask(Op.FORGET) == WaitAnswer(0, 0)
    waiter.path += ".missing"
    assert waiter.ask(Op.CHAIN, b"key") == WaitAnswer(0, -1, errno.EIO)


def test_a_waiter_follows_a_file_made_anew(tmp_path: Path, start_waiter: Start) -> None:
    tdb = Tdb.open(tmp_path / "a.tdb.0", flags=MUTEX)
    waiter = start_waiter(tdb)
    waiter.ask(Op.CHAIN, b"key")
    waiter.ask(Op.RELEASE)
    tdb.close()
    (tmp_path / "a.tdb.0").unlink()
    with Tdb.open(tmp_path / "a.tdb.0", flags=MUTEX) as anew:
        waiter.ask(Op.CHAIN, b"key")
        assert not anew.chainlock_nonblock(b"key")


def test_unlocking_what_is_not_locked_is_an_error(tmp_path: Path) -> None:
    with Tdb.open(tmp_path / "a", flags=MUTEX) as tdb:
        with pytest.raises(StoreError, match="cannot unlock the chain of b'key' in"):
            tdb.chainunlock(b"key")
        with pytest.raises(StoreError, match="cannot unlock all chains of"):
            tdb.unlockall()


def test_requests_survive_any_split() -> None:
    requests = [
        WaitRequest(1, Op.CHAIN, 7233, "/a/b.tdb.0", b"key\0"),
        WaitRequest(2, Op.RELEASE),
        WaitRequest(3, Op.FORGET, 0, "/ä"),
    ]
    stream = b"".join(request.pack() for request in requests)
    received = bytearray()
    taken = []
    for byte in stream:
        received.append(byte)
        while request := lockwaits.take_request(received):
            taken.append(request)
    assert taken == requests
    answer = WaitAnswer(5, -1, errno.EIO)
    assert lockwaits.take_answer(bytearray(answer.pack())) == answer
    assert lockwaits.take_answer(bytearray(answer.pack()[:-1])) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        WaitRequest(1, Op.CHAIN).pack()[:16] + b"\x09\0\0\0",
        WaitRequest(1, Op.CHAIN).pack()[:8] + b"\x09" + WaitRequest(1, Op.CHAIN).pack()[9:],
    ],
    ids=["empty", "huge", "path", "op"],
)
def test_a_malformed_request_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="cannot decode a lock request"):
        lockwaits.take_request(bytearray(data))
