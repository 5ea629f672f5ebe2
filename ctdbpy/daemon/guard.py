# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard process as the daemon sees it: started, told, listened to, started again when it ends.

While there is none, the lease that it wrote last runs out by itself, and nobody hears us: that is the
same as a broken network, and handled by the same rules.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.core.effects import TellGuard
from ctdbpy.core.inputs import Sight
from ctdbpy.core.state import NOBODY
from ctdbpy.daemon.poller import Poller
from ctdbpy.daemon.processes import start_helper
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children
from ctdbpy.host.logs import NOTICE
from ctdbpy.net import orders
from ctdbpy.net.notices import decode
from ctdbpy.net.orders import Hello, Words

log = logging.getLogger("ctdbpy.daemon")

READ_BYTES: Final = 1 << 16
#: Waits before it is started again; one that has lived for the last of them starts from the first.
WAITS_S: Final = (0.0, 0.1, 0.5, 2.0, 5.0)
#: While the core believes that there is no lease, it is looked at so often whether there is one.
LOOK_S: Final = 0.05
#: A guard looks ten times a second; one that has not for so many seconds hangs.
HANGS_S: Final = 5
#: Where it notes on the shared page when it looked last.
_LOOKED: Final = struct.Struct("<16xq")
#: Less than this, and the network's ordinary delays would be deaths.
INTERVAL_MS_MIN: Final = 10
LIMIT_MIN: Final = 2


