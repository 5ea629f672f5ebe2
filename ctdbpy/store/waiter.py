# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that waits for a contended lock, so that the daemon need not.

Started as `python -m ctdbpy.store.waiter FD` by the daemon's main thread; FD is one end of a stream socket
pair that the daemon made, and `lockwaits` says what goes over it. A waiter takes one lock at a time, on
handles of its own, and holds it until told to release it. It ends when the socket closes and, even in the
middle of a wait, when the daemon does; the kernel then frees the lock.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys

from ctdbpy.errors import StoreError
from ctdbpy.store.lifeline import die_with_parent
from ctdbpy.store.lockwaits import Op, WaitAnswer, WaitRequest, take_request
from ctdbpy.store.tdb import Tdb

# Handles kept open: enough for a Samba cluster's databases, few enough that a waiter stays small.
_OPEN_MAX = 64


class Waiter:
    """Takes, holds and releases one lock at a time."""

    def __init__(self) -> None:
        self._open: dict[str, Tdb] = {}
        self._held: WaitRequest | None = None

    def answer(self, request: WaitRequest) -> WaitAnswer:
        """Do what is asked, waiting as long as a lock takes."""
        try:
            number = self._do(request)
        except StoreError:
            number = errno.EIO
        return WaitAnswer(request.id, -1 if number else 0, number)

    def _do(self, request: WaitRequest) -> int:
        match request.op:
            case Op.CHAIN | Op.LOCKALL:
                if self._held is not None:
                    return errno.EBUSY
                tdb = self._tdb(request)
                if request.op is Op.CHAIN:
                    tdb.chainlock(request.key)
                else:
                    tdb.lockall()
                self._held = request
            case Op.RELEASE:
                if self._held is None:
                    return errno.ENOLCK
                held, self._held = self._held, None
                tdb = self._open[held.path]
                if held.op is Op.CHAIN:
                    tdb.chainunlock(held.key)
                else:
                    tdb.unlockall()
            case Op.FORGET:
                if self._held is not None and self._held.path == request.path:
                    return errno.EBUSY
                if forgotten := self._open.pop(request.path, None):
                    forgotten.close()
        return 0

    def _tdb(self, request: WaitRequest) -> Tdb:
        tdb = self._open.pop(request.path, None)
        if tdb is not None and _is_replaced(tdb, request.path):
            tdb.close()
            tdb = None
        if tdb is None:
            if len(self._open) >= _OPEN_MAX:
                # The one unused for longest: a handle moves to the end when it is used.
                self._open.pop(next(iter(self._open))).close()
            tdb = Tdb.open(request.path, flags=request.tdb_flags, open_flags=os.O_RDWR)
        self._open[request.path] = tdb
        return tdb


def _is_replaced(tdb: Tdb, path: str) -> bool:
    # A detached database's file may have been removed and made anew under the same name.
    try:
        return tdb.identity != _identity(path)
    except OSError:
        return True


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def peer_pid(connection: socket.socket) -> int:
    """Pid of the process that made the socket pair."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def serve(connection: socket.socket) -> None:
    """Answer requests until the socket closes."""
    waiter = Waiter()
    received = bytearray()
    while data := connection.recv(65536):
        received += data
        while request := take_request(received):
            connection.sendall(waiter.answer(request).pack())


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    # The daemon answers a terminal's Ctrl-C, and it needs its waiters until it has finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        die_with_parent(peer_pid(connection))
        try:
            serve(connection)
        except (BrokenPipeError, ConnectionResetError):
            pass
    # Without tidying up: a robust mutex is freed by the kernel only while it is still mapped.
    os._exit(0)


if __name__ == "__main__":
    main()
