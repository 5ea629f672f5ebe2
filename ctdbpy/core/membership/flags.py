# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's flags: what the administrator, the leader and the node itself may change.

A node's own view of its flags wins; the others learn it from the leader.

Source: reference/ctdb.md 7.8, 7.12, 5.6 (52, 101, 102, 109, 110, 157, 158).
"""

from __future__ import annotations

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.core.story import SAYS_SO
from ctdbpy.wire.constants import BROADCAST_CONNECTED, NodeFlag, RecoveryMode, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import BanState, NodeFlagChange


class Flags:
    """This node's own flags, and what it is told of others'. `left` is true until `settle` has seen it."""

    def __init__(self, state: State, routing: Routing) -> None:
        self._state = state
        self._routing = routing
        self._ban: BanState | None = None
        self._ban_over_s: float | None = None
        #: This node has just become inactive: databases have to be frozen, the map forgotten.
        self.left = False

    def change_own(self, add: NodeFlag, remove: NodeFlag, reason: str) -> bool:
        """Set and clear own flags; False if nothing changed."""
        state = self._state
        was_inactive = state.is_inactive
        old = state.own.flags
        changed = state.set_flags(state.pnn, (state.own.flags | add) & ~remove, reason)
        if state.is_inactive and not was_inactive:
            self.left = True
            state.set_recmode(RecoveryMode.ACTIVE, reason)
        if changed:
            # The leader would find out within a second; nobody need wait so long.
            change = NodeFlagChange(state.pnn, int(state.own.flags), int(old))
            self._routing.tell(BROADCAST_CONNECTED, Control.MODIFY_FLAGS, change.pack(), others_only=True)
        return changed

    def modify(self, change: NodeFlagChange, source: int) -> bool:
        """A node says what flags it or another wears; False for a node that there is not."""
        state = self._state
        if change.pnn == state.pnn:
            return True
        node = state.peer(change.pnn)
        if node is None:
            return False
        if node.flags & NodeFlag.DISCONNECTED:
            return True
        flags = NodeFlag(change.new_flags & _KNOWN & ~NodeFlag.DISCONNECTED)
        says = SAYS_SO if source == change.pnn else f"node {source} says so"
        changed = state.set_flags(change.pnn, flags, says)
        if changed and not flags and state.runstate < RunState.STARTUP:
            state.want_recovery(f"node {change.pnn} became healthy while this node starts")
        return True

    # -- bans -----------------------------------------------------------------------------------

    def ban(self, seconds: int, reason: str) -> None:
        """Keep this node out for so long; 0 lets it in again. With EnableBans 0 a ban under way stays."""
        state = self._state
        if seconds == 0:
            self._ban = None
            self._ban_over_s = None
            self.change_own(NodeFlag(0), NodeFlag.BANNED, f"not banned any more: {reason}")
        elif not state.tunables.enable_bans:
            state.log(LogLevel.WARNING, f"not banned, as EnableBans is 0: {reason}")
        else:
            self._keep_out(seconds, reason)

    def _keep_out(self, seconds: int, reason: str) -> None:
        state = self._state
        self._ban = BanState(state.pnn, seconds)
        self._ban_over_s = state.now_s + seconds
        reason = f"banned for {seconds} s: {reason}"
        if not self.change_own(NodeFlag.BANNED, NodeFlag(0), reason):
            state.log(LogLevel.NOTICE, reason)
            state.story.renew(state.wall_us, "ban", state.pnn, NodeFlag.BANNED, state.own.flags, reason)

    @property
    def ban_state(self) -> BanState:
        """The ban under way; 0 seconds if there is none."""
        return self._ban or BanState(self._state.pnn, 0)

    @property
    def deadline_s(self) -> float | None:
        """When the ban is over."""
        return self._ban_over_s

    def wake(self, now_s: float) -> None:
        """End a ban; not while a database still moves, or an old copy could spoil the others."""
        if self._ban_over_s is None or now_s < self._ban_over_s:
            return
        if any(not database.is_frozen for database in self._state.databases.values()):
            self.left = True
            self._keep_out(
                self._state.tunables.recovery_ban_period, "the ban is over but not all databases are frozen"
            )
        else:
            self.ban(0, "the ban is over")


_KNOWN = (
    NodeFlag.DISCONNECTED
    | NodeFlag.UNHEALTHY
    | NodeFlag.PERMANENTLY_DISABLED
    | NodeFlag.BANNED
    | NodeFlag.DELETED
    | NodeFlag.STOPPED
)
