# SPDX-License-Identifier: GPL-3.0-or-later
"""Links to other nodes: which stand, and the keepalives that tell peers we live.

Source: reference/ctdb.md 7.2.
"""

from __future__ import annotations

from ctdbpy.core.effects import Connect, Disconnect, LogLevel, ReadNodes, SendKeepalive
from ctdbpy.core.inputs import KeepaliveArrived, NodeAddress, NodeSeen, NodesRead, Sight
from ctdbpy.core.procedures import Promise
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import DEAD, HEARD, State
from ctdbpy.wire.constants import Capability, NodeFlag


class Links:
    """Every other node's link. A node silent for KeepaliveLimit intervals is given up."""

    def __init__(self, state: State, routing: Routing) -> None:
        self._state = state
        self._routing = routing
        self._keepalive_s: float | None = None
        self._reads: dict[int, Promise[NodesRead]] = {}
        self._last_read = 0
        #: By pnn: packets at the last look, and intervals since they moved.
        self._heard: dict[int, tuple[int, int]] = {}

    def begin(self) -> None:
        """Connect to every other node."""
        for node in self._state.others():
            self._state.emit(Connect(node.pnn, node.address))
        self._arm()

    def up(self, pnn: int) -> None:
        """A node can be reached."""
        node = self._state.peer(pnn)
        if node is None or node.flags & NodeFlag.DELETED:
            return
        state = self._state
        state.had_company = True
        state.out_since_s.pop(pnn, None)
        if state.sights.get(pnn) in DEAD:
            # What was seen of it was seen of an earlier life, or before the network was mended.
            state.sights[pnn] = Sight.UNKNOWN
        state.set_flags(pnn, node.flags & ~NodeFlag.DISCONNECTED, "its link stands")
        if node.is_active and not state.is_inactive and not state.is_recovering:
            # What we had to send each other since the last recovery had no link to go by.
            state.want_recovery(f"the link to node {pnn} stands again")

    def down(self, pnn: int, reason: str) -> None:
        """A node cannot be reached: what it was asked fails, and it counts as unhealthy."""
        node = self._state.peer(pnn)
        if node is None or node.flags & (NodeFlag.DISCONNECTED | NodeFlag.DELETED):
            return
        was_active = node.is_active
        self._state.out_since_s[pnn] = self._state.now_s
        self._state.set_flags(pnn, node.flags | NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY, reason)
        self._heard.pop(pnn, None)
        self._routing.node_gone(pnn)
        if was_active and not self._state.is_inactive and not self._is_left_out(pnn):
            # Packets under way are gone, however quickly the link returns: calls that wait for them
            # are repeated in a new generation only.
            self._state.want_recovery(f"the link to node {pnn} broke: {reason}")

    def _is_left_out(self, pnn: int) -> bool:
        """The recovery under way does without this node already."""
        state = self._state
        may_be_lmaster = bool(state.nodes[pnn].capabilities & Capability.LMASTER)
        return state.is_recovering and state.map_is_new and may_be_lmaster and pnn not in state.lmasters

    def seen(self, seen: NodeSeen) -> str:
        """The guard sees a node in a new way; says why its link has to go, if it has to."""
        state = self._state
        node = state.peer(seen.pnn)
        if node is None or seen.pnn == state.pnn or node.flags & NodeFlag.DELETED:
            return ""
        before = state.sights.get(seen.pnn, Sight.UNKNOWN)
        state.sights[seen.pnn] = seen.sight
        is_dead = seen.sight in DEAD
        if before not in HEARD and seen.sight in HEARD:
            state.heard_since_s[seen.pnn] = state.now_s
        if seen.sight is not before:
            level = LogLevel.WARNING if is_dead else LogLevel.INFO
            state.log(level, f"node {seen.pnn} is {seen.sight.value}: {seen.text}")
        if not is_dead or not node.is_connected:
            return ""
        return f"it is {seen.sight.value}: {seen.text}"

    def keepalive(self, heard: KeepaliveArrived) -> str:
        """Of two versions the node that has run longer stays; says why this one has to end, if it has to."""
        state = self._state
        major, minor = state.config.version
        ours = (major << 16 | minor, int(state.now_s - state.started_s))
        theirs = (heard.version, heard.uptime_s)
        if state.tunables.allow_mixed_versions or theirs[0] == ours[0]:
            return ""
        if theirs[0] == 0 or theirs[1] > ours[1] or (theirs[1] == ours[1] and theirs[0] > ours[0]):
            version = f"{heard.version >> 16}.{heard.version & 0xFFFF}"
            return f"node {heard.pnn} runs version {version}, this one {major}.{minor}"
        return ""

    def read_file(self) -> Promise[NodesRead]:
        """Have the nodes file read."""
        self._last_read += 1
        promise: Promise[NodesRead] = Promise()
        self._reads[self._last_read] = promise
        self._state.emit(ReadNodes(self._last_read))
        return promise

    def file_read(self, read: NodesRead) -> None:
        """The nodes file was read, or could not be."""
        promise = self._reads.pop(read.read_id, None)
        if promise is not None:
            promise.resolve(read)

    def reload(self, nodes: tuple[NodeAddress, ...]) -> str:
        """Use a new nodes file: connect to what is new, let go of what is gone; says why not."""
        state = self._state
        numbers = [node.pnn for node in nodes]
        if numbers != list(range(len(nodes))):
            return "its nodes are not numbered from 0 without gaps"
        own = nodes[state.pnn] if state.pnn < len(nodes) else None
        if own is None or own.deleted or own.address != state.own.address:
            return f"it does not have this node as number {state.pnn} any more"
        before = {node.pnn: node.address for node in state.others()}
        after = {node.pnn: node.address for node in nodes if not node.deleted and node.pnn != state.pnn}
        for pnn, address in before.items():
            if after.get(pnn) != address:
                self.down(pnn, "the nodes file does not have it any more")
                state.emit(Disconnect(pnn, "the nodes file does not have it any more", forget=True))
        state.rebuild_nodes(nodes)
        for pnn, address in after.items():
            if before.get(pnn) != address:
                state.log(LogLevel.NOTICE, f"the nodes file has a new node {pnn} at {address}")
                state.emit(Connect(pnn, address))
        self._arm()
        return ""

    @property
    def deadline_s(self) -> float | None:
        """When the next keepalives are due."""
        return self._keepalive_s

    def wake(self, now_s: float) -> None:
        """Tell every connected node that we live."""
        if self._keepalive_s is None or now_s < self._keepalive_s:
            return
        uptime_s = int(now_s - self._state.started_s)
        for node in self._state.others():
            if node.is_connected:
                self._state.emit(SendKeepalive(node.pnn, uptime_s))
                self._look(node.pnn)
        self._arm()

    def _look(self, pnn: int) -> None:
        packets = self._state.records.packets_from(pnn)
        before, silent = self._heard.get(pnn, (-1, 0))
        silent = 0 if packets != before else silent + 1
        self._heard[pnn] = (packets, silent)
        if silent >= max(self._state.tunables.keepalive_limit, 1):
            del self._heard[pnn]
            self._state.emit(Disconnect(pnn, f"no packet in {silent} keepalive intervals"))

    def _arm(self) -> None:
        interval_s = max(self._state.tunables.keepalive_interval, 1)
        self._keepalive_s = self._state.now_s + interval_s if self._state.others() else None
