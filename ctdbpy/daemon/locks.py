# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiter processes: they take the wait for contended chain locks so that the loop never waits.

The engine asks for a lock it could not get within some milliseconds; a free waiter (or a new
one, up to a limit) blocks on it. Once it holds the lock the engine borrows it for the
length of one call, then the waiter lets go.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ctdbpy.daemon.processes import spawn_module
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children
from ctdbpy.store.engine import Engine
from ctdbpy.store.lockwaits import Op, WaitAnswer, WaitRequest, take_answer

WAITERS_MAX: Final = 32
WAITERS_KEPT: Final = 2
#: Id of requests whose answer nobody waits for. Locks count up from 1, a release has 0.
FORGET_ID: Final = 0xFFFFFFFF


@dataclass(slots=True)
class _Waiter:
    child: Child
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    wanted: tuple[int, bytes] | None = None
    is_releasing: bool = False
    request_id: int = 0


class LockWaiters:
    """A pool of waiter processes for one engine."""

    def __init__(self, engine: Engine, children: Children, log: Callable[[str], None]) -> None:
        self._engine = engine
        self._children = children
        self._log = log
        self._waiters: list[_Waiter] = []
        self._queue: deque[tuple[int, bytes]] = deque()
        self._next_id = 1

    def start(self) -> None:
        """Have the first waiters ready before somebody needs one."""
        for _ in range(WAITERS_KEPT):
            self._start_one()

    def stop(self) -> None:
        """End all waiters; the kernel frees what they hold."""
        for waiter in self._waiters:
            self._end(waiter)
        self._waiters.clear()

    def want(self, db_id: int, key: bytes) -> None:
        """The engine asks for this chain lock."""
        waiter = next((w for w in self._waiters if w.wanted is None and not w.is_releasing), None)
        if waiter is None and len(self._waiters) < WAITERS_MAX:
            waiter = self._start_one()
        if waiter is None:
            self._queue.append((db_id, key))
            return
        self._ask(waiter, db_id, key)

    def unwant(self, db_id: int, key: bytes) -> None:
        """The engine got the lock by itself meanwhile; a waiter that gets it lets go at once."""
        if (db_id, key) in self._queue:
            self._queue.remove((db_id, key))

    def forget(self, db_id: int) -> None:
        """Have every waiter close a database's file, before it is detached."""
        tdb = self._engine.tdb(db_id)
        self._queue = deque(wanted for wanted in self._queue if wanted[0] != db_id)
        for waiter in list(self._waiters):
            if waiter.wanted is not None and waiter.wanted[0] == db_id:
                # It may wait in there for ever.
                self._waiters.remove(waiter)
                self._end(waiter)
            else:
                self._send(waiter, WaitRequest(FORGET_ID, Op.FORGET, tdb.flags, tdb.path))

    # -- one waiter -----------------------------------------------------------------

    def _start_one(self) -> _Waiter | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            child = spawn_module(self._children, "ctdbpy.store.waiter", theirs)
        except HostError as error:
            ours.close()
            self._log(
                f"cannot start a waiter process: {error}; contended records wait for their turn in the loop"
            )
            return None
        finally:
            theirs.close()
        ours.setblocking(False)
        waiter = _Waiter(child, ours)
        self._waiters.append(waiter)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable, waiter)
        return waiter

    def _ask(self, waiter: _Waiter, db_id: int, key: bytes) -> None:
        waiter.wanted = (db_id, key)
        waiter.request_id = self._next_id
        self._next_id = self._next_id % (FORGET_ID - 1) + 1
        tdb = self._engine.tdb(db_id)
        self._send(waiter, WaitRequest(waiter.request_id, Op.CHAIN, tdb.flags, tdb.path, key))

    def _send(self, waiter: _Waiter, request: WaitRequest) -> None:
        try:
            # One small request at a time: the socket's buffer always has room for it.
            waiter.socket.sendall(request.pack())
        except OSError as error:
            self._lost(waiter, str(error))

    def _readable(self, waiter: _Waiter) -> None:
        try:
            data = waiter.socket.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(waiter, str(error))
            return
        if not data:
            self._lost(waiter, "it ended")
            return
        waiter.received += data
        while (answer := take_answer(waiter.received)) is not None:
            self._answered(waiter, answer)

    def _answered(self, waiter: _Waiter, answer: WaitAnswer) -> None:
        if answer.id == FORGET_ID:
            return
        if waiter.is_releasing:
            waiter.is_releasing = False
        elif waiter.wanted is not None and answer.id == waiter.request_id:
            db_id, key = waiter.wanted
            waiter.wanted = None
            if answer.status == 0:
                self._engine.lock_granted(db_id, key)
                waiter.is_releasing = True
                self._send(waiter, WaitRequest(0, Op.RELEASE))
                return
            self._log(f"cannot wait for a lock of database 0x{db_id:08x}: errno {answer.errno}; trying again")
            self._engine.lock_failed(db_id, key)
        if self._queue and waiter in self._waiters:
            self._ask(waiter, *self._queue.popleft())

    def _lost(self, waiter: _Waiter, reason: str) -> None:
        if waiter not in self._waiters:
            return
        self._waiters.remove(waiter)
        self._end(waiter)
        self._log(f"waiter process {waiter.child.pid} is lost: {reason}; starting another when one is needed")
        if waiter.wanted is not None:
            self._engine.lock_failed(*waiter.wanted)

    def _end(self, waiter: _Waiter) -> None:
        asyncio.get_running_loop().remove_reader(waiter.socket.fileno())
        waiter.socket.close()
        waiter.child.kill()
