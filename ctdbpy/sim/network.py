# SPDX-License-Identifier: GPL-3.0-or-later
"""Links between simulated nodes: one-way connections as TCP makes them, with delays, cuts and resets.

Bytes of one connection arrive in order. A cut link holds them back, as TCP does while it
retransmits; a crashed peer resets its connections, a silent one does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ctdbpy.core import inputs
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World

RETRY_S = 0.1
DELAY_S = (0.00005, 0.002)


@dataclass(slots=True)
class _Connection:
    """From a node to another: ids of its two ends in their engines."""

    out_id: int
    in_id: int
    from_life: int
    to_life: int
    last_arrival_s: float = 0.0
    held: list[bytes] = field(default_factory=list)
    is_up: bool = True


class Network:
    """Every connection between every pair of nodes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes: dict[int, SimNode] = {}
        self._wanted: dict[tuple[int, int], int] = {}
        self._connections: dict[tuple[int, int], _Connection] = {}
        self._cut: set[tuple[int, int]] = set()
        self._next_id = 1

    # -- faults ---------------------------------------------------------------------------

    def cut(self, one: int, other: int) -> None:
        """Nothing arrives between two nodes any more, either way."""
        self._world.say(f"cut n{one} n{other}")
        self._cut |= {(one, other), (other, one)}

    def reset(self, one: int, other: int) -> None:
        """The link between two nodes breaks, both notice, and nothing keeps them from connecting again."""
        self._world.say(f"the link n{one} n{other} breaks")
        for pair in ((one, other), (other, one)):
            connection = self._connections.get(pair)
            if connection is not None and connection.is_up:
                del self._connections[pair]
                connection.is_up = False
                for at in pair:
                    self._break(pair, connection, at, "reset")

    def mend(self) -> None:
        """Everything arrives again, with what was held back."""
        if not self._cut:
            return
        self._world.say("the network is whole")
        self._cut.clear()
        for (source, target), connection in list(self._connections.items()):
            held, connection.held = connection.held, []
            for data in held:
                self._send(source, target, connection, data)

    def node_crashed(self, pnn: int) -> None:
        """Its kernel resets every connection it had; a peer that cannot be reached hears nothing."""
        for pair in [pair for pair in self._connections if pnn in pair]:
            connection = self._connections.pop(pair)
            connection.is_up = False
            peer = pair[1] if pair[0] == pnn else pair[0]
            if pair not in self._cut:
                self._break(pair, connection, peer, "closed by the other side")

    def node_silent(self, pnn: int) -> None:
        """Its connections are gone on its side only."""
        for pair, connection in self._connections.items():
            if pnn in pair:
                connection.is_up = False

    # -- connections --------------------------------------------------------------------------

    def want(self, source: int, target: int) -> None:
        """A node keeps trying to connect to another one."""
        self._wanted[source, target] = self.nodes[source].life
        self._try(source, target)

    def drop(self, source: int, target: int) -> None:
        """A node tears its link down: both directions, both ends."""
        for pair in ((source, target), (target, source)):
            connection = self._connections.pop(pair, None)
            if connection is not None:
                connection.is_up = False
                self._break(pair, connection, source, "torn down")
                if pair not in self._cut:
                    self._break(pair, connection, target, "closed by the other side")

    def _try(self, source: int, target: int) -> None:
        node, peer = self.nodes[source], self.nodes[target]
        pair = (source, target)
        if self._wanted.get(pair) != node.life or not node.is_up:
            return
        standing = self._connections.get(pair)
        if standing is not None and standing.is_up:
            return
        if peer.is_up and pair not in self._cut and not peer.is_paused and (target, source) in self._wanted:
            self._connect(node, peer)
        else:
            node.later(RETRY_S, lambda: self._try(source, target))

    def _connect(self, node: SimNode, peer: SimNode) -> None:
        pair = (node.pnn, peer.pnn)
        old = self._connections.get(pair)
        if old is not None and old.to_life == peer.life:
            self._end(pair, old, peer.pnn)
        connection = _Connection(self._next_id, self._next_id + 1, node.life, peer.life)
        self._next_id += 2
        self._connections[pair] = connection
        node.records.add_link(connection.out_id, peer.pnn, True)
        peer.records.add_link(connection.in_id, node.pnn, False)
        back = self._connections.get((peer.pnn, node.pnn))
        if back is not None and back.is_up and back.from_life == peer.life and back.to_life == node.life:
            node.later(0.0, lambda: node.step(inputs.LinkUp(peer.pnn)))
            peer.later(0.0, lambda: peer.step(inputs.LinkUp(node.pnn)))

    def _break(self, pair: tuple[int, int], connection: _Connection, at: int, reason: str) -> None:
        """One end of a connection notices that it broke, a moment later."""
        node = self.nodes[at]
        other = pair[0] if pair[1] == at else pair[1]
        life = connection.from_life if pair[0] == at else connection.to_life
        if not node.is_up or node.life != life:
            return

        def notice() -> None:
            self._end(pair, connection, at)
            back = self._connections.get((pair[1], pair[0]))
            if back is not None and (back.from_life, back.to_life) == (
                connection.to_life,
                connection.from_life,
            ):
                # The other direction of the same link; a link made since then is another one.
                back.is_up = False
                self._end((pair[1], pair[0]), back, at)
            node.step(inputs.LinkDown(other, reason))
            self._wanted[at, other] = node.life
            node.later(RETRY_S, lambda: self._try(at, other))

        node.later(self._world.random.uniform(*DELAY_S), notice)

    def _end(self, pair: tuple[int, int], connection: _Connection, at: int) -> None:
        records = self.nodes[at].records
        records.close_link(connection.out_id if pair[0] == at else connection.in_id, "ended")

    # -- bytes -----------------------------------------------------------------------------------

    def collect(self, source: int) -> None:
        """Take what a node has to send and have it arrive."""
        node = self.nodes[source]
        for pair, connection in self._connections.items():
            if pair[0] != source or connection.from_life != node.life:
                continue
            data = node.records.take_link(connection.out_id)
            if not data:
                continue
            if pair in self._cut:
                connection.held.append(data)
            else:
                self._send(source, pair[1], connection, data)

    def _send(self, source: int, target: int, connection: _Connection, data: bytes) -> None:
        world, peer = self._world, self.nodes[target]
        arrival_s = max(connection.last_arrival_s, world.now_s + world.random.uniform(*DELAY_S))
        connection.last_arrival_s = arrival_s

        def arrive() -> None:
            if not connection.is_up or connection.to_life != peer.life:
                return
            if (source, target) in self._cut:
                connection.held.append(data)
                return
            peer.records.feed_link(connection.in_id, data)
            peer.work()

        life = peer.life
        if life == connection.to_life:
            peer.later(arrival_s - world.now_s, arrive)
