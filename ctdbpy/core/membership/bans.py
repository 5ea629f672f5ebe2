# SPDX-License-Identifier: GPL-3.0-or-later
"""Bans: the leader counts what each node has spoilt, and keeps out who has spoilt too much.

Source: reference/ctdb.md 7.12.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.membership.reasons import Accounts
from ctdbpy.core.procedures import Promise
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import BanState


@dataclass(slots=True)
class _Credits:
    number: int
    given_s: float
    why: str


class Bans:
    """Credits by node. So many as twice the number of nodes are a ban, once this node leads."""

    def __init__(self, state: State, routing: Routing, accounts: Accounts) -> None:
        self._state = state
        self._routing = routing
        self._accounts = accounts
        self._credits: dict[int, _Credits] = {}

    @property
    def limit(self) -> int:
        """Who has so many credits is banned."""
        return 2 * len(self._state.nodes)

    @property
    def many(self) -> int:
        """Credits for what holds everybody up, such as an answer that does not come: two of those ban."""
        return len(self._state.nodes)

    def blame(self, pnn: int, credits: int, why: str) -> None:
        """A node has spoilt something. What an inactive node thinks of others does not count."""
        state = self._state
        if state.is_inactive or state.peer(pnn) is None:
            return
        before = self._credits.get(pnn)
        if before is not None and state.now_s - before.given_s > state.tunables.recovery_grace_period:
            before = None
        number = credits + (before.number if before else 0)
        self._credits[pnn] = _Credits(number, state.now_s, why)
        text = f"{number} of {self.limit} ban credits: {why}"
        state.log(LogLevel.NOTICE, f"node {pnn} has {text}")
        state.note("blame", pnn, text)

    def forgive(self) -> None:
        """The cluster has recovered: nobody spoils anything any more."""
        self._credits.clear()

    def credits_of(self, pnn: int) -> int:
        """How many credits a node has now."""
        credits = self._credits.get(pnn)
        return credits.number if credits else 0

    def settle(self) -> None:
        """Ban who has too many credits."""
        state = self._state
        if not state.is_leader or not state.can_lead():
            return
        for pnn, credits in list(self._credits.items()):
            if credits.number < self.limit:
                continue
            node = state.peer(pnn)
            del self._credits[pnn]
            if node is None or not node.is_active:
                # Gone, stopped or banned: it is out already.
                continue
            if not state.tunables.enable_bans:
                state.log(LogLevel.WARNING, f"node {pnn} is not banned, as EnableBans is 0: {credits.why}")
                continue
            why = f"{credits.number} ban credits, the last for: {credits.why}"
            self.order(pnn, state.tunables.recovery_ban_period, why)

    def order(self, pnn: int, seconds: int, why: str) -> Promise[Reply]:
        """Have a node banned for so long, this one included, or with 0 let in again."""
        state = self._state
        what = f"banned for {seconds} s" if seconds else "let in again"
        state.log(LogLevel.ERROR if seconds else LogLevel.NOTICE, f"node {pnn} is {what}: {why}")
        state.note("ban", pnn, f"{what}: {why}")
        self._accounts.order(pnn, f"node {state.pnn}: {why}")
        return self._routing.call(pnn, Control.SET_BAN_STATE, BanState(pnn, seconds).pack())