class Guard:
    """Keeps one guard process; `on_input` gets what it sees, from the loop."""

    def __init__(
        self,
        pnn: int,
        port: int,
        datagrams: socket.socket,
        poller: Poller,
        children: Children,
        on_input: Callable[[inputs.Input], None],
        *,
        realtime: bool,
    ) -> None:
        """`datagrams`: the bound UDP socket; it stays the caller's."""
        self._hello = orders.pack_hello(Hello(pnn, port, realtime))
        self._datagrams = datagrams
        self._poller = poller
        self._children = children
        self._on_input = on_input
        self._loop = asyncio.get_running_loop()
        self._addresses: dict[int, str] = {}
        self._limits = (100, 5, 2000, 60_000)
        self._told = TellGuard(0, NOBODY, (), False, 0)
        self._heard: set[int] = set()
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        #: Something was not sent because much waited already: then all is said anew.
        self._is_behind = False
        self._again: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._check: asyncio.TimerHandle | None = None
        #: When it looked last, and for how many seconds it has not looked again.
        self._looked_us = 0
        self._still_s = 0
        self._started_s = 0.0
        self._failures = 0
        #: The core was told that the lease is lost; and so said the guard that runs now.
        self._core_lost = False
        self._guard_lost = False
        #: Told whether a lease is wanted, and how long the guard has to write down the first.
        self.on_lease: list[Callable[[bool, int], None]] = [poller.want_lease]
        #: The memory in which the guard writes it down.
        self.memory_fd = os.memfd_create("ctdbpy-guard", os.MFD_CLOEXEC)
        os.ftruncate(self.memory_fd, mmap.PAGESIZE)
        self._page = mmap.mmap(self.memory_fd, mmap.PAGESIZE)
        #: It writes there when the lease on addresses becomes shorter.
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        poller.set_page(self._page)

    @property
    def pid(self) -> int | None:
        """Its process, if one runs."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the process. Raises HostError if that is not possible at all."""
        self._start()
        self._check = self._loop.call_later(1.0, self._check_again)

    def stop(self) -> None:
        """Let it say good-bye to the others and end."""
        for timer in (self._again, self._look, self._check):
            if timer is not None:
                timer.cancel()
        self._again = self._look = self._check = None
        self._close()
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            os.close(self.wake_fd)
            self.memory_fd = self.wake_fd = -1

    # -- what it is told -------------------------------------------------------------------

    def watch(self, pnn: int, address: str) -> None:
        """Hear this node, and let it hear us."""
        self._addresses[pnn] = address
        self._send(self._peers())

    def unwatch(self, pnn: int) -> None:
        """It is no node any more."""
        self._addresses.pop(pnn, None)
        self._heard.discard(pnn)
        self._send(self._peers())

    def set_limits(self, tunables: Mapping[str, int]) -> None:
        """Take the tunables that are about heartbeats, as often as tunables change."""
        limits = (
            max(tunables["HeartbeatInterval"], INTERVAL_MS_MIN),
            max(tunables["HeartbeatLimit"], LIMIT_MIN),
            max(tunables["StallLimit"], INTERVAL_MS_MIN),
            # Twice what keepalives need to notice a dead link, and their next round.
            2000 * tunables["KeepaliveInterval"] * (tunables["KeepaliveLimit"] + 1),
        )
        if limits != self._limits:
            self._limits = limits
            self._send(self._limits_order())

    def tell(self, told: TellGuard) -> None:
        """Take what the core knows."""
        self._told = told
        interval_ms, limit, _stall_ms, _unguarded_ms = self._limits
        is_wanted = bool(told.needed or told.leader != NOBODY)
        for want_lease in self.on_lease:
            want_lease(is_wanted, interval_ms * limit * 1000)
        if not is_wanted:
            self._core_lost = False
        self._send(self._tell())

    # -- what it says ----------------------------------------------------------------------

    def expired(self) -> None:
        """The engine saw that the lease has run out, before anything else was served."""
        self._lost("it ran out, and nobody has renewed it yet")

    def _lost(self, text: str) -> None:
        log.info("no lease: %s", text)
        self._core_lost = True
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._look_again)
        self._on_input(inputs.LeaseLost(text))

    def _look_again(self) -> None:
        """The guard tells of a lease that it holds again; one that ran out unnoticed by it, it does not."""
        if self._look is not None:
            self._look.cancel()
        self._look = None
        if not self._core_lost:
            return
        if self._guard_lost or not self._poller.has_lease:
            self._look = self._loop.call_later(LOOK_S, self._look_again)
            return
        self._core_lost = False
        log.info("enough nodes confirm that they hear this one")
        self._on_input(inputs.LeaseHeld())

    def _take(self, frame: bytes | Words) -> None:
        if isinstance(frame, Words):
            log.log(NOTICE if frame.done else logging.WARNING, "guard: %s", frame.text)
            return
        match decode(frame):
            case ("seen", pnn, sight, text):
                if pnn not in self._addresses:
                    return
                if sight == Sight.UNKNOWN.value:
                    log.warning("node %d: %s", pnn, text)
                else:
                    self._heard.add(pnn)
                if sight == Sight.GONE.value:
                    self._heard.discard(pnn)
                self._on_input(inputs.NodeSeen(pnn, Sight(sight), text))
            case ("lease_lost", text):
                self._guard_lost = True
                self._lost(text)
            case ("lease_held",):
                self._guard_lost = False
                self._core_lost = True
                self._look_again()
            case ("paused", seconds):
                self._on_input(inputs.Paused(seconds))

    # -- the process ------------------------------------------------------------------------

    def _start(self) -> None:
        self._started_s = self._loop.time()
        self._child, self._socket = start_helper(self._children, "ctdbpy.guard")
        self._received.clear()
        self._unsent.clear()
        # Until this one has said how the lease stands.
        self._guard_lost = True
        try:
            fds = [self.memory_fd, self._datagrams.fileno(), self.wake_fd]
            socket.send_fds(self._socket, [self._hello], fds)
        except OSError as error:
            self._loop.call_soon(self._ended, error.strerror or "it ended")
            return
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._say_all()

    def _say_all(self) -> None:
        self._is_behind = False
        heard = orders.pack_guarded(sorted(self._heard))
        self._send(self._peers() + self._limits_order() + heard + self._tell())

    def _ended(self, reason: str) -> None:
        """Start it again, at once the first time."""
        if self._socket is None:
            return
        self._close(kill=True)
        if self._loop.time() - self._started_s >= WAITS_S[-1]:
            self._failures = 0
        wait_s = WAITS_S[min(self._failures, len(WAITS_S) - 1)]
        self._failures += 1
        log.error("the guard has ended (%s): nobody hears this node; started again in %g s", reason, wait_s)
        self._again = self._loop.call_later(wait_s, self._start_again)

    def _check_again(self) -> None:
        """End a guard that hangs. Counted in our own looks: a pause of the host is one of them."""
        self._check = self._loop.call_later(1.0, self._check_again)
        (looked_us,) = _LOOKED.unpack_from(self._page)
        self._still_s = self._still_s + 1 if looked_us == self._looked_us else 0
        self._looked_us = looked_us
        if self._still_s >= HANGS_S and self._socket is not None:
            self._still_s = 0
            self._ended(f"it has hung for {HANGS_S} s")

    def _start_again(self) -> None:
        self._again = None
        try:
            self._start()
        except HostError as error:
            log.error("%s; tried again in %g s", error, WAITS_S[-1])
            self._again = self._loop.call_later(WAITS_S[-1], self._start_again)

    def _close(self, *, kill: bool = False) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
        if kill and self._child is not None:
            self._child.kill()
        self._socket = self._child = None

    # -- the socket --------------------------------------------------------------------------

    def _peers(self) -> bytes:
        return orders.pack_peers(sorted(self._addresses.items()))

    def _limits_order(self) -> bytes:
        interval_ms, limit, stall_ms, unguarded_ms = self._limits
        return orders.pack_limits(interval_ms * 1000, limit, stall_ms * 1000, unguarded_ms * 1000)

    def _tell(self) -> bytes:
        told = self._told
        return orders.pack_tell(
            told.needed, told.leader, told.linked, told.still, told.generation, told.keeps
        )

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            return
        if self._unsent:
            # It does not read: later it gets what is true then, and nothing piles up.
            self._is_behind = True
            return
        self._unsent += data
        self._writable()

    def _writable(self) -> None:
        if self._socket is None:
            return
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket.fileno(), self._writable)
            return
        except OSError as error:
            self._unsent.clear()
            self._loop.remove_writer(self._socket.fileno())
            self._loop.call_soon(self._ended, os.strerror(error.errno or 0))
            return
        self._loop.remove_writer(self._socket.fileno())
        if self._is_behind:
            self._say_all()

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            # It had not read everything when it ended.
            data = b""
        if not data:
            self._ended("its process is gone")
            return
        self._received += data
        for frame in orders.take_frames(self._received):
            self._take(frame)
