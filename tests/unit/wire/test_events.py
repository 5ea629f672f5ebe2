# SPDX-License-Identifier: GPL-3.0-or-later
"""The event daemon's protocol round-trips, byte by byte as upstream's programs speak it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings

from ctdbpy.errors import ProtocolError
from ctdbpy.wire import events
from ctdbpy.wire.events import (
    Command,
    EventStatus,
    Reply,
    Request,
    RunRequest,
    ScriptAction,
    ScriptRequest,
    ScriptStatus,
    StatusRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    peek_length,
)
from ctdbpy.wire.nodes import Timeval
from tests.unit.wire.strategies import damaged, event_reply, event_request, u32


def with_length(data: bytes) -> bytes:
    return struct.pack("=I", len(data)) + data[4:]


@given(u32, event_request)
def test_a_request_round_trips(reqid: int, request: Request) -> None:
    encoded = encode_request(reqid, request)
    assert decode_request(encoded) == (reqid, request)
    assert peek_length(encoded) == len(encoded)


@given(u32, event_reply)
def test_a_reply_round_trips(reqid: int, reply: Reply) -> None:
    encoded = encode_reply(reqid, reply)
    assert decode_reply(encoded) == (reqid, reply)


@settings(max_examples=20)
@given(event_request)
def test_a_request_cut_short_is_refused(request: Request) -> None:
    encoded = encode_request(1, request)
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            decode_request(with_length(encoded[:length]) if length >= 12 else encoded[:length])


@settings(max_examples=20)
@given(event_reply)
def test_a_reply_cut_short_is_refused(reply: Reply) -> None:
    encoded = encode_reply(1, reply)
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            decode_reply(with_length(encoded[:length]) if length >= 12 else encoded[:length])


@given(damaged(event_request.map(lambda request: encode_request(1, request))))
def test_a_damaged_request_decodes_or_is_refused(wrong: bytes) -> None:
    for data in (wrong, with_length(wrong) if len(wrong) >= 4 else wrong):
        with contextlib.suppress(ProtocolError):
            decode_request(data)


@given(damaged(event_reply.map(lambda reply: encode_reply(1, reply))))
def test_a_damaged_reply_decodes_or_is_refused(wrong: bytes) -> None:
    for data in (wrong, with_length(wrong) if len(wrong) >= 4 else wrong):
        with contextlib.suppress(ProtocolError):
            decode_reply(data)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            RunRequest("legacy", "monitor", None, 30, events.RUN_ALL),
            b"\1\0\0\0 \7\0\0\0legacy\0 \x08\0\0\0monitor\0 \0\0\0\0 \x1e\0\0\0 \1\0\0\0",
        ),
        (StatusRequest("legacy", "init"), b"\2\0\0\0 \7\0\0\0legacy\0 \5\0\0\0init\0"),
        (
            ScriptRequest("legacy", "00.ctdb", ScriptAction.ENABLE),
            b"\3\0\0\0 \7\0\0\0legacy\0 \x08\0\0\x0000.ctdb\0 \1\0\0\0",
        ),
    ],
)
def test_a_request_has_upstreams_bytes(request_: Request, body: bytes) -> None:
    rest = body.replace(b" ", b"")
    assert encode_request(9, request_) == struct.pack("=III", 12 + len(rest), 0, 9) + rest


def test_a_status_has_upstreams_bytes() -> None:
    script = ScriptStatus("a", Timeval(1, 2), Timeval(3, 4), -8, "out")
    body = struct.pack("=IiiiI2s4qiI4s", 2, 0, 5, 1, 2, b"a", 1, 2, 3, 4, -8, 4, b"out")
    encoded = encode_reply(9, Reply(Command.STATUS, 0, EventStatus(5, (script,))))
    assert encoded == struct.pack("=III", 12 + len(body), 0, 9) + body


def test_a_reply_has_no_status_unless_one_was_asked_for() -> None:
    assert len(encode_reply(9, Reply(Command.RUN, 0))) == 20
    assert len(encode_reply(9, Reply(Command.STATUS, 22, EventStatus(0)))) == 20


def test_an_unknown_command_or_action_is_refused() -> None:
    with pytest.raises(ProtocolError, match="command"):
        decode_request(struct.pack("=IIII", 16, 0, 9, 4))
    with pytest.raises(ProtocolError, match="command"):
        decode_reply(struct.pack("=IIIIi", 20, 0, 9, 0, 0))
    wrong = bytearray(encode_request(9, ScriptRequest("legacy", "00.ctdb", ScriptAction.DISABLE)))
    wrong[-4] = 2
    with pytest.raises(ProtocolError, match="action"):
        decode_request(wrong)


def test_a_packet_of_another_length_is_refused() -> None:
    with pytest.raises(ProtocolError, match="length"):
        decode_request(encode_request(9, StatusRequest("legacy", "init")) + b"\0")


@given(u32)
def test_the_version_is_not_looked_at(version: int) -> None:
    packed = bytearray(encode_request(9, StatusRequest("legacy", "init")))
    packed[4:8] = struct.pack("=I", version)
    assert decode_request(packed) == (9, StatusRequest("legacy", "init"))


def test_the_length_of_a_packet_is_known_from_four_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peek_length(b"\x10\0\0") is None
    for length in (0, 11, events.MAX_PACKET_SIZE + 1):
        with pytest.raises(ProtocolError, match=f"its length {length} "):
            peek_length(struct.pack("=I", length))
    monkeypatch.setattr(events, "MAX_PACKET_SIZE", 20)
    with pytest.raises(ProtocolError, match="more than 20"):
        encode_request(9, StatusRequest("legacy", "init"))
