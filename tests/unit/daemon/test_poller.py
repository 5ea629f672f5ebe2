# SPDX-License-Identifier: GPL-3.0-or-later
"""The wait loop ends its waits in time, and hands every byte to the engine once."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from ctdbpy.daemon.poller import Poller
from ctdbpy.store.engine import LINK_CLOSED
from ctdbpy.wire.packets import ReqMessage
from tests.unit.store.network import GENERATION, decoded, single

#: So long that no machine takes it for anything below.
FAR_S = 60.0


class Waits:
    """A loop with an epoll of asyncio's kind nested in it, and what wakes that."""

    def __init__(self) -> None:
        self.poller = Poller(single())
        self.inner = select.epoll()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.inner.register(self.bell, select.EPOLLIN)
        self.poller.nest(self.inner.fileno())

    def close(self) -> None:
        self.poller.close()
        self.inner.close()
        os.close(self.bell)

    def wait(self, timeout_s: float) -> tuple[bool, float]:
        """Whether it ended for the bell, and how long it took."""
        began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        is_inner_ready, _ = self.poller.wait(timeout_s)
        return is_inner_ready, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s

    def wake(self) -> None:
        os.eventfd_write(self.bell, 1)
        assert self.wait(FAR_S)[0]
        os.eventfd_read(self.bell)


@pytest.fixture
def waits() -> Iterator[Waits]:
    waits = Waits()
    yield waits
    waits.close()


@pytest.mark.parametrize("spin_us", [0, 500])
@pytest.mark.parametrize("timeout_s", [0.0, 0.0003, 0.001, 0.02])
def test_a_wait_ends_when_its_time_is_up_and_not_before(waits: Waits, timeout_s: float, spin_us: int) -> None:
    waits.poller.set_spin(spin_us)
    for _ in range(5):
        rang, took_s = waits.wait(timeout_s)
        assert not rang
        # The loop counts whole microseconds.
        assert timeout_s - 2e-6 <= took_s < FAR_S / 2


def test_a_short_wait_after_a_long_one_that_ended_early_is_short(waits: Waits) -> None:
    waits.wake()
    assert waits.wait(0.01)[1] < FAR_S / 2


def test_a_long_wait_goes_on_when_the_timer_of_an_earlier_one_rings(waits: Waits) -> None:
    os.eventfd_write(waits.bell, 1)
    assert waits.wait(0.005)[0]
    os.eventfd_read(waits.bell)
    rang, took_s = waits.wait(0.05)
    assert not rang
    assert took_s >= 0.05 - 2e-6


SRVID = 0x1234


class Hearer:
    """A node whose client hears messages from another one, over sockets."""

    def __init__(self) -> None:
        self.engine = single(nodes=2)
        self.poller = Poller(self.engine)
        self.link, link = socket.socketpair()
        self.client, client = socket.socketpair()
        self.poller.add_link(1, 1, False, link.detach())
        self.client_id = self.poller.add_client(client.detach())
        self.engine.register_srvid(self.client_id, SRVID)

    def close(self) -> None:
        self.poller.close()
        self.link.close()
        self.client.close()

    def heard(self) -> list[bytes]:
        """The data of every message that came in one turn."""
        self.poller.wait(0.0)
        try:
            data = self.client.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        heard = decoded(data)
        assert all(isinstance(packet, ReqMessage) for packet in heard)
        return [packet.data for packet in heard if isinstance(packet, ReqMessage)]


@pytest.fixture
def hearer() -> Iterator[Hearer]:
    hearer = Hearer()
    # From then on packets are taken for lonely ones.
    for _ in range(10):
        hearer.link.sendall(message(b"one more"))
        assert hearer.heard() == [b"one more"]
    yield hearer
    hearer.close()


def message(data: bytes) -> bytes:
    return ReqMessage(GENERATION, 0, 1, 0, SRVID, data).encode()


@pytest.mark.parametrize("size", [4, 4096 - 44 - 8, 4096 - 44, 4096 - 44 + 8, 100_000])
def test_a_lone_packet_of_a_node_is_handled_once(hearer: Hearer, size: int) -> None:
    for number in range(3):
        data = bytes([number]) * size
        hearer.link.sendall(message(data))
        # A long one takes more than a turn.
        assert [each for _ in range(5) for each in hearer.heard()] == [data]


def test_packets_in_pieces_are_handled_once_and_in_order(hearer: Hearer) -> None:
    sent = [bytes([number]) * (1 + number * 97) for number in range(60)]
    stream = b"".join(message(data) for data in sent)
    heard = []
    for at in range(0, len(stream), 777):
        hearer.link.sendall(stream[at : at + 777])
        heard += hearer.heard()
    assert heard == sent
    assert hearer.heard() == []


def test_a_node_that_sends_rubbish_or_goes_is_let_go_of_once(hearer: Hearer) -> None:
    hearer.link.sendall(b"\0" * 64)
    hearer.poller.wait(0.0)
    hearer.link.close()
    hearer.poller.wait(0.0)
    closed = [upcall for upcall in hearer.engine.take_upcalls() if upcall[0] == LINK_CLOSED]
    assert [reason for _, _, _, reason in closed] == [b"packet shorter than its header"]


def test_what_a_node_said_before_it_went_is_heard(hearer: Hearer) -> None:
    hearer.link.sendall(message(b"last"))
    hearer.link.close()
    assert hearer.heard() == [b"last"]
    hearer.poller.wait(0.0)
    closed = [upcall for upcall in hearer.engine.take_upcalls() if upcall[0] == LINK_CLOSED]
    assert [reason for _, _, _, reason in closed] == [b"closed by the other side"]
