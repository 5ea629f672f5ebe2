# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work in slices: a daemon with many addresses must not keep its loop from everything else.

Such work is a generator: what it yields is how much it has just done, what it returns is the result. The unit
is about what comparing two addresses takes, a fifth of a microsecond.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

from ctdbpy.core.procedures import Runner

T = TypeVar("T")
Sliced = Generator[int, None, T]

#: About two milliseconds; the lease, which is looked at once a turn, is longer by far.
SLICE: Final = 10_000
#: What a few usual things take.
DECODED: Final = 10
ORDERED: Final = 150


def at_once(work: Sliced[T]) -> T:
    """Do all of it now."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Pace:
    """Counts work, and lets others have a turn after each slice of it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._done = 0

    async def spend(self, work: int) -> None:
        """So much has been done."""
        self._done += work
        if self._done >= SLICE:
            self._done = 0
            await self._runner.sleep(0)

    async def do(self, work: Sliced[T]) -> T:
        """Do it, with pauses."""
        while True:
            try:
                done = next(work)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            await self.spend(done)
