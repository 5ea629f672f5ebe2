# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard as a process of its own; the test is its daemon, and the other node."""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ctdbpy
from ctdbpy.net import orders
from ctdbpy.net.heartbeats import Heartbeats
from ctdbpy.net.notices import decode
from ctdbpy.net.orders import Hello, Words

LIMIT_S = 20.0
NOBODY = 0xFFFFFFFF


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def datagram_socket(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((address, port))
    bound.setblocking(False)
    return bound


class Stand:
    """A guard of node 0, and node 1 played here with heartbeats of its own."""

    def __init__(self) -> None:
        net = f"127.77.{os.getpid() % 250 + 1}"
        self.addresses = (f"{net}.1", f"{net}.2")
        self.peer_socket = datagram_socket(self.addresses[1], 0)
        self.port = int(self.peer_socket.getsockname()[1])
        self.own_socket = datagram_socket(self.addresses[0], self.port)
        self.peer = Heartbeats(1, 99)
        self.peer.set_peers((0, 1))
        self.peer.tell(0, NOBODY, (0,), False, 5)
        self.memory_fd = os.memfd_create("page")
        os.ftruncate(self.memory_fd, mmap.PAGESIZE)
        self.page = mmap.mmap(self.memory_fd, mmap.PAGESIZE)
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ctdbpy.guard", "0"],
                stdin=theirs.fileno(),
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(Path(ctdbpy.__file__).parent.parent)},
            )
        hello = orders.pack_hello(Hello(0, self.port, False))
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        fds = [self.memory_fd, self.own_socket.fileno(), self.wake_fd]
        socket.send_fds(self.control, [hello], fds)
        self.control.setblocking(False)
        self.received = bytearray()
        self.events: list[tuple[object, ...]] = []
        self.datagrams: list[bytes] = []
        self.is_quiet = False

    @property
    def serve_until_us(self) -> int:
        return int(struct.unpack_from("<q", self.page, 8)[0])

    @property
    def hold_until_us(self) -> int:
        return int(struct.unpack_from("<q", self.page, 24)[0])

    def order(self, data: bytes) -> None:
        self.control.sendall(data)

    def begin(self, needed: int = 1) -> None:
        self.order(orders.pack_peers(enumerate(self.addresses)))
        self.order(orders.pack_limits(20_000, 5, 300_000, 60_000_000))
        self.peer.set_limits(20_000, 5, 300_000)
        self.order(orders.pack_tell(needed, NOBODY, (1,), False, 5))

    def until(self, claim: Callable[[], object]) -> None:
        """Play the other node until the claim holds."""
        end_s = time.monotonic() + LIMIT_S
        while not claim():
            assert time.monotonic() < end_s, f"not within {LIMIT_S:g} s; events: {self.events}"
            wait_s = max(min(self.peer.deadline_us - now_us(), 20_000), 0) / 1e6
            readable, _, _ = select.select([self.control, self.peer_socket], [], [], wait_s)
            if self.control in readable:
                self._take()
            if self.peer_socket in readable:
                data, _source = self.peer_socket.recvfrom(100)
                self.datagrams.append(data)
                self.peer.receive(now_us(), 0, data)
            self.peer.tick(now_us())
            for _pnn, data in self.peer.take_datagrams():
                if not self.is_quiet:
                    self.peer_socket.sendto(data, (self.addresses[0], self.port))

    def _take(self) -> None:
        data = self.control.recv(65536)
        if not data:
            return
        self.received += data
        for frame in orders.take_frames(self.received):
            assert not isinstance(frame, Words)
            self.events.append(decode(frame))

    def seen(self) -> list[object]:
        return [event[2] for event in self.events if event[0] == "seen"]

    def kinds(self) -> list[object]:
        return [event[0] for event in self.events]

    def close(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.communicate()
        for each in (self.peer_socket, self.own_socket):
            each.close()
        os.close(self.memory_fd)
        os.close(self.wake_fd)


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def test_two_nodes_confirm_each_other_and_the_daemon_sees_the_lease(stand: Stand) -> None:
    stand.begin()
    stand.until(lambda: stand.seen() == ["live"] and stand.serve_until_us > now_us())
    assert stand.serve_until_us <= now_us() + 80_000
    assert stand.hold_until_us >= stand.serve_until_us - 80_000
    assert stand.kinds().count("lease_held") >= 1


def test_no_lease_is_written_before_the_daemon_has_said_whether_it_needs_one(stand: Stand) -> None:
    struct.pack_into("<q", stand.page, 8, 7)
    stand.order(orders.pack_peers(enumerate(stand.addresses)))
    stand.until(lambda: len(stand.datagrams) > 2)
    assert stand.serve_until_us == 7
    stand.order(orders.pack_tell(0, NOBODY, (1,), False, 5))
    stand.until(lambda: stand.serve_until_us == 0)


def test_addresses_may_be_held_although_the_leader_does_not_confirm(stand: Stand) -> None:
    stand.begin()
    stand.order(orders.pack_tell(1, 7, (1,), False, 5, keeps=True))
    stand.until(lambda: stand.hold_until_us > now_us() and stand.serve_until_us == 1)


def test_silence_ends_the_lease_and_is_told(stand: Stand) -> None:
    stand.begin()
    stand.until(lambda: stand.seen() == ["live"])
    stand.is_quiet = True
    stand.until(lambda: "silent" in stand.seen())
    assert stand.serve_until_us < now_us()
    kinds = stand.kinds()
    assert kinds.index("lease_lost") < kinds.index("seen", kinds.index("seen") + 1)


def test_a_daemon_without_progress_has_stalled(stand: Stand) -> None:
    struct.pack_into("<Q", stand.page, 0, 1)
    stand.begin()
    stand.until(lambda: stand.hold_until_us > now_us())
    os.eventfd_read(stand.wake_fd)
    stand.until(lambda: sees_stalled(stand.peer))
    assert stand.serve_until_us == stand.hold_until_us == 1
    assert os.eventfd_read(stand.wake_fd), "who holds addresses has been woken before"
    struct.pack_into("<Q", stand.page, 0, 2)
    stand.until(lambda: stand.serve_until_us > now_us())


def sees_stalled(peer: Heartbeats) -> bool:
    return any(event[0] == "seen" and event[2] == "stalled" for event in peer.take_events())


def test_the_end_of_the_daemon_is_told_three_times(stand: Stand) -> None:
    stand.begin()
    stand.until(lambda: stand.seen() == ["live"])
    stand.datagrams.clear()
    stand.control.close()
    assert stand.process.wait(LIMIT_S) == 0
    said = []
    while select.select([stand.peer_socket], [], [], 0)[0]:
        said.append(stand.peer_socket.recv(100))
    gone = 8
    assert [data[5] & gone for data in said].count(gone) == 3
    assert stand.serve_until_us == 1


def test_orders_that_are_none_end_it(stand: Stand) -> None:
    stand.order(struct.pack("<II", 4, 77))
    assert stand.process.wait(LIMIT_S) != 0
    assert stand.process.stderr is not None
    assert b"cannot understand the daemon's orders" in stand.process.stderr.read()


def test_who_is_no_node_is_not_heard(stand: Stand) -> None:
    stand.begin(needed=0)
    with datagram_socket(stand.addresses[0].rpartition(".")[0] + ".9", stand.port) as stranger:
        stand.peer.tick(now_us())
        for _pnn, data in stand.peer.take_datagrams():
            stranger.sendto(data, (stand.addresses[0], stand.port))
        stand.is_quiet = True
        stand.until(lambda: len(stand.datagrams) > 10)
    assert "live" not in stand.seen()
