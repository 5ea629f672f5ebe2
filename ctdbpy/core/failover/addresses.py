# SPDX-License-Identifier: GPL-3.0-or-later
"""This node's public addresses: taking one, releasing one, dropping all.

Taking: put on an interface, announced at once, local programs told; then event scripts hear of it. Releasing:
local programs told, taken from the interface, its connections ended; then scripts. With `scripts_first`
scripts have run before the address moves. A node that must not serve drops everything in the same step.

The last order for an address wins: whoever waited for an earlier one is told that another came.

Source: reference/ctdb.md 7.14; docs/decisions/007.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ctdbpy.core.effects import LogLevel, ReadPublicAddresses
from ctdbpy.core.failover.deeds import Deeds
from ctdbpy.core.failover.table import Entry, Table
from ctdbpy.core.inputs import PublicAddress, PublicAddressesRead
from ctdbpy.core.procedures import Procedure, Promise, Runner
from ctdbpy.core.state import NOBODY, State
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, NodeFlag, RunState
from ctdbpy.wire.srvids import SRVID_REBALANCE_NODE, SRVID_RELEASE_IP, SRVID_TAKE_IP
from ctdbpy.wire.structures import Connection

#: Said to a leader whose order comes while this node recovers: it will order again.
IN_RECOVERY: Final = "this node is in recovery"
OTHER_ORDER: Final = "another order for it came meanwhile"

DROP_AGAIN_S: Final = 1.0
#: So many addresses are named in one line of the log.
NAMES_MAX: Final = 20

_Event = Callable[..., Promise[Any]]


class Addresses:
    """What this node does with its public addresses. run_event(name, *args): runs event scripts."""

    def __init__(self, state: State, runner: Runner, run_event: _Event) -> None:
        self._state = state
        self._runner = runner
        self._run_event = run_event
        self.table = Table(state.pnn)
        self.deeds = Deeds(state, runner)
        self._releases: dict[str, Procedure[str]] = {}
        #: Scripts that have not said yet how they did, by address.
        self._takeips: dict[str, Procedure[str]] = {}
        #: Why a takeover run has to be asked for, "" if it has not.
        self.news = ""
        self._unsettled_since_s: float | None = None
        self._reads: dict[int, Promise[PublicAddressesRead]] = {}
        self._last_read = 0

    def begin(self) -> None:
        """Know the addresses of the file that was there at the start."""
        for each in self._state.config.public_addresses:
            if problem := self.table.add(each):
                self._state.log(LogLevel.ERROR, f"public address {each.address} is left out: {problem}")

    # -- taking --------------------------------------------------------------------------------------

    def obstacle(self) -> str:
        """Why this node must take no address now, "" if it may."""
        state = self._state
        if state.runstate is RunState.SHUTDOWN:
            return "this node is shutting down"
        if state.is_inactive:
            return "this node is banned or stopped"
        if state.is_recovering or state.suspended:
            return IN_RECOVERY
        return ""

    async def take(self, entry: Entry) -> str:
        """Serve an address; once it stands, or with what hinders it. Scripts may go on after that."""
        if problem := self.obstacle():
            return problem
        interface = self.table.best_interface(entry)
        if not interface:
            return f"no interface of {entry.address} is up"
        if entry.is_put and not entry.is_releasing:
            if better := self.table.better_interface(entry):
                return await self.update(entry, better)
            if entry.owes_scripts and entry.address not in self._takeips:
                self._tell_scripts(entry)
            return ""
        return await self._take(entry, interface)

    async def _take(self, entry: Entry, interface: str) -> str:
        turn = self._turn(entry)
        self.table.occupy(entry, interface)
        entry.is_put = False
        entry.owes_scripts = True
        self._state.log(LogLevel.NOTICE, f"takes {full(entry)} on interface {interface}")
        if self._state.config.scripts_first:
            self._tell_scripts(entry)
            problem = await self._takeips[entry.address]
            if entry.turn != turn:
                return OTHER_ORDER
            if problem:
                self.table.vacate(entry)
                return problem
        # What comes while it is put is a connection to this node already.
        inherited = tuple(entry.connections)
        error = await self.deeds.put(entry)
        if entry.turn != turn:
            return OTHER_ORDER
        if error:
            self.drop(entry)
            return f"cannot put {full(entry)} on {interface}: {error}"
        entry.is_put = True
        self._announce(entry, inherited)
        if not self._state.config.scripts_first:
            self._tell_scripts(entry)
        return ""

    def _announce(self, entry: Entry, inherited: tuple[Connection, ...]) -> None:
        """Programs here and on the network learn who serves it. Clients woken once connect anew."""
        self.deeds.announce(entry, inherited)
        for connection in inherited:
            entry.connections.pop(connection, None)
        if inherited:
            self.table.news.add(entry.address)
        self._tell_programs(SRVID_TAKE_IP, entry)

    async def update(self, entry: Entry, interface: str) -> str:
        """Move it to another interface of this node; its connections live on."""
        turn = self._turn(entry)
        old = entry.interface
        self.table.occupy(entry, interface)
        self._state.log(LogLevel.NOTICE, f"moves {full(entry)} from interface {old} to {interface}")
        error = await self.deeds.put(entry)
        if entry.turn != turn:
            return OTHER_ORDER
        if error:
            if old in self.table.interfaces:
                self.table.occupy(entry, old)
            return f"cannot move {full(entry)} to {interface}: {error}"
        self.deeds.announce(entry, tuple(entry.connections))
        result = await self._run_event("updateip", old, interface, entry.address, str(entry.prefix))
        return "" if result.is_good else str(result.text)

    def _tell_scripts(self, entry: Entry) -> None:
        """Event takeip; who wants to know how it went awaits it in `scripts_problem`."""
        args = (entry.interface, entry.address, str(entry.prefix))
        turn = entry.turn

        async def tell() -> str:
            result = await self._run_event("takeip", *args)
            if self._takeips.get(entry.address) is procedure:
                del self._takeips[entry.address]
            if entry.turn == turn:
                entry.owes_scripts = not result.is_good
            if not result.is_good:
                self._state.log(LogLevel.ERROR, f"{entry.address} is here, but {result.text}")
            return "" if result.is_good else str(result.text)

        procedure = self._runner.spawn(f"takeip {entry.address}", tell())
        self._takeips[entry.address] = procedure

    async def scripts_problem(self) -> str:
        """Once the scripts for all addresses taken so far have run: what they have against it."""
        problems = [problem for each in list(self._takeips.values()) if (problem := await each)]
        return "; ".join(problems)

    # -- releasing -----------------------------------------------------------------------------------

    async def release(self, entry: Entry, pnn: int) -> str:
        """Serve an address no more; `pnn` is who will. Once it is gone, or with what hinders it."""
        if not entry.is_here and not self.deeds.carriers(entry.address):
            self._settle_at(entry, pnn)
            return ""
        under_way = self._releases.get(entry.address)
        if under_way is None or not entry.is_releasing:
            entry.is_releasing = True
            under_way = self._runner.spawn(f"release {entry.address}", self._release(entry, pnn))
            self._releases[entry.address] = under_way
        problem = await under_way
        if not problem:
            self._settle_at(entry, pnn)
        return problem

    async def _release(self, entry: Entry, pnn: int) -> str:
        turn = self._turn(entry)
        where = f"node {pnn}" if pnn != NOBODY else "nobody"
        self._state.log(LogLevel.NOTICE, f"releases {full(entry)}, {where} will have it")
        interface = entry.interface
        self._say_goodbye(entry)
        if self._state.config.scripts_first and interface:
            await self._releaseip(entry, interface)
        error = "" if entry.turn != turn else await self.deeds.remove(entry)
        if entry.turn != turn:
            return OTHER_ORDER
        self._releases.pop(entry.address, None)
        entry.is_releasing = False
        if error:
            return f"cannot release {full(entry)}: {error}"
        self.table.vacate(entry)
        entry.is_put = False
        if interface and not self._state.config.scripts_first:
            self._runner.spawn(f"releaseip {entry.address}", self._releaseip(entry, interface))
        return ""

    def _say_goodbye(self, entry: Entry) -> None:
        self.deeds.stop_announcing(entry)
        self._tell_programs(SRVID_RELEASE_IP, entry)

    async def _releaseip(self, entry: Entry, interface: str) -> None:
        """Event releaseip. The address goes whatever scripts say, as with upstream."""
        result = await self._run_event("releaseip", interface, entry.address, str(entry.prefix))
        if not result.is_good:
            self._state.log(LogLevel.ERROR, f"{entry.address} is released, but {result.text}")

    def _settle_at(self, entry: Entry, pnn: int) -> None:
        """It is not here, and will be there."""
        if entry.is_here:
            return
        if entry.is_leaving and self.table.find(entry.address) is entry:
            self.table.forget(entry)
        self.table.place(entry, NOBODY if pnn == self._state.pnn else pnn)

    def drop_all(self, reason: str) -> None:
        """Release everything in this very step, whatever scripts would like; they hear of it afterwards."""
        here = list(self.table.here.values())
        names = ", ".join(entry.address for entry in here[:NAMES_MAX])
        more = f" and {len(here) - NAMES_MAX} more" if len(here) > NAMES_MAX else ""
        self._state.log(LogLevel.WARNING, f"drops public addresses {names}{more}: {reason}")
        for entry in here:
            self.drop(entry)

    def drop(self, entry: Entry) -> None:
        """Release an address in this very step."""
        self._turn(entry)
        self._releases.pop(entry.address, None)
        interface = entry.interface
        gone = self.deeds.remove(entry)
        self._say_goodbye(entry)
        entry.is_put = False
        self.table.vacate(entry)
        self._runner.spawn(f"drop {entry.address}", self._finish_drop(entry, interface, gone))
        self._settle_at(entry, NOBODY)

    async def _finish_drop(self, entry: Entry, interface: str, gone: Promise[str]) -> None:
        turn = entry.turn
        while (error := await gone) and entry.turn == turn:
            self._state.log(LogLevel.ERROR, f"cannot drop {full(entry)}: {error}; it is tried again")
            await self._runner.sleep(DROP_AGAIN_S)
            if entry.turn == turn:
                gone = self.deeds.remove(entry)
        await self._releaseip(entry, interface)

    # -- what is configured --------------------------------------------------------------------------

    def add(self, wanted: PublicAddress) -> str:
        """ADD_PUBLIC_IP: know another address; says why not, if it cannot be."""
        problem = self.table.add(wanted)
        if not problem:
            self._state.log(LogLevel.NOTICE, f"knows public address {wanted.address} from now on")
        return problem

    def delete(self, entry: Entry) -> None:
        """DEL_PUBLIC_IP: forget one; if it is here, once it has been released."""
        if entry.is_here:
            entry.is_leaving = True
            self.news = f"public address {entry.address} is deleted here"
        else:
            self.table.forget(entry)
        self._state.log(LogLevel.NOTICE, f"public address {entry.address} is deleted")

    async def reload(self) -> str:
        """RELOAD_PUBLIC_IPS: know what the file says now; what was wrong with it, or ""."""
        self._last_read += 1
        promise: Promise[PublicAddressesRead] = Promise()
        self._reads[self._last_read] = promise
        self._state.emit(ReadPublicAddresses(self._last_read))
        read = await promise
        if read.error:
            return f"cannot reload the public addresses: {read.error}"
        listed = {each.address: each for each in read.addresses}
        for entry in list(self.table.entries.values()):
            wanted = listed.pop(entry.address, None)
            if wanted is None:
                self.delete(entry)
            elif (wanted.prefix, wanted.interfaces) != (entry.prefix, entry.interfaces):
                self.table.change(entry, wanted)
            elif entry.is_leaving:
                entry.is_leaving = False
        if listed:
            self._state.send_message(BROADCAST_CONNECTED, SRVID_REBALANCE_NODE, U32.pack(self._state.pnn))
        problems = [problem for each in listed.values() if (problem := self.add(each))]
        return "; ".join(problems)

    def file_read(self, read: PublicAddressesRead) -> None:
        """The file was read, or could not be."""
        promise = self._reads.pop(read.read_id, None)
        if promise is not None:
            promise.resolve(read)

    # -- what is available ---------------------------------------------------------------------------

    def available(self) -> list[Entry]:
        """The addresses that this node could serve now."""
        if not self.is_well:
            return []
        return [entry for entry in self.table.entries.values() if self.table.can_carry(entry)]

    @property
    def is_well(self) -> bool:
        """This node may serve addresses."""
        state = self._state
        hindered = state.own.flags & (NodeFlag.INACTIVE | NodeFlag.DISABLED)
        return state.runstate is RunState.RUNNING and not hindered and not state.suspended

    # -- facts -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Drop everything if this node must not serve."""
        state = self._state
        if not state.config.moves_addresses:
            return
        if self.is_settled:
            self._unsettled_since_s = None
        elif self._unsettled_since_s is None:
            self._unsettled_since_s = state.now_s
        if (reason := self._reason_to_drop()) and self.table.here:
            self.drop_all(reason)
        state.holds_addresses = bool(self.table.here) or self.deeds.are_busy

    @property
    def is_settled(self) -> bool:
        """The cluster is consistent, as far as this node knows."""
        return not self._state.is_recovering and self._state.leader != NOBODY

    def _reason_to_drop(self) -> str:
        state = self._state
        if state.runstate is RunState.SHUTDOWN:
            return "this node is shutting down"
        if state.is_inactive:
            return "this node is banned or stopped"
        if state.given_up:
            return state.given_up
        if state.suspended and not (state.keeps_addresses and state.has_majority):
            return f"this node stands still: {state.suspended}"
        due_s = self._drop_s
        if due_s is not None and state.now_s >= due_s:
            return f"no recovery has succeeded for {state.tunables.recovery_drop_all_ips} s"
        return ""

    @property
    def _drop_s(self) -> float | None:
        if self._unsettled_since_s is None:
            return None
        return self._unsettled_since_s + self._state.tunables.recovery_drop_all_ips

    @property
    def deadline_s(self) -> float | None:
        """When addresses have to be dropped, for no recovery succeeds."""
        return self._drop_s if self.table.here else None

    def wake(self, now_s: float) -> None:
        """Look again."""
        self.settle()

    def validate(self) -> None:
        """Every relation between table and standing."""
        state, table = self._state, self.table
        for entry in table.entries.values():
            assert (entry.pnn == state.pnn) is entry.is_here, entry
            assert not entry.is_put or entry.is_here, entry
            assert entry.is_here is (entry.address in table.here), entry
        for interface in table.interfaces.values():
            carried = sum(entry.interface == interface.name for entry in table.here.values())
            assert interface.references == carried, interface
        if state.config.moves_addresses and (state.is_inactive or state.given_up):
            assert not table.here, table.here

    # -- in detail ---------------------------------------------------------------------------------

    def _turn(self, entry: Entry) -> int:
        entry.turn += 1
        return entry.turn

    def _tell_programs(self, srvid: int, entry: Entry) -> None:
        self._state.send_message(self._state.pnn, srvid, entry.address.encode() + b"\0")


def full(entry: Entry) -> str:
    """As it is written in the file."""
    return f"{entry.address}/{entry.prefix}"
