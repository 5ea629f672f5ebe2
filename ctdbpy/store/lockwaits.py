# SPDX-License-Identifier: GPL-3.0-or-later
"""What a daemon and a waiter process say to each other about a lock, as bytes.

Request, native byte order, one at a time on a stream socket:

    u32 length (all of it)   u32 id   u32 op   u32 libtdb open flags   u32 path length   path   key

Answer, 12 bytes: u32 id, i32 status (0 or -1), i32 errno. CHAIN and LOCKALL are answered when the lock
is held, and it is held until RELEASE, which is answered too. FORGET closes the file, before it is removed.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from ctdbpy.errors import ProtocolError

_REQUEST: Final = struct.Struct("=IIIII")
_ANSWER: Final = struct.Struct("=Iii")

ANSWER_SIZE: Final = _ANSWER.size

#: A key may be as long as a packet allows; more than this is a mistake of the sender.
REQUEST_SIZE_MAX: Final = 64 << 20


class Op(IntEnum):
    """What a waiter is asked to do."""

    CHAIN = 1
    LOCKALL = 2
    RELEASE = 3
    FORGET = 4


# Named tuples, not dataclasses: a waiter starts while a client waits, and importing dataclasses takes long.


class WaitRequest(NamedTuple):
    """Something a waiter is asked to do; path and flags as the daemon opened the file, key for CHAIN only."""

    id: int
    op: Op
    tdb_flags: int = 0
    path: str = ""
    key: bytes = b""

    def pack(self) -> bytes:
        """The request's bytes."""
        path = os.fsencode(self.path)
        size = _REQUEST.size + len(path) + len(self.key)
        return _REQUEST.pack(size, self.id, self.op, self.tdb_flags, len(path)) + path + self.key


class WaitAnswer(NamedTuple):
    """How it went; errno tells why status is -1."""

    id: int
    status: int
    errno: int = 0

    def pack(self) -> bytes:
        """The answer's 12 bytes."""
        return _ANSWER.pack(self.id, self.status, self.errno)


def take_request(buffer: bytearray) -> WaitRequest | None:
    """Remove the first request from what was received; None while it is incomplete. Raises ProtocolError."""
    if len(buffer) < 4:
        return None
    size = int.from_bytes(buffer[:4], "little" if _LITTLE else "big")
    if not _REQUEST.size <= size <= REQUEST_SIZE_MAX:
        raise ProtocolError(
            f"cannot decode a lock request: its length is {size}, not {_REQUEST.size} to {REQUEST_SIZE_MAX}"
        )
    if len(buffer) < size:
        return None
    _, number, op, tdb_flags, path_size = _REQUEST.unpack_from(buffer)
    if path_size > size - _REQUEST.size:
        raise ProtocolError(
            f"cannot decode a lock request: a path of {path_size} bytes does not fit its length {size}"
        )
    middle = _REQUEST.size + path_size
    try:
        request = WaitRequest(
            number,
            Op(op),
            tdb_flags,
            os.fsdecode(bytes(buffer[_REQUEST.size : middle])),
            bytes(buffer[middle:size]),
        )
    except ValueError as error:
        raise ProtocolError(f"cannot decode a lock request: {error}") from error
    del buffer[:size]
    return request


def take_answer(buffer: bytearray) -> WaitAnswer | None:
    """Remove the first answer from what was received; None while it is incomplete."""
    if len(buffer) < ANSWER_SIZE:
        return None
    answer = WaitAnswer(*_ANSWER.unpack_from(buffer))
    del buffer[:ANSWER_SIZE]
    return answer


_LITTLE: Final = struct.pack("=H", 1) == b"\1\0"
