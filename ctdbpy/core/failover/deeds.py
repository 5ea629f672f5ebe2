# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to this host for public addresses, as promises, and what was last seen of the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from ctdbpy.core.effects import AnnounceAddress, PutAddress, RemoveAddress, StopAnnouncing
from ctdbpy.core.failover.table import Entry
from ctdbpy.core.inputs import AddressDone, HostSeen
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.state import State
from ctdbpy.wire.structures import Connection, SockAddr

_NOWHERE: Final[frozenset[str]] = frozenset()


class Deeds:
    """Puts and removes. Where something else puts addresses, every deed is done as soon as it is wanted.

    Deeds on one address are done in order, so the last one wanted is what stands in the end.
    """

    def __init__(self, state: State, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        self._last_id = 0
        self._under_way: dict[int, Promise[str]] = {}
        #: By address: how many deeds on it are under way.
        self._busy: Counter[str] = Counter()
        #: By address: interfaces of the host that carry it.
        self._carriers: Mapping[str, frozenset[str]] = {}

    # -- doing -------------------------------------------------------------------------------------

    def put(self, entry: Entry) -> Promise[str]:
        """Have the entry's interface carry it; the promise is kept with what went wrong, or ""."""
        deed_id, promise = self._begin(entry.address)
        if not promise.done:
            self._state.emit(PutAddress(deed_id, entry.address, entry.prefix, entry.interface))
        return promise

    def remove(self, entry: Entry) -> Promise[str]:
        """Have no interface carry it, and its connections ended."""
        deed_id, promise = self._begin(entry.address)
        if not promise.done:
            self._state.emit(RemoveAddress(deed_id, entry.address, entry.prefix))
        return promise

    def announce(self, entry: Entry, connections: tuple[Connection, ...]) -> None:
        """Tell the network that the address is here, and wake the clients of these connections."""
        if self._is_real:
            self._state.emit(AnnounceAddress(entry.address, entry.interface, connections))

    def stop_announcing(self, entry: Entry) -> None:
        """Tell it no more."""
        if self._is_real:
            self._state.emit(StopAnnouncing(entry.address))

    def done(self, done: AddressDone) -> None:
        """A deed is done, or could not be."""
        promise = self._under_way.get(done.deed_id)
        if promise is not None:
            promise.resolve(done.error)

    async def finish(self) -> None:
        """Every deed wanted so far is done, or has failed."""
        for promise in list(self._under_way.values()):
            await promise

    @property
    def _is_real(self) -> bool:
        return self._state.config.puts_addresses

    def _begin(self, address: str) -> tuple[int, Promise[str]]:
        promise: Promise[str] = Promise()
        self._last_id += 1
        if not self._is_real:
            promise.resolve("")
            return self._last_id, promise
        deed_id = self._last_id
        self._under_way[deed_id] = promise
        self._busy[address] += 1
        promise.when_done(lambda: self._end(deed_id, address))
        limit_s = float(max(self._state.tunables.takeover_timeout, 1))
        return deed_id, self._runner.limit(promise, limit_s, f"this host has not done it in {limit_s:g} s")

    def _end(self, deed_id: int, address: str) -> None:
        del self._under_way[deed_id]
        self._busy[address] -= 1
        if not self._busy[address]:
            del self._busy[address]

    # -- seeing --------------------------------------------------------------------------------------

    def see(self, seen: HostSeen) -> None:
        """The host's addresses are these."""
        carriers: dict[str, set[str]] = {}
        for each in seen.addresses:
            carriers.setdefault(SockAddr.of(each.address).host, set()).add(each.interface)
        self._carriers = {address: frozenset(names) for address, names in carriers.items()}

    def carriers(self, address: str) -> frozenset[str]:
        """The interfaces that carried it when the host was last seen."""
        return self._carriers.get(address, _NOWHERE) if self._is_real else _NOWHERE

    @property
    def are_busy(self) -> bool:
        """Something is being done to some address."""
        return bool(self._busy)

    def is_busy(self, address: str) -> bool:
        """Something is being done to it: what is seen of it says nothing."""
        return address in self._busy
