# SPDX-License-Identifier: GPL-3.0-or-later
"""What a leader checks before it recovers: all members reach each other, and who is left out has stopped."""

from __future__ import annotations

from itertools import combinations
from typing import Final

from ctdbpy.core.inputs import Sight
from ctdbpy.core.leader.supervisor import NodeView
from ctdbpy.core.membership.bans import Bans
from ctdbpy.core.state import Quorum, State
from ctdbpy.wire.constants import NodeFlag

#: Links between other nodes may be missing for so long: they come back, or a node is about to be silent.
GRACE_S: Final = 2.0
LOOK_AGAIN_S: Final = 0.1

_Pair = tuple[int, int]


class Mesh:
    """Members that cannot reach each other: records could not move between them. One of the two has to go."""

    def __init__(self, state: State, bans: Bans) -> None:
        self._state = state
        self._bans = bans
        self._broken_since_s: dict[_Pair, float] = {}
        #: Nodes this leader has banned, and whom each could not reach.
        self._banned: dict[int, frozenset[int]] = {}
        self._seen_banned: set[int] = set()

    def forget(self) -> None:
        """This node leads no more."""
        self._broken_since_s.clear()
        self._banned.clear()
        self._seen_banned.clear()

    def look(self, views: tuple[NodeView, ...]) -> float:
        """Ban who cannot be reached by all, let back who can; seconds to wait with a recovery."""
        state = self._state
        self._let_back(views)
        broken = _broken(tuple(view for view in views if view.is_active))
        since = {pair: self._broken_since_s.get(pair, state.now_s) for pair in broken}
        self._broken_since_s = since
        if not since:
            return 0.0
        last = [pair for pair, since_s in since.items() if state.now_s - since_s >= GRACE_S]
        if last and state.tunables.enable_bans:
            self._ban(last)
        elif last:
            # Nobody may be banned: better a cluster with a hole than none.
            return 0.0
        return LOOK_AGAIN_S

    def _ban(self, broken: list[_Pair]) -> None:
        state = self._state
        counts: dict[int, int] = {}
        for pnn in (pnn for pair in broken for pnn in pair if pnn != state.pnn):
            counts[pnn] = counts.get(pnn, 0) + 1
        victim = max(counts, key=lambda pnn: (counts[pnn], pnn))
        missed = frozenset(pnn for pair in broken if victim in pair for pnn in pair if pnn != victim)
        seconds = state.tunables.recovery_ban_period
        text = f"it and {_names(missed)} have not reached each other for {GRACE_S:g} s"
        self._banned[victim] = missed
        self._bans.order(victim, seconds, text)

    def _let_back(self, views: tuple[NodeView, ...]) -> None:
        by_pnn = {view.pnn: view for view in views}
        for pnn, missed in list(self._banned.items()):
            view = by_pnn.get(pnn)
            if view is None:
                continue
            if not view.flags & NodeFlag.BANNED:
                if pnn in self._seen_banned:
                    # Somebody else let it back.
                    self._forget_ban(pnn)
                continue
            self._seen_banned.add(pnn)
            others = [by_pnn[each] for each in missed if each in by_pnn]
            if all(each.pnn in view.reaches and pnn in each.reaches for each in others):
                self._forget_ban(pnn)
                text = f"it and {_names(missed)} reach each other again"
                self._bans.order(pnn, 0, text)

    def _forget_ban(self, pnn: int) -> None:
        del self._banned[pnn]
        self._seen_banned.discard(pnn)


class Grace:
    """How long a leader has to wait until nobody it does without can still be serving.

    Without leases (no quorum asked for) there is nothing to wait for.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def wait_s(self) -> float:
        """Seconds until every member of the last map that is not reached has surely stopped."""
        state = self._state
        if state.quorum is Quorum.NONE:
            return 0.0
        waits = [self._left_s(pnn) for pnn in state.lmasters if pnn != state.pnn]
        return max(waits, default=0.0)

    def _left_s(self, pnn: int) -> float:
        state = self._state
        node = state.peer(pnn)
        sight = state.sights.get(pnn, Sight.UNKNOWN)
        if node is None or node.is_connected or sight in (Sight.STILL, Sight.GONE, Sight.STALLED):
            return 0.0
        if sight is Sight.UNKNOWN:
            # No guard there: no leases, nothing that would end.
            return 0.0
        since_s = state.out_since_s.get(pnn, 0.0)
        if sight is Sight.SILENT:
            # Its last lease from here ran out before that.
            since_s = min(since_s, state.now_s - state.silence_s)
        if pnn != state.last_leader:
            # An earlier leader gave it leases until its own end.
            since_s = max(since_s, state.leader_lost_s)
        return max(0.0, since_s + state.silence_s - state.now_s)


def _broken(views: tuple[NodeView, ...]) -> list[_Pair]:
    return [
        (one.pnn, other.pnn)
        for one, other in combinations(views, 2)
        if other.pnn not in one.reaches or one.pnn not in other.reaches
    ]


def _names(pnns: frozenset[int]) -> str:
    return "node" + ("s " if len(pnns) > 1 else " ") + ", ".join(str(pnn) for pnn in sorted(pnns))
