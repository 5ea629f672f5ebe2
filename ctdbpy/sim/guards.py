# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard process of a simulated node, and what its daemon makes of it, as `daemon.guard` does.

Production's heartbeats run on virtual time. The process stands still with its machine, but not with its
daemon; it can die, and is started again. Until when the node may serve the daemon reads at once, as from
shared memory; the guard's words take a moment, and come one after the other.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ctdbpy.core import effects, inputs
from ctdbpy.core.state import NOBODY
from ctdbpy.net.heartbeats import Heartbeats
from ctdbpy.net.notices import Event
from ctdbpy.sim.world import World

if TYPE_CHECKING:
    from ctdbpy.sim.node import SimNode

EVENT_DELAY_S: Final = (0.00002, 0.0003)
#: After a lease that ran out, the daemon looks so often whether there is one again.
LOOK_S: Final = 0.05
#: A new guard needs so long to start.
START_S: Final = (0.03, 0.3)
GONE_AGAIN_S: Final = 0.02


class SimGuard:
    """The guards of one life of a daemon, one after the other."""

    def __init__(self, world: World, node: SimNode) -> None:
        self._world = world
        self._node = node
        self._turns = 0
        self._tick_s = 0.0
        self._event_s = 0.0
        self._told: effects.TellGuard | None = None
        #: Nodes that were heard to have a guard.
        self._heard: set[int] = set()
        #: By pnn: when this machine has last taken a datagram of it.
        self.heard_s: dict[int, float] = {}
        # The guard has said that there is no lease; the core has been told so.
        self._guard_lost = True
        self._core_lost = False
        self._is_dead = False
        self._beats = self._born()
        self._arm()

    @property
    def _now_us(self) -> int:
        return round(self._world.now_s * 1_000_000)

    def _born(self) -> Heartbeats:
        beats = Heartbeats(self._node.pnn, self._world.random.randrange(1, 1 << 64))
        beats.set_peers(self._node.peers)
        beats.set_limits(*self._node.heartbeat_limits)
        return beats

    # -- what the daemon does with it -----------------------------------------------------------

    def lease_is_over(self) -> bool:
        """What the daemon's poller compares each turn."""
        until_us = self._beats.serve_until_us
        return until_us != 0 and self._now_us >= until_us

    @property
    def hold_until_s(self) -> float | None:
        """Until when this machine may hold addresses; None if the guard has not written it yet."""
        until_us = self._beats.hold_until_us
        return until_us / 1_000_000 if until_us else None

    def tell(self, facts: effects.TellGuard) -> None:
        """The daemon says what has changed."""
        self._told = facts
        is_wanted = facts.needed or facts.leader != NOBODY
        interval_us, limit, _, _ = self._node.heartbeat_limits
        self._node.host.want_lease(interval_us * limit / 1_000_000 if is_wanted else None)
        if not facts.needed and facts.leader == NOBODY:
            self._core_lost = False
        if not self._is_dead:
            self._say(facts)
            self._tick()

    def watch(self, pnns: tuple[int, ...]) -> None:
        """These are the other nodes from now on."""
        if not self._is_dead:
            self._beats.set_peers(pnns)
            self._arm()

    def expired(self) -> None:
        """The engine has seen that the lease has run out."""
        self._lose("it ran out, and nobody has renewed it yet")

    def _lose(self, text: str) -> None:
        if not self._core_lost:
            self._node.later(LOOK_S, self._look)
        self._core_lost = True
        self._node.step(inputs.LeaseLost(text))

    def _look(self) -> None:
        if not self._core_lost:
            return
        if self._guard_lost or self.lease_is_over():
            self._node.later(LOOK_S, self._look)
            return
        self._core_lost = False
        self._node.step(inputs.LeaseHeld())

    def _take(self, event: Event) -> None:
        """The guard's words have arrived."""
        if len(event) == 4:
            _, pnn, sight, text = event
            seen = inputs.Sight(sight)
            if seen is inputs.Sight.GONE:
                self._heard.discard(pnn)
            elif seen is not inputs.Sight.UNKNOWN:
                self._heard.add(pnn)
            self._node.step(inputs.NodeSeen(pnn, seen, text))
        elif len(event) == 1:
            self._guard_lost = False
            self._core_lost = True
            self._look()
        elif isinstance(event[1], str):
            self._guard_lost = True
            self._lose(event[1])
        else:
            self._node.step(inputs.Paused(event[1]))

    # -- the process ------------------------------------------------------------------------------

    def die(self) -> None:
        """It is killed: nobody hears this node, what it wrote last stands, until another is started."""
        if self._is_dead:
            return
        self._world.say(f"n{self._node.pnn} has no guard")
        self._is_dead = True
        # The daemon's loop waits no longer than its lease.
        until_us = self._beats.serve_until_us
        if until_us:
            self._node.later(max(0.0, until_us / 1_000_000 - self._world.now_s), self._node.work)
        self._node.later(self._world.random.uniform(*START_S), self._start_again)

    def _start_again(self) -> None:
        self._is_dead = False
        self._guard_lost = True
        self._beats = self._born()
        self._beats.set_guarded(tuple(sorted(self._heard)))
        if self._told is not None:
            self._say(self._told)
        self._tick()

    def _say(self, facts: effects.TellGuard) -> None:
        self._beats.tell(facts.needed, facts.leader, facts.linked, facts.still, facts.generation, facts.keeps)

    def hear(self, pnn: int, data: bytes) -> None:
        """A datagram."""
        if not self._is_dead:
            self.heard_s[pnn] = self._world.now_s
            self._beats.receive(self._now_us, pnn, data)
            self._node.host.look()
            self._pass_on()
            self._arm()

    def resume(self) -> None:
        """The machine goes on: the guard's clock has jumped."""
        if not self._is_dead:
            self._tick()

    def daemon_gone(self) -> None:
        """The daemon's end of the socket is closed: say so and end."""
        if self._is_dead:
            return
        beats, node = self._beats, self._node
        beats.daemon_gone()
        beats.tick(self._now_us)
        self._send()

        def repeat() -> None:
            beats.tick(self._now_us)
            node.network.send_datagrams(node.pnn, beats.take_datagrams())

        self._world.later(GONE_AGAIN_S, repeat)

    def _tick(self) -> None:
        if not self._node.is_stalled:
            self._turns += 1
            self._beats.progress(self._now_us, self._turns)
        self._beats.tick(self._now_us)
        self._node.host.look()
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
        if not self._is_dead and self._tick_s == due_s:
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
            self._node.later(self._event_s - now_s, partial(self._take, event))
