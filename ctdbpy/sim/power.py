# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch that takes the power from simulated nodes, and the daemon's part in it, as in `daemon.fences`.

A command takes its time, fails now and then, sometimes after it has done its work, or says nothing until the
daemon has waited long enough. What it has sent to the switch comes there whatever becomes of its machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from ctdbpy.core import effects, inputs
from ctdbpy.sim.world import World

if TYPE_CHECKING:
    from ctdbpy.sim.node import SimNode

#: From the daemon's decision until the command has asked the switch.
START_S: Final = (0.001, 0.01)
SWITCH_S: Final = (0.01, 0.3)
SLOW_SWITCH_S: Final = (0.3, 6.0)
#: The daemon starts no command later than this after it was decided, as `daemon.fences`.
LATE_S: Final = 0.4
#: The daemon waits no longer for the command.
TIMEOUT_S: Final = 4.0
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
        #: An administrator tells a node that another is certainly off.
        self.on_confirm: Callable[[SimNode, SimNode], None] = lambda _node, _target: None

    def fence(self, node: SimNode, wanted: effects.Fence) -> None:
        """A node's core wants another's power taken."""
        target = self._nodes[wanted.pnn]
        if self._random.random() < PAUSES:
            node.pause(self._random.uniform(*PAUSE_S))
        decided_s = self._world.now_s
        node.later(0.0, lambda: self._begin(node, target, decided_s))

    def _begin(self, node: SimNode, target: SimNode, decided_s: float) -> None:
        if not self.may_fence(node, decided_s):
            self._answer(node, target, "this node's lease has run out meanwhile")
            return
        self.on_begin(node, target)
        (outcome,) = self._random.choices([name for name, _ in OUTCOMES], [often for _, often in OUTCOMES])
        start_s = self._random.uniform(*START_S)
        took_s = self._random.uniform(*(SLOW_SWITCH_S if outcome == "is slow" else SWITCH_S))
        self._world.say(
            f"n{node.pnn} has n{target.pnn} fenced{'' if outcome == 'off' else ': it ' + outcome}"
        )
        match outcome:
            case "hangs":
                node.host_later(TIMEOUT_S, lambda: self._answer(node, target, "no end in time"))
                return
            case "fails":
                end = self._answered(node, target, "the switch does not answer")
            case "lies":
                end = self._switched(node, target, "the switch did not say what it did")
            case _ if took_s > TIMEOUT_S:
                # Nobody waits any more when it has done its work.
                node.host_later(TIMEOUT_S, lambda: self._answer(node, target, "no end in time"))
                end = self._switched(node, target, None)
            case _:
                end = self._switched(node, target, "")
        node.host_later(start_s, lambda: self._world.later(took_s, end))

    def may_fence(self, node: SimNode, decided_s: float) -> bool:
        """What the daemon looks at before it starts the command: a lease, if it needs one, and its clock."""
        return not node.guard.lease_is_over() and self._world.now_s - decided_s < LATE_S

    # -- the switch -------------------------------------------------------------------------------

    def _answered(self, node: SimNode, target: SimNode, error: str) -> Callable[[], None]:
        life = node.life
        return lambda: self._answer(node, target, error) if node.life == life else None

    def _switched(self, node: SimNode, target: SimNode, error: str | None) -> Callable[[], None]:
        answer = self._answered(node, target, error or "")

        def switch() -> None:
            if target.is_up and sum(each.is_up for each in self._nodes) == 1:
                # It holds the last copy of everything.
                self._answered(node, target, "the switch is not to be reached")()
                return
            if target.has_power:
                self.taken += 1
                self._world.say(f"n{target.pnn} is switched off")
                target.switch_off()
                self._boot_later(target)
            if error is not None:
                answer()

        return switch

    def _boot_later(self, target: SimNode) -> None:
        life = target.life
        early = self._random.random() < EARLY
        delay_s = self._random.uniform(*(EARLY_BOOT_S if early else BOOT_S))
        self._world.later(
            delay_s, lambda: target.boot() if target.life == life and not target.is_up else None
        )

    def _answer(self, node: SimNode, target: SimNode, error: str) -> None:
        node.later(0.0, lambda: node.step(inputs.Fenced(target.pnn, error)))
        if error and self._random.random() < CONFIRMS:
            node.later(self._random.uniform(*CONFIRM_S), lambda: self._confirm(node, target))

    def _confirm(self, node: SimNode, target: SimNode) -> None:
        if not target.has_power:
            self._world.say(f"n{node.pnn} is told that n{target.pnn} is off")
            self.on_confirm(node, target)
