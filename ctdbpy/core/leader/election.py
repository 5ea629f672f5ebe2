# SPDX-License-Identifier: GPL-3.0-or-later
"""Who leads: claims, broadcasts, and the silence that ends a leader's time.

Messages are upstream's. A leader says so each second; whoever hears nothing for the leader timeout calls an
election. Claims are compared by every node in the same way, so no votes are counted; after half a second
without a better claim the best one has won.

Source: reference/ctdb.md 7.11.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import NOBODY, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_ACTIVE, BROADCAST_ALL, BROADCAST_CONNECTED, NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_ELECTION, SRVID_LEADER
from ctdbpy.wire.structures import ElectionMessage, Timeval

#: Without a better claim for so long, the best one has won.
ELECTION_S: Final = 0.5
BROADCAST_INTERVAL_S: Final = 1.0
#: A node that starts listens for a leader so long before it calls an election.
FIRST_WAIT_S: Final = 1.5


class Election:
    """This node's part in elections. `state.leader` is who leads as far as we know."""

    def __init__(self, state: State, routing: Routing) -> None:
        self._state = state
        self._routing = routing
        self._since = Timeval(0, 0)
        self._ends_s: float | None = None
        self._silence_s: float | None = None
        self._broadcast_s: float | None = None

    @property
    def in_progress(self) -> bool:
        """True until the winner is known."""
        return self._ends_s is not None

    def begin(self) -> None:
        """This node starts: alone it leads at once, otherwise it listens first."""
        state = self._state
        self._since = state.timeval(state.now_s)
        state.listen(SRVID_LEADER, self._leader_heard)
        state.listen(SRVID_ELECTION, self._claim_heard)
        self._silence_s = state.now_s + FIRST_WAIT_S

    # -- what other nodes say -------------------------------------------------------------------

    def _leader_heard(self, _pnn: int, data: bytes) -> None:
        try:
            leader = U32.unpack(data)
        except ProtocolError as reason:
            self._state.log(LogLevel.WARNING, f"leader broadcast dropped: {reason}")
            return
        state = self._state
        if leader == state.pnn or (state.peer(leader) is None and leader != NOBODY):
            return
        if leader == NOBODY:
            if not self.in_progress and _pnn != state.pnn:
                self._follow(NOBODY)
                self._ends_s = state.now_s + ELECTION_S
            return
        if state.is_leader and not self.in_progress:
            self.force(f"node {leader} says that it leads, too")
            return
        if leader != state.leader:
            state.log(LogLevel.NOTICE, f"leader is node {leader}")
        self._ends_s = None
        self._follow(leader)

    def _claim_heard(self, _pnn: int, data: bytes) -> None:
        try:
            theirs = ElectionMessage.unpack(data)
        except ProtocolError as reason:
            self._state.log(LogLevel.WARNING, f"election message dropped: {reason}")
            return
        state = self._state
        if theirs.pnn == state.pnn or state.peer(theirs.pnn) is None:
            return
        self._ends_s = state.now_s + ELECTION_S
        if not wins(self._claim(), theirs, can_lead=state.can_lead()):
            self._follow(theirs.pnn)
        else:
            state.leader = state.pnn
            self._silence_s = None
            self._broadcast_s = None
            self._send_claim()

    def link_up(self, pnn: int) -> None:
        """A node that has just come need not wait for the next broadcast."""
        if self._state.is_leader and not self.in_progress:
            self._state.send_message(pnn, SRVID_LEADER, U32.pack(self._state.pnn))

    def link_down(self, pnn: int) -> None:
        """The leader cannot be reached: no use in waiting for its silence."""
        if pnn == self._state.leader:
            self._state.leader = NOBODY
            if self._state.can_lead():
                self.force(f"leader {pnn} is gone")

    # -- what this node does --------------------------------------------------------------------

    def force(self, reason: str) -> None:
        """Call an election; nothing happens while one is under way."""
        state = self._state
        if self.in_progress:
            return
        state.log(LogLevel.NOTICE, f"election: {reason}")
        state.set_recmode(RecoveryMode.ACTIVE, "an election begins")
        self._routing.tell(
            BROADCAST_ACTIVE, Control.SET_RECMODE, U32.pack(RecoveryMode.ACTIVE), others_only=True
        )
        state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(NOBODY))
        self._broadcast_s = None
        self._silence_s = None
        state.leader = state.pnn
        self._ends_s = state.now_s + ELECTION_S
        self._send_claim()

    def settle(self) -> None:
        """Look whether this node may still lead, or may again."""
        state = self._state
        if not state.can_lead():
            if state.is_inactive:
                self._since = state.timeval(state.now_s)
            self.resign("it may not lead")
        elif not state.others():
            if not state.is_leader or self._broadcast_s is None:
                self._win()
        elif state.leader == NOBODY and not self.in_progress and self._silence_s is None:
            self._silence_s = state.now_s + state.config.leader_timeout_s

    @property
    def deadline_s(self) -> float | None:
        """The next broadcast, the end of an election, or of a leader's silence."""
        moments = (self._ends_s, self._silence_s, self._broadcast_s)
        return min((each for each in moments if each is not None), default=None)

    def wake(self, now_s: float) -> None:
        """Broadcast, end an election, or call one."""
        if self._ends_s is not None and now_s >= self._ends_s:
            self._end()
        if self._silence_s is not None and now_s >= self._silence_s:
            self._silence_s = None
            if not self.in_progress and not self._state.is_leader:
                self._state.leader = NOBODY
                if self._state.can_lead():
                    self.force("no leader was heard")
        if self._broadcast_s is not None and now_s >= self._broadcast_s:
            self._broadcast()

    # -- in detail ------------------------------------------------------------------------------

    def _end(self) -> None:
        state = self._state
        self._ends_s = None
        if state.is_leader:
            self._win()
        elif state.leader == NOBODY and state.can_lead():
            self.force("nobody claimed to lead")
        else:
            self._follow(state.leader)

    def _win(self) -> None:
        state = self._state
        self._ends_s = None
        self._silence_s = None
        if not state.is_leader or self._broadcast_s is None:
            state.log(LogLevel.NOTICE, "this node leads")
        state.leader = state.pnn
        self._broadcast()

    def _follow(self, leader: int) -> None:
        state = self._state
        state.leader = leader
        self._broadcast_s = None
        self._silence_s = state.now_s + state.config.leader_timeout_s

    def resign(self, reason: str) -> None:
        """Lead no more: say so, and let a claim that loses to everybody call the others to claim."""
        state = self._state
        if not state.is_leader:
            return
        state.log(LogLevel.NOTICE, f"this node leads no more: {reason}")
        state.leader = NOBODY
        self._ends_s = None
        self._broadcast_s = None
        self._silence_s = state.now_s + state.config.leader_timeout_s if state.others() else None
        state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(NOBODY))
        self._send_claim()

    def _broadcast(self) -> None:
        state = self._state
        state.send_message(BROADCAST_CONNECTED, SRVID_LEADER, U32.pack(state.pnn))
        self._broadcast_s = state.now_s + BROADCAST_INTERVAL_S

    def _send_claim(self) -> None:
        self._state.send_message(BROADCAST_ALL, SRVID_ELECTION, self._claim().pack())

    def _claim(self) -> ElectionMessage:
        state = self._state
        if not state.can_lead():
            # As bad a claim as there is.
            return ElectionMessage(0, state.timeval(state.now_s), state.pnn, int(state.own.flags))
        return ElectionMessage(len(state.connected()), self._since, state.pnn, int(state.own.flags))


def wins(ours: ElectionMessage, theirs: ElectionMessage, *, can_lead: bool) -> bool:
    """Whether our claim is the better one; exactly one of two nodes that can lead thinks so."""
    if not can_lead:
        return False
    if theirs.node_flags & NodeFlag.INACTIVE:
        return True
    if ours.priority_time != theirs.priority_time:
        return ours.priority_time < theirs.priority_time
    return ours.pnn > theirs.pnn
