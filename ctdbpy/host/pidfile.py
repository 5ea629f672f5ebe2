# SPDX-License-Identifier: GPL-3.0-or-later
"""The pid file: locked while the daemon lives, so that a second daemon (ours or upstream's) sees it.

A POSIX record lock, as upstream's: it belongs to the process. The process that acquires it must be the one
that stays, and must not open and close the file elsewhere (that would drop the lock).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from ctdbpy.errors import HostError
from ctdbpy.host.processes import describe_process, is_running

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid."""

PID_TEXT_BYTES_MAX = 32


class PidFile:
    """A pid file that this process holds.

    `note` says what was found in its place when it had been left behind, else it is None.
    """

    def __init__(self, path: Path, fd: int, note: str | None) -> None:
        self.path = path
        self.note = note
        self._fd = fd
        self._pid = os.getpid()

    @classmethod
    def acquire(cls, path: Path) -> PidFile:
        """Create or take over the file, lock it and write our pid.

        Raises HostError when another process holds it (says which), or when it cannot be written.
        """
        # A daemon that ends removes its file; one locked in between is no longer what the path names: again.
        for _attempt in range(10):
            fd = _open(path)
            try:
                _lock(fd, path)
                if _is_same_file(fd, path):
                    note = _note_about(fd, path)
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    return cls(path, fd, note)
            except OSError as error:
                os.close(fd)
                raise HostError(f"cannot write the pid file '{path}': {error.strerror}") from error
            except HostError:
                os.close(fd)
                raise
            os.close(fd)
        raise HostError(f"cannot lock the pid file '{path}': something keeps replacing it")

    def release(self) -> None:
        """Remove the file if it is still ours, drop the lock. Harmless the second time and in a child."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        try:
            if _is_same_file(self._fd, self.path):
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except FileNotFoundError as error:
        raise HostError(
            f"cannot create the pid file '{path}': the directory '{path.parent}' does not exist"
        ) from error
    except OSError as error:
        why = "it is a symbolic link; remove it" if error.errno == errno.ELOOP else error.strerror
        raise HostError(f"cannot open the pid file '{path}': {why}") from error


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise HostError(
            f"cannot lock the pid file '{path}': {_holder_of(fd)} holds it; "
            "a daemon is running already, stop it first"
        ) from error


def _holder_of(fd: int) -> str:
    """Say who holds the lock; the file's own text is asked when the kernel cannot name a pid."""
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    pid = _FLOCK.unpack(answer)[4]
    return describe_process(pid if pid > 0 else _written_pid(fd) or 0)


def _written_pid(fd: int) -> int | None:
    text = os.pread(fd, PID_TEXT_BYTES_MAX, 0).strip()
    return int(text) if text.isdigit() else None


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), named)


def _note_about(fd: int, path: Path) -> str | None:
    """Say what the locked file had in it; a daemon that ended properly removes its file."""
    if os.fstat(fd).st_size == 0:
        return None
    pid = _written_pid(fd)
    if pid is None:
        return f"the pid file '{path}' had no pid in it; taken over"
    if is_running(pid):
        return f"the pid file '{path}' named {describe_process(pid)}, which does not hold it; taken over"
    return f"the pid file '{path}' was left by process {pid}, which is gone; taken over"
