# SPDX-License-Identifier: GPL-3.0-or-later
"""How alike addresses are: the squares that LCP2 adds up.

The distance of two addresses is the number of their equal leading bits, counted anew in each of the four
32-bit words: great for addresses that are nearly equal, which should not be on one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Final

_WORD: Final = 0xFFFFFFFF

#: By the bits that follow equal ones, summed over words: the square of the number of equal ones.
_SQUARES: Final = [(128 - bits) ** 2 for bits in range(129)]


class Distances:
    """The squared distances between the addresses with these keys."""

    def __init__(self, keys: Sequence[int]) -> None:
        # Most addresses differ in their last word alone: what the other three add is kept per pair of those.
        self._lows = [key & _WORD for key in keys]
        self._highs = list(dict.fromkeys(_words(key >> 32) for key in keys))
        numbers = {high: number for number, high in enumerate(self._highs)}
        self._numbers = [numbers[_words(key >> 32)] for key in keys]
        self._bits: dict[int, bytes] = {}

    def squares(self, index: int, others: Sequence[int]) -> list[int]:
        """The squared distances of an address to others, in their order; to itself it is 128 squared."""
        low, lows, squares = self._lows[index], self._lows, _SQUARES
        if len(self._highs) == 1:
            return [squares[(lows[other] ^ low).bit_length()] for other in others]
        bits, numbers = self._high_bits(self._numbers[index]), self._numbers
        return [squares[bits[numbers[other]] + (lows[other] ^ low).bit_length()] for other in others]

    def total(self, index: int, others: Sequence[int]) -> int:
        """The sum of the squared distances of an address to others."""
        return sum(self.squares(index, others))

    def floor(self) -> int:
        """No two of these addresses have a smaller squared distance than this."""
        columns = (*zip(*self._highs, strict=True), self._lows)
        return _SQUARES[
            sum(reduce(or_, (word ^ words[0] for word in words), 0).bit_length() for words in columns)
        ]

    def _high_bits(self, number: int) -> bytes:
        """What the first three words add to the bits, against each of the others' three."""
        if number not in self._bits:
            first, second, third = self._highs[number]
            self._bits[number] = bytes(
                (a ^ first).bit_length() + (b ^ second).bit_length() + (c ^ third).bit_length()
                for a, b, c in self._highs
            )
        return self._bits[number]


def _words(high: int) -> tuple[int, int, int]:
    return high >> 64, high >> 32 & _WORD, high & _WORD
