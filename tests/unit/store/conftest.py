# SPDX-License-Identifier: GPL-3.0-or-later
"""Real files, and real processes beside this one that lock, wait and work on them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctdbpy.store import jobs, lockwaits
from ctdbpy.store.lockwaits import Op, WaitAnswer, WaitRequest
from ctdbpy.store.tdb import (
    CLEAR_IF_FIRST,
    DISALLOW_NESTING,
    INCOMPATIBLE_HASH,
    MUTEX_LOCKING,
    NOSYNC,
    Tdb,
)

#: Longer than anything here takes on a loaded machine.
LIMIT_S = 30.0

FCNTL = NOSYNC | CLEAR_IF_FIRST | INCOMPATIBLE_HASH | DISALLOW_NESTING
MUTEX = FCNTL | MUTEX_LOCKING
PERSISTENT = DISALLOW_NESTING


class Process:
    """A child started as the daemon starts it, with its socket."""

    def __init__(self, module: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(LIMIT_S)
        with theirs:
            self.child = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._received = bytearray()

    def receive(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the process closed its socket")
        self._received += data

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(LIMIT_S)

    def end(self) -> None:
        self.socket.close()
        if self.child.poll() is None:
            self.kill()


class WaiterProcess(Process):
    """A waiter: the process beside us that takes locks."""

    def __init__(self, tdb: Tdb) -> None:
        super().__init__("ctdbpy.store.waiter")
        self.path, self.flags = tdb.path, tdb.open_flags

    def send(self, op: Op, key: bytes = b"", number: int = 0) -> None:
        self.socket.sendall(WaitRequest(number, op, self.flags, self.path, key).pack())

    def answer(self) -> WaitAnswer:
        while (answer := lockwaits.take_answer(self._received)) is None:
            self.receive()
        return answer

    def ask(self, op: Op, key: bytes = b"") -> WaitAnswer:
        self.send(op, key)
        return self.answer()

    @property
    def is_blocked(self) -> bool:
        """True once the process sleeps in a lock wait: fcntl or a futex."""
        syscall = Path(f"/proc/{self.child.pid}/syscall").read_text().split()[0]
        return syscall in _LOCK_WAITS


# x86_64 and aarch64: fcntl, futex.
_LOCK_WAITS = ("72", "202") if os.uname().machine == "x86_64" else ("25", "98")


class WorkerProcess(Process):
    """A bulk worker."""

    def __init__(self) -> None:
        super().__init__("ctdbpy.store.worker")
        self._jobs = 0

    def send(self, database: jobs.Database, task: jobs.Task) -> int:
        self._jobs += 1
        self.socket.sendall(jobs.Request(self._jobs, database, task).pack())
        return self._jobs

    def stop(self, database: jobs.Database, job_id: int) -> None:
        self.socket.sendall(jobs.Request(job_id, database, jobs.Plain(jobs.Kind.STOP)).pack())

    def answer(self) -> jobs.Answer:
        while (answer := jobs.take_answer(self._received)) is None:
            self.receive()
        return answer

    def run(self, database: jobs.Database, task: jobs.Task) -> tuple[list[bytes], jobs.Answer]:
        """The parts and the end."""
        job_id = self.send(database, task)
        parts: list[bytes] = []
        while True:
            answer = self.answer()
            assert answer.job_id == job_id
            if answer.is_last:
                return parts, answer
            parts.append(answer.data)


@pytest.fixture
def start_waiter() -> Iterator[Callable[[Tdb], WaiterProcess]]:
    """Start waiters for a file; they end with the test."""
    started: list[WaiterProcess] = []

    def start(tdb: Tdb) -> WaiterProcess:
        started.append(WaiterProcess(tdb))
        return started[-1]

    yield start
    for waiter in started:
        waiter.end()


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    """A bulk worker that ends with the test."""
    process = WorkerProcess()
    yield process
    process.end()


@pytest.fixture(params=[MUTEX, FCNTL, PERSISTENT], ids=["mutex", "fcntl", "persistent"])
def tdb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tdb]:
    """An empty file of each kind of locking."""
    with Tdb.open(tmp_path / "a.tdb.0", hash_size=1009, flags=request.param, max_dead=5) as opened:
        yield opened


@pytest.fixture
def run_python() -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a piece of Python in another process to its end, however it ends."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )

    return run
