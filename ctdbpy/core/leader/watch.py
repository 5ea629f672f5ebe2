# SPDX-License-Identifier: GPL-3.0-or-later
"""The leader looks at the cluster each RecoverInterval, and at once when one of its own facts changes.

Source: reference/ctdb.md 7.9.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.fencing.fencing import Fencing
from ctdbpy.core.leader.cluster_lock import ClusterLock
from ctdbpy.core.leader.election import Election
from ctdbpy.core.leader.generations import latest
from ctdbpy.core.leader.mesh import Mesh, wait_for_links
from ctdbpy.core.leader.recovery import Recovery
from ctdbpy.core.leader.supervisor import NodeView, lmasters_of, reason_to_recover
from ctdbpy.core.procedures import Procedure, Promise, Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import NOBODY, Peer, Quorum, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import INVALID_GENERATION, Capability, NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_RECOVERY_WANTED
from ctdbpy.wire.structures import NodeFlagChange, NodeMap, VnnMap

#: A leader without the cluster lock tries for it so long before a recovery.
LOCK_WAIT_S: Final = 0.1
#: Of a reason in words, so much is sent to the leader.
WORDS_MAX: Final = 512
#: With a lock: after so long a leader has heard that its host stood still, or that its lock is lost.
NOTICE_S: Final = 0.1
_ASKED = (Control.GET_NODEMAP, Control.GET_RECMODE, Control.GETVNNMAP, Control.GET_CAPABILITIES)


class Watch:
    """Looks, repairs flags, recovers. Only the leader does, and only outside elections."""

    def __init__(
        self,
        state: State,
        runner: Runner,
        routing: Routing,
        election: Election,
        recovery: Recovery,
        mesh: Mesh,
        fencing: Fencing,
        cluster_lock: ClusterLock,
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._election = election
        self._recovery = recovery
        self._looking: Procedure[None] | None = None
        self._seen: object = None
        self._disabled_until_s: float | None = None
        self._due_s: float | None = None
        self._recovering = False
        #: Leader and reason of the recovery it was last asked for.
        self._told: tuple[int, str] = (NOBODY, "")
        self._mesh = mesh
        self._fencing = fencing
        self._lock = cluster_lock

    # -- recoveries may be disabled ---------------------------------------------------------------

    def disable_recoveries(self, seconds: int) -> bool:
        """No recoveries for so long, 0 allows them; False while one is under way."""
        if self._recovering:
            return False
        self._disabled_until_s = self._state.now_s + seconds if seconds else None
        self._seen = None
        return True

    @property
    def may_compare(self) -> bool:
        return self._disabled_until_s is None or self._state.now_s >= self._disabled_until_s

    # -- when to look -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Look again if a fact of ours has changed; stop if we lead no more."""
        state = self._state
        leads = state.is_leader and not self._election.in_progress and state.can_lead()
        if not leads:
            self._due_s = None
            self._seen = None
            self._mesh.forget()
            self._tell_leader()
            if self._looking is not None:
                self._looking.cancel()
                self._looking = None
                self._recovering = False
            return
        facts = (
            state.recmode,
            state.recovery_wanted,
            tuple(node.flags for node in state.nodes),
            tuple(state.sights.items()),
            state.capabilities,
            state.generation,
            state.runstate,
        )
        if facts != self._seen:
            self._seen = facts
            self._due_s = state.now_s
        if self._due_s is not None and self._due_s <= state.now_s:
            self._look()

    def _tell_leader(self) -> None:
        """What this node wants recovered the leader need not find out for itself."""
        state = self._state
        wanted = (state.leader, state.recovery_wanted)
        if wanted == self._told:
            return
        self._told = wanted
        leader = state.peer(state.leader)
        if state.recovery_wanted and leader is not None and leader.pnn != state.pnn and leader.is_connected:
            state.send_message(leader.pnn, SRVID_RECOVERY_WANTED, state.recovery_wanted.encode()[:WORDS_MAX])

    def wanted_elsewhere(self, pnn: int) -> None:
        """A node wants a recovery: look at once, and see it in recovery mode."""
        if self._state.is_leader and not self._recovering:
            self._seen = None
        self._state.log(LogLevel.INFO, f"node {pnn} asks for a recovery")

    @property
    def deadline_s(self) -> float | None:
        """When to look next."""
        return None if self._looking is not None else self._due_s

    def wake(self, now_s: float) -> None:
        """Look if it is time."""
        if self._due_s is not None and now_s >= self._due_s:
            self._look()

    def _look(self) -> None:
        if self._looking is None:
            self._due_s = None
            self._looking = self._runner.spawn("look at the cluster", self._work())

    async def _work(self) -> None:
        state = self._state
        members = self._members()
        again_s = state.now_s + max(state.tunables.recover_interval, 1)
        if state.is_recovering:
            await self._runner.limit(self._election.retake_lock(), LOCK_WAIT_S, None)
        views = await self._views()
        if views is not None:
            reason = reason_to_recover(state.pnn, views, state.recovery_wanted, may_compare=self.may_compare)
            wait_s = max(self._mesh.look(views), wait_for_links(state) if reason else 0.0)
            if {view.pnn for view in views if view.is_active} != set(state.active()):
                # A node came or went since it was asked: map and members have to be of one view.
                again_s = state.now_s
            elif wait_s > 0:
                again_s = state.now_s + wait_s
            elif reason and (lost := self._fencing.lost(self._serving(views))):
                await self._fence(lost)
                again_s = state.now_s
            elif reason:
                self._recovering = True
                state.serving = self._serving(views)
                seen = tuple(view.generation for view in views if view.is_active)
                await self._recovery.run(reason, lmasters_of(views, state.pnn), seen)
                self._recovering = False
                again_s = state.now_s + max(state.tunables.recover_interval, 1)
        self._looking = None
        # Whoever came or went meanwhile is not kept waiting; what failed for another reason is.
        self._due_s = max(again_s, state.now_s) if self._members() == members else state.now_s

    async def _fence(self, lost: tuple[int, ...]) -> None:
        """Have lost nodes fenced, by whoever leads now for certain."""
        if self._state.quorum is Quorum.LOCK and not await self._leads_by_lock():
            return
        if lost := self._fencing.lost(lost):
            await self._fencing.fence(lost)

    async def _leads_by_lock(self) -> bool:
        """Whether the lock is still ours: no lease tells who stood still that another may have it by now."""
        await self._runner.sleep(NOTICE_S)
        return self._lock.held_since_s > self._state.stood_still_s or await self._lock.renew()

    def _members(self) -> tuple[NodeFlag, ...]:
        return tuple(node.flags for node in self._state.nodes)

    # -- what there is to see -----------------------------------------------------------------------

    async def _views(self) -> tuple[NodeView, ...] | None:
        """Every connected node as it sees itself; None if one does not answer (its link tells more, soon)."""
        state = self._state
        asked = [node for node in state.others() if node.is_connected]
        before = {node.pnn: node.flags for node in state.nodes}
        timeout_s = state.tunables.recover_timeout
        answers = {
            node.pnn: [self._routing.call(node.pnn, each, timeout_s=timeout_s) for each in _ASKED]
            for node in asked
        }
        views = [self._own_view()]
        maps: dict[int, NodeMap] = {}
        for node in asked:
            replies = await _replies(answers[node.pnn])
            try:
                nodemap, recmode, vnnmap, capabilities = replies
                if not (nodemap.is_good and vnnmap.is_good and capabilities.is_good) or recmode.status < 0:
                    raise ProtocolError(next((each.error for each in replies if each.error), "it refuses"))
                maps[node.pnn] = NodeMap.unpack(nodemap.data)
                views.append(_view(node, maps[node.pnn], recmode.status, vnnmap.data, capabilities.data))
            except (ProtocolError, ValueError) as reason:
                state.log(LogLevel.WARNING, f"cannot look at node {node.pnn}: {reason}")
                return None
        if [node.pnn for node in state.nodes] != list(before):
            # The nodes file has been read anew meanwhile.
            return None
        for view in views[1:]:
            state.nodes[view.pnn].capabilities = view.capabilities
        # Of a node whose flags have changed since it was asked we know more than it said then.
        same = [view for view in views if state.nodes[view.pnn].flags == before[view.pnn]]
        self._spread_flags(same, maps)
        return tuple(views)

    def _own_view(self) -> NodeView:
        state = self._state
        return NodeView(
            state.pnn,
            state.own.flags,
            state.recmode,
            state.generation,
            state.lmasters,
            state.capabilities,
            tuple((node.pnn, node.address) for node in state.nodes),
            frozenset(state.connected()),
        )

    def _serving(self, views: tuple[NodeView, ...]) -> set[int]:
        """Who may serve by the newest map that a node has: a leader that has just started knows of none.

        Older ones name nodes that others went on without, and that may be off for good reasons since.
        """
        newest = latest(view.generation for view in views if view.is_active)
        state = self._state
        # Who has served without a break knows also who takes part without being in the map.
        found = set(state.serving) if state.lineage or state.generation == newest else set()
        for view in views:
            if view.is_active and view.generation == newest != INVALID_GENERATION:
                found.update(view.lmasters)
        return found

    def _spread_flags(self, views: list[NodeView], maps: dict[int, NodeMap]) -> None:
        """A node's own view of its flags wins; whoever has another is told."""
        state = self._state
        for view in views:
            old = state.nodes[view.pnn].flags
            known = [node.flags for each in maps.values() for node in each.nodes if node.pnn == view.pnn]
            if view.pnn != state.pnn:
                state.set_flags(view.pnn, view.flags, "it says so itself")
            if old != view.flags or any(flags != view.flags for flags in known):
                change = NodeFlagChange(view.pnn, int(view.flags), int(old)).pack()
                for pnn in state.connected():
                    if pnn not in (state.pnn, view.pnn):
                        self._routing.call(pnn, Control.MODIFY_FLAGS, change)


def _view(node: Peer, nodemap: NodeMap, recmode: int, vnnmap: bytes, capabilities: bytes) -> NodeView:
    own = next((each for each in nodemap.nodes if each.pnn == node.pnn), None)
    if own is None:
        raise ProtocolError("it is not in its own node map")
    vnn = VnnMap.unpack(vnnmap)
    return NodeView(
        node.pnn,
        NodeFlag(own.flags & 0x3F & ~NodeFlag.DISCONNECTED),
        RecoveryMode(recmode),
        vnn.generation,
        vnn.map,
        Capability(U32.unpack(capabilities) & Capability.DEFAULT),
        tuple((each.pnn, each.address.host) for each in nodemap.nodes),
        frozenset(each.pnn for each in nodemap.nodes if not each.flags & NodeFlag.DISCONNECTED),
    )


async def _replies(answers: list[Promise[Reply]]) -> list[Reply]:
    return [await answer for answer in answers]
