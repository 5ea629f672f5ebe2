# SPDX-License-Identifier: GPL-3.0-or-later
"""Who leads: claims, broadcasts, and the silence that ends a leader's time.

Messages are upstream's. A leader says so each second. Who may lead and has no leader claims; every node
compares claims in the same way, so no votes are counted, and the best one has won when every linked
node has shown its claim, or a moment has passed without a better one. A leader who lives is not
put to a vote: whoever follows it tells a claimant so. Where there is a cluster lock, the winner
takes it first.

Source: reference/ctdb.md 7.11.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.inputs import LockOutcome
from ctdbpy.core.leader.cluster_lock import ClusterLock
from ctdbpy.core.procedures import Promise
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import DEAD, NOBODY, Quorum, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_ALL, BROADCAST_CONNECTED, Capability, NodeFlag, RecoveryMode
from ctdbpy.wire.srvids import SRVID_ELECTION, SRVID_LEADER
from ctdbpy.wire.structures import ElectionMessage, Timeval

#: Nodes that do not show their claim (upstream's do not, if it is worse) are waited for so long.
ELECTION_S: Final = 0.25
BROADCAST_INTERVAL_S: Final = 1.0
#: A node that starts listens for a leader so long before it calls an election.
FIRST_WAIT_S: Final = 1.5
#: A node that has come to where it may lead listens so long: a leader tells it at once.
SHORT_WAIT_S: Final = 0.2
#: Led, as others say, by a node that it cannot reach, a node asks again after so long.
HEARSAY_S: Final = 1.0
#: Waits between attempts to take the cluster lock; the last one repeats.
LOCK_WAITS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
#: A node whose file system denies it the lock, held elsewhere or not, lets the others try for so long.
YIELD_S: Final = 2.0
#: With a majority, a lock refused so often is held by nobody who counts.
LOCK_REFUSALS: Final = 2
#: Priority time of a node that may not lead: later than any other.
NEVER: Final = Timeval(0x7FFFFFFF, 0)
#: And of one that has no lease: it may have one in a moment, so it has not shown its claim yet.
NOT_NOW: Final = Timeval(0x7FFFFFFE, 0)


class Election:
    """This node's part in elections. `state.leader` is who leads as far as we know."""

    def __init__(self, state: State, routing: Routing, lock: ClusterLock) -> None:
        self._state = state
        self._routing = routing
        self._lock = lock
        self._since = Timeval(0, 0)
        self._ends_s: float | None = None
        self._silence_s: float | None = None
        self._broadcast_s: float | None = None
        #: Claims of this election by pnn, and the nodes that have been shown ours.
        self._claims: dict[int, ElectionMessage] = {}
        self._shown: set[int] = set()
        self._is_taking = False
        self._take_again_s: float | None = None
        self._refusals = 0
        self._yields_until_s = 0.0
        self._could_lead = False
        #: Who told of a leader that cannot be reached from here, as long as that is what we go by.
        self._teller: int | None = None
        self._said = ""

    @property
    def in_progress(self) -> bool:
        """True until the winner is known, and has the cluster lock if there is one."""
        return self._ends_s is not None or self._is_taking

    def begin(self) -> None:
        """This node starts: alone it leads at once, otherwise it listens first."""
        state = self._state
        self._since = state.timeval(state.now_s)
        state.listen(SRVID_LEADER, self._leader_heard)
        state.listen(SRVID_ELECTION, self._claim_heard)
        self._lock.on_lost = lambda reason: self.resign(f"the cluster lock is lost: {reason}")
        self._silence_s = state.now_s + FIRST_WAIT_S
        self._could_lead = state.can_lead()

    # -- what other nodes say -------------------------------------------------------------------

    def _leader_heard(self, source: int, data: bytes) -> None:
        try:
            leader = U32.unpack(data)
        except ProtocolError as reason:
            self._state.log(LogLevel.WARNING, f"leader broadcast dropped: {reason}")
            return
        state = self._state
        if leader == NOBODY:
            self._nobody_heard(source)
        elif leader == state.pnn or state.peer(leader) is None:
            return
        elif source != leader:
            self._hearsay(source, leader)
        elif state.is_leader and not self.in_progress:
            self.force(f"node {leader} says that it leads, too")
        elif self._has_live_leader and leader != state.leader:
            # Both cannot be followed. The newcomer gives way, or cannot even reach the other; unless the
            # other follows the newcomer itself (as it won here, and was never heard to lead): it is asked.
            self._tell_leader(leader)
            state.send_message(state.leader, SRVID_LEADER, U32.pack(NOBODY))
        else:
            if leader != state.leader or self.in_progress:
                state.log(LogLevel.NOTICE, f"leader is node {leader}")
            self._end_round()
            self._follow(leader)

    def _nobody_heard(self, source: int) -> None:
        """A node knows no leader: it resigned, or looks for one."""
        state = self._state
        if source == state.pnn:
            return
        if source == state.leader and not self.in_progress:
            state.log(LogLevel.NOTICE, f"leader {source} leads no more")
            self._forget_leader()
        elif self.in_progress:
            return
        elif self._has_live_leader:
            self._tell_leader(source)
            return
        elif self._goes_by_hearsay(source):
            return
        self._follow(NOBODY)
        self._begin_round()

    def _hearsay(self, source: int, leader: int) -> None:
        """A node tells who leads it. A leader that we can reach would say so itself."""
        state = self._state
        if state.nodes[leader].is_connected:
            if source == state.leader and not self.in_progress:
                state.log(LogLevel.NOTICE, f"leader is node {leader}, says node {source}")
                self._follow(leader)
            return
        if state.is_leader and not self.in_progress:
            self.resign(f"node {source} is led by node {leader}, which cannot be reached from here")
        self._say(f"leader {leader}, named by node {source}, cannot be reached from here")
        self._end_round()
        self._follow(leader)
        self._teller = source
        self._silence_s = state.now_s + HEARSAY_S

    def _claim_heard(self, _source: int, data: bytes) -> None:
        try:
            theirs = ElectionMessage.unpack(data)
        except ProtocolError as reason:
            self._state.log(LogLevel.WARNING, f"election message dropped: {reason}")
            return
        state = self._state
        if theirs.pnn == state.pnn or state.peer(theirs.pnn) is None:
            return
        if not self.in_progress:
            if self._has_live_leader and theirs.pnn != state.leader:
                self._tell_leader(theirs.pnn)
                return
            if self._goes_by_hearsay(theirs.pnn):
                return
            self._begin_round()
        self._claims[theirs.pnn] = theirs
        if theirs.pnn not in self._shown:
            self._shown.add(theirs.pnn)
            state.send_message(theirs.pnn, SRVID_ELECTION, self._claim().pack())
        self._judge()

    def link_up(self, pnn: int) -> None:
        """A node that has just come need not wait for the next broadcast, nor we for its."""
        state = self._state
        if state.is_leader and not self.in_progress:
            self._tell_leader(pnn)
        elif self.in_progress and pnn not in self._shown:
            self._shown.add(pnn)
            state.send_message(pnn, SRVID_ELECTION, self._claim().pack())
        elif all(node.is_connected for node in state.others()):
            self._listen_for(SHORT_WAIT_S)

    def link_down(self, pnn: int) -> None:
        """The leader cannot be reached: no use in waiting for its silence."""
        state = self._state
        self._claims.pop(pnn, None)
        if pnn == state.leader:
            self._forget_leader()
            if self.in_progress:
                self._judge()
            elif state.can_lead():
                self.force(f"leader {pnn} is gone")
            else:
                # Often only for a moment: the lease that the leader's silence has ended is there without it.
                self._begin_round()
                state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(NOBODY))
        elif self.in_progress:
            self._judge()

    # -- what this node does --------------------------------------------------------------------

    def force(self, reason: str) -> None:
        """Call an election; nothing happens while one is under way."""
        state = self._state
        if self.in_progress:
            return
        self._say(f"election: {reason}")
        state.set_recmode(RecoveryMode.ACTIVE, "an election begins")
        self._begin_round()
        self._broadcast_s = None
        self._silence_s = None
        self._shown.update(node.pnn for node in state.others() if node.is_connected)
        state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(NOBODY))
        state.send_message(BROADCAST_ALL, SRVID_ELECTION, self._claim().pack())
        self._judge()

    def settle(self) -> None:
        """Look whether this node may still lead, or may again."""
        state = self._state
        can_lead = state.can_lead()
        if can_lead and not self._could_lead:
            self._listen_for(SHORT_WAIT_S)
            if self._ends_s is not None:
                # In the middle of an election: its claim is another one now, and somebody waits for it.
                self._shown.clear()
                self._show_claim()
                self._judge()
        self._could_lead = can_lead
        if not can_lead:
            if state.is_inactive:
                self._since = state.timeval(state.now_s)
            self.resign("it may not lead")
        elif not state.others():
            if not self._leads and not self._is_taking:
                state.leader = state.pnn
                self._take_lead()
        elif state.leader == NOBODY and not self.in_progress and self._silence_s is None:
            self._silence_s = state.now_s + state.config.leader_timeout_s
        state.is_electing = self.in_progress

    @property
    def deadline_s(self) -> float | None:
        """The next broadcast, the end of an election or of a leader's silence, the next try for the lock."""
        moments = (self._ends_s, self._silence_s, self._broadcast_s, self._take_again_s)
        return min((each for each in moments if each is not None), default=None)

    def wake(self, now_s: float) -> None:
        """Broadcast, end an election, call one, or try for the lock again."""
        if self._ends_s is not None and now_s >= self._ends_s:
            self._end()
        if self._take_again_s is not None and now_s >= self._take_again_s:
            self._take_again_s = None
            self._take_lead()
        if self._silence_s is not None and now_s >= self._silence_s:
            self._silence_s = None
            if not self.in_progress and not self._state.is_leader:
                self._forget_leader()
                if self._state.can_lead():
                    self.force("no leader was heard")
        if self._broadcast_s is not None and now_s >= self._broadcast_s:
            self._broadcast()

    def retake_lock(self) -> Promise[None]:
        """Done when a leader without the cluster lock has tried once more: its holder may have died just now.

        The others look in each recovery whether the lock could be had, and take it for useless if so.
        """
        promise: Promise[None] = Promise()
        if not self._leads or not self._lock.is_needed or self._lock.is_held:
            promise.resolve(None)
            return promise

        def answered(outcome: LockOutcome, text: str) -> None:
            self._lock_answered(outcome, text)
            promise.resolve(None)

        self._take_again_s = None
        self._lock.take(answered)
        return promise

    def resign(self, reason: str) -> None:
        """Lead no more: say so, and let a claim that loses to everybody call the others to claim."""
        state = self._state
        if self._is_taking or self._lock.is_trying or self._lock.is_held:
            self._stop_taking(reason)
        if not state.is_leader:
            return
        state.log(LogLevel.NOTICE, f"this node leads no more: {reason}")
        state.note("leader", state.pnn, f"leads no more: {reason}")
        self._forget_leader()
        self._end_round()
        self._broadcast_s = None
        self._silence_s = state.now_s + state.config.leader_timeout_s if state.others() else None
        self._send_worst_claim()

    # -- an election ----------------------------------------------------------------------------

    def _begin_round(self) -> None:
        self._teller = None
        self._claims.clear()
        self._shown.clear()
        self._ends_s = self._state.now_s + ELECTION_S

    def _end_round(self) -> None:
        self._ends_s = None
        self._claims.clear()
        if self._is_taking:
            self._stop_taking("another node leads")

    def _judge(self) -> None:
        """Whose claim is the best so far; with all of them known there is nothing to wait for."""
        state = self._state
        if self._ends_s is None:
            return
        claims = [each for each in self._claims.values() if is_eligible(each)]
        if self._may_claim:
            claims.append(self._claim())
        leader = best(claims).pnn if claims else NOBODY
        state.leader = leader
        self._broadcast_s = None
        self._silence_s = None
        if leader != state.pnn:
            return
        self._show_claim()
        others = {node.pnn for node in state.others() if node.is_connected}
        if others <= {pnn for pnn, claim in self._claims.items() if claim.priority_time != NOT_NOW}:
            self._end()

    def _show_claim(self) -> None:
        """Send our claim to every linked node that has not seen it."""
        state = self._state
        for node in state.others():
            if node.is_connected and node.pnn not in self._shown:
                self._shown.add(node.pnn)
                state.send_message(node.pnn, SRVID_ELECTION, self._claim().pack())

    def _end(self) -> None:
        state = self._state
        self._ends_s = None
        if state.is_leader:
            self._take_lead()
        elif state.leader == NOBODY and self._may_claim:
            self.force("nobody claimed to lead")
        else:
            self._follow(state.leader)
            if not self._lock.is_needed:
                # It says at once that it leads; nothing else keeps it from that.
                self._silence_s = state.now_s + HEARSAY_S

    def _take_lead(self) -> None:
        """Lead, once the cluster lock is ours if there is one."""
        if not self._lock.is_needed or self._lock.is_held:
            self._win()
            return
        self._is_taking = not self._leads
        self._lock.take(self._lock_answered)

    def _lock_answered(self, outcome: LockOutcome, text: str) -> None:
        state = self._state
        if not self._is_taking and not self._leads:
            return
        if outcome is LockOutcome.HELD:
            self._is_taking = False
            self._refusals = 0
            self._win()
            return
        wait_s = LOCK_WAITS_S[min(self._refusals, len(LOCK_WAITS_S) - 1)]
        self._refusals += 1
        self._take_again_s = state.now_s + wait_s
        if self._leads:
            return
        if outcome is not LockOutcome.CONTENDED and any(node.is_connected for node in state.others()):
            self._say(f"cannot lead without the cluster lock: {text or outcome.value}")
            self._yield()
        elif state.quorum is not Quorum.MAJORITY or len(state.others()) < 2:
            self._say(f"cannot lead without the cluster lock: {text or outcome.value}")
        elif self._refusals > LOCK_REFUSALS:
            # Whoever holds it stands still or is cut off; the majority is here.
            self._say(
                "leads without the cluster lock, which is held elsewhere: the majority is here; tries on"
            )
            self._is_taking = False
            self._win()

    def _yield(self) -> None:
        """Let another node win: it may reach what we do not."""
        state = self._state
        self._yields_until_s = state.now_s + YIELD_S
        self._end_round()
        self._follow(NOBODY)
        self._silence_s = self._yields_until_s
        self._send_worst_claim()

    def _stop_taking(self, reason: str) -> None:
        self._is_taking = False
        self._take_again_s = None
        self._refusals = 0
        self._lock.drop(reason)

    def _win(self) -> None:
        state = self._state
        self._ends_s = None
        self._silence_s = None
        is_new = not self._leads
        state.leader = state.pnn
        self._broadcast()
        if is_new:
            self._said = ""
            state.log(LogLevel.NOTICE, "this node leads")
            state.note("leader", state.pnn, "leads")
            state.want_recovery(f"node {state.pnn} leads now")

    # -- in detail ------------------------------------------------------------------------------

    @property
    def _leads(self) -> bool:
        return self._state.is_leader and self._broadcast_s is not None

    @property
    def _has_live_leader(self) -> bool:
        state = self._state
        if state.leader == NOBODY or self.in_progress:
            return False
        if state.is_leader:
            return True
        return state.nodes[state.leader].is_connected and state.sights.get(state.leader) not in DEAD

    def _follow(self, leader: int) -> None:
        state = self._state
        state.leader = leader
        self._teller = None
        self._broadcast_s = None
        self._silence_s = state.now_s + state.config.leader_timeout_s

    def _goes_by_hearsay(self, source: int) -> bool:
        """Led by whom it cannot reach, a node does not join what others than the teller begin."""
        state = self._state
        if self._teller is None or state.leader == NOBODY or state.nodes[state.leader].is_connected:
            return False
        return source != self._teller and state.nodes[self._teller].is_connected

    def _forget_leader(self) -> None:
        self._state.leader = NOBODY
        self._teller = None
        # Who was left out by the one may be led by the next.
        self._state.left_out_s.clear()

    def _listen_for(self, seconds: float) -> None:
        """Call an election that soon, if no leader is heard."""
        if self._silence_s is not None and self._state.leader == NOBODY:
            self._silence_s = min(self._silence_s, self._state.now_s + seconds)

    def _tell_leader(self, pnn: int) -> None:
        state = self._state
        if state.is_leader or not state.suspended:
            # Who stands still names nobody: it may be alone in following that one.
            state.send_message(pnn, SRVID_LEADER, U32.pack(state.leader))

    def _broadcast(self) -> None:
        state = self._state
        state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(state.pnn))
        self._broadcast_s = state.now_s + BROADCAST_INTERVAL_S

    def _send_worst_claim(self) -> None:
        """Nobody leads, and this node will not: the others claim on hearing it."""
        state = self._state
        claim = ElectionMessage(0, NEVER, state.pnn, int(state.own.flags))
        state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(NOBODY))
        state.send_message(BROADCAST_ALL, SRVID_ELECTION, claim.pack())

    @property
    def _may_claim(self) -> bool:
        return self._state.can_lead() and self._state.now_s >= self._yields_until_s

    def _claim(self) -> ElectionMessage:
        state = self._state
        may_soon = not state.is_inactive and bool(state.capabilities & Capability.RECMASTER)
        if self._may_claim:
            since = self._since
        else:
            since = NOT_NOW if may_soon and not state.has_lease else NEVER
        return ElectionMessage(len(state.connected()), since, state.pnn, int(state.own.flags))

    def _say(self, text: str) -> None:
        """Log what may come again and again once."""
        if text != self._said:
            self._said = text
            self._state.log(LogLevel.NOTICE, text)


def is_eligible(claim: ElectionMessage) -> bool:
    """Whether a node that sends this claim may lead."""
    return not claim.node_flags & NodeFlag.INACTIVE and claim.priority_time not in (NEVER, NOT_NOW)


def best(claims: list[ElectionMessage]) -> ElectionMessage:
    """The winning one of several eligible claims: the oldest, of those the highest pnn."""
    return min(claims, key=lambda claim: (claim.priority_time, -claim.pnn))
