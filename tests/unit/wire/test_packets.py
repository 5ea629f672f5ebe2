# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets round-trip padded and bare, have upstream's layout, and a wrong one does no more than raise."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.wire import packets
from ctdbpy.wire.constants import HEADER_SIZE, MAGIC, MAX_PACKET_SIZE, VERSION
from ctdbpy.wire.packets import (
    Header,
    Packet,
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
    decode,
    decode_header,
    peek_length,
)
from tests.unit.wire.strategies import PACKETS, damaged, packet

KINDS = sorted(PACKETS, key=lambda kind: kind.__name__)
COMMON = (0x11, 0x22, 0x33, 0x44)


def with_length(data: bytes) -> bytes:
    """The packet with its header's length made true."""
    return struct.pack("=I", len(data)) + data[4:]


def test_every_packet_has_a_strategy() -> None:
    assert set(get_args(Packet)) == set(PACKETS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(st.data(), st.booleans())
def test_a_packet_round_trips(kind: type[Any], draw: st.DataObject, padded: bool) -> None:
    value = draw.draw(PACKETS[kind])
    encoded = value.encode(padded)
    assert decode(encoded) == value
    assert decode(memoryview(bytearray(encoded))) == value
    assert peek_length(encoded) == len(encoded)
    assert not padded or len(encoded) % 8 == 0
    assert decode_header(encoded) == Header(
        len(encoded), kind.OPERATION, value.generation, value.destnode, value.srcnode, value.reqid
    )


@given(packet)
def test_every_packet_begins_with_the_same_fields(value: Packet) -> None:
    assert [field.name for field in fields(value)][:4] == ["generation", "destnode", "srcnode", "reqid"]


@given(packet, st.integers(1, 40))
def test_slack_behind_a_packets_fields_is_ignored(value: Packet, slack: int) -> None:
    assert decode(with_length(value.encode() + bytes(slack))) == value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(st.data())
def test_a_packet_cut_short_is_refused(kind: type[Any], draw: st.DataObject) -> None:
    encoded = draw.draw(PACKETS[kind]).encode(padded=False)
    may_miss_its_flags = kind in (ReqDmaster, ReplyDmaster)
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            decode(encoded[:length])
        if length < HEADER_SIZE or (kind is ReqKeepalive and length == HEADER_SIZE):
            continue
        if may_miss_its_flags and length >= len(encoded) - 4:
            continue
        with pytest.raises(ProtocolError):
            decode(with_length(encoded[:length]))


@given(damaged(packet.map(lambda value: value.encode())))
def test_a_damaged_packet_decodes_or_is_refused(wrong: bytes) -> None:
    for data in (wrong, with_length(wrong) if len(wrong) >= 4 else wrong):
        with contextlib.suppress(ProtocolError):
            decode(data)
        with contextlib.suppress(ProtocolError):
            peek_length(data)


@given(st.integers(0, 15), st.binary(max_size=80))
def test_any_body_decodes_or_is_refused(operation: int, body: bytes) -> None:
    head = struct.pack("=8I", HEADER_SIZE + len(body), MAGIC, VERSION, 1, operation, 0, 0, 0)
    with contextlib.suppress(ProtocolError):
        decode(head + body)


@pytest.mark.parametrize(
    ("value", "operation", "body"),
    [
        (
            ReqCall(*COMMON, 4, 5, 0xFF000002, 6, b"key", b"cd"),
            0,
            "04000000 05000000 020000ff 06000000 03000000 02000000 6b6579 6364",
        ),
        (ReplyCall(*COMMON, -1, b"data"), 1, "ffffffff 04000000 64617461"),
        (
            ReqDmaster(*COMMON, 5, 0x0102030405060708, 2, b"key", b"data", 0x10000),
            2,
            "05000000 00000000 0807060504030201 02000000 03000000 04000000 6b6579 64617461 00000100",
        ),
        (
            ReplyDmaster(*COMMON, 5, 0x0102030405060708, b"key", b"data", 0x10000),
            3,
            "05000000 00000000 0807060504030201 03000000 04000000 6b6579 64617461 00000100",
        ),
        (
            ReplyDmaster(*COMMON, 5, 0x0102030405060708, b"key", b"data", 0x10000, 0x01020304),
            3,
            "05000000 04030201 0807060504030201 03000000 04000000 6b6579 64617461 00000100",
        ),
        (ReplyError(*COMMON, 1, "no"), 4, "01000000 03000000 6e6f00"),
        (ReqMessage(*COMMON, 0xF300 << 48, b"ip\0"), 5, "00000000000000f3 03000000 697000"),
        (
            ReqControl(*COMMON, 4, 0x0102030405060708, 9, 1, b"data"),
            7,
            "04000000 00000000 0807060504030201 09000000 01000000 04000000 64617461",
        ),
        (ReplyControl(*COMMON, -1, b"ab", "cde"), 8, "ffffffff 02000000 03000000 6162 636465"),
        (ReqKeepalive(*COMMON, 4 << 16 | 17, 60), 9, "11000400 3c000000"),
        (
            ReqTunnel(*COMMON, 0x0102030405060708, 1, b"data"),
            10,
            "0807060504030201 01000000 04000000 64617461",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, get_args(Packet)) else "",
)
def test_a_packet_has_upstreams_layout(value: Packet, operation: int, body: str) -> None:
    rest = bytes.fromhex(body)
    common = f"42445443 01000000 11000000 {operation:02x}000000 22000000 33000000 44000000"
    length = HEADER_SIZE + len(rest)
    assert value.encode(padded=False) == struct.pack("=I", length) + bytes.fromhex(common) + rest
    padded = value.encode()
    assert padded == with_length(value.encode(padded=False) + bytes(-length % 8))


def test_an_empty_reply_is_as_long_as_upstreams() -> None:
    assert len(ReplyControl(*COMMON, 0).encode()) == 48


def test_a_record_that_arrives_without_flags_has_none() -> None:
    for value in (
        ReqDmaster(*COMMON, 5, 1, 2, b"key", b"data", 0xFFFFFFFF),
        ReplyDmaster(*COMMON, 5, 1, b"key", b"data", 0xFFFFFFFF),
    ):
        found = decode(with_length(value.encode(padded=False)[:-4]))
        assert isinstance(found, ReqDmaster | ReplyDmaster)
        assert found.record_flags == 0
        assert found.data == b"data"


def test_a_bare_keepalive_is_of_no_version() -> None:
    bare = with_length(ReqKeepalive(*COMMON, 1, 2).encode()[:HEADER_SIZE])
    assert decode(bare) == ReqKeepalive(*COMMON, 0, 0)


def test_an_errors_text_may_arrive_with_its_nul() -> None:
    sent = bytearray(ReplyControl(*COMMON, -1, b"", "text").encode(padded=False) + b"\0")
    sent[40] = 5
    assert decode(with_length(bytes(sent))) == ReplyControl(*COMMON, -1, b"", "text")


@pytest.mark.parametrize(
    ("at", "reason"), [(0, "length"), (4, "magic"), (8, "version is 77"), (16, "operation 77 is unknown")]
)
def test_a_foreign_header_is_refused(at: int, reason: str) -> None:
    packed = bytearray(ReplyCall(*COMMON, 0).encode())
    packed[at] = 77
    with pytest.raises(ProtocolError, match=reason):
        decode(packed)


def test_the_length_of_a_packet_is_known_from_four_bytes() -> None:
    assert peek_length(b"") is None
    assert peek_length(b"\x28\0\0") is None
    assert peek_length(b"\x28\0\0\0") == 40
    assert peek_length(struct.pack("=I", MAX_PACKET_SIZE)) == MAX_PACKET_SIZE
    for length in (0, 1, 31, MAX_PACKET_SIZE + 1, 0xFFFFFFFF):
        with pytest.raises(ProtocolError, match=f"its length {length} "):
            peek_length(struct.pack("=I", length))


def test_a_packet_beyond_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MAX_PACKET_SIZE", 80)
    assert len(ReqMessage(*COMMON, 1, bytes(36)).encode()) == 80
    with pytest.raises(ProtocolError, match="88 is more than 80"):
        ReqMessage(*COMMON, 1, bytes(37)).encode()


def test_a_field_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="ReqMessage"):
        ReqMessage(*COMMON, -1).encode()
    with pytest.raises(ProtocolError, match="ReqMessage"):
        ReqMessage(2**32, 0, 0, 0, 1).encode()
