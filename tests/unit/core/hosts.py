# SPDX-License-Identifier: GPL-3.0-or-later
"""A host made of dictionaries: what the core does to addresses is done at once, and seen."""

from __future__ import annotations

from ctdbpy.core.effects import PutAddress, RemoveAddress
from ctdbpy.core.inputs import AddressDone, HostAddress, HostSeen, Input, LinkState


class FakeHost:
    """Interfaces, whether they are up, and the addresses on them; those in `refusing` cannot be put."""

    def __init__(self) -> None:
        self.links = {"eth0": True, "eth1": True}
        self.carried: dict[str, tuple[int, str]] = {}
        self.refusing: set[str] = set()
        #: Addresses that cannot be removed.
        self.stuck: set[str] = set()
        #: While this is true nothing is done, and deeds wait.
        self.is_held = False
        self.held: list[PutAddress | RemoveAddress] = []

    def take(self, deed: PutAddress | RemoveAddress) -> list[Input]:
        """Do it, unless deeds are held back."""
        if self.is_held:
            self.held.append(deed)
            return []
        return self.do(deed)

    def release(self) -> list[Input]:
        """Do what was held back."""
        self.is_held = False
        held, self.held = self.held, []
        return [happened for deed in held for happened in self.do(deed)]

    def do(self, deed: PutAddress | RemoveAddress) -> list[Input]:
        """What follows from a deed."""
        match deed:
            case PutAddress(deed_id, address, prefix, interface):
                if address in self.refusing:
                    return [AddressDone(deed_id, "the kernel refuses")]
                self.carried[address] = (prefix, interface)
            case RemoveAddress(deed_id, address):
                if address in self.stuck:
                    return [AddressDone(deed_id, "the kernel keeps it")]
                self.carried.pop(address, None)
        return [AddressDone(deed.deed_id), self.seen()]

    def seen(self) -> HostSeen:
        """The host as it is now."""
        links = tuple(LinkState(name, is_up) for name, is_up in self.links.items())
        carried = self.carried.items()
        return HostSeen(links, tuple(HostAddress(each, prefix, name) for each, (prefix, name) in carried))
