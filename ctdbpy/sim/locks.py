# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster lock of a simulated cluster: one holder at a time, on storage that the network's cuts spare.

A helper asks for it, which takes time. The storage can hang (nothing answers), refuse, or take the lock
away from its holder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.core.inputs import LockOutcome
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World

HELPER_S: Final = (0.002, 0.04)
#: The cluster file system frees what a dead machine held.
DEAD_HOLDER_S: Final = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class _Hold:
    node: SimNode
    life: int
    attempt: int
    only_look: bool = False


class ClusterLock:
    """Who holds it, and what is wrong with the storage below it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._holder: _Hold | None = None
        #: Whoever has lost it and could not hear of it yet: a slow node hears late.
        self._untold: _Hold | None = None
        self._hangs = False
        self._refuses = False
        self._hung: list[Callable[[], None]] = []
        #: Attempts whose answer nobody wants.
        self._dropped: set[tuple[int, int, int]] = set()

    @property
    def holder(self) -> int | None:
        """The node that holds it."""
        return self._holder.node.pnn if self._holder else None

    def is_held_for_all_it_knows(self, pnn: int) -> bool:
        """Whether this node holds it, or has lost it just now and cannot know."""
        return pnn in (hold.node.pnn for hold in (self._holder, self._untold) if hold is not None)

    def take(self, node: SimNode, attempt: int, *, only_look: bool) -> None:
        """A node's helper tries to take it, or only looks whether it could."""
        hold = _Hold(node, node.life, attempt, only_look)
        node.host_later(self._world.random.uniform(*HELPER_S), lambda: self._decide(hold))

    def drop(self, node: SimNode, attempt: int) -> None:
        """A node gives it back, or wants it no more."""
        self._dropped.add((node.pnn, node.life, attempt))
        if self._holder == _Hold(node, node.life, attempt):
            self._holder = None

    def node_gone(self, node: SimNode, *, silently: bool) -> None:
        """A killed daemon's helper ends with it; what a machine without power held is freed later."""
        hold = self._holder
        if hold is None or hold.node is not node:
            return

        def free() -> None:
            if self._holder is hold:
                self._holder = None

        if silently:
            self._world.later(self._world.random.uniform(*DEAD_HOLDER_S), free)
        else:
            free()

    # -- faults ---------------------------------------------------------------------------------

    def lose(self) -> None:
        """The holder loses it, and is told."""
        hold, self._holder = self._holder, None
        if hold is not None:
            self._world.say(f"n{hold.node.pnn} loses the cluster lock")
            self._untold = hold
            self._say(hold, inputs.LockLost(hold.attempt, "the storage took it away"))

    def hang(self) -> None:
        """The storage answers nothing until `mend`."""
        self._world.say("the cluster lock hangs")
        self._hangs = True

    def refuse(self) -> None:
        """Every attempt fails until `mend`."""
        self._world.say("the cluster lock fails")
        self._refuses = True

    def mend(self) -> None:
        """The storage is well again; who hung goes on."""
        self._hangs = self._refuses = False
        hung, self._hung = self._hung, []
        for act in hung:
            act()

    # -- in detail ------------------------------------------------------------------------------

    def _decide(self, hold: _Hold) -> None:
        if (hold.node.pnn, hold.life, hold.attempt) in self._dropped:
            return
        if self._hangs:
            self._hung.append(lambda: self._decide(hold))
            return
        if hold.node.life != hold.life or not hold.node.is_up:
            return
        if self._refuses:
            outcome = LockOutcome.ERROR
        elif self._holder is None:
            if not hold.only_look:
                self._holder = hold
            outcome = LockOutcome.HELD
        else:
            outcome = LockOutcome.CONTENDED
        self._say(hold, inputs.LockAnswered(hold.attempt, outcome, outcome.value))

    def _say(self, hold: _Hold, happened: inputs.Input) -> None:
        node = hold.node
        if node.life == hold.life and node.is_up:
            node.later(0.0, lambda: self._tell(hold, happened))

    def _tell(self, hold: _Hold, happened: inputs.Input) -> None:
        if isinstance(happened, inputs.LockLost) and self._untold is hold:
            self._untold = None
        hold.node.step(happened)
