# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster lock's processes: real files, real programs, Debian's helper on the same file."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ctdbpy.core.effects import TakeLock
from ctdbpy.core.inputs import Input, LockAnswered, LockLost, LockOutcome
from ctdbpy.daemon.cluster_lock import ClusterLocks
from ctdbpy.daemon.tasks import Tasks
from ctdbpy.host.children import Children
from tests.unit.daemon.conftest import command_of, is_alive, wait_until

LIMIT_S = 30.0
HELD = LockOutcome.HELD
CONTENDED = LockOutcome.CONTENDED
DEBIAN = "/usr/libexec/ctdb/ctdb_mutex_fcntl_helper"

needs_debian = pytest.mark.skipif(not os.path.exists(DEBIAN), reason="Debian's ctdb is not installed")


class Locks:
    """A `ClusterLocks` with short limits, and what it said."""

    def __init__(self, lock: str, *, hang_s: float = LIMIT_S, stall_s: float = LIMIT_S) -> None:
        self.said: asyncio.Queue[Input] = asyncio.Queue()
        self.logged: list[str] = []
        self.crashes: list[BaseException] = []
        self.children = Children()
        self.tasks = Tasks(lambda _name, error: self.crashes.append(error))
        self.locks = ClusterLocks(
            lock,
            self.children,
            self.said.put_nowait,
            self.logged.append,
            self.tasks.spawn,
            hang_s=hang_s,
            stall_s=stall_s,
        )
        self.last = 0

    async def hear(self) -> Input:
        async with asyncio.timeout(LIMIT_S):
            return await self.said.get()

    async def attempt(self, *, only_look: bool = False) -> LockAnswered:
        self.last += 1
        self.locks.take(TakeLock(self.last, only_look))
        answer = await self.hear()
        assert isinstance(answer, LockAnswered)
        assert answer.attempt == self.last
        return answer

    async def outcome(self, *, only_look: bool = False) -> LockOutcome:
        return (await self.attempt(only_look=only_look)).outcome

    async def held_soon(self) -> None:
        """Until another process has let go, and the lock is had here."""
        async with asyncio.timeout(LIMIT_S):
            while await self.outcome() is not HELD:
                pass

    async def lost(self) -> str:
        loss = await self.hear()
        assert isinstance(loss, LockLost)
        assert loss.attempt == self.last
        return loss.reason

    def drop(self) -> None:
        self.locks.drop(self.last)

    async def until(self, claim: Callable[[], object]) -> None:
        """While the loop turns."""
        async with asyncio.timeout(LIMIT_S):
            while not claim():
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await asyncio.Event().wait()

    async def nothing_is_left(self) -> None:
        await self.until(lambda: not self.children.running)


def with_locks(body: Callable[..., Awaitable[None]], *made: Locks | Callable[[], Locks]) -> None:
    """Run `body` with what the makers make, and see to it that nothing stays."""

    async def bounded() -> None:
        every = [each() if callable(each) else each for each in made]
        try:
            async with asyncio.timeout(2 * LIMIT_S):
                await body(*every)
        finally:
            for each in every:
                each.locks.stop()
                each.tasks.cancel_all()
                assert await each.children.end_all(grace_s=0) == ()
                assert not each.crashes

    asyncio.run(bounded())


