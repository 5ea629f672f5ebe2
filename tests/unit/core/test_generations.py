# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of generations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.core.leader.generations import following, is_later, latest
from ctdbpy.wire.constants import INVALID_GENERATION

numbers = st.integers(0, 0xFFFFFFFF)
moments = st.floats(1.6e9, 6e9)


@given(numbers, moments, st.integers(0, 63))
def test_what_follows_is_later_and_valid(generation: int, wall_s: float, pnn: int) -> None:
    following_one = following(generation, wall_s, pnn, 64)
    assert is_later(following_one, generation)
    assert 1 < following_one <= 0xFFFFFFFF


@given(numbers, numbers, moments, moments)
def test_two_leaders_never_choose_the_same(one: int, other: int, wall_s: float, later_s: float) -> None:
    assert following(one, wall_s, 0, 3) != following(other, later_s, 1, 3)


def test_a_cluster_that_has_forgotten_everything_starts_later_than_before() -> None:
    before = following(INVALID_GENERATION, 1_800_000_000, 2, 3)
    assert is_later(following(INVALID_GENERATION, 1_800_000_060, 0, 3), before)
    # A clock that was set back does not matter as long as somebody remembers.
    assert is_later(following(before, 1_000_000_000, 0, 3), before)


def test_recoveries_within_a_second_have_different_generations() -> None:
    first = following(INVALID_GENERATION, 1_800_000_000, 0, 3)
    assert is_later(following(first, 1_800_000_000, 0, 3), first)


@given(st.lists(numbers.filter(lambda number: number < 1 << 30), min_size=1))
def test_the_latest_of_several(generations: list[int]) -> None:
    valid = [each for each in generations if each != INVALID_GENERATION]
    assert latest(generations) == max(valid, default=INVALID_GENERATION)


def test_the_circle_is_closed() -> None:
    assert is_later(5, 0xFFFFFFF0)
    assert not is_later(0xFFFFFFF0, 5)
    assert is_later(0xFFFFFFF0, INVALID_GENERATION)
    assert latest([]) == INVALID_GENERATION
