# SPDX-License-Identifier: GPL-3.0-or-later
"""What daemon and guard say to each other over their socket: frames of a length and as many bytes.

The daemon's orders begin with their kind; each replaces what the one before of its kind said. The guard's
frames are notices (`ctdbpy.net.notices`) or, before its loop begins, words for the log.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from ctdbpy.net.notices import NOTICE

#: pnn, UDP port of every node, whether real-time priority is wanted.
HELLO: Final = struct.Struct("<IHH")

_LENGTH: Final = struct.Struct("<I")
_PEER: Final = struct.Struct("<IHH16s")
_LIMITS: Final = struct.Struct("<IIqqq")
_TELL: Final = struct.Struct("<IIIII")
_WORDS: Final = b"\xff"

PEERS, GUARDED, LIMITS, TELL = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Hello:
    """What a guard has to know before anything else."""

    pnn: int
    port: int
    realtime: bool


@dataclass(frozen=True, slots=True)
class Words:
    """A line for the log, and whether what it tells of worked."""

    done: bool
    text: str


def pack_hello(hello: Hello) -> bytes:
    """The first bytes on the socket, three descriptors with them."""
    return HELLO.pack(hello.pnn, hello.port, hello.realtime)


def unpack_hello(data: bytes) -> Hello:
    """What `pack_hello` packed."""
    pnn, port, realtime = HELLO.unpack(data)
    return Hello(pnn, port, bool(realtime))


def pack_peers(addresses: Iterable[tuple[int, str]]) -> bytes:
    """Hear these nodes, at these addresses, and no others."""
    peers = b"".join(_peer(pnn, address) for pnn, address in addresses)
    return _frame(_LENGTH.pack(PEERS) + peers)


def pack_guarded(pnns: Iterable[int]) -> bytes:
    """These nodes were heard by an earlier guard."""
    return _frame(_LENGTH.pack(GUARDED) + b"".join(_LENGTH.pack(pnn) for pnn in pnns))


def pack_limits(interval_us: int, limit: int, stall_us: int, unguarded_us: int) -> bytes:
    """As `Heartbeats.set_limits`."""
    return _frame(_LIMITS.pack(LIMITS, limit, interval_us, stall_us, unguarded_us))


def pack_tell(
    needed: int, leader: int, linked: Iterable[int], still: bool, generation: int, keeps: bool = False
) -> bytes:
    """As `Heartbeats.tell`."""
    head = _TELL.pack(TELL, needed, leader, generation, still | keeps << 1)
    return _frame(head + b"".join(_LENGTH.pack(pnn) for pnn in linked))


def send_words(control: socket.socket, done: bool, text: str) -> None:
    """A line for the daemon's log."""
    control.sendall(_frame(_WORDS + bytes((done,)) + text.encode()))


def take_frames(received: bytearray) -> Iterator[bytes | Words]:
    """Notices and words out of what the guard sent, as far as they are complete."""
    while len(received) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(received)
        end = _LENGTH.size + length
        if len(received) < end:
            return
        frame = bytes(received[_LENGTH.size : end])
        del received[:end]
        if frame[:1] == _WORDS:
            yield Words(bool(frame[1]), frame[2:].decode(errors="replace"))
        else:
            assert len(frame) == NOTICE.size, f"a frame of {length} bytes from the guard"
            yield frame


def _peer(pnn: int, address: str) -> bytes:
    parsed = ip_address(address)
    return _PEER.pack(pnn, parsed.version, 0, parsed.packed)


def _frame(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data
