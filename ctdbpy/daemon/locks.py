# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiter processes: they take the wait for contended chain locks so that the loop never waits.

The engine asks for a lock it could not get within some milliseconds; a free waiter (or a new
one, up to a limit) blocks on it. Once it holds the lock the engine borrows it for the
length of one call, then the waiter lets go. The engine itself keeps trying, so a waiter that
dies or cannot be had costs time, never an answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ctdbpy.daemon.processes import start_helper
from ctdbpy.errors import HostError, StoreError
from ctdbpy.host.children import Child, Children
from ctdbpy.store.engine import Engine
from ctdbpy.store.lockwaits import Op, WaitAnswer, WaitRequest, take_answer

WAITERS_MAX: Final = 32
WAITERS_KEPT: Final = 2
#: A waiter that nobody has needed for so long ends, unless it is one of those kept.
IDLE_S: Final = 30.0
#: Waiters that end before their first answer would be started without end.
FAILED_START_S: Final = 1.0
#: A longer key might not fit the socket's buffer: the engine waits for it in its own turns.
KEY_BYTES_MAX: Final = 1 << 16
#: Id of requests whose answer nobody waits for. Locks count up from 1, a release has 0.
FORGET_ID: Final = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class _Waiter:
    child: Child
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    wanted: tuple[int, bytes] | None = None
    is_releasing: bool = False
    request_id: int = 0
    has_answered: bool = False
    idle_since_s: float = 0.0

    @property
    def is_free(self) -> bool:
        return self.wanted is None and not self.is_releasing


class LockWaiters:
    """A pool of waiter processes for one engine."""

    def __init__(self, engine: Engine, children: Children, log: Callable[[str], None]) -> None:
        self._engine = engine
        self._children = children
        self._log = log
        self._waiters: list[_Waiter] = []
        self._queue: deque[tuple[int, bytes]] = deque()
        self._next_id = 1
        self._start_after_s = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._trim: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Have the first waiters ready before somebody needs one."""
        for _ in range(WAITERS_KEPT):
            self._start_one()

    def stop(self) -> None:
        """End all waiters; the kernel frees what they hold."""
        self._is_stopped = True
        self._queue.clear()
        for timer in (self._again, self._trim):
            if timer is not None:
                timer.cancel()
        for waiter in self._waiters:
            self._end(waiter)
        self._waiters.clear()

    def want(self, db_id: int, key: bytes) -> None:
        """The engine asks for this chain lock."""
        if not self._is_stopped and len(key) <= KEY_BYTES_MAX:
            self._queue.append((db_id, key))
            self._serve_queue()

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
        self._serve_queue()

    # -- who waits for what ----------------------------------------------------------

    def _serve_queue(self) -> None:
        while self._queue:
            waiter = next((each for each in self._waiters if each.is_free), None) or self._start_one()
            if waiter is None:
                # The engine goes on trying; the next waiter that is done takes this up.
                if not self._waiters and self._again is None:
                    loop = asyncio.get_running_loop()
                    self._again = loop.call_later(FAILED_START_S, self._serve_again)
                return
            self._ask(waiter, *self._queue.popleft())

    def _serve_again(self) -> None:
        self._again = None
        self._serve_queue()

    def _ask(self, waiter: _Waiter, db_id: int, key: bytes) -> None:
        try:
            tdb = self._engine.tdb(db_id)
        except StoreError:
            # Detached since; the engine has answered whoever waited.
            return
        waiter.wanted = (db_id, key)
        waiter.request_id = self._next_id
        self._next_id = self._next_id % (FORGET_ID - 1) + 1
        self._send(waiter, WaitRequest(waiter.request_id, Op.CHAIN, tdb.flags, tdb.path, key))

    def _answered(self, waiter: _Waiter, answer: WaitAnswer) -> None:
        waiter.has_answered = True
        if answer.id == FORGET_ID:
            return
        if waiter.is_releasing:
            waiter.is_releasing = False
        elif waiter.wanted is not None and answer.id == waiter.request_id:
            db_id, key = waiter.wanted
            waiter.wanted = None
            if answer.status == 0:
                waiter.is_releasing = True
                self._engine.lock_granted(db_id, key)
                self._send(waiter, WaitRequest(0, Op.RELEASE))
                return
            why = os.strerror(answer.errno)
            self._log(f"cannot wait for a lock of database 0x{db_id:08x}: {why}; trying again")
            self._engine.lock_failed(db_id, key)
        waiter.idle_since_s = asyncio.get_running_loop().time()
        self._serve_queue()
        self._trim_later()

    # -- one waiter -----------------------------------------------------------------

    def _start_one(self) -> _Waiter | None:
        loop = asyncio.get_running_loop()
        if self._is_stopped or len(self._waiters) >= WAITERS_MAX or loop.time() < self._start_after_s:
            return None
        try:
            child, ours = start_helper(self._children, "ctdbpy.store.waiter")
        except HostError as error:
            self._start_after_s = loop.time() + FAILED_START_S
            self._log(f"{error}; contended records wait for their turn in the loop")
            return None
        waiter = _Waiter(child, ours, idle_since_s=loop.time())
        self._waiters.append(waiter)
        loop.add_reader(ours.fileno(), self._readable, waiter)
        return waiter

    def _send(self, waiter: _Waiter, request: WaitRequest) -> None:
        try:
            # One request at a time and of bounded length: the socket's buffer has room for it.
            waiter.socket.sendall(request.pack())
        except OSError as error:
            self._lost(waiter, error.strerror or str(error))

    def _readable(self, waiter: _Waiter) -> None:
        try:
            data = waiter.socket.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(waiter, error.strerror or str(error))
            return
        if not data:
            self._lost(waiter, "it ended")
            return
        waiter.received += data
        while (answer := take_answer(waiter.received)) is not None:
            self._answered(waiter, answer)

    def _lost(self, waiter: _Waiter, reason: str) -> None:
        if waiter not in self._waiters:
            return
        self._waiters.remove(waiter)
        self._end(waiter)
        if not waiter.has_answered:
            self._start_after_s = asyncio.get_running_loop().time() + FAILED_START_S
        self._log(f"waiter process {waiter.child.pid} is lost: {reason}; starting another when one is needed")
        if waiter.wanted is not None:
            self._engine.lock_failed(*waiter.wanted)
        self._serve_queue()

    def _end(self, waiter: _Waiter) -> None:
        asyncio.get_running_loop().remove_reader(waiter.socket.fileno())
        waiter.socket.close()
        waiter.child.kill()

    def _trim_later(self) -> None:
        if self._trim is None and len(self._waiters) > WAITERS_KEPT:
            self._trim = asyncio.get_running_loop().call_later(IDLE_S, self._trim_now)

    def _trim_now(self) -> None:
        self._trim = None
        before_s = asyncio.get_running_loop().time() - IDLE_S
        idle = [each for each in self._waiters if each.is_free and each.idle_since_s <= before_s]
        for waiter in idle[: len(self._waiters) - WAITERS_KEPT]:
            self._waiters.remove(waiter)
            self._end(waiter)
        self._trim_later()
