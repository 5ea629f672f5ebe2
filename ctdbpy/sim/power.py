# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch that takes the power from simulated nodes, and the daemon's part in it, as in `daemon.fences`.

A command takes its time, fails now and then, sometimes after it has done its work, or says nothing until the
daemon has waited long enough. What it has sent to the switch comes there whatever becomes of its machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from ctdbpy.core import effects, inputs
from ctdbpy.sim.world import World

if TYPE_CHECKING:
    from ctdbpy.sim.node import SimNode

#: A command works so long on its machine before it asks the switch, and the switch so long afterwards.
WORK_S: Final = (0.001, 0.01)
SLOW_WORK_S: Final = (0.3, 6.0)
SWITCH_S: Final = (0.01, 0.3)
#: The daemon starts no command later than this after it was decided, as `daemon.fences`.
LATE_S: Final = 0.4
#: The daemon waits no longer for the command.
TIMEOUT_S: Final = 4.0
#: A command that nobody wants any more is killed.
END_S: Final = (0.0005, 0.005)
#: What comes of a command, and how often.
OUTCOMES: Final = (("off", 72), ("is slow", 10), ("fails", 8), ("lies", 5), ("hangs", 5))
#: Whoever wants a node fenced stands still just then.
PAUSES: Final = 0.06
PAUSE_S: Final = (0.05, 3.0)
#: After a command that failed, an administrator looks and says that the node is off, if it is.
CONFIRMS: Final = 0.4
CONFIRM_S: Final = (0.1, 2.0)
#: Somebody switches the node on again; now and then before anybody else has noticed.
BOOT_S: Final = (2.0, 10.0)
EARLY: Final = 0.2
EARLY_BOOT_S: Final = (0.01, 1.0)


@dataclass(slots=True, eq=False)
class _Order:
    """A command of a node's daemon; over when the daemon has, or wants, no more of it."""

    node: SimNode
    life: int
    target: SimNode
    decided_s: float
    is_over: bool = False


class PowerSwitch:
    """Of one cluster. It has chance of its own: what it does to other runs is nothing."""

    def __init__(self, world: World, nodes: Sequence[SimNode]) -> None:
        self._world = world
        self._nodes = nodes
        self._random = Random(f"power switch {world.seed}")
        #: How often power was taken.
        self.taken = 0
        #: Told who has a command begun that takes whose power.
        self.on_begin: Callable[[SimNode, SimNode], None] = lambda _node, _target: None
        #: Told who had it begun when the power of a machine is about to be taken.
        self.on_switch: Callable[[SimNode, SimNode], None] = lambda _node, _target: None
        #: An administrator tells a node that another is certainly off.
        self.on_confirm: Callable[[SimNode, SimNode], None] = lambda _node, _target: None
        #: By the pnns of both.
        self._orders: dict[tuple[int, int], _Order] = {}

    def fence(self, node: SimNode, wanted: effects.Fence) -> None:
        """A node's core wants another's power taken."""
        if self._random.random() < PAUSES:
            node.pause(self._random.uniform(*PAUSE_S))
        order = _Order(node, node.life, self._nodes[wanted.pnn], self._world.now_s)
        self._orders[node.pnn, wanted.pnn] = order
        node.later(0.0, lambda: self._begin(order))

    def stop(self, node: SimNode, pnn: int) -> None:
        """It does not want that any more."""
        order = self._orders[node.pnn, pnn]
        node.host_later(self._random.uniform(*END_S), lambda: self._end(order, "it was ended"))

    def _begin(self, order: _Order) -> None:
        node, target = order.node, order.target
        if order.is_over:
            return
        if not self.may_fence(node, order.decided_s):
            self._end(order, "this node's lease has run out meanwhile")
            return
        self.on_begin(node, target)
        (outcome,) = self._random.choices([name for name, _ in OUTCOMES], [often for _, often in OUTCOMES])
        how = "" if outcome == "off" else f": it {outcome}"
        self._world.say(f"n{node.pnn} has n{target.pnn} fenced{how}")
        if outcome != "hangs":
            work_s = self._random.uniform(*(SLOW_WORK_S if outcome == "is slow" else WORK_S))
            node.host_later(work_s, lambda: self._ask(order, outcome))
        node.host_later(TIMEOUT_S, lambda: self._end(order, "no end in time"))

    def may_fence(self, node: SimNode, decided_s: float) -> bool:
        """What the daemon looks at before it starts the command: a lease, if it needs one, and its clock."""
        return not node.guard.lease_is_over() and self._world.now_s - decided_s < LATE_S

    def _end(self, order: _Order, error: str) -> None:
        node, pnn = order.node, order.target.pnn
        if order.is_over or node.life != order.life:
            return
        order.is_over = True
        node.later(0.0, lambda: node.step(inputs.Fenced(pnn, error)))
        if error and self._random.random() < CONFIRMS:
            node.later(self._random.uniform(*CONFIRM_S), lambda: self._confirm(node, order.target))

    def _confirm(self, node: SimNode, target: SimNode) -> None:
        if not target.has_power:
            self._world.say(f"n{node.pnn} is told that n{target.pnn} is off")
            self.on_confirm(node, target)

    # -- the switch -------------------------------------------------------------------------------

    def _ask(self, order: _Order, outcome: str) -> None:
        if not order.is_over:
            self._world.later(self._random.uniform(*SWITCH_S), lambda: self._act(order, outcome))

    def _act(self, order: _Order, outcome: str) -> None:
        target = order.target
        if outcome == "fails" or (target.is_up and sum(each.is_up for each in self._nodes) == 1):
            # The last one holds the last copy of everything.
            self._end(order, "the switch does not answer")
            return
        if target.has_power:
            self.on_switch(order.node, target)
            self.taken += 1
            self._world.say(f"n{target.pnn} is switched off")
            target.switch_off()
            self._boot_later(target)
        self._end(order, "the switch did not say what it did" if outcome == "lies" else "")

    def _boot_later(self, target: SimNode) -> None:
        life = target.life
        early = self._random.random() < EARLY
        delay_s = self._random.uniform(*(EARLY_BOOT_S if early else BOOT_S))
        self._world.later(
            delay_s, lambda: target.boot() if target.life == life and not target.is_up else None
        )
