# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets byte for byte, and every segment read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.host import raw_packets
from ctdbpy.host.raw_packets import ArpKind, Segment, TcpFlag

_CARD = bytes.fromhex("020000000001")
_IPV4 = bytes((10, 0, 0, 7))
_IPV6 = bytes.fromhex("fd000000000000000000000000000007")

_PORT = st.integers(0, 0xFFFF)
_NUMBER = st.integers(0, 0xFFFFFFFF)
_PAIR = st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)) | st.tuples(
    st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)
)


def _words(data: bytes) -> int:
    """The sum that a receiver makes: all ones if the checksum is right."""
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total


def test_a_gratuitous_request_and_reply_name_the_address_twice() -> None:
    head = bytes.fromhex("0001080006040001") + _CARD + _IPV4
    request = raw_packets.arp(ArpKind.REQUEST, _CARD, _IPV4)
    assert request == (head + bytes(6) + _IPV4).ljust(50, b"\0")
    reply = raw_packets.arp(ArpKind.REPLY, _CARD, _IPV4)
    assert reply[7] == 2
    assert reply[18:28] == _CARD + _IPV4


def test_an_advertisement_overrides_what_neighbours_know() -> None:
    packet = raw_packets.neighbour_advertisement(_CARD, _IPV6)
    assert packet[:8] == bytes.fromhex("60000000" + "0020" + "3aff")
    assert packet[8:24] == _IPV6
    assert packet[24:40] == bytes.fromhex("ff02" + "00" * 13 + "01")
    message = packet[40:]
    assert message[:2] + message[4:8] == bytes.fromhex("8800" + "20000000")
    assert message[8:] == _IPV6 + bytes.fromhex("0201") + _CARD
    assert _words(packet[8:40] + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58)) + message) == 0xFFFF


@given(_PAIR, _PORT, _PORT, _NUMBER, _NUMBER, st.sampled_from(TcpFlag), _PORT)
def test_a_segment_has_the_right_checksums_and_is_read_back(
    ends: tuple[bytes, bytes], src_port: int, dst_port: int, seq: int, ack: int, flags: TcpFlag, window: int
) -> None:
    src, dst = ends
    wanted = Segment(src, src_port, dst, dst_port, seq, ack, flags, window)
    packet = raw_packets.segment(wanted)
    assert raw_packets.parse_segment(packet) == wanted
    tcp = packet[-20:]
    assert _words(src + dst + bytes((0, 0, 0, 6, 0, 0, 0, 20)) + tcp) == 0xFFFF
    if len(src) == 4:
        assert _words(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet) == 40
    else:
        assert int.from_bytes(packet[4:6], "big") == 20


def test_a_tickle_is_an_ack_out_of_nowhere() -> None:
    packet = raw_packets.tickle(_IPV4, 445, bytes((10, 0, 0, 9)), 50000)
    assert raw_packets.parse_segment(packet) == Segment(
        _IPV4, 445, bytes((10, 0, 0, 9)), 50000, 0, 0, TcpFlag.ACK, 1234
    )


@given(st.binary(max_size=80))
def test_whatever_comes_in_is_a_segment_or_none(packet: bytes) -> None:
    heard = raw_packets.parse_segment(packet)
    assert heard is None or len(heard.src) == len(heard.dst)


@given(st.binary(max_size=64))
def test_a_checksum_makes_the_sum_all_ones(data: bytes) -> None:
    even = data + bytes(len(data) % 2)
    assert _words(even + raw_packets.checksum(data).to_bytes(2, "big")) in (0xFFFF, 0)
    assert raw_packets.checksum(data) == 0xFFFF - _words(data)
