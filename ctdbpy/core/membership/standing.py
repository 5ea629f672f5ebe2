# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this node may serve: leases of the others, a leader it can reach, and standing still without them.

A node in doubt stops first and asks then. It freezes every database, keeps what is in them, and
moves again only through a recovery by a leader who has a quorum.

Source: docs/decisions/005.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import Exit, LogLevel, TellGuard
from ctdbpy.core.inputs import Sight
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.state import NOBODY, Freeze, Peer, Quorum, State
from ctdbpy.wire.constants import Capability, NodeFlag, RunState

#: Databases freeze as soon as their workers get all locks; local programs hold those for moments.
STILL_WITHIN_S: Final = 2.0
#: A node in a recovery that has no lease yet is waited for so long.
PATIENCE_S: Final = 0.3
#: A service manager starts the daemon again; its databases come from the others.
EXIT_NOT_STILL: Final = 75
_LEAVING: Final = NodeFlag.STOPPED | NodeFlag.BANNED


class Standing:
    """This node's right to serve. `stopped` is true until somebody has frozen the databases."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._told: TellGuard | None = None
        self._leaderless_s: float | None = None
        self._still_by_s: float | None = None
        self._change: Promise[None] = Promise()
        #: Since when a map has waited for whom, who is stopped or banned and does not stand still yet.
        self._leaving_s: dict[int, float] = {}
        #: This node has just been suspended: databases have to be frozen.
        self.stopped = False

    # -- what the guard says ----------------------------------------------------------------------

    def lease_lost(self, text: str) -> None:
        """Others may go on without this node."""
        state = self._state
        state.has_lease = False
        if state.quorum is not Quorum.NONE:
            self.suspend(f"no lease: {text}")

    def lease_held(self) -> None:
        """Enough others say that they hear this node."""
        self._state.has_lease = True
        self.seen()

    def paused(self, seconds: float) -> None:
        """This host stood still; after so long the others have given it up, whatever the quorum."""
        text = f"this host stood still for {seconds:.2f} s"
        if seconds < self._state.silence_s:
            self._state.log(LogLevel.NOTICE, text)
        else:
            self._state.given_up = text
            self._state.stood_still_s = self._state.now_s
            self.suspend(text)

    # -- standing still -----------------------------------------------------------------------------

    def suspend(self, reason: str) -> None:
        """Stand still until a recovery; the first reason is kept."""
        state = self._state
        if state.is_inactive or state.runstate < RunState.STARTUP:
            return
        if not self._stands_still():
            # Again, if a recovery that failed afterwards had them move.
            self.stopped = True
            self._still_by_s = state.now_s + STILL_WITHIN_S
        if state.suspended:
            if any(each.freeze in (Freeze.THAWED, Freeze.THAWING) for each in state.databases.values()):
                # A recovery that is about to end has had them move: it must not end here.
                state.want_recovery(reason)
            return
        state.suspended = reason
        state.lineage.clear()
        state.log(LogLevel.WARNING, f"stands still, databases are frozen until the next recovery: {reason}")
        state.want_recovery(reason)

    def leader_unreachable(self, pnn: int, reason: str) -> None:
        """The leader's link broke: it will recover without us, so nothing may change here from now on."""
        if pnn == self._state.leader and self._state.quorum is not Quorum.NONE:
            self.suspend(f"leader {pnn} cannot be reached: {reason}")

    def obstacle(self) -> str:
        """Why this node must not serve now, "" if it may."""
        state = self._state
        if state.quorum is Quorum.NONE:
            return ""
        if not state.has_lease:
            return "too few nodes confirm that they hear it"
        if state.leader == NOBODY:
            return "nobody leads"
        if state.leader != state.pnn and not state.nodes[state.leader].is_connected:
            return f"leader {state.leader} cannot be reached"
        return ""

    async def lasting_obstacle(self, runner: Runner) -> str:
        """What keeps this node from serving also in a moment; the leases of one that returns come as soon."""
        until_s = self._state.now_s + PATIENCE_S
        while (obstacle := self.obstacle()) and self._state.now_s < until_s:
            await runner.limit(self.sight_changes(), until_s - self._state.now_s, None)
        return obstacle

    def recovered(self) -> None:
        """A recovery is over, and this node was part of it."""
        state = self._state
        if state.suspended:
            state.log(LogLevel.NOTICE, f"serves again; it stood still: {state.suspended}")
        state.suspended = ""
        state.lineage = {state.generation}
        state.serving = state.mapped | {*state.active(), *state.lmasters}
        state.given_up = ""

    # -- facts ----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Tell the guard what has changed; watch how long nobody has led."""
        state = self._state
        leads = state.leader != NOBODY and not state.is_electing
        if leads or state.quorum is Quorum.NONE or state.suspended:
            self._leaderless_s = None
        elif self._leaderless_s is None:
            self._leaderless_s = state.now_s + state.silence_s
            self._leader_lost()
        told = TellGuard(
            needed=self._needed(leads),
            leader=state.leader if state.quorum is not Quorum.NONE and state.is_led else NOBODY,
            linked=self._leased(),
            still=self._stands_still(),
            generation=state.generation,
            keeps=state.keeps_addresses,
        )
        if told != self._told:
            self._told = told
            if not told.needed and told.leader == NOBODY:
                state.has_lease = True
            state.emit(told)

    def _needed(self, leads: bool) -> int:
        """How many others have to confirm that they hear this node."""
        state = self._state
        if state.quorum is Quorum.MAJORITY:
            # With this node itself that is more than half of all.
            return (len(state.others()) + 1) // 2
        if state.quorum is Quorum.LOCK and not leads:
            # Whoever takes the lock next goes on without those whom it does not hear.
            return sum(node.is_connected for node in state.others())
        return 0

    def _leader_lost(self) -> None:
        """With a lock, whoever has lost sight of this node before may be next, and need not wait for it."""
        state = self._state
        if state.quorum is not Quorum.LOCK:
            return
        for node in state.others():
            has_left = node.flags & _LEAVING or state.sights.get(node.pnn) is Sight.GONE
            if not node.is_connected and not has_left:
                self.suspend(f"nobody leads, and node {node.pnn}, which cannot be reached, may lead next")
                return

    def _leased(self) -> tuple[int, ...]:
        """Whom the guard confirms that they are heard: whose link stands, and who is not left out."""
        state = self._state
        leader = state.peer(state.leader)
        if state.is_inactive and leader is not None and leader.is_connected:
            # A node that takes part in nothing speaks for its leader only.
            return () if state.is_leader else (leader.pnn,)
        return tuple(
            node.pnn for node in state.others() if node.is_connected and node.pnn not in state.left_out_s
        )

    # -- those that a recovery does without ---------------------------------------------------------

    def leave_out(self, lmasters: tuple[int, ...]) -> float:
        """Give no lease to whom a new map does without; seconds until the last one given has run out.

        Every member does so before it takes the map. So nobody who is not in it has a majority any more.
        Who is stopped or banned keeps its lease, to be a witness: it has that long to freeze its databases.
        """
        state = self._state
        if state.quorum is Quorum.NONE:
            return 0.0
        leaving = [node.pnn for node in state.others() if node.is_connected and node.flags & _LEAVING]
        self._leaving_s = {
            pnn: self._leaving_s.get(pnn, state.now_s)
            for pnn in leaving
            if state.sights.get(pnn) is Sight.LIVE
        }
        out = [
            node
            for node in state.others()
            if node.pnn not in lmasters
            # It takes part, in the map or not: a node that has just started does not know its capabilities.
            and node.pnn != state.leader
            and not node.flags & _LEAVING
            and node.capabilities & Capability.LMASTER
        ]
        linked = {node.pnn for node in out if node.is_connected}
        state.left_out_s = {pnn: state.left_out_s.get(pnn, state.now_s) for pnn in linked}
        left_s = [self._lease_left_s(node) for node in out]
        left_s += [since_s + state.silence_s - state.now_s for since_s in self._leaving_s.values()]
        return max(left_s, default=0.0)

    def sight_changes(self) -> Promise[None]:
        """Done when the guard sees some node in a new way."""
        if self._change.done:
            self._change = Promise()
        return self._change

    def seen(self) -> None:
        """The guard has seen something new."""
        self._change.resolve(None)

    def _lease_left_s(self, node: Peer) -> float:
        state = self._state
        if state.sights.get(node.pnn) is not Sight.LIVE:
            # It has stopped, has not been heard for as long as a lease lasts, or knows no leases.
            return 0.0
        since_s = state.left_out_s.get(node.pnn, state.out_since_s.get(node.pnn, 0.0))
        return max(0.0, since_s + state.silence_s - state.now_s)

    def _stands_still(self) -> bool:
        state = self._state
        if not state.suspended and not state.is_inactive:
            return False
        if state.holds_addresses:
            return False
        return all(database.is_frozen for database in state.databases.values())

    def _end_unless_still(self) -> None:
        """What cannot be frozen local programs go on changing; without their daemon they end, too."""
        state = self._state
        moving = [each.name for each in state.databases.values() if not each.is_frozen]
        if state.suspended and not state.map_is_new and moving:
            text = f"cannot stand still: {len(moving)} databases are not frozen after {STILL_WITHIN_S:g} s"
            state.log(
                LogLevel.ERROR, f"{text} ({', '.join(sorted(moving)[:3])} …); see what holds their files"
            )
            state.emit(Exit(EXIT_NOT_STILL, text))

    def lock_lost(self, reason: str) -> None:
        """Where the lock is the quorum, its next holder does not wait for this node."""
        if self._state.quorum is Quorum.LOCK:
            self.suspend(f"the cluster lock is lost: {reason}")

    @property
    def deadline_s(self) -> float | None:
        """When this node has been without a leader for too long, or does not come to stand still."""
        moments = (self._leaderless_s, self._still_by_s)
        return min((each for each in moments if each is not None), default=None)

    def wake(self, now_s: float) -> None:
        """Stand still: whoever has become leader does not count on this node."""
        if self._still_by_s is not None and now_s >= self._still_by_s:
            self._still_by_s = None
            self._end_unless_still()
        if self._leaderless_s is not None and now_s >= self._leaderless_s:
            self._leaderless_s = None
            self.suspend("nobody leads")
