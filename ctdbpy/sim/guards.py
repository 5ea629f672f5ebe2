# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard process of a simulated node: production's heartbeats on virtual time.

It stands still with its machine, but not with its daemon. What it decides about leases the daemon reads
at once, as from shared memory; its events take a moment.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ctdbpy.core import effects, inputs
from ctdbpy.net.heartbeats import Heartbeats
from ctdbpy.net.notices import Event
from ctdbpy.sim.world import World

if TYPE_CHECKING:
    from ctdbpy.sim.node import SimNode

EVENT_DELAY_S: Final = (0.00002, 0.0003)
GONE_AGAIN_S: Final = 0.02


class SimGuard:
    """One life of a guard."""

    def __init__(self, world: World, node: SimNode) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._turns = 0
        self._tick_s = 0.0
        self._event_s = 0.0
        self._beats = Heartbeats(node.pnn, world.random.randrange(1, 1 << 64))
        self._beats.set_peers(node.peers)
        self._beats.set_limits(*node.heartbeat_limits)
        self._arm()

    @property
    def _now_us(self) -> int:
        return round(self._world.now_s * 1_000_000)

    @property
    def _lives(self) -> bool:
        return self._node.life == self._life

    def lease_is_over(self) -> bool:
        """What the daemon's poller compares each turn."""
        until_us = self._beats.serve_until_us
        return until_us != 0 and self._now_us > until_us

    def tell(self, facts: effects.TellGuard) -> None:
        """The daemon says what has changed."""
        self._beats.tell(facts.needed, facts.leader, facts.linked, facts.still, facts.generation)
        self._tick()

    def watch(self, pnns: tuple[int, ...]) -> None:
        """These are the other nodes from now on."""
        self._beats.set_peers(pnns)
        self._arm()

    def hear(self, pnn: int, data: bytes) -> None:
        """A datagram."""
        self._beats.receive(self._now_us, pnn, data)
        self._pass_on()
        self._arm()

    def resume(self) -> None:
        """The machine goes on: the guard's clock has jumped."""
        self._tick()

    def daemon_gone(self) -> None:
        """The daemon's end of the socket is closed: say so and end."""
        self._beats.daemon_gone()
        self._beats.tick(self._now_us)
        self._send()
        again = self._beats
        node, network = self._node, self._node.network

        def repeat() -> None:
            again.tick(self._now_us)
            network.send_datagrams(node.pnn, again.take_datagrams())

        self._world.later(GONE_AGAIN_S, repeat)

    def _tick(self) -> None:
        if not self._node.is_stalled:
            self._turns += 1
            self._beats.progress(self._now_us, self._turns)
        self._beats.tick(self._now_us)
        self._send()
        self._pass_on()
        self._arm()

    def _arm(self) -> None:
        due_s = self._beats.deadline_us / 1_000_000
        if self._world.now_s < self._tick_s <= due_s:
            return
        self._tick_s = due_s
        self._node.host_later(due_s - self._world.now_s, lambda: self._wake(due_s))

    def _wake(self, due_s: float) -> None:
        if self._lives and self._tick_s == due_s:
            self._tick()

    def _send(self) -> None:
        datagrams = self._beats.take_datagrams()
        if datagrams:
            self._node.network.send_datagrams(self._node.pnn, datagrams)

    def _pass_on(self) -> None:
        now_s = self._world.now_s
        for event in self._beats.take_events():
            # One after the other, as from a socket.
            self._event_s = max(self._event_s, now_s + self._world.random.uniform(*EVENT_DELAY_S))
            self._node.later(self._event_s - now_s, partial(self._node.step, _input(event)))


def _input(event: Event) -> inputs.Input:
    if len(event) == 4:
        _, pnn, sight, text = event
        return inputs.NodeSeen(pnn, inputs.Sight(sight), text)
    if len(event) == 1:
        return inputs.LeaseHeld()
    _, what = event
    return inputs.LeaseLost(what) if isinstance(what, str) else inputs.Paused(what)
