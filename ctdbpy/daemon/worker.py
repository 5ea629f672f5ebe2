# SPDX-License-Identifier: GPL-3.0-or-later
"""One bulk worker process: what is sent to it, what it answers, and the reading of it held back."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from ctdbpy.core.effects import StartJob
from ctdbpy.daemon.processes import start_helper
from ctdbpy.errors import ProtocolError
from ctdbpy.host.children import Children
from ctdbpy.store import jobs
from ctdbpy.store.jobs import Answer, Request

READ_BYTES: Final = 1 << 18
PIECES_MAX: Final = 64


class Worker:
    """A worker process. `on_answer` and `on_lost` come from the loop, never from within a call here."""

    def __init__(
        self,
        children: Children,
        on_answer: Callable[[Worker, Answer], None],
        on_lost: Callable[[Worker, str], None],
    ) -> None:
        """Start it. Raises HostError."""
        self._child, self._socket = start_helper(children, "ctdbpy.store.worker")
        jobs.widen(self._socket)
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._is_paused = False
        self._is_closed = False
        #: Jobs it has, oldest first.
        self.jobs: dict[int, StartJob] = {}
        self._loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    @property
    def is_paused(self) -> bool:
        """True while its answers are not read, so that it stands still before long."""
        return self._is_paused

    def ask(self, request: Request) -> None:
        """Send a request as soon as it takes it."""
        is_waiting = bool(self._unsent)
        self._unsent += [memoryview(piece) for piece in request.pieces() if piece]
        if not is_waiting:
            self._writable()

    def pause(self) -> None:
        """Read no further answers until `resume`."""
        if not self._is_paused and not self._is_closed:
            self._is_paused = True
            self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Read answers again."""
        if self._is_paused and not self._is_closed:
            self._is_paused = False
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._loop.call_soon(self._take_answers)

    def close(self) -> None:
        """End it at once; the kernel and libtdb undo what it had not committed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._child.kill()

    def _writable(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.sendmsg(islice(self._unsent, PIECES_MAX))
                while sent:
                    piece = self._unsent.popleft()
                    if sent < len(piece):
                        self._unsent.appendleft(piece[sent:])
                    sent -= min(sent, len(piece))
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket.fileno(), self._writable)
            return
        except OSError as error:
            self._unsent.clear()
            self._loop.call_soon(self._lost, os.strerror(error.errno or 0))
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(os.strerror(error.errno or 0))
            return
        if not data:
            self._lost("it ended")
            return
        self._received += data
        self._take_answers()

    def _take_answers(self) -> None:
        try:
            while not (self._is_paused or self._is_closed):
                answer = jobs.take_answer(self._received)
                if answer is None:
                    return
                self._on_answer(self, answer)
        except ProtocolError as error:
            self._lost(str(error))

    def _lost(self, reason: str) -> None:
        if not self._is_closed:
            self.close()
            self._on_lost(self, reason)
