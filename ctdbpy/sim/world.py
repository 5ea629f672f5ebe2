# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual time and the network: what happens when, which bytes arrive where, what is cut.

Everything random comes from one seed, so the same seed gives the same trace, byte for byte.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random
from typing import Final

START_S: Final = 1000.0
STEPS_MAX: Final = 5_000_000


class World:
    """A clock, a queue of things to come, one source of randomness, and the trace of what was said."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now_s = START_S
        self.trace: list[str] = []
        #: How many machines have booted so far.
        self.boots = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen after so long."""
        self._count += 1
        heapq.heappush(self._queue, (self.now_s + max(seconds, 0.0), self._count, act))

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now_s - START_S:10.6f} {text}")

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end_s = self.now_s + seconds
        for _ in range(STEPS_MAX):
            if not self._queue or self._queue[0][0] > end_s:
                self.now_s = end_s
                return
            when_s, _count, act = heapq.heappop(self._queue)
            self.now_s = max(self.now_s, when_s)
            act()
        raise AssertionError(
            f"{STEPS_MAX} things happened within {seconds} s: the cluster does not come to rest"
        )

    def run_until(self, is_so: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> bool:
        """Let time pass until something is so; False if it is not within the limit."""
        end_s = self.now_s + limit_s
        while not is_so():
            if self.now_s >= end_s:
                return False
            self.run(step_s)
        return True

    @property
    def digest(self) -> str:
        """A fingerprint of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()
