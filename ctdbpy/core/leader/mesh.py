# SPDX-License-Identifier: GPL-3.0-or-later
"""What a leader checks before it recovers: that all members reach each other."""

from __future__ import annotations

from itertools import combinations
from typing import Final

from ctdbpy.core.leader.supervisor import NodeView
from ctdbpy.core.membership.bans import Bans
from ctdbpy.core.state import HEARD, State
from ctdbpy.wire.constants import NodeFlag

#: Links between other nodes may be missing for so long: they come back, or a node is about to be silent.
GRACE_S: Final = 2.0
LOOK_AGAIN_S: Final = 0.1
#: A node that is heard but not linked is waited for so long.
RELINK_S: Final = 1.0

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
        # One order is enough for as long as a link may take to return.
        self._broken_since_s |= {pair: state.now_s for pair in broken if victim in pair}
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


def wait_for_links(state: State) -> float:
    """Seconds to wait for the links to nodes that live: what they alone have would be lost without them.

    A link that broke is made again within a second, or not so soon.
    """
    waits = [0.0]
    for node in state.others():
        has_left = bool(node.flags & (NodeFlag.STOPPED | NodeFlag.BANNED))
        if not node.is_connected and not has_left and state.sights.get(node.pnn) in HEARD:
            since_s = max(state.out_since_s.get(node.pnn, 0.0), state.heard_since_s.get(node.pnn, 0.0))
            waits.append(since_s + RELINK_S - state.now_s)
    return max(waits)


def _broken(views: tuple[NodeView, ...]) -> list[_Pair]:
    return [
        (one.pnn, other.pnn)
        for one, other in combinations(views, 2)
        if other.pnn not in one.reaches or one.pnn not in other.reaches
    ]


def _names(pnns: frozenset[int]) -> str:
    return "node" + ("s " if len(pnns) > 1 else " ") + ", ".join(str(pnn) for pnn in sorted(pnns))
