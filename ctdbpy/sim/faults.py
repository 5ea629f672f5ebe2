# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong in a simulated cluster: one method for each fault, and how often each happens.

To add one, write a method and give it a weight in `FAULTS`; whatever it breaks, `Faults.mend` must mend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from ctdbpy.core.state import Quorum
from ctdbpy.sim.node import SimNode
from ctdbpy.wire import packets
from ctdbpy.wire.constants import ControlFlag, NodeFlag
from ctdbpy.wire.controls import Control

if TYPE_CHECKING:
    from ctdbpy.sim.cluster import Cluster

#: Name and weight. `revive` mends what other faults broke, so that runs do not end in ruins.
FAULTS: Final = (
    ("crash", 4),
    ("power", 4),
    ("restart", 3),
    ("shutdown", 1),
    ("pause", 3),
    ("long_pause", 3),
    ("stall", 2),
    ("slow", 2),
    ("guard_dies", 2),
    ("recover", 2),
    ("stop", 3),
    ("reset", 4),
    ("cut", 3),
    ("cut_one_way", 3),
    ("partition", 4),
    ("isolate", 4),
    ("flaky", 2),
    ("disk_full", 1),
    ("hung_child", 1),
    ("lock_lost", 3),
    ("lock_hangs", 1),
    ("lock_fails", 1),
    ("crash_in_recovery", 4),
    ("crash_leader_in_recovery", 4),
    ("revive", 22),
)
#: These only where lost nodes are fenced: hosts stand still at moments in which they should not be missed.
FENCING_FAULTS: Final = (
    ("pause_in_recovery", 5),
    ("stop_and_pause", 3),
)
#: A recovery takes a few tens of milliseconds.
WITHIN_RECOVERY_S: Final = 0.05
#: A node that is stopped has frozen its databases a few milliseconds later.
STOPS_WITHIN_S: Final = 0.005


