# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether directories are there, asked by a child: a file system that hangs hangs it, not the event.

Such a child cannot be killed while the file system hangs. It is remembered, and no other is sent after it.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from ctdbpy.errors import ServiceError


def check(what: str, directories: Sequence[str], *, timeout_s: float, state: Path) -> None:
    """Look at each directory. Raises ServiceError about the first that is gone, or that hangs.

    what: what they are, for the error's text ("the share directory"). state: the service's own directory,
    where a child that hangs is noted.
    """
    note = state / "hung-check"
    stuck = _stuck(note)
    if stuck is not None:
        raise ServiceError(f"cannot reach {what} '{stuck}': its file system still hangs")
    if not directories:
        return
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _look(directories, write)
    os.close(write)
    try:
        deadline_s = time.monotonic() + timeout_s
        for directory in directories:
            said = _line(read, deadline_s)
            if said is None:
                note.write_text(f"{child} {_start_ticks(child)} {directory}", encoding="utf-8")
                raise ServiceError(f"cannot reach {what} '{directory}': no answer within {timeout_s:g} s")
            if said:
                raise ServiceError(f"cannot reach {what} '{directory}': {said}")
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        # Reaped if it is gone; one that hangs becomes init's.
        os.waitpid(child, os.WNOHANG)


def _look(directories: Sequence[str], write: int) -> None:
    """The child: a line for each directory, empty if it is there. Does not return."""
    try:
        # What the event says has ended when the script has, even if this child hangs.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        for directory in directories:
            try:
                # "/." makes an automounter mount it, and a file is none.
                os.stat(f"{directory}/.")
                reason = ""
            except OSError as error:
                reason = error.strerror or str(error)
            os.write(write, f"{reason}\n".encode())
    finally:
        os._exit(0)


def _line(read: int, deadline_s: float) -> str | None:
    """The child's next line; None when it does not come in time."""
    line = b""
    while not line.endswith(b"\n"):
        left_s = max(0.0, deadline_s - time.monotonic())
        if not select.select([read], [], [], left_s)[0]:
            return None
        byte = os.read(read, 1)
        if not byte:
            return "the process that looked at it was killed"
        line += byte
    return line[:-1].decode(errors="replace")


def _stuck(note: Path) -> str | None:
    """The directory that an earlier child still waits for."""
    try:
        pid, ticks, directory = note.read_text(encoding="utf-8").split(" ", 2)
    except (OSError, ValueError):
        return None
    if int(ticks) and _start_ticks(int(pid)) == int(ticks):
        return directory
    note.unlink(missing_ok=True)
    return None


def _start_ticks(pid: int) -> int:
    """When a process was started, so that a later one with its id is not taken for it; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