def with_file(path: Path, body: Callable[..., Awaitable[None]], nodes: int = 1, **limits: float) -> None:
    """`body` gets so many nodes' locks on one file."""
    with_locks(body, *[lambda: Locks(str(path), **limits) for _ in range(nodes)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a lock"


def holder_of(path: Path) -> int:
    """Pid of who holds the first byte, 0 for nobody."""
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "->" not in fields and fields[5].endswith(f":{inode}") and fields[6] == "0":
            return int(fields[4])
    return 0


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def make_file(path: Path) -> None:
    path.touch()


def exists(path: Path) -> bool:
    return path.exists()


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- a file ------------------------------------------------------------------------------------------


def test_a_file_is_locked_until_it_is_dropped(path: Path) -> None:
    async def body(one: Locks, other: Locks) -> None:
        assert await one.outcome() is HELD
        assert mode_of(path) == 0o600
        assert holder_of(path) in [child.pid for child in one.children.running]
        assert await other.outcome() is CONTENDED
        one.drop()
        await other.held_soon()
        assert await one.outcome() is CONTENDED
        assert one.said.empty()

    with_file(path, body, nodes=2)


def test_the_lock_can_be_had_again_right_after_it_was_given_back(path: Path) -> None:
    async def body(one: Locks) -> None:
        for _ in range(10):
            assert await one.outcome() is HELD
            one.drop()

    with_file(path, body)


def test_a_helper_that_stands_ready_saves_its_start(path: Path) -> None:
    async def body(one: Locks) -> None:
        one.locks.start()
        (child,) = one.children.running
        assert await one.outcome(only_look=True) is LockOutcome.ERROR
        assert await one.outcome() is HELD
        assert holder_of(path) == child.pid
        # Another stands ready for the time after this one.
        await one.until(lambda: len(one.children.running) == 2)

    with_file(path, body)


def test_an_attempt_in_vain_leaves_the_helper_for_the_next(path: Path) -> None:
    async def body(one: Locks, other: Locks) -> None:
        assert await one.outcome() is HELD
        other.locks.start()
        (child,) = other.children.running
        for _ in range(3):
            assert await other.outcome() is CONTENDED
        assert [each.pid for each in other.children.running] == [child.pid]

    with_file(path, body, nodes=2)


def test_a_look_tells_whether_the_lock_is_free_and_does_not_take_it(path: Path) -> None:
    async def body(one: Locks, other: Locks) -> None:
        answer = await other.attempt(only_look=True)
        assert (answer.outcome, answer.text) == (LockOutcome.ERROR, f"there is no lock file '{path}'")
        assert not exists(path)
        make_file(path)
        assert await other.outcome(only_look=True) is HELD
        assert holder_of(path) == 0
        assert await one.outcome() is HELD
        assert await other.outcome(only_look=True) is CONTENDED

    with_file(path, body, nodes=2)


def test_a_removed_file_is_a_lost_lock(path: Path) -> None:
    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        os.unlink(path)
        assert await one.lost() == f"cannot open lock file '{path}' any more: No such file or directory"
        assert await one.outcome() is HELD
        assert exists(path)

    with_file(path, body)


def test_a_replaced_file_is_a_lost_lock(path: Path) -> None:
    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        fresh = path.with_name("fresh")
        fresh.touch()
        fresh.rename(path)
        assert "is another file now" in await one.lost()

    with_file(path, body)


def test_a_directory_that_is_gone_is_a_lost_lock_and_no_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "clusterfs"
    directory.mkdir()

    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        directory.rename(tmp_path / "elsewhere")
        assert "any more" in await one.lost()
        answer = await one.attempt()
        assert answer.outcome is LockOutcome.ERROR
        assert f"there is no directory '{directory}'; mount the cluster file system" in answer.text
        (tmp_path / "elsewhere").rename(directory)
        await one.held_soon()

    with_file(directory / "lock", body)


def test_a_file_that_may_not_be_opened_says_so(tmp_path: Path) -> None:
    async def body(one: Locks) -> None:
        answer = await one.attempt()
        assert answer.outcome is LockOutcome.ERROR
        # Root may open whatever it likes, but no directory for writing.
        assert answer.text == f"cannot open lock file '{tmp_path}': {os.strerror(errno.EISDIR)}"

    with_file(tmp_path, body)


def test_a_file_system_that_hangs_takes_the_lock_with_it(path: Path) -> None:
    async def body(one: Locks, other: Locks) -> None:
        assert await one.outcome() is HELD
        holder = holder_of(path)
        await one.until(lambda: children_of(holder))
        (checker,) = children_of(holder)
        # What a process that waits for a dead file system looks like: it does not answer.
        os.kill(checker, signal.SIGSTOP)
        assert await one.lost() == f"the file system of '{path}' has not answered for 0.5 s"
        await other.held_soon()
        wait_until(lambda: not is_alive(checker), "the process that hangs is gone")

    with_file(path, body, nodes=2, hang_s=0.5)


def test_a_check_that_has_to_wait_for_another_node_is_a_file_system_that_hangs(path: Path) -> None:
    path.touch()

    async def body(one: Locks) -> None:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
            assert await one.outcome() is HELD
            assert "has not answered" in await one.lost()

    with_file(path, body, hang_s=0.5)


def test_a_checker_that_dies_is_a_lost_lock(path: Path) -> None:
    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        holder = holder_of(path)
        await one.until(lambda: children_of(holder))
        os.kill(children_of(holder)[0], signal.SIGKILL)
        assert "the process that checks" in await one.lost()

    with_file(path, body)


def test_a_holder_that_dies_is_a_lost_lock(path: Path) -> None:
    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        holder = holder_of(path)
        os.kill(holder, signal.SIGKILL)
        assert await one.lost() == f"its helper (process {holder}) has ended"
        assert await one.outcome() is HELD

    with_file(path, body)


def test_a_daemon_that_stands_still_keeps_the_lock_from_nobody(path: Path) -> None:
    async def body(one: Locks, other: Locks) -> None:
        one.locks.set_limits({"StallLimit": 1100})
        assert await one.outcome() is HELD
        later_s = time.monotonic() + 2.0
        await one.until(lambda: time.monotonic() > later_s)
        assert await other.outcome() is CONTENDED
        # The loop, and with it the pings, stands still meanwhile.
        wait_until(lambda: holder_of(path) == 0, "the lock is free")
        assert "has stood still for 1.6 s" in await one.lost()

    with_file(path, body, nodes=2)


def test_an_attempt_that_hangs_can_be_given_up_and_the_next_one_is_not_hindered(path: Path) -> None:
    async def body(one: Locks) -> None:
        one.locks.start()
        (child,) = one.children.running
        os.kill(child.pid, signal.SIGSTOP)
        one.locks.take(TakeLock(1))
        one.locks.drop(1)
        one.last = 1
        assert await one.outcome() is HELD
        assert not is_alive(child.pid)
        assert one.said.empty()

    with_file(path, body)


def test_a_helper_that_ends_before_it_answers_is_an_error(path: Path) -> None:
    async def body(one: Locks) -> None:
        one.locks.start()
        (child,) = one.children.running
        os.kill(child.pid, signal.SIGSTOP)
        one.locks.take(TakeLock(1))
        os.kill(child.pid, signal.SIGKILL)
        answer = await one.hear()
        assert answer == LockAnswered(1, LockOutcome.ERROR, f"its helper (process {child.pid}) has ended")

    with_file(path, body)


def test_an_idle_helper_that_dies_is_replaced_when_it_is_needed(path: Path) -> None:
    async def body(one: Locks) -> None:
        one.locks.start()
        os.kill(one.children.running[0].pid, signal.SIGKILL)
        await one.until(lambda: one.logged)
        assert "while it waited for work" in one.logged[0]
        assert await one.outcome() is HELD

    with_file(path, body)


def test_stopping_gives_the_lock_back(path: Path) -> None:
    async def body(one: Locks, other: Locks) -> None:
        one.locks.start()
        assert await one.outcome() is HELD
        one.locks.stop()
        await other.held_soon()
        await one.nothing_is_left()

    with_file(path, body, nodes=2)


def test_the_lock_ends_with_the_process_that_wanted_it(path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from tests.unit.daemon.test_cluster_lock import Locks

        async def body():
            one = Locks(sys.argv[1])
            print((await one.attempt()).outcome.name, flush=True)
            await asyncio.sleep(60)

        asyncio.run(body())
        """)
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as wanting:
        try:
            assert wanting.stdout is not None
            assert wanting.stdout.readline() == "HELD\n"
            holder = holder_of(path)
            wait_until(lambda: children_of(holder), "the holder checks")
            (checker,) = children_of(holder)
        finally:
            wanting.kill()
    wait_until(lambda: holder_of(path) == 0, "the lock is free", 5)
    wait_until(lambda: not is_alive(holder) and not is_alive(checker), "nothing is left", 5)


# -- beside Debian's helper --------------------------------------------------------------------------


@needs_debian
def test_debians_helper_keeps_ours_out(path: Path) -> None:
    both = path.with_name("lock")

    async def body(one: Locks, debian: Locks) -> None:
        assert await debian.outcome() is HELD
        assert command_of(holder_of(both)).startswith(DEBIAN)
        assert await one.outcome() is CONTENDED
        assert await one.outcome(only_look=True) is CONTENDED
        debian.drop()
        await one.held_soon()

    with_locks(body, lambda: Locks(str(both)), lambda: Locks(f"!{DEBIAN} {both}"))


@needs_debian
def test_ours_keeps_debians_helper_out(path: Path) -> None:
    async def body(one: Locks, debian: Locks) -> None:
        assert await one.outcome() is HELD
        assert await debian.outcome() is CONTENDED
        assert await debian.outcome(only_look=True) is CONTENDED
        one.drop()
        await debian.held_soon()
        assert await one.outcome() is CONTENDED

    both = path.with_name("lock")
    with_locks(body, lambda: Locks(str(both)), lambda: Locks(f"!{DEBIAN} {both}"))


# -- a program ---------------------------------------------------------------------------------------


def program(tmp_path: Path, text: str) -> str:
    """A cluster lock that runs this shell script with the arguments `a` and `b c` cut at the space."""
    script = tmp_path / "helper.sh"
    script.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
    script.chmod(0o755)
    return f"!{script}  a\tb c"


@pytest.mark.parametrize(
    ("text", "outcome", "says"),
    [
        ("printf 1", CONTENDED, ""),
        ("echo 2", LockOutcome.TIMEOUT, ""),
        ("echo no key >&2; printf 3", LockOutcome.ERROR, "no key"),
        ("printf x; exec sleep 60", LockOutcome.ERROR, "answers 'x', not 0 to 3"),
        ("echo no service >&2", LockOutcome.ERROR, "has ended no service"),
    ],
)
def test_a_program_answers_with_a_character(
    tmp_path: Path, text: str, outcome: LockOutcome, says: str
) -> None:
    lock = program(tmp_path, text)

    async def body(one: Locks) -> None:
        answer = await one.attempt()
        assert answer.outcome is outcome
        assert says in answer.text
        await one.nothing_is_left()

    with_locks(body, lambda: Locks(lock))


def test_a_program_gets_its_arguments_cut_at_blanks_and_its_errors_are_logged(tmp_path: Path) -> None:
    lock = program(tmp_path, 'echo "$# $3" >&2\nprintf 1\n')

    async def body(one: Locks) -> None:
        assert await one.outcome() is CONTENDED
        assert one.logged == ["cluster lock: 3 c"]

    with_locks(body, lambda: Locks(lock))


def test_a_program_is_asked_to_end_and_may_tidy_up(tmp_path: Path) -> None:
    farewell = f"echo tidying up; echo tidying up >&2; echo bye > {tmp_path}/bye; exit"
    lock = program(tmp_path, f"trap '{farewell}' TERM\nprintf 0\nwhile :; do sleep 0.1; done")

    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        one.drop()
        await one.nothing_is_left()
        assert (tmp_path / "bye").read_text() == "bye\n"
        assert one.said.empty()

    with_locks(body, lambda: Locks(lock))


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    lock = program(tmp_path, "trap '' TERM\nprintf 0\nwhile :; do sleep 0.1; done")

    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        one.drop()
        # The next attempt waits for it: the lock may still be its own.
        assert await one.outcome() is HELD
        assert len(one.children.running) == 1

    with_locks(body, lambda: Locks(lock))


def test_a_program_that_ends_has_lost_the_lock(tmp_path: Path) -> None:
    lock = program(
        tmp_path, f"printf 0\nwhile [ ! -e {tmp_path}/end ]; do sleep 0.02; done; echo lease over >&2"
    )

    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        (tmp_path / "end").touch()
        assert "has ended lease over" in await one.lost()

    with_locks(body, lambda: Locks(lock))


def test_a_program_is_gone_though_what_it_started_still_runs(tmp_path: Path) -> None:
    lock = program(tmp_path, f"sleep 60 &\nprintf 0\nwhile [ ! -e {tmp_path}/end ]; do sleep 0.02; done")

    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        (tmp_path / "end").touch()
        assert "has ended" in await one.lost()

    with_locks(body, lambda: Locks(lock))


def test_a_program_that_never_answers_can_be_given_up(tmp_path: Path) -> None:
    lock = program(tmp_path, f"[ -e {tmp_path}/go ] && printf 1\nexec sleep 60")

    async def body(one: Locks) -> None:
        one.locks.take(TakeLock(1))
        await one.until(lambda: any("sleep" in command_of(each.pid) for each in one.children.running))
        one.drop()
        one.locks.drop(1)
        (tmp_path / "go").touch()
        one.last = 1
        assert await one.outcome() is CONTENDED

    with_locks(body, lambda: Locks(lock))


def test_a_program_looks_by_taking_and_gives_back_at_once(tmp_path: Path) -> None:
    lock = program(tmp_path, "printf 0\nexec sleep 60")

    async def body(one: Locks) -> None:
        assert await one.outcome(only_look=True) is HELD
        await one.nothing_is_left()
        assert one.said.empty()

    with_locks(body, lambda: Locks(lock))


@pytest.mark.parametrize(
    ("lock", "says"),
    [("! \t", "no program stands after the '!'"), ("!/no/such/helper x", "there is no such program")],
)
def test_a_program_that_cannot_be_run_says_so(lock: str, says: str) -> None:
    async def body(one: Locks) -> None:
        answer = await one.attempt()
        assert answer.outcome is LockOutcome.ERROR
        assert says in answer.text

    with_locks(body, lambda: Locks(lock))


def test_a_program_that_talks_much_fills_no_log(tmp_path: Path) -> None:
    lock = program(tmp_path, f"{shutil.which('seq')} 1 5000 >&2\nprintf 0\nexec sleep 60")

    async def body(one: Locks) -> None:
        assert await one.outcome() is HELD
        await one.until(lambda: len(one.logged) == 100)
        assert await one.outcome(only_look=True) is HELD

    with_locks(body, lambda: Locks(lock))