class Faults:
    """Breaks one cluster, and mends it."""

    def __init__(self, cluster: Cluster, only: Collection[str] = ()) -> None:
        self._cluster = cluster
        known = FAULTS + FENCING_FAULTS if cluster.switch is not None else FAULTS
        chosen = [(name, weight) for name, weight in known if not only or name in only]
        self._names = [name for name, _ in chosen]
        self._weights = [weight for _, weight in chosen]
        self._world = cluster.world
        self._network = cluster.network

    def one(self) -> None:
        """Have something go wrong, or be mended."""
        (name,) = self._world.random.choices(self._names, self._weights)
        if name == "revive":
            self.mend()
            return
        self._world.say(f"fault: {name}")
        if name.startswith("lock_"):
            if self._cluster.quorum is Quorum.LOCK:
                self._break_lock(name)
            return
        node = self._world.random.choice(self._cluster.nodes)
        if node.is_up and not node.is_paused:
            act: Callable[[SimNode], None] = getattr(self, f"_{name}")
            act(node)

    def mend(self) -> None:
        """Everything works again: power, network, disks, the lock. Pauses and bans end by themselves."""
        self._network.mend()
        self._cluster.lock.mend()
        for node in self._cluster.nodes:
            if not node.is_up:
                node.boot()
                continue
            if not node.workers.is_well:
                node.workers.mend()
            if node.node.state.own.flags & NodeFlag.STOPPED and not node.is_held:
                self.set_stopped(node, False)

    def kill(self, node: SimNode, *, silently: bool = False) -> None:
        """End a node, unless it is the last one: that holds the last copy of everything."""
        if not node.is_up or sum(each.is_up for each in self._cluster.nodes) == 1:
            return
        if silently:
            node.power_off()
        else:
            node.crash()

    def set_stopped(self, node: SimNode, stopped: bool) -> None:
        """`ctdb stop` and `ctdb continue`."""
        self._world.say(f"n{node.pnn} is {'stopped' if stopped else 'continued'}")
        opcode = Control.STOP_NODE if stopped else Control.CONTINUE_NODE
        control = packets.ReqControl(0, node.pnn, node.pnn, 0, opcode, 0, 0, ControlFlag.NOREPLY, b"")
        self._cluster.administer(node, control)

    # -- nodes ----------------------------------------------------------------------------------

    def _crash(self, node: SimNode) -> None:
        self.kill(node)

    def _power(self, node: SimNode) -> None:
        self.kill(node, silently=True)

    def _restart(self, node: SimNode) -> None:
        self.kill(node)
        if not node.is_up:
            life = node.life
            delay_s = self._world.random.uniform(0.005, 0.3)
            self._world.later(delay_s, lambda: node.boot() if node.life == life and not node.is_up else None)

    def _shutdown(self, node: SimNode) -> None:
        if sum(each.is_up for each in self._cluster.nodes) > 1:
            self._cluster.shut_down(node)

    def _pause(self, node: SimNode) -> None:
        node.pause(self._world.random.uniform(0.01, 0.8))

    def _long_pause(self, node: SimNode) -> None:
        node.pause(self._world.random.uniform(1.0, 8.0))

    def _stall(self, node: SimNode) -> None:
        node.stall(self._world.random.uniform(0.1, 6.0))

    def _slow(self, node: SimNode) -> None:
        node.slow_down(self._world.random.uniform(0.5, 3.0))

    def _guard_dies(self, node: SimNode) -> None:
        node.guard.die()

    def _recover(self, node: SimNode) -> None:
        if not node.is_held:
            self._cluster.ask_to_recover(node)

    def _stop(self, node: SimNode) -> None:
        active = [each for each in self._cluster.nodes if each.is_up and each.node.state.own.is_active]
        if len(active) > 1 and node in active and not node.is_held:
            # A stopped node's volatile records are void, as those of a dead one; its clients would be gone
            # with its addresses.
            self._cluster.end_programs(node)
            self.set_stopped(node, True)
            self._cluster.node_gone(node)

    def _stop_and_pause(self, node: SimNode) -> None:
        self._stop(node)
        delay_s, seconds = (
            self._world.random.uniform(0.0, STOPS_WITHIN_S),
            self._world.random.uniform(0.3, 6.0),
        )
        node.host_later(delay_s, lambda: node.pause(seconds))

    def _disk_full(self, node: SimNode) -> None:
        self._world.say(f"n{node.pnn} has a full disk")
        node.workers.fill_disk()

    def _hung_child(self, node: SimNode) -> None:
        self._world.say(f"n{node.pnn} has a disk that hangs")
        node.workers.hang()

    # -- the network ----------------------------------------------------------------------------

    def _reset(self, node: SimNode) -> None:
        self._network.reset(node.pnn, self._other(node))

    def _cut(self, node: SimNode) -> None:
        self._network.cut(node.pnn, self._other(node))

    def _cut_one_way(self, node: SimNode) -> None:
        self._network.cut(node.pnn, self._other(node), both=False)

    def _partition(self, _node: SimNode) -> None:
        numbers = [each.pnn for each in self._cluster.nodes]
        size = self._world.random.randrange(1, len(numbers))
        self._network.split(self._world.random.sample(numbers, size))

    def _isolate(self, node: SimNode) -> None:
        self._network.split([node.pnn])

    def _flaky(self, node: SimNode) -> None:
        self._network.make_flaky(node.pnn, self._other(node))

    def _other(self, node: SimNode) -> int:
        return self._world.random.choice([each.pnn for each in self._cluster.nodes if each is not node])

    # -- in the middle of something -----------------------------------------------------------------

    def _crash_in_recovery(self, node: SimNode) -> None:
        victim = self._world.random.choice(self._cluster.nodes)
        self._kill_in_recovery(node, lambda: victim)

    def _crash_leader_in_recovery(self, node: SimNode) -> None:
        def leader() -> SimNode:
            known = node.node.state.leader
            return self._cluster.nodes[known] if known < len(self._cluster.nodes) else node

        self._kill_in_recovery(node, leader)

    def _pause_in_recovery(self, node: SimNode) -> None:
        random = self._world.random
        victim = random.choice(self._cluster.nodes)
        delay_s, seconds = random.uniform(0.0, WITHIN_RECOVERY_S), random.uniform(0.3, 6.0)
        life = victim.life

        def pause() -> None:
            if victim.is_up and victim.life == life:
                victim.pause(seconds)

        self._cluster.when_recovering(lambda: self._world.later(delay_s, pause))
        self._recover(node)

    def _kill_in_recovery(self, node: SimNode, victim: Callable[[], SimNode]) -> None:
        random = self._world.random
        delay_s, silently = random.uniform(0.0, WITHIN_RECOVERY_S), random.random() < 0.5
        self._cluster.when_recovering(
            lambda: self._world.later(delay_s, lambda: self.kill(victim(), silently=silently))
        )
        self._recover(node)

    # -- the cluster lock -----------------------------------------------------------------------------

    def _break_lock(self, name: str) -> None:
        match name:
            case "lock_lost":
                self._cluster.lock.lose()
            case "lock_hangs":
                self._cluster.lock.hang()
            case _:
                self._cluster.lock.refuse()
