# SPDX-License-Identifier: GPL-3.0-or-later
"""Find and end the processes a test run has left behind.

A run marks its environment (`CTDBPY_TEST_RUN`), and every process below inherits the mark, in whatever
session, process group or namespace it ends up. `python -m tests.leftovers end MARK` is for `./dev`, when
pytest itself could not clean up.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MARK_VARIABLE = "CTDBPY_TEST_RUN"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process of the run that is still there. The pidfd names it for certain: a pid may be used again."""

    pid: int
    pidfd: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command}"


def find(mark: str) -> list[Leftover]:
    """Every live process but ourselves and our parents that carries the mark."""
    entry = f"{MARK_VARIABLE}={mark}".encode()
    ours = _ourselves_and_parents()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) in ours:
            continue
        pid = int(folder.name)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue  # gone meanwhile, or a thread
        try:
            # A zombie has no environment: it is its parent's to reap and holds nothing.
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                found.append(Leftover(pid, pidfd, words.decode(errors="replace")))
                continue
        except OSError:
            pass  # gone meanwhile, or not ours to look at
        os.close(pidfd)
    return found


def wait_gone(leftovers: list[Leftover], timeout_s: float) -> list[Leftover]:
    """Wait until they have ended; returns, and keeps open, those that have not in time."""
    poller = select.poll()
    waiting = {leftover.pidfd: leftover for leftover in leftovers}
    for pidfd in waiting:
        poller.register(pidfd, select.POLLIN)
    deadline_s = time.monotonic() + timeout_s
    while waiting:
        left_s = deadline_s - time.monotonic()
        ended = poller.poll(max(0, left_s) * 1000)
        if not ended and left_s <= 0:
            break
        for pidfd, _ in ended:
            poller.unregister(pidfd)
            os.close(pidfd)
            del waiting[pidfd]
    return list(waiting.values())


def end(mark: str) -> list[str]:
    """Kill what carries the mark, again and again until nothing new shows up; returns what it was."""
    killed = []
    for _ in range(10):
        leftovers = find(mark)
        if not leftovers:
            break
        for leftover in leftovers:
            killed.append(str(leftover))
            signal.pidfd_send_signal(leftover.pidfd, signal.SIGKILL)
        for stubborn in wait_gone(leftovers, 5):
            os.close(stubborn.pidfd)
    return killed


def _ourselves_and_parents() -> set[int]:
    pids = set()
    pid = os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
    return pids


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "end":
        sys.exit("usage: python -m tests.leftovers end MARK")
    for line in end(sys.argv[2]):
        print(f"ended a leftover {line}")
