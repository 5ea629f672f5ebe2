# SPDX-License-Identifier: GPL-3.0-or-later
"""Valid packets of every kind, and what becomes of them on the way: cut, stretched, overwritten."""

from __future__ import annotations

import random
import struct

from ctdbpy.wire.constants import CallFlag, CallId
from ctdbpy.wire.packets import (
    ReplyCall,
    ReplyControl,
    ReplyDmaster,
    ReplyError,
    ReqCall,
    ReqControl,
    ReqDmaster,
    ReqKeepalive,
    ReqMessage,
    ReqTunnel,
)

_U32 = struct.Struct("=I")

#: Numbers at which length checks tend to be off by something.
EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 23, 24, 31, 32, 33, 40, 44, 48, 55, 56, 57, 59, 60, 61, 64, 72, 100),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFF0, 0xF0000001, 0xF0000002, 0xF0000003),
    *(0xF0000004, 0xF0000005, 0x10000000, 0x10000001, 0xFF000001, 0xFF000002, 0xFF000003, 22),
)


def client_packets(db_id: int) -> list[bytes]:
    """What a local program sends."""
    keys = [b"key", b"another key", b"k" * 40]
    calls = [
        ReqCall(0, 0, 0, reqid, flags, db_id, callid, 0, key)
        for reqid, key in enumerate(keys)
        for callid in CallId
        for flags in (CallFlag(0), CallFlag.IMMEDIATE_MIGRATION, CallFlag.WANT_READONLY)
    ]
    others = [
        ReqMessage(0, 0xF0000001, 0, 0, 0x1234, b"hello"),
        ReqMessage(0, 0xF0000002, 0, 0, 0x1234, b"hello, all of you"),
        ReqControl(0, 0, 0, 5, 78, 0, 0, 0, b"\0" * 12),
        ReqTunnel(0, 1, 0, 0, 0x4321, 1, b"through"),
    ]
    return [packet.encode(padded=padded) for packet in (*calls, *others) for padded in (False, True)]


def node_packets(generation: int, db_id: int, nodes: int) -> list[bytes]:
    """What a node sends to node 0."""
    keys = [b"key", b"another key", b"k" * 40, *(b"n%d" % number for number in range(20))]
    packets = [
        packet
        for number, key in enumerate(keys)
        for peer in range(1, nodes)
        for packet in (
            ReqCall(generation, 0, peer, number, 1, db_id, CallId.NULL, 0, key),
            ReqCall(generation, 0, peer, number, 4, db_id, CallId.FETCH_WITH_HEADER, 3, key),
            ReqDmaster(generation, 0, peer, number, db_id, 5, 0, key, b"data", 0x10000),
            ReqDmaster(generation, 0, peer, number, db_id, 5, peer, key, b"", 0),
            ReplyDmaster(generation, 0, peer, (1 << 20) | number, db_id, 5, key, b"data", 0x10000),
            ReplyCall(generation, 0, peer, (1 << 20) | number, 0, b"h" * 24 + b"data"),
            ReplyError(generation, 0, peer, (1 << 20) | number, -1, "no such database"),
        )
    ]
    others = [
        ReqMessage(generation, 0, 1, 0, 0x1234, b"hello"),
        ReqControl(generation, 0, 1, 5, 78, 0, 0, 0, b"\0" * 12),
        ReqControl(generation, 0, 1, 5, 22, 0, 0, 1, struct.pack("=IIII", 27, 9, 3, 8) + b"key" + b"x" * 8),
        ReplyControl(generation, 0, 1, 5, 0, b"answer", ""),
        ReqKeepalive(generation, 0, 1, 0, 0x40011, 99),
        ReqTunnel(generation, 0, 1, 0, 0x4321, 1, b"through"),
    ]
    return [packet.encode() for packet in (*packets, *others)]


def mutated(chance: random.Random, packet: bytes, aligned: bool) -> bytes:
    """The packet with one to three faults; most keep their outer length right, to have inner ones read."""
    data = bytearray(packet)
    for _ in range(1 + chance.getrandbits(8) % 3):
        fault = chance.getrandbits(8) % 16
        if fault < 6:
            at = 4 * (chance.getrandbits(8) % min(18, len(data) // 4))
            _U32.pack_into(data, at, EDGES[chance.getrandbits(8) % len(EDGES)])
        elif fault < 9:
            data[chance.getrandbits(16) % len(data)] ^= 1 << (chance.getrandbits(8) & 7)
        elif fault < 11:
            data[chance.getrandbits(16) % len(data)] = chance.getrandbits(8)
        elif fault < 13:
            del data[max(4, chance.getrandbits(16) % len(data)) :]
        elif fault < 14:
            data += bytes(chance.getrandbits(8) for _ in range(chance.getrandbits(4)))
        else:
            at = 32 + chance.getrandbits(16) % 32
            if at + 4 <= len(data):
                _U32.pack_into(data, at, chance.getrandbits(7))
    if chance.getrandbits(8) < 230:
        if aligned:
            data += bytes(-len(data) % 8)
        _U32.pack_into(data, 0, len(data))
    return bytes(data)
