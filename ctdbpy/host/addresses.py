# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses on this host's interfaces: put, removed, and seen whenever they change.

What stands on the interfaces is read whole and again after every change: events say only that there was one.

Source: ip-sysctl of Linux' documentation; reference/ctdb.md 4.3 (10.interface), 7.14.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctdbpy.errors import HostError
from ctdbpy.host import connections, netlink
from ctdbpy.host.announcements import text_of
from ctdbpy.host.connections import RawSender
from ctdbpy.host.netlink import Link, Netlink, Standing

#: How long the kernel may take until a new IPv6 address can be used.
LOCAL_LIMIT_S: Final = 0.1

#: Settings that an interface with public addresses needs, and what happens without.
_SETTINGS: Final = {
    "promote_secondaries": "when its first address is removed, the others of that network go with it",
    "arp_filter": "with two interfaces on one network, the wrong one may answer for an address",
}
_SETTINGS_PATH: Final = "/proc/sys/net/ipv4/conf/{interface}/{setting}"


@dataclass(frozen=True, slots=True)
class Sight:
    """Interfaces by number, and where each address stands, at one moment."""

    links: dict[int, Link]
    addresses: dict[bytes, tuple[Standing, ...]]


class HostAddresses:
    """The host's addresses. Whatever is asked for may wait until others let the kernel do it."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Raises HostError."""
        self._log = log
        self._route = Netlink()
        self._diag = Netlink(connections.FAMILY)
        self._events = netlink.open_events()
        self._sight = Sight({}, {})
        self._is_stale = True
        self._prepared: set[int] = set()
        #: The kernel itself ends connections.
        self.can_destroy = connections.can_destroy(self._diag)
        if not self.can_destroy:
            log("this kernel does not end connections (CONFIG_INET_DIAG_DESTROY): raw packets will")

    def close(self) -> None:
        """Close the sockets."""
        for each in (self._route, self._diag, self._events):
            each.close()

    def fileno(self) -> int:
        """Readable when something has changed: then `take_events`."""
        return self._events.fileno()

    def take_events(self) -> None:
        """Know that what was seen is no longer what is."""
        self._is_stale |= netlink.drain(self._events)

    def look(self) -> Sight:
        """What stands now, as far as events were taken and deeds done. Raises HostError."""
        if self._is_stale:
            try:
                links = netlink.links(self._route)
                standing = netlink.addresses(self._route)
            except OSError as error:
                raise HostError(f"cannot list the host's addresses: {error.strerror}") from error
            self._sight = Sight(links, {})
            for each in dict.fromkeys(standing):
                self._note(each.address, (*self._standing(each.address), each))
            self._is_stale = False
        return self._sight

    def link(self, interface: str) -> Link:
        """The interface of that name. Raises HostError."""
        for _ in range(2):
            for link in self.look().links.values():
                if link.name == interface:
                    return link
            self._is_stale = True
        raise HostError(f"cannot find interface '{interface}': this host has none of that name")

    def carries(self, address: bytes) -> bool:
        """Whether any interface carries the address, as far as was seen."""
        return address in self._sight.addresses

    def put(self, address: bytes, prefix: int, interface: str) -> None:
        """Have this interface carry the address, and no other. Raises HostError."""
        link = self.link(interface)
        self._prepare(link)
        with netlink.open_events(netlink.IPV6_ROUTES) as routes:
            self._put(Standing(address, prefix, link.index), interface)
            # Without a carrier it does not come into use before there is one.
            if len(address) == 16 and link.is_up:
                self._await_local(address, routes)

    def _put(self, wanted: Standing, interface: str) -> None:
        address = wanted.address
        standing = [each for each in self._standing(address) if each != wanted]
        if len(address) == 16:
            # IPv6 has an address once on an interface, whatever its prefix.
            for each in [each for each in standing if each.index == wanted.index]:
                self._delete(each)
                standing.remove(each)
        try:
            netlink.add_address(self._route, wanted)
        except OSError as error:
            if error.errno != errno.EEXIST:
                what = f"{text_of(address)}/{wanted.prefix}"
                raise HostError(f"cannot put '{what}' on '{interface}': {error.strerror}") from error
        self._note(address, (wanted, *standing))
        for each in standing:
            self._delete(each)

    def _await_local(self, address: bytes, routes: socket.socket) -> None:
        """An IPv6 address is there before its route is: until then packets for it are thrown away."""
        poll = select.poll()
        poll.register(routes, select.POLLIN)
        until_s = time.monotonic() + LOCAL_LIMIT_S
        try:
            while not netlink.is_local(self._route, address):
                if not poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
                    # It stands there all the same.
                    return
                netlink.drain(routes)
        except OSError as error:
            raise HostError(f"cannot look for the route of '{text_of(address)}': {error.strerror}") from error

    def remove(self, address: bytes, interface: str = "") -> bool:
        """Take the address from an interface, from all without a name; whether none carries it now.

        Raises HostError.
        """
        # Somebody else may have put it just now.
        sight = self.look()
        if not self.carries(address):
            self._is_stale = True
            sight = self.look()
        left = False
        for each in self._standing(address):
            link = sight.links.get(each.index)
            if interface and (link is None or link.name != interface):
                left = True
            else:
                self._delete(each)
        return not left

    def end_connections(self, addresses: Collection[bytes], sender: RawSender) -> None:
        """End the TCP connections at these addresses. Raises HostError.

        Clients hear of it only while the address stands here. Without `can_destroy` it must still do so.
        """
        try:
            found = connections.list_sockets(self._diag, addresses)
            if not self.can_destroy:
                connections.reset(sender, found)
            elif (trouble := connections.destroy(self._diag, found)) is not None:
                raise trouble
        except OSError as error:
            names = "', '".join(sorted(map(text_of, addresses)))
            raise HostError(f"cannot end the connections of '{names}': {error.strerror}") from error

    def _delete(self, standing: Standing) -> None:
        link = self._sight.links.get(standing.index)
        if link is not None:
            self._prepare(link)
        try:
            netlink.delete_address(self._route, standing)
        except OSError as error:
            # It went by itself, or with its interface.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                what = f"{text_of(standing.address)}/{standing.prefix}"
                where = link.name if link is not None else f"interface {standing.index}"
                raise HostError(f"cannot remove '{what}' from '{where}': {error.strerror}") from error
        address = standing.address
        self._note(address, tuple(each for each in self._standing(address) if each != standing))

    def _standing(self, address: bytes) -> tuple[Standing, ...]:
        return self._sight.addresses.get(address, ())

    def _note(self, address: bytes, standing: tuple[Standing, ...]) -> None:
        """Know what was done before the kernel tells of it: deeds come in rows."""
        if standing:
            self._sight.addresses[address] = standing
        else:
            self._sight.addresses.pop(address, None)

    def _prepare(self, link: Link) -> None:
        """Set up an interface that is to carry public addresses, once."""
        if link.index in self._prepared:
            return
        self._prepared.add(link.index)
        for setting, consequence in _SETTINGS.items():
            path = Path(_SETTINGS_PATH.format(interface=link.name, setting=setting))
            try:
                if path.read_text() != "1\n":
                    path.write_text("1")
            except OSError as error:
                self._log(f"cannot set '{path}' to 1: {error.strerror}; {consequence}")
