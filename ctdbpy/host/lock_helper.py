# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that holds a lock on a file of the cluster file system, so that the daemon never waits for it.

Started as `python -m ctdbpy.host.lock_helper FD` before it is needed; FD is one end of a stream socket pair.
The lock is an fcntl lock on the file's first byte, as upstream's helper takes it: they keep each other out.

Lines from the daemon                       answers
take HANG STALL PATH                        `0` held, `1` held elsewhere, `3 TEXT` cannot be had
look PATH                                   the same, without taking: `0` could be had
ping                                        none; while the lock is held they must keep coming

While it holds the lock, a second process uses the file each second. The lock ends, `lost TEXT` is sent and
the process exits when the file is gone or another, when the file system has not answered for HANG seconds, or
when the daemon has sent nothing for STALL seconds: one that stands still must not keep others from leading.
It ends without a word when the socket closes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

CHECK_INTERVAL_S: Final = 1.0
#: How often the holder looks at its watches.
TICK_S: Final = 0.25
#: A tick counts for no more than this: while the whole host stands still, nobody is late.
TICK_S_MAX: Final = 1.0
LINE_BYTES_MAX: Final = 8192
#: A file that is replaced while it is locked is locked anew so often.
TRIES: Final = 5

HELD: Final = "0"
CONTENDED: Final = "1"
FAILED: Final = "3"

#: struct flock: type, whence, start, length, pid.
_FLOCK: Final = "hhqqi"


class Failure(Exception):
    """Why the lock cannot be had, or is held no more."""


def take(path: str) -> int | None:
    """Lock the file, made if need be; its descriptor, None if it is locked elsewhere. Raises Failure."""
    for _ in range(TRIES):
        fd = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
            # Between the two calls it may have been replaced, and another node have locked the new one.
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == _identity(fd):
                return fd
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            raise Failure(f"cannot lock '{path}': {error.strerror}") from None
        os.close(fd)
    raise Failure(f"cannot lock '{path}': somebody keeps replacing it")


def is_free(path: str) -> bool:
    """Whether nobody holds the lock, without getting in the way of who takes it. Raises Failure."""
    fd = _open(path, os.O_RDWR)
    try:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, wanted)[: len(wanted)])
    except OSError as error:
        raise Failure(f"cannot look for a lock on '{path}': {error.strerror}") from None
    finally:
        os.close(fd)
    return bool(found[0] == fcntl.F_UNLCK)


def check(path: str, identity: tuple[int, int]) -> None:
    """Use the file as only one on a file system in order can be used. Raises Failure.

    Not in the process that holds the lock: closing any descriptor of the file would end it.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError as error:
        raise Failure(f"cannot open lock file '{path}' any more: {error.strerror}") from None
    try:
        if _identity(fd) != identity:
            raise Failure(f"'{path}' is another file now: the locked one was removed or replaced")
        # Waits for whoever has it, which is nobody: the file system has to ask the others all the same.
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
    except OSError as error:
        raise Failure(f"cannot use lock file '{path}' any more: {error.strerror}") from None
    finally:
        os.close(fd)


def serve(connection: socket.socket) -> None:
    """Do what the lines say until one takes the lock or the socket closes."""
    for line in _lines(connection):
        verb, _, rest = line.partition(" ")
        answer = ""
        try:
            match verb:
                case "look":
                    answer = HELD if is_free(rest) else CONTENDED
                case "take":
                    hang_s, stall_s, path = rest.split(" ", 2)
                    fd = take(path)
                    answer = CONTENDED
                    if fd is not None:
                        _send(connection, HELD)
                        hold(connection, path, fd, float(hang_s), float(stall_s))
                        return
        except Failure as failure:
            answer = f"{FAILED} {failure}"
        if answer:
            _send(connection, answer)


def hold(connection: socket.socket, path: str, fd: int, hang_s: float, stall_s: float) -> None:
    """Hold the lock until something is wrong, and say what, or until the socket closes."""
    checker, words = _start_checker(path, _identity(fd), connection)
    try:
        reason = _watch(connection, words, path, hang_s, stall_s)
    finally:
        os.kill(checker, signal.SIGKILL)
    if reason:
        # First the word, then the lock: letting go may hang as well.
        connection.setblocking(False)
        _send(connection, f"lost {reason}")


def _watch(connection: socket.socket, words: int, path: str, hang_s: float, stall_s: float) -> str:
    """Why the lock must not be held any longer; "" when the daemon does not want it any more."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(words, select.POLLIN)
    silent_s = {connection.fileno(): 0.0, words: 0.0}
    before_s = time.monotonic()
    while True:
        ready = [number for number, _events in poll.poll(TICK_S * 1000)]
        now_s = time.monotonic()
        for number in silent_s:
            silent_s[number] += min(now_s - before_s, TICK_S_MAX)
        before_s = now_s
        for number in ready:
            silent_s[number] = 0.0
        if connection.fileno() in ready and not connection.recv(LINE_BYTES_MAX):
            return ""
        if words in ready:
            text = os.read(words, LINE_BYTES_MAX).decode(errors="replace")
            if not text:
                return f"the process that checks '{path}' has ended"
            if complaint := text.lstrip("."):
                return complaint
        if silent_s[words] > hang_s + CHECK_INTERVAL_S:
            return f"the file system of '{path}' has not answered for {hang_s:g} s"
        if silent_s[connection.fileno()] > stall_s:
            return f"the daemon has stood still for {stall_s:g} s"


def _start_checker(path: str, identity: tuple[int, int], connection: socket.socket) -> tuple[int, int]:
    """A process that writes a dot each second as long as the file is all right; its pid, what to read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        connection.close()
        _check_on(path, identity, writing)
    finally:
        # Whatever went wrong: nothing of the parent's may be run here.
        os._exit(0)


def _check_on(path: str, identity: tuple[int, int], writing: int) -> None:
    poll = select.poll()
    # Nothing is ever asked of a pipe's writing end but whether its reader is gone.
    poll.register(writing, 0)
    while True:
        try:
            check(path, identity)
        except Failure as failure:
            os.write(writing, str(failure).encode(errors="replace"))
            return
        os.write(writing, b".")
        if poll.poll(CHECK_INTERVAL_S * 1000):
            return


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        directory = os.path.dirname(path)
        if os.path.isdir(directory):
            raise Failure(f"there is no lock file '{path}'") from None
        raise Failure(
            f"cannot make lock file '{path}': there is no directory '{directory}'; "
            "mount the cluster file system, or make the directory on it"
        ) from None
    except OSError as error:
        raise Failure(f"cannot open lock file '{path}': {error.strerror}") from None


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _lines(connection: socket.socket) -> Iterator[str]:
    received = b""
    while data := connection.recv(LINE_BYTES_MAX):
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            yield os.fsdecode(line)


def _send(connection: socket.socket, line: str) -> None:
    connection.sendall(os.fsencode(f"{line}\n"))


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    # The daemon answers a terminal's Ctrl-C, and it gives the lock back in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        try:
            serve(connection)
        except OSError:
            # The daemon is gone, or closed its end while it was written to.
            pass
        os._exit(0)


if __name__ == "__main__":
    main()
