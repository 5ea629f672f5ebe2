# SPDX-License-Identifier: GPL-3.0-or-later
"""The TCP connections that this host has at an address: listed, and ended.

The kernel ends them itself (SOCK_DESTROY): the program gets ECONNABORTED, the client a reset if the address
still stands here. A kernel built without that is helped by raw packets: an ACK out of nowhere makes the
client tell its sequence numbers, with which both ends are reset. Listening sockets are left alone.

Source: Linux' uapi headers inet_diag.h, sock_diag.h; packet(7), bpf(2); RFC 5961 3.2; reference/ctdb.md 7.15.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from ctdbpy.host.netlink import Netlink
from ctdbpy.host.raw_packets import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    Segment,
    TcpFlag,
    parse_segment,
    segment,
    tickle,
)

#: The netlink family that knows of sockets.
FAMILY: Final = 4
#: How long clients have to tell their sequence numbers.
ANSWER_LIMIT_S: Final = 0.1

_BY_FAMILY: Final = 20
_DESTROY: Final = 21
_TCP_ESTABLISHED: Final = 1
_TCP_CLOSE: Final = 7
_TCP_LISTEN: Final = 10
#: What exists between two ends, from the first packet to the wait after the last.
_ALL_STATES: Final = 0x1FFE & ~(1 << _TCP_CLOSE | 1 << _TCP_LISTEN)
_MAPPED: Final = bytes(10) + b"\xff\xff"

_REQUEST: Final = struct.Struct("=BBBxI")
_IDENTITY: Final = struct.Struct("!HH16s16s")
_IDENTITY_BYTES: Final = 48
#: A filter of the kernel's own: the port compared, the end (8 bytes on) if it is so, beyond it (12) if not.
_BYTECODE: Final = struct.Struct("=HHBBHBBH")
_REQUEST_BYTECODE: Final = 1
_PORT_EQUALS: Final = 11
_SO_ATTACH_FILTER: Final = 26
_FILTER: Final = struct.Struct("=HBBI")


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """A socket of this host at an address; `identity` is the kernel's name for it."""

    address: bytes
    port: int
    client: bytes
    client_port: int
    is_established: bool
    family: int
    identity: bytes


def list_sockets(netlink: Netlink, addresses: Collection[bytes], *, port: int = 0) -> list[TcpSocket]:
    """The sockets at these addresses (and this port), but those that listen. Raises OSError."""
    wanted = {address if len(address) == 16 else address.ljust(16, b"\0") for address in addresses}
    mapped = {_MAPPED + address for address in addresses if len(address) == 4}
    found: list[TcpSocket] = []
    # IPv4 connections to a program that listens on IPv6 are listed with those.
    for family, keys in ((socket.AF_INET, wanted), (socket.AF_INET6, wanted | mapped)):
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + bytes(_IDENTITY_BYTES)
        if port:
            body += _BYTECODE.pack(_BYTECODE.size, _REQUEST_BYTECODE, _PORT_EQUALS, 8, 12, 0, 0, port)
        for _kind, answer in netlink.dump(_BY_FAMILY, body):
            if answer[8:24] in keys:
                found.append(_socket_of(answer))
    return found


def _socket_of(answer: bytes) -> TcpSocket:
    identity = answer[4 : 4 + _IDENTITY_BYTES]
    port, client_port, address, client = _IDENTITY.unpack_from(identity)
    return TcpSocket(
        _short(answer[0], address),
        port,
        _short(answer[0], client),
        client_port,
        answer[1] == _TCP_ESTABLISHED,
        answer[0],
        identity,
    )


def _short(family: int, address: bytes) -> bytes:
    if family == socket.AF_INET:
        return address[:4]
    return address[12:] if address.startswith(_MAPPED) else address


def can_destroy(netlink: Netlink) -> bool:
    """Whether the kernel ends connections when asked to, and we may ask."""
    nowhere = _IDENTITY.pack(1, 1, b"\x7f\0\0\1".ljust(16, b"\0"), b"\x7f\0\0\1".ljust(16, b"\0"))
    try:
        _destroy(netlink, socket.AF_INET, nowhere + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF))
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def destroy(netlink: Netlink, sockets: Iterable[TcpSocket]) -> OSError | None:
    """End them all; what kept the kernel from ending one, if anything did."""
    trouble = None
    for each in sockets:
        try:
            _destroy(netlink, each.family, each.identity)
        except OSError as error:
            if error.errno != errno.ENOENT:  # Otherwise it ended by itself.
                trouble = error
    return trouble


