# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets that no ordinary socket sends: gratuitous ARP, neighbour advertisements, single TCP segments.

Bytes alone; `announcements` and `connections` send them. Addresses are the bytes on the wire.

Source: RFC 826, 4861, 9293; reference/ctdb.md 7.15.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

ETHERNET: Final = 1
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IPV6: Final = 0x86DD
BROADCAST: Final = b"\xff" * 6
#: Where every IPv6 host listens, and the hardware address that stands for it.
ALL_NODES: Final = bytes.fromhex("ff02" + "00" * 13 + "01")
ALL_NODES_HARDWARE: Final = bytes.fromhex("333300000001")

#: With the Ethernet header in front of it, the frame has the 64 bytes that upstream's have.
_ARP_BYTES: Final = 50
_TTL: Final = 255
_TCP: Final = 6
_ICMPV6: Final = 58
_ADVERTISEMENT: Final = 136
_OVERRIDE: Final = 0x20000000
_TARGET_HARDWARE_ADDRESS: Final = 2

_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_SEGMENT: Final = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT: Final = 0x4000


class ArpKind(IntEnum):
    """Neighbours learn from the one, or from the other, or from both."""

    REQUEST = 1
    REPLY = 2


class TcpFlag(IntFlag):
    """The bits of a segment that matter here."""

    RST = 0x04
    ACK = 0x10


class Segment(NamedTuple):
    """A TCP segment without data."""

    src: bytes
    src_port: int
    dst: bytes
    dst_port: int
    seq: int
    ack: int
    flags: int
    window: int


def arp(kind: ArpKind, hardware_address: bytes, address: bytes) -> bytes:
    """A gratuitous ARP packet, to follow an Ethernet header: `address` is at `hardware_address`."""
    packet = struct.pack("!HHBBH", ETHERNET, ETHERTYPE_IPV4, 6, 4, kind) + hardware_address + address
    target = bytes(6) if kind is ArpKind.REQUEST else hardware_address
    return (packet + target + address).ljust(_ARP_BYTES, b"\0")


def neighbour_advertisement(hardware_address: bytes, address: bytes) -> bytes:
    """An unsolicited advertisement with its IPv6 header: `address` is at `hardware_address` from now on."""
    option = bytes((_TARGET_HARDWARE_ADDRESS, 1)) + hardware_address
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address + option
    message = _with_checksum(message, 2, address, ALL_NODES, _ICMPV6)
    return _IPV6.pack(6 << 28, len(message), _ICMPV6, _TTL, address, ALL_NODES) + message


def segment(wanted: Segment) -> bytes:
    """The segment with its IPv4 or IPv6 header."""
    src, src_port, dst, dst_port, seq, ack, flags, window = wanted
    tcp = _SEGMENT.pack(src_port, dst_port, seq, ack, _SEGMENT.size // 4 << 4, flags, window, 0, 0)
    tcp = _with_checksum(tcp, 16, src, dst, _TCP)
    if len(src) == 16:
        return _IPV6.pack(6 << 28, len(tcp), _TCP, _TTL, src, dst) + tcp
    length = _IPV4.size + len(tcp)
    header = _IPV4.pack(0x45, 0, length, 0, _DONT_FRAGMENT, _TTL, _TCP, 0, src, dst)
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + tcp


def tickle(server: bytes, server_port: int, client: bytes, client_port: int) -> bytes:
    """An ACK out of nowhere: the client answers with where it stands, and whoever is asked so resets it."""
    return segment(Segment(server, server_port, client, client_port, 0, 0, TcpFlag.ACK, 1234))


def parse_segment(packet: bytes) -> Segment | None:
    """The segment in an IP packet, whatever data it has; None if there is none."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4.size and packet[9] == _TCP:
        src, dst = packet[12:16], packet[16:20]
        offset = (packet[0] & 0xF) * 4
    elif version == 6 and len(packet) >= _IPV6.size and packet[6] == _TCP:
        src, dst = packet[8:24], packet[24:40]
        offset = _IPV6.size
    else:
        return None
    if len(packet) < offset + _SEGMENT.size:
        return None
    src_port, dst_port, seq, ack, _offset, flags, window, _sum, _urgent = _SEGMENT.unpack_from(packet, offset)
    return Segment(src, src_port, dst, dst_port, seq, ack, flags, window)


def checksum(data: bytes) -> int:
    """The Internet's checksum: the complement of the sum of the words, each carry added again."""
    # A number is its digits' sum modulo the base less one: no loop over the words is needed.
    total = int.from_bytes(data + bytes(len(data) % 2), "big")
    rest = total % 0xFFFF
    return 0xFFFF - (rest or (0xFFFF if total else 0))


def _with_checksum(message: bytes, offset: int, src: bytes, dst: bytes, protocol: int) -> bytes:
    """The message of a protocol whose checksum covers the addresses, filled in."""
    pseudo = src + dst + struct.pack("!II", len(message), protocol)
    total = checksum(pseudo + message)
    return message[:offset] + total.to_bytes(2, "big") + message[offset + 2 :]
