# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses announced: neighbours learn where they are now, clients are woken.

IPv4 by gratuitous ARP, request and reply; IPv6 by unsolicited neighbour advertisements. Each three times, for
networks lose packets, switches are slow to learn, and who sends them may be slower than what it sends.

Source: reference/ctdb.md 7.15.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ctdbpy.errors import HostError
from ctdbpy.host import raw_packets
from ctdbpy.host.connections import RawSender
from ctdbpy.host.netlink import Link
from ctdbpy.host.raw_packets import ArpKind

TIMES: Final = 3
INTERVAL_S: Final = 1.1


class Ends(NamedTuple):
    """A connection: the public address, and its client."""

    server: bytes
    server_port: int
    client: bytes
    client_port: int


@dataclass(slots=True)
class _Announcement:
    link: Link
    connections: tuple[Ends, ...]
    due_s: float
    left: int = field(default=TIMES)


class Announcer:
    """Sends announcements when they are due; whoever owns it calls `send_due` at `deadline_s`."""

    def __init__(self) -> None:
        """Raises HostError."""
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._sender = RawSender()
            self._frames = socket.socket(socket.AF_PACKET, flags, 0)
        except OSError as error:
            raise HostError(
                f"cannot announce addresses: {error.strerror} (raw sockets need CAP_NET_RAW; run as root)"
            ) from error
        self._running: dict[bytes, _Announcement] = {}

    @property
    def sender(self) -> RawSender:
        """For other raw packets."""
        return self._sender

    @property
    def deadline_s(self) -> float | None:
        """When the next are due."""
        return min((each.due_s for each in self._running.values()), default=None)

    def announce(self, now_s: float, address: bytes, link: Link, connections: tuple[Ends, ...]) -> str:
        """Announce an address now and twice again; what went wrong the first time, or ""."""
        announcement = _Announcement(link, connections, now_s)
        self._running[address] = announcement
        return self._send(now_s, address, announcement)

    def stop(self, address: bytes) -> None:
        """Announce it no more."""
        self._running.pop(address, None)

    def send_due(self, now_s: float) -> list[str]:
        """Send what is due by now; what went wrong."""
        due = [(address, each) for address, each in self._running.items() if each.due_s <= now_s]
        return [error for address, each in due if (error := self._send(now_s, address, each))]

    def tickle(self, connections: Iterable[Ends]) -> str:
        """Wake clients; why one was not, or ""."""
        trouble = ""
        for each in connections:
            try:
                self._sender.send(raw_packets.tickle(*each), each.client)
            except OSError as error:
                client = text_of(each.client)
                trouble = f"cannot wake client '{client}' port {each.client_port}: {error.strerror}"
        return trouble

    def _send(self, now_s: float, address: bytes, announcement: _Announcement) -> str:
        announcement.left -= 1
        announcement.due_s = now_s + INTERVAL_S
        if announcement.left <= 0:
            self._running.pop(address, None)
        trouble = self._tell_neighbours(address, announcement.link)
        return self.tickle(announcement.connections) or trouble

    def _tell_neighbours(self, address: bytes, link: Link) -> str:
        if link.hardware != raw_packets.ETHERNET or len(link.hardware_address) != 6:
            # Nobody on a loopback interface or a tunnel asks for hardware addresses.
            return ""
        own = link.hardware_address
        try:
            if len(address) == 16:
                packet = raw_packets.neighbour_advertisement(own, address)
                kind, to = raw_packets.ETHERTYPE_IPV6, raw_packets.ALL_NODES_HARDWARE
                self._frames.sendto(packet, (link.name, kind, 0, 0, to))
            else:
                for arp_kind in ArpKind:
                    packet = raw_packets.arp(arp_kind, own, address)
                    where = (link.name, raw_packets.ETHERTYPE_ARP, 0, 0, raw_packets.BROADCAST)
                    self._frames.sendto(packet, where)
        except OSError as error:
            return f"cannot announce '{text_of(address)}' on '{link.name}': {error.strerror}"
        return ""


def bytes_of(address: str) -> bytes:
    """An address as the bytes on the wire, without its scope. Raises OSError."""
    address = address.partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def text_of(address: bytes) -> str:
    """An address in its canonical text."""
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)
