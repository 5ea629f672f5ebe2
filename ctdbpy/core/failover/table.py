# SPDX-License-Identifier: GPL-3.0-or-later
"""The public addresses this node knows: where each is, and which interfaces could carry it.

Pure facts without waiting; who changes them is `failover.addresses`. Lists are told the newest first, as
upstream's are.

Source: reference/ctdb.md 3.4, 5.6 (77, 78, 90, 123, 124, 125), 7.14.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ctdbpy.core.inputs import HostSeen, PublicAddress
from ctdbpy.core.state import NOBODY
from ctdbpy.wire.structures import (
    Connection,
    Iface,
    IfaceList,
    PublicIp,
    PublicIpInfo,
    PublicIpList,
    SockAddr,
)

#: A table that is longer than this is a mistake, or somebody's who adds without end.
ADDRESSES_MAX: Final = 10_000
#: Moving an address to another interface of the node pays only from this difference of references on.
_GAIN_MIN: Final = 2


@dataclass(slots=True)
class Interface:
    """An interface that some public address may use.

    is_linked: what the host says; is_marked_up: what scripts or an administrator say (SET_IFACE_LINK_STATE).
    """

    name: str
    is_linked: bool = True
    is_marked_up: bool = True
    #: Addresses of ours that it carries.
    references: int = 0

    @property
    def is_up(self) -> bool:
        return self.is_linked and self.is_marked_up


@dataclass(slots=True)
class Entry:
    """A public address: `pnn` is who has it as far as this node knows, `interface` what carries it here."""

    address: str
    prefix: int
    interfaces: tuple[str, ...]
    pnn: int = NOBODY
    interface: str = ""
    #: Deleted while it was here: it is forgotten as soon as it is released.
    is_leaving: bool = False
    #: It is going: connections that end meanwhile are the next node's to wake.
    is_releasing: bool = False
    #: Put, and not taken from the interface again.
    is_put: bool = False
    #: Orders to take or release it so far. Who waits in between finds out that another order came.
    turn: int = 0
    #: Scripts have not heard, or failed to say well of it, that it is here.
    owes_scripts: bool = False
    connections: dict[Connection, None] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """This node serves it, or is about to."""
        return bool(self.interface)


class Table:
    """All public addresses of one node by their canonical text, and their interfaces by name."""

    def __init__(self, pnn: int) -> None:
        self._pnn = pnn
        self.entries: dict[str, Entry] = {}
        self.interfaces: dict[str, Interface] = {}
        #: The addresses that this node serves, or is about to.
        self.here: dict[str, Entry] = {}
        #: Addresses here whose connections other nodes do not know as they are now.
        self.news: set[str] = set()
        #: Grows with whatever decides on which addresses could be served here, and are not.
        self.changes = 0
        #: Interfaces of the host and whether each is up; None until it has been seen.
        self._links: dict[str, bool] | None = None

    # -- what there is --------------------------------------------------------------------------

    def find(self, host: str) -> Entry | None:
        """The address with this text, whatever its port was."""
        return self.entries.get(host)

    def add(self, wanted: PublicAddress) -> str:
        """Know another address; says why not, if it cannot be."""
        host = SockAddr.of(wanted.address).host
        if host in self.entries:
            return f"{host} is a public address of this node already"
        if len(self.entries) >= ADDRESSES_MAX:
            return f"this node has {ADDRESSES_MAX} public addresses"
        if problem := self._problem(wanted, 128 if ":" in host else 32):
            return problem
        self.entries[host] = Entry(host, wanted.prefix, wanted.interfaces)
        self.changes += 1
        self._meet(wanted.interfaces)
        return ""

    def change(self, entry: Entry, wanted: PublicAddress) -> None:
        """The file has other interfaces, or another prefix, for an address: from its next taking on."""
        entry.prefix = wanted.prefix
        entry.interfaces = wanted.interfaces
        self.changes += 1
        self._meet(wanted.interfaces)
        self._forget_interfaces()

    def forget(self, entry: Entry) -> None:
        """Know an address no more, nor interfaces that no other uses."""
        self.vacate(entry)
        del self.entries[entry.address]
        self._forget_interfaces()

    def _problem(self, wanted: PublicAddress, prefix_max: int) -> str:
        if not 0 <= wanted.prefix <= prefix_max:
            return f"{wanted.prefix} is no prefix length of {wanted.address}"
        if not wanted.interfaces:
            return f"{wanted.address} has no interface"
        for name in wanted.interfaces:
            if not name or len(name.encode()) >= Iface.NAME_SIZE - 2:
                return f"{name!r} is not the name of an interface"
            if self._links is not None and name not in self._links:
                return f"this host has no interface {name!r}"
        return ""

    def _meet(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.interfaces:
                links = self._links
                is_linked = True if links is None else links.get(name, False)
                self.interfaces[name] = Interface(name, is_linked)

    def _forget_interfaces(self) -> None:
        used = {name for entry in self.entries.values() for name in (*entry.interfaces, entry.interface)}
        for name in self.interfaces.keys() - used:
            del self.interfaces[name]

    # -- where an address is ------------------------------------------------------------------------

    def occupy(self, entry: Entry, interface: str) -> None:
        """This node has the address from now on."""
        self.vacate(entry)
        entry.interface = interface
        entry.pnn = self._pnn
        entry.is_releasing = False
        self.interfaces[interface].references += 1
        self.here[entry.address] = entry
        self.changes += 1

    def vacate(self, entry: Entry) -> None:
        """This node has it no more."""
        if entry.interface:
            self.interfaces[entry.interface].references -= 1
        entry.interface = ""
        entry.is_releasing = False
        if entry.pnn == self._pnn:
            entry.pnn = NOBODY
        self.here.pop(entry.address, None)
        self.news.discard(entry.address)
        self.changes += 1

    def place(self, entry: Entry, pnn: int) -> None:
        """Another node has it, or nobody."""
        entry.pnn = pnn
        self.changes += 1

    def mark(self, interface: Interface, is_up: bool) -> bool:
        """Scripts or an administrator say how an interface is; True if that is new."""
        is_new = interface.is_marked_up is not is_up
        interface.is_marked_up = is_up
        self.changes += 1
        return is_new

    def best_interface(self, entry: Entry) -> str:
        """The interface to carry it: up, and with fewest addresses; "" if none is up."""
        up = [name for name in entry.interfaces if self.interfaces[name].is_up]
        return min(up, key=lambda name: self.interfaces[name].references, default="")

    def better_interface(self, entry: Entry) -> str:
        """Where an address that is here should go on this node, "" if it is well where it is."""
        best = self.best_interface(entry)
        if not entry.interface or best in ("", entry.interface):
            return ""
        now = self.interfaces[entry.interface]
        if entry.interface not in entry.interfaces or not now.is_up:
            return best
        return best if now.references - self.interfaces[best].references >= _GAIN_MIN else ""

    def can_carry(self, entry: Entry) -> bool:
        """Some interface for it is up, and it is not about to be forgotten."""
        return not entry.is_leaving and any(self.interfaces[name].is_up for name in entry.interfaces)

    # -- interfaces -----------------------------------------------------------------------------------

    def see(self, seen: HostSeen) -> list[str]:
        """The host's interfaces are like this; what has changed, in words."""
        self._links = {link.name: link.is_up for link in seen.links}
        changes = []
        for interface in self.interfaces.values():
            is_linked = self._links.get(interface.name, False)
            if interface.is_linked is not is_linked:
                interface.is_linked = is_linked
                self.changes += 1
                how = (
                    "has a link"
                    if is_linked
                    else "has no link"
                    if interface.name in self._links
                    else "is gone"
                )
                changes.append(f"interface {interface.name} {how}")
        return changes

    # -- as controls tell it -----------------------------------------------------------------------------

    def public_ips(self, only: Iterable[Entry] | None = None) -> PublicIpList:
        """GET_PUBLIC_IPS: the newest first."""
        chosen = self.entries.values() if only is None else only
        return PublicIpList(
            tuple(PublicIp(entry.pnn, SockAddr(entry.address)) for entry in reversed(list(chosen)))
        )

    def info(self, entry: Entry) -> PublicIpInfo:
        """GET_PUBLIC_IP_INFO."""
        names = entry.interfaces
        active = names.index(entry.interface) if entry.interface in names else NOBODY
        ifaces = tuple(_iface(self.interfaces[name]) for name in names)
        return PublicIpInfo(PublicIp(entry.pnn, SockAddr(entry.address)), active, ifaces)

    def ifaces(self) -> IfaceList:
        """GET_IFACES: the newest first."""
        return IfaceList(tuple(_iface(each) for each in reversed(list(self.interfaces.values()))))


def _iface(interface: Interface) -> Iface:
    return Iface(interface.name, int(interface.is_up), interface.references)