def _destroy(netlink: Netlink, family: int, identity: bytes) -> None:
    netlink.ask(_DESTROY, 0, _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + identity)


class RawSender:
    """Sends whole IP packets; nothing comes in."""

    def __init__(self) -> None:
        """Raises OSError."""
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._ipv4 = socket.socket(socket.AF_INET, flags, socket.IPPROTO_RAW)
        try:
            self._ipv6: socket.socket | None = socket.socket(socket.AF_INET6, flags, socket.IPPROTO_RAW)
        except OSError:
            # A host whose kernel knows no IPv6 has no such connections.
            self._ipv6 = None

    def close(self) -> None:
        """Close the sockets."""
        self._ipv4.close()
        if self._ipv6 is not None:
            self._ipv6.close()

    def send(self, packet: bytes, to: bytes) -> None:
        """Send one. Raises OSError."""
        if len(to) == 4:
            self._ipv4.sendto(packet, (socket.inet_ntop(socket.AF_INET, to), 0))
        elif self._ipv6 is not None:
            self._ipv6.sendto(packet, (socket.inet_ntop(socket.AF_INET6, to), 0))


def reset(sender: RawSender, sockets: Collection[TcpSocket], *, limit_s: float = ANSWER_LIMIT_S) -> int:
    """Reset both ends by raw packets while the address still stands here; how many answered in time.

    Raises OSError.
    """
    waiting = {(each.address, each.port, each.client, each.client_port) for each in sockets}
    count = 0
    for address in {each.address for each in sockets}:
        own = {each for each in waiting if each[0] == address}
        with _open_ear(address) as ear:
            for each in own:
                sender.send(tickle(*each), each[2])
            count += _reset_answering(sender, ear, own, limit_s)
    return count


def _reset_answering(
    sender: RawSender, ear: socket.socket, waiting: set[tuple[bytes, int, bytes, int]], limit_s: float
) -> int:
    count = 0
    poll = select.poll()
    poll.register(ear, select.POLLIN)
    until_s = time.monotonic() + limit_s
    while waiting and (left_s := until_s - time.monotonic()) > 0:
        if not poll.poll(left_s * 1000):
            break
        heard = parse_segment(ear.recv(2048))
        if heard is None or not heard.flags & TcpFlag.ACK or heard.flags & TcpFlag.RST:
            continue
        server = (heard.dst, heard.dst_port, heard.src, heard.src_port)
        if server not in waiting:
            continue
        waiting.discard(server)
        count += 1
        to_client = Segment(*server, heard.ack, heard.seq, TcpFlag.RST | TcpFlag.ACK, 0)
        to_server = Segment(
            heard.src, heard.src_port, *server[:2], heard.seq, heard.ack, TcpFlag.RST | TcpFlag.ACK, 0
        )
        sender.send(segment(to_client), heard.src)
        sender.send(segment(to_server), heard.dst)
    return count


def _open_ear(address: bytes) -> socket.socket:
    """A socket that hears the IP packets which come in for an address. Raises OSError."""
    protocol = socket.htons(ETHERTYPE_IPV4 if len(address) == 4 else ETHERTYPE_IPV6)
    # Until the filter is there a few others' packets come, too.
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
    try:
        offset = 16 if len(address) == 4 else 24
        words = struct.unpack(f"!{len(address) // 4}I", address)
        program = b""
        for number, word in enumerate(words):
            beyond = 2 * (len(words) - number) - 1
            # Load the word; if it is another, skip to the end that accepts nothing.
            program += _FILTER.pack(0x20, 0, 0, offset + 4 * number) + _FILTER.pack(0x15, 0, beyond, word)
        program += _FILTER.pack(0x06, 0, 0, 0xFFFFFFFF) + _FILTER.pack(0x06, 0, 0, 0)
        memory = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("@HP", len(program) // _FILTER.size, ctypes.addressof(memory))
        ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    except OSError:
        ear.close()
        raise
    return ear
