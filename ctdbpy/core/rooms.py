# SPDX-License-Identifier: GPL-3.0-or-later
"""Every room of one node's brain, and the order in which they are woken and look at each other's facts."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Protocol

from ctdbpy.core.effects import Announce, Exit, LogLevel
from ctdbpy.core.events.events import Events
from ctdbpy.core.events.health import Health
from ctdbpy.core.failover.addresses import Addresses
from ctdbpy.core.failover.connections import Connections
from ctdbpy.core.failover.homes import Homes
from ctdbpy.core.failover.placements import Placed
from ctdbpy.core.failover.takeovers import Takeovers
from ctdbpy.core.failover.upkeep import Upkeep
from ctdbpy.core.fencing.fencing import Fencing
from ctdbpy.core.jobs import Jobs
from ctdbpy.core.leader.cluster_lock import ClusterLock
from ctdbpy.core.leader.election import Election
from ctdbpy.core.leader.mesh import Mesh
from ctdbpy.core.leader.recovery import Recovery
from ctdbpy.core.leader.watch import Watch
from ctdbpy.core.membership.bans import Bans
from ctdbpy.core.membership.configuration import Configuration
from ctdbpy.core.membership.flags import Flags
from ctdbpy.core.membership.links import Links
from ctdbpy.core.membership.reasons import Accounts
from ctdbpy.core.membership.standing import Standing
from ctdbpy.core.memory import MemoryReport, report
from ctdbpy.core.procedures import Runner
from ctdbpy.core.records.attaches import Attaches
from ctdbpy.core.records.commits import Commits
from ctdbpy.core.records.freezes import Freezes
from ctdbpy.core.records.seqnums import Seqnums
from ctdbpy.core.records.traverses import Traverses
from ctdbpy.core.records.vacuum import Vacuum
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.core.statistics import Statistician
from ctdbpy.wire.constants import RunState


class _Machine(Protocol):
    """Something that wants to be woken."""

    @property
    def deadline_s(self) -> float | None: ...

    def wake(self, now_s: float) -> None: ...


class Rooms:
    """What handlers of controls work with."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.runner = Runner()
        self.routing = Routing(state)
        self.jobs = Jobs(state)
        self.events = Events(state)
        self.links = Links(state, self.routing)
        self.configuration = Configuration(state)
        self.flags = Flags(state, self.routing)
        self.health = Health(state, self.runner, self.routing, self.events, self.flags.change_own)
        self.accounts = Accounts(state)
        self.bans = Bans(state, self.routing, self.accounts)
        self.freezes = Freezes(state, self.runner, self.jobs)
        self.attaches = Attaches(state, self.runner)
        self.commits = Commits(state, self.runner, self.routing, self.jobs)
        self.seqnums = Seqnums(state, self.routing)
        self.traverses = Traverses(state, self.routing, self.jobs)
        self.vacuum = Vacuum(state, self.runner, self.routing, self.jobs)
        self.addresses = Addresses(state, self.runner, self.events.run)
        self.upkeep = Upkeep(state, self.runner, self.addresses)
        self.connections = Connections(state, self.routing, self.addresses.table)
        self.placed = Placed(state)
        self.homes = Homes(state, self.runner)
        self.takeovers = Takeovers(
            state,
            self.runner,
            self.routing,
            lambda pnn, why: self.bans.blame(pnn, self.bans.many, why),
            self.placed.planned,
            self.homes.read,
        )
        self.standing = Standing(state)
        self.cluster_lock = ClusterLock(state)
        self.election = Election(state, self.routing, self.cluster_lock)
        self.fencing = Fencing(state, self.runner)
        self.recovery = Recovery(state, self.runner, self.routing, self.jobs, self.bans, self.fencing)
        self.mesh = Mesh(state, self.bans)
        self.watch = Watch(
            state,
            self.runner,
            self.routing,
            self.election,
            self.recovery,
            self.mesh,
            self.fencing,
            self.cluster_lock,
        )
        self.statistician = Statistician(state)
        self.cluster_lock.on_latency = self.statistician.note_reclock
        self.cluster_lock.on_check_latency = self.statistician.note_reclock_check
        self._machines: tuple[_Machine, ...] = (
            self.routing,
            self.links,
            self.flags,
            self.health,
            self.standing,
            self.cluster_lock,
            self.election,
            self.watch,
            self.addresses,
            self.upkeep,
            self.connections,
            self.takeovers,
            self.traverses,
            self.seqnums,
            self.vacuum,
            self.statistician,
        )

    @property
    def deadline_s(self) -> float | None:
        """When the first machine or sleeping procedure wants to be woken."""
        return min(self._deadlines(), default=None)

    def wake(self, now_s: float) -> bool:
        """Wake everything whose time has come; whether there was anything."""
        self.runner.wake(now_s)
        woke = self.runner.has_ready
        for machine in self._machines:
            due_s = machine.deadline_s
            if due_s is not None and due_s <= now_s:
                machine.wake(now_s)
                woke = True
        return woke

    def settle(self) -> None:
        """Let the rooms see the facts as they are now; they may change them: repeat until quiet."""
        # First of all: whoever takes its addresses does not wait for long.
        self.addresses.settle()
        if self.flags.left:
            self.flags.left = False
            self.freezes.invalidate()
            self.runner.spawn("freeze all", self.freezes.freeze_all())
        if self.standing.stopped:
            self.standing.stopped = False
            self.runner.spawn("stand still", self.freezes.stand_still())
        self.election.settle()
        self.standing.settle()
        self.fencing.settle()
        self.watch.settle()
        self.attaches.settle()
        self.commits.settle()
        self.health.settle()
        self.upkeep.settle()
        self.takeovers.settle()
        self.placed.settle()
        self.connections.settle()
        self.vacuum.settle()
        self.bans.settle()
        self.accounts.settle()
        self.statistician.note_timeouts(self.routing.timeouts, self.traverses.timeouts)

    def memory(self) -> MemoryReport:
        """What this brain keeps in memory."""
        tables: dict[str, Sized | int] = {
            "controls waiting for other nodes": self.routing.outstanding,
            "jobs of workers": self.jobs.running,
            "clients waiting to attach": self.attaches.parked,
            "events that run or wait": self.events.running,
            "public addresses": self.addresses.table.entries,
        }
        return report(self.state, tables)

    def shut_down(self, reason: str) -> None:
        """End in an orderly way; asked twice, once is enough."""
        state = self.state
        if state.runstate is RunState.SHUTDOWN:
            return
        state.log(LogLevel.NOTICE, f"shutting down: {reason}")
        state.runstate = RunState.SHUTDOWN
        state.emit(Announce("shutting down", False))
        self.election.resign("it shuts down")
        for name in ("init", "setup", "startup"):
            # What only brings the node up need not be waited for any more.
            self.events.stop(name)
        self.runner.spawn("shut down", self._shut_down(reason))

    async def _shut_down(self, reason: str) -> None:
        handing = None
        if self.addresses.table.here and self.state.config.moves_addresses:
            self.addresses.drop_all("this node is shutting down")
            handing = self.runner.spawn("hand over", self.takeovers.hand_over())
        result = await self.events.run("shutdown")
        if not result.is_good:
            self.state.log(LogLevel.ERROR, result.text)
        if handing is not None:
            await handing
        await self.addresses.deeds.finish()
        self.state.emit(Exit(0, reason))

    def _deadlines(self) -> Iterator[float]:
        for machine in (self.runner, *self._machines):
            if machine.deadline_s is not None:
                yield machine.deadline_s
