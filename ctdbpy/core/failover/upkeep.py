# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping host, table and cluster alike: addresses where they should not be, interfaces that go down.

What this node can mend it mends at once; what takes a takeover run it asks for.

Source: reference/ctdb.md 7.14.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.failover.addresses import OTHER_ORDER, Addresses, full
from ctdbpy.core.failover.table import Entry
from ctdbpy.core.inputs import HostSeen
from ctdbpy.core.procedures import Runner
from ctdbpy.core.state import NOBODY, State
from ctdbpy.wire.constants import BROADCAST_CONNECTED
from ctdbpy.wire.srvids import SRVID_TAKEOVER_RUN
from ctdbpy.wire.structures import SrvidMessage

#: Between two asks for the same takeover run.
ASK_AGAIN_S: Final = 30.0
#: Between two tries to mend the same address: somebody else may put it wrong each time.
MEND_AGAIN_S: Final = 1.0


class Upkeep:
    """Looks at the host whenever it changes, and at the table at the end of each step."""

    def __init__(self, state: State, runner: Runner, addresses: Addresses) -> None:
        self._state = state
        self._runner = runner
        self._addresses = addresses
        self._table = addresses.table
        self._deeds = addresses.deeds
        self._mended_s: dict[str, float] = {}
        self._mends: set[str] = set()
        #: Addresses that were nowhere when a run was asked for last.
        self._asked: frozenset[str] = frozenset()
        self._seen = (0, False)
        self._ask_again_s: float | None = None

    # -- host and table --------------------------------------------------------------------------

    def see(self, seen: HostSeen) -> None:
        """The host is like this now: addresses that should not be there go, missing ones are put back."""
        if not self._state.config.puts_addresses:
            return
        self._deeds.see(seen)
        for change in self._table.see(seen):
            self._state.log(LogLevel.WARNING, change)
            self._addresses.news = change
        if self._state.config.moves_addresses:
            for entry in list(self._table.entries.values()):
                self._compare(entry)

    def mark_interface(self, name: str, is_up: bool) -> bool:
        """Scripts or an administrator say how an interface is; False if no address uses it."""
        interface = self._table.interfaces.get(name)
        if interface is None:
            return False
        if self._table.mark(interface, is_up):
            self._addresses.news = f"interface {name} is marked {'up' if is_up else 'down'}"
            self._state.log(LogLevel.WARNING, self._addresses.news)
            for entry in list(self._table.here.values()):
                self._compare(entry)
        return True

    def _compare(self, entry: Entry) -> None:
        if self._deeds.is_busy(entry.address) or not self._is_wrong(entry):
            return
        if entry.is_here and self._state.suspended and not self._deeds.carriers(entry.address):
            # Whoever holds it for the daemon has seen that the lease is over.
            self._state.log(LogLevel.WARNING, f"{full(entry)} is gone while this node stands still")
            self._addresses.drop(entry)
        else:
            self._mend(entry)

    def _is_wrong(self, entry: Entry) -> bool:
        carriers = self._deeds.carriers(entry.address)
        if not entry.is_here:
            return bool(carriers)
        if not entry.is_put or entry.is_releasing:
            return False
        if not self._table.interfaces[entry.interface].is_up and self._table.better_interface(entry):
            return True
        return self._state.config.puts_addresses and carriers != {entry.interface}

    def _mend(self, entry: Entry) -> None:
        if entry.address not in self._mends:
            self._mends.add(entry.address)
            self._runner.spawn(f"mend {entry.address}", self._mend_later(entry))

    async def _mend_later(self, entry: Entry) -> None:
        """Now, or a moment later if it was mended just now: somebody else may put it wrong each time."""
        again_s = self._mended_s.get(entry.address, 0.0) + MEND_AGAIN_S - self._state.now_s
        if entry.address in self._mended_s and again_s > 0:
            await self._runner.sleep(again_s)
        self._mends.discard(entry.address)
        if self._deeds.is_busy(entry.address) or not self._is_wrong(entry):
            return
        self._mended_s[entry.address] = self._state.now_s
        error = await self._mend_now(entry)
        if error and error != OTHER_ORDER:
            self._state.log(LogLevel.ERROR, f"{error}; it is tried again")
            self._mend(entry)
        elif self._table.find(entry.address) is not entry:
            self._mended_s.pop(entry.address, None)

    async def _mend_now(self, entry: Entry) -> str:
        carriers = self._deeds.carriers(entry.address)
        where = " and ".join(sorted(carriers)) or "no interface"
        if not entry.is_here:
            self._state.log(LogLevel.WARNING, f"{full(entry)} is on {where}, but not this node's: it goes")
            return await self._deeds.remove(entry)
        if not self._table.interfaces[entry.interface].is_up:
            better = self._table.better_interface(entry)
            if better:
                return await self._addresses.update(entry, better)
        text = f"{full(entry)} is on {where}: it belongs on {entry.interface}"
        self._state.log(LogLevel.WARNING, text)
        turn = entry.turn
        error = await self._deeds.put(entry)
        if not error and entry.turn == turn:
            self._deeds.announce(entry, tuple(entry.connections))
        return error

    # -- asking for takeover runs ------------------------------------------------------------------

    def settle(self) -> None:
        """For each change once; while addresses that this node could serve are nowhere, now and then."""
        state = self._state
        if not self._addresses.is_settled or not state.config.moves_addresses:
            return
        is_due = self._ask_again_s is not None and state.now_s >= self._ask_again_s
        facts = (self._table.changes, self._addresses.is_well)
        if is_due or facts != self._seen:
            self._seen = facts
            nowhere = (entry for entry in self._addresses.available() if entry.pnn == NOBODY)
            wanted = frozenset(entry.address for entry in nowhere)
            # While a run takes one after the other there is nothing to ask for.
            if wanted and (is_due or not wanted <= self._asked):
                why = f"{len(wanted)} addresses that it could serve are nowhere"
                self._addresses.news = self._addresses.news or why
                self._ask_again_s = state.now_s + ASK_AGAIN_S
            elif not wanted:
                self._ask_again_s = None
            self._asked = wanted
        if self._addresses.news:
            self._ask_for_run(self._addresses.news)
            self._addresses.news = ""

    def _ask_for_run(self, why: str) -> None:
        """Whoever leads shall see where addresses should be."""
        self._state.log(LogLevel.INFO, f"asks for a takeover run: {why}")
        run = SrvidMessage(self._state.pnn, 0)
        self._state.send_message(BROADCAST_CONNECTED, SRVID_TAKEOVER_RUN, run.pack())

    @property
    def deadline_s(self) -> float | None:
        """When a run is asked for again."""
        return self._ask_again_s if self._addresses.is_settled else None

    def wake(self, now_s: float) -> None:
        """Ask."""
        self.settle()
