# SPDX-License-Identifier: GPL-3.0-or-later
"""The private network of a simulated cluster: links as TCP makes them, datagrams, and what can go wrong.

A link is two one-way connections, as `net.links` holds them: it stands while both do, and a node that
loses one ends both. Bytes of a connection arrive in order. A cut holds them back, as TCP does while it
retransmits, and breaks the connection in the end; a killed daemon's kernel resets its connections, a
machine without power says nothing. Datagrams are lost by a cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World

RETRY_S: Final = 0.1
DELAY_S: Final = (0.00005, 0.002)
#: A connection whose bytes nobody acknowledges for so long breaks (`net.links.SILENCE_MS`).
SILENCE_S: Final = 10.0
#: What TCP sends before it wants an acknowledgement.
UNACKNOWLEDGED_MAX: Final = 10
#: A flaky path: so many datagrams are lost; as many times does TCP wait for a retransmission.
LOSS: Final = 0.3
FLAKY_DELAY_S: Final = (0.001, 0.06)
RETRANSMISSION_S: Final = 0.2


@dataclass(slots=True, eq=False)
class _Connection:
    """From a node to another: ids of its two ends in their engines, and which of the ends are open."""

    source: int
    target: int
    out_id: int
    in_id: int
    from_life: int
    to_life: int
    out_open: bool = True
    in_open: bool = True
    last_arrival_s: float = 0.0
    unacknowledged: int = 0
    held: list[bytes] = field(default_factory=list)
    held_since_s: float = 0.0


class Network:
    """Every connection between every pair of nodes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes: dict[int, SimNode] = {}
        #: (node, peer): the node's life that wants the link.
        self._wanted: dict[tuple[int, int], int] = {}
        #: source: target: the connection that the source's side sends on, or that its target still reads.
        self._connections: dict[int, dict[int, _Connection]] = {}
        #: (node, peer): the node's life that believes that the link stands.
        self._up: dict[tuple[int, int], int] = {}
        self._cut: set[tuple[int, int]] = set()
        self._flaky: set[tuple[int, int]] = set()
        self._heard_s: dict[tuple[int, int], float] = {}
        self._next_id = 1

    # -- faults ---------------------------------------------------------------------------

    def cut(self, one: int, other: int, *, both: bool = True) -> None:
        """Nothing that the one sends arrives at the other any more; with `both`, the other way neither."""
        self._world.say(f"cut n{one} {'<->' if both else '->'} n{other}")
        self._cut.add((one, other))
        if both:
            self._cut.add((other, one))

    def split(self, side: Iterable[int]) -> None:
        """Cut these nodes off from all others."""
        inside = sorted(side)
        outside = [pnn for pnn in self.nodes if pnn not in inside]
        self._world.say(f"split {inside} | {outside}")
        for one in inside:
            for other in outside:
                self._cut |= {(one, other), (other, one)}

    def make_flaky(self, one: int, other: int) -> None:
        """Between two nodes much is lost and late."""
        self._world.say(f"the path n{one} n{other} is flaky")
        self._flaky |= {(one, other), (other, one)}

    def reset(self, one: int, other: int) -> None:
        """The link between two nodes breaks, both notice, and nothing keeps them from connecting again."""
        self._world.say(f"the link n{one} n{other} breaks")
        for at, peer in ((one, other), (other, one)):
            self._notice_later(at, peer, self._of(one, other) or self._of(other, one), "reset")

    def mend(self) -> None:
        """Everything arrives again, with what was held back: TCP sends it again, soon or later."""
        if not self._cut and not self._flaky:
            return
        self._world.say("the network is whole")
        self._cut.clear()
        self._flaky.clear()
        for connection in [each for peers in self._connections.values() for each in peers.values()]:
            connection.unacknowledged = 0
            if connection.held:
                waited_s = self._world.now_s - connection.held_since_s
                self._resend_later(connection, self._world.random.uniform(0.0, min(waited_s, 2.0)))

    def heard_s(self, target: int, source: int) -> float:
        """When a datagram of the one has last arrived at the other."""
        return self._heard_s.get((target, source), 0.0)

    def node_crashed(self, pnn: int) -> None:
        """Its kernel resets every connection it had; a peer that cannot be reached hears nothing."""
        for connection in self._all_of(pnn):
            peer = connection.target if connection.source == pnn else connection.source
            self._close_end(connection, pnn)
            if (pnn, peer) not in self._cut:
                self._notice_later(peer, pnn, connection, "closed by the other side")

    def node_silent(self, pnn: int) -> None:
        """Its connections are gone on its side only."""
        for connection in self._all_of(pnn):
            self._close_end(connection, pnn)

    # -- connections --------------------------------------------------------------------------

    def want(self, source: int, target: int) -> None:
        """A node keeps trying to connect to another one."""
        self._wanted[source, target] = self.nodes[source].life
        self._try(source, target)

    def drop(self, source: int, target: int, reason: str, *, forget: bool) -> None:
        """A node tears its link down: both directions, both ends."""
        if forget:
            self._wanted.pop((source, target), None)
        self._tear_down(source, target, reason)

    def _try(self, source: int, target: int) -> None:
        node, peer = self.nodes[source], self.nodes[target]
        if self._wanted.get((source, target)) != node.life or not node.is_up:
            return
        standing = self._of(source, target)
        if standing is not None and standing.out_open and standing.from_life == node.life:
            return
        reachable = (source, target) not in self._cut and (target, source) not in self._cut
        answers = peer.is_up and not peer.is_held and self._wanted.get((target, source)) == peer.life
        if reachable and answers:
            self._connect(node, peer)
        else:
            node.later(RETRY_S, lambda: self._try(source, target))

    def _connect(self, node: SimNode, peer: SimNode) -> None:
        old = self._of(node.pnn, peer.pnn)
        if old is not None and old.in_open and old.to_life == peer.life:
            # The peer has not heard yet that what stood is void.
            self._tear_down(peer.pnn, node.pnn, "connected anew")
        connection = _Connection(node.pnn, peer.pnn, self._next_id, self._next_id + 1, node.life, peer.life)
        self._next_id += 2
        self._connections.setdefault(node.pnn, {})[peer.pnn] = connection
        node.records.add_link(connection.out_id, peer.pnn, True)
        peer.records.add_link(connection.in_id, node.pnn, False)
        back = self._of(peer.pnn, node.pnn)
        if back is None or not (back.out_open and back.in_open):
            self._try(peer.pnn, node.pnn)
        elif (back.from_life, back.to_life) == (peer.life, node.life):
            node.later(0.0, lambda: self._come_up(node.pnn, peer.pnn))
            peer.later(0.0, lambda: self._come_up(peer.pnn, node.pnn))

    def _come_up(self, at: int, peer: int) -> None:
        node = self.nodes[at]
        out, back = self._of(at, peer), self._of(peer, at)
        if self._up.get((at, peer)) == node.life or out is None or back is None:
            return
        if (out.out_open and out.from_life == node.life) and (back.in_open and back.to_life == node.life):
            self._up[at, peer] = node.life
            node.step(inputs.LinkUp(peer))

    def _tear_down(self, at: int, peer: int, reason: str) -> None:
        """A node ends both directions on its side; the other side hears of it if anything arrives there."""
        node = self.nodes[at]
        ended = False
        for connection in (self._of(at, peer), self._of(peer, at)):
            if connection is None or not self._is_open(connection, at):
                continue
            ended = True
            self._close_end(connection, at)
            if (at, peer) not in self._cut:
                self._notice_later(peer, at, connection, "closed by the other side")
        if self._up.pop((at, peer), None) == node.life:
            node.step(inputs.LinkDown(peer, reason))
        if ended:
            node.later(RETRY_S, lambda: self._try(at, peer))

    def _notice_later(self, at: int, peer: int, connection: _Connection | None, reason: str) -> None:
        """A node's side of a link hears a moment later that it is void."""
        if connection is None or not self._is_open(connection, at):
            return

        def notice() -> None:
            if self._is_open(connection, at):
                self._tear_down(at, peer, reason)

        self.nodes[at].later(self._world.random.uniform(*DELAY_S), notice)

    def _is_open(self, connection: _Connection, at: int) -> bool:
        node = self.nodes[at]
        if connection.source == at:
            return connection.out_open and connection.from_life == node.life and node.is_up
        return connection.in_open and connection.to_life == node.life and node.is_up

    def _close_end(self, connection: _Connection, at: int) -> None:
        node = self.nodes[at]
        if connection.source == at and connection.out_open:
            connection.out_open = False
            if connection.from_life == node.life:
                node.records.close_link(connection.out_id, "ended")
        elif connection.target == at and connection.in_open:
            connection.in_open = False
            if connection.to_life == node.life:
                node.records.close_link(connection.in_id, "ended")

    def _of(self, source: int, target: int) -> _Connection | None:
        return self._connections.get(source, {}).get(target)

    def _all_of(self, pnn: int) -> list[_Connection]:
        found = list(self._connections.get(pnn, {}).values())
        found += [peers[pnn] for peers in self._connections.values() if pnn in peers]
        return found

    # -- bytes -----------------------------------------------------------------------------------

    def collect(self, source: int) -> None:
        """Take what a node has to send and have it arrive."""
        node = self.nodes[source]
        for connection in list(self._connections.get(source, {}).values()):
            if not connection.out_open or connection.from_life != node.life:
                continue
            data = node.records.take_link(connection.out_id)
            if data:
                self._send(connection, data)

    def _send(self, connection: _Connection, data: bytes) -> None:
        pair = (connection.source, connection.target)
        if self._cut and (pair in self._cut or pair[::-1] in self._cut):
            if pair not in self._cut:
                connection.unacknowledged += 1
            if pair in self._cut or connection.unacknowledged > UNACKNOWLEDGED_MAX:
                self._hold(connection, data)
                return
            self._hold(connection, b"")
        elif connection.held:
            self._hold(connection, data)
            return
        self._transmit(connection, data)

    def _transmit(self, connection: _Connection, data: bytes) -> None:
        world, peer = self._world, self.nodes[connection.target]
        if not peer.is_up:
            # A machine without power: nobody acknowledges.
            self._hold(connection, data)
            return
        delay_s = world.random.uniform(*DELAY_S)
        if self._flaky and (connection.source, connection.target) in self._flaky:
            delay_s = world.random.uniform(*FLAKY_DELAY_S)
            while world.random.random() < LOSS:
                delay_s += RETRANSMISSION_S
        arrival_s = max(connection.last_arrival_s, world.now_s + delay_s)
        connection.last_arrival_s = arrival_s

        def arrive() -> None:
            if not connection.in_open or connection.to_life != peer.life:
                self._notice_later(
                    connection.source, connection.target, connection, "reset by the other side"
                )
                return
            peer.records.feed_link(connection.in_id, data)
            peer.work()

        peer.later(arrival_s - world.now_s, arrive)

    def _hold(self, connection: _Connection, data: bytes) -> None:
        if not connection.held:
            connection.held_since_s = since_s = self._world.now_s

            def give_up() -> None:
                if connection.held and connection.held_since_s == since_s and connection.out_open:
                    self._tear_down(connection.source, connection.target, "timed out")

            self.nodes[connection.source].later(SILENCE_S, give_up)
        connection.held.append(data)

    def _resend_later(self, connection: _Connection, seconds: float) -> None:
        def resend() -> None:
            if (connection.source, connection.target) in self._cut:
                return
            held, connection.held = connection.held, []
            data = b"".join(held)
            if data and connection.out_open:
                self._send(connection, data)

        self._world.later(seconds, resend)

    # -- datagrams -------------------------------------------------------------------------------

    def send_datagrams(self, source: int, datagrams: list[tuple[int, bytes]]) -> None:
        """Datagrams of one moment arrive a little later, in any order with others; some do not."""
        world = self._world
        arriving: list[tuple[int, int, bytes]] = []
        for target, data in datagrams:
            peer = self.nodes[target]
            if (source, target) in self._cut or not peer.is_up:
                continue
            if self._flaky and (source, target) in self._flaky:
                if world.random.random() >= LOSS:
                    self._arrive_later(source, [(target, peer.life, data)], FLAKY_DELAY_S)
            else:
                arriving.append((target, peer.life, data))
        if arriving:
            self._arrive_later(source, arriving, DELAY_S)

    def _arrive_later(
        self, source: int, datagrams: list[tuple[int, int, bytes]], delay_s: tuple[float, float]
    ) -> None:
        world = self._world

        def arrive() -> None:
            for target, life, data in datagrams:
                peer = self.nodes[target]
                if peer.life == life and peer.is_up:
                    self._heard_s[target, source] = world.now_s
                    peer.guard_hears(source, data)

        world.later(world.random.uniform(*delay_s), arrive)
