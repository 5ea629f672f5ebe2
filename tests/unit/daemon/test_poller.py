# SPDX-License-Identifier: GPL-3.0-or-later
"""The wait loop ends its waits in time, whatever it waited for before."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import pytest

from ctdbpy.daemon.poller import Poller
from tests.unit.store.network import single

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
