# SPDX-License-Identifier: GPL-3.0-or-later
"""Generations in their order: a recovery's is later than that of everything it brings together.

Upstream draws them at random. Ours also tell which of two copies of a database has been through more:
only copies of the latest generation count, so a node that the others went on without brings nothing
stale back. They follow the wall clock in hundredths of a second, so that a leader who cannot have heard
of the last one, after a restart of all nodes or with a lock instead of a majority, still begins a later
one. Half of the circle is 248 days: no copy of a volatile database waits so long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ctdbpy.wire.constants import INVALID_GENERATION

_MODULUS: Final = 1 << 32
_HALF: Final = 1 << 31


def is_later(one: int, other: int) -> bool:
    """Whether `one` comes after `other`; they go round a circle of 32 bits, INVALID before all."""
    if INVALID_GENERATION in (one, other):
        return one != other and other == INVALID_GENERATION
    return one != other and (one - other) % _MODULUS < _HALF


def latest(generations: Iterable[int]) -> int:
    """The last of several; INVALID_GENERATION if there is none."""
    last = INVALID_GENERATION
    for each in generations:
        if is_later(each, last):
            last = each
    return last


def following(generation: int, wall_s: float, pnn: int, nodes: int) -> int:
    """A generation after this one and not before the wall clock, as leader `pnn` of so many nodes gives it.

    Each leader has numbers of its own: one that was cut off in the middle of a recovery has begun a
    generation that the next leader has not heard of.
    """
    clock = int(wall_s * 100) % _MODULUS
    chosen = clock if is_later(clock, generation) else (generation + 1) % _MODULUS
    while chosen % nodes != pnn % nodes or chosen <= INVALID_GENERATION:
        chosen = (chosen + 1) % _MODULUS
    return chosen
