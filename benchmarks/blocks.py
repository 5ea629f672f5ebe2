# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks that an SMB client writes, and which of those that it was promised are not there any more."""

from __future__ import annotations

import struct
from collections.abc import Iterator

BLOCK_BYTES = 512
_BLOCK = struct.Struct("<QQ")
#: The attempt that an acknowledged block took: a client keeps them in the order of its blocks.
ATTEMPT = struct.Struct("<I")


def block(number: int, attempt: int) -> bytes:
    """The contents of a block: no two attempts to write the same one look alike."""
    return _BLOCK.pack(number, attempt) * (BLOCK_BYTES // _BLOCK.size)


def spoilt(data: bytes, attempts: bytes) -> Iterator[tuple[int, bool]]:
    """The numbers of acknowledged blocks that a file does not hold as they were acknowledged.

    With each comes whether it holds what an earlier attempt wrote: a write that came late.
    """
    for number, (attempt,) in enumerate(ATTEMPT.iter_unpack(attempts[: len(attempts) & -ATTEMPT.size])):
        found = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        if found != block(number, attempt):
            yield number, any(found == block(number, earlier) for earlier in range(attempt))
