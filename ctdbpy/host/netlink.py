# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the kernel over netlink, one at a time, and the links and addresses it tells of.

Requests wait for whoever changes the network at that time: for the address helper, not for the daemon's loop.

Source: Linux' uapi headers netlink.h, rtnetlink.h, if_addr.h; rtnetlink(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import HostError

#: The kernel's answers come in pieces of at most half of this.
READ_BYTES: Final = 1 << 16
#: It answers at once, or the lock on the network's settings hangs.
ANSWER_LIMIT_S: Final = 10
#: A dump that changes while it is read is read again so often.
TRIES: Final = 5

REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
_DUMP_CHANGED: Final = 0x10
CREATE_NEW: Final = 0x400 | 0x200

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3

_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
#: Groups of events.
LINKS_AND_ADDRESSES: Final = 0x1 | 0x10 | 0x100
IPV6_ROUTES: Final = 0x400

_RTA_DST: Final = 1
_RTN_LOCAL: Final = 2
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_RUNNING: Final = 0x40
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_BROADCAST: Final = 4
_IFA_F_NODAD: Final = 0x02
_SCOPE_LINK: Final = 253

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: its number, the kind of its hardware (ARPHRD) and its hardware address."""

    name: str
    index: int
    is_up: bool
    hardware: int
    hardware_address: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """An address that the interface with this number carries, as the bytes on the wire."""

    address: bytes
    prefix: int
    index: int


class Netlink:
    """A socket to one of the kernel's families. Raises HostError if there is none."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
            self._socket.bind((0, 0))
        except OSError as error:
            raise HostError(f"cannot talk to the kernel's network: {error.strerror}") from error
        self._socket.settimeout(ANSWER_LIMIT_S)
        self._sequence = 0
        self._is_torn = False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> None:
        """Have something done. Raises OSError with the kernel's errno."""
        for _kind, _body in self._exchange(kind, flags | ACK, body):
            pass

    def get(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """What answers to one question, as pairs of kind and body. Raises OSError."""
        return list(self._exchange(kind, ACK, body))

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """Everything of one kind, as pairs of kind and body. Raises OSError.

        While it keeps changing faster than it can be read, something may be missing, or be there twice.
        """
        found: list[tuple[int, bytes]] = []
        for _ in range(TRIES):
            self._is_torn = False
            found = list(self._exchange(kind, DUMP, body))
            if not self._is_torn:
                break
        return found

    def _exchange(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        self._sequence += 1
        sequence = self._sequence
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, sequence, 0) + body)
        while True:
            for answered, answer_kind, answer_flags, answer in _messages(self._socket.recv(READ_BYTES)):
                if answered != sequence:
                    # Of a request that was given up.
                    continue
                self._is_torn |= bool(answer_flags & _DUMP_CHANGED)
                if answer_kind == _NLMSG_ERROR:
                    (code,) = _ERRNO.unpack_from(answer)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                if answer_kind == _NLMSG_DONE:
                    return
                yield answer_kind, answer


def open_events(groups: int = LINKS_AND_ADDRESSES) -> socket.socket:
    """A socket that becomes readable whenever something of these groups changes. Raises HostError."""
    try:
        events = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        events.bind((0, groups))
    except OSError as error:
        raise HostError(f"cannot watch the host's interfaces: {error.strerror}") from error
    return events


def drain(events: socket.socket) -> bool:
    """Throw away what has come; whether anything has. What was lost for want of room has come, too."""
    has_come = False
    while True:
        try:
            events.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return has_come
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        has_come = True


def links(netlink: Netlink) -> dict[int, Link]:
    """All interfaces by number. Raises OSError."""
    found: dict[int, Link] = {}
    for kind, body in netlink.dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if kind != _RTM_NEWLINK:
            continue
        _family, hardware, index, flags, _change = _LINK.unpack_from(body)
        attributes = dict(_attributes(body, _LINK.size))
        name = os.fsdecode(attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0"))
        # Whether a cable is in says nothing about a loopback interface.
        is_up = bool(flags & _IFF_UP and flags & (_IFF_RUNNING | _IFF_LOOPBACK))
        found[index] = Link(name, index, is_up, hardware, attributes.get(_IFLA_ADDRESS, b""))
    return found


def addresses(netlink: Netlink) -> list[Standing]:
    """All addresses on all interfaces. Raises OSError."""
    found: list[Standing] = []
    for kind, body in netlink.dump(_RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if kind != _RTM_NEWADDR:
            continue
        _family, prefix, _flags, _scope, index = _ADDRESS.unpack_from(body)
        attributes = dict(_attributes(body, _ADDRESS.size))
        # Of a point-to-point interface IFA_ADDRESS is the other end.
        address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if address:
            found.append(Standing(address, prefix, index))
    return found


def add_address(netlink: Netlink, wanted: Standing) -> None:
    """Put an address; IPv6 without asking the network whether another has it. Raises OSError."""
    netlink.ask(_RTM_NEWADDR, CREATE_NEW, _address_body(wanted))


def delete_address(netlink: Netlink, wanted: Standing) -> None:
    """Take an address away. Raises OSError."""
    netlink.ask(_RTM_DELADDR, 0, _address_body(wanted))


def is_local(netlink: Netlink, address: bytes) -> bool:
    """Whether packets to an IPv6 address stay on this host. Raises OSError."""
    body = _ROUTE.pack(socket.AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_DST, address)
    try:
        answers = netlink.get(_RTM_GETROUTE, body)
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return False
        raise
    return any(kind == _RTM_NEWROUTE and _ROUTE.unpack_from(each)[7] == _RTN_LOCAL for kind, each in answers)


def _address_body(wanted: Standing) -> bytes:
    is_ipv6 = len(wanted.address) == 16
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    flags = _IFA_F_NODAD if is_ipv6 else 0
    scope = _SCOPE_LINK if wanted.address[:2] == b"\xfe\x80" else 0
    body = _ADDRESS.pack(family, wanted.prefix, flags, scope, wanted.index)
    body += _attribute(_IFA_LOCAL, wanted.address) + _attribute(_IFA_ADDRESS, wanted.address)
    if not is_ipv6 and wanted.prefix < 31:
        hosts = (1 << 32 - wanted.prefix) - 1
        body += _attribute(_IFA_BROADCAST, (int.from_bytes(wanted.address, "big") | hosts).to_bytes(4, "big"))
    return body


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, body[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Sequence, kind, flags and body of each message."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield sequence, kind, flags, data[offset + _HEADER.size : offset + length]
        offset += length + 3 & ~3
