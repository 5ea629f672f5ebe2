# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold where lost nodes are fenced: nobody is passed over, nor switched off in vain."""

from __future__ import annotations

from typing import Final

from ctdbpy.core.state import Quorum
from ctdbpy.sim.checkers import WITNESS_S, Checker
from ctdbpy.sim.history import Generation, History
from ctdbpy.sim.locks import ClusterLock
from ctdbpy.sim.node import SimNode

#: So long it takes at most until the switch has done what it was asked.
LATE_FENCE_S: Final = 0.4


class FencedFirst(Checker):
    """With a fence command nobody goes on without a node that served and may still run.

    A program there may have a request in hand: when its host goes on it writes to a file over what others
    have written since. Not where there is no power, where the daemon has ended, or where it stands still: its
    databases are frozen and it has no address.
    """

    def __init__(self, history: History) -> None:
        super().__init__(history)
        #: By pnn: the life of each node that served in the newest generation.
        self._served: dict[int, int] = {}

    def went_on(self, generation: Generation) -> None:
        nodes = self.history.nodes
        runs_on = {pnn for pnn, life in self._served.items() if nodes[pnn].is_up and nodes[pnn].life == life}
        # Who leaves while a map is made that names it is not gone on without yet.
        taken_along = generation.members | generation.mapped
        self._served = {pnn: nodes[pnn].life for pnn in generation.members | runs_on & generation.mapped}
        if nodes[0].switch is None or not runs_on & generation.members:
            # Those who have started since cannot know of whom else there was: docs/decisions/010.
            return
        for pnn in runs_on - taken_along:
            if not _stands_still(nodes[pnn]):
                how = "stands still with its machine" if nodes[pnn].is_paused else "runs"
                raise self.fail(
                    f"nodes {sorted(generation.members)} went on to generation {generation.number} without "
                    f"n{pnn}, which {how} and was not fenced"
                )


class FewFenceNobody(Checker):
    """Only whom a majority is heard by, or who holds the lock, takes another node's power."""

    def __init__(self, history: History, lock: ClusterLock) -> None:
        super().__init__(history)
        self._lock = lock

    def fencing(self, node: SimNode, target: SimNode) -> None:
        if node.quorum is Quorum.LOCK:
            if not self._lock.is_held_for_all_it_knows(node.pnn):
                raise self.fail(
                    f"n{node.pnn} has n{target.pnn} fenced, the cluster lock is held by {self._lock.holder}"
                )
            return
        since_s = node.world.now_s - WITNESS_S
        witnesses = [pnn for pnn, heard_s in node.guard.heard_s.items() if heard_s >= since_s]
        if (len(witnesses) + 1) * 2 <= len(node.addresses):
            raise self.fail(
                f"n{node.pnn} has n{target.pnn} fenced, and has lately heard only {witnesses} of "
                f"{len(node.peers)}"
            )


class NoLateFence(Checker):
    """A leader that has taken a node back lets it have its power; what the switch knows already happens."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        #: By the pnns of both, when it began, in time that the one ran itself.
        self._began: dict[tuple[int, int], float] = {}
        #: By pnn of a leader, of its last recovery: its life, when it was done, the lives of all members.
        self._done: dict[int, tuple[int, float, dict[int, int]]] = {}

    def recovered(self, generation: Generation) -> None:
        nodes, leader = self.history.nodes, self.history.nodes[generation.leader]
        lives = {pnn: nodes[pnn].life for pnn in generation.members}
        self._done[leader.pnn] = (leader.life, leader.ran_s, lives)

    def fencing(self, node: SimNode, target: SimNode) -> None:
        self._began[node.pnn, target.pnn] = node.ran_s

    def switched_off(self, node: SimNode, target: SimNode) -> None:
        life, ran_s, lives = self._done.get(node.pnn, (-1, 0.0, {}))
        is_member = node.life == life and lives.get(target.pnn) == target.life
        if is_member and self._began[node.pnn, target.pnn] < ran_s < node.ran_s - LATE_FENCE_S:
            raise self.fail(
                f"n{node.pnn} has n{target.pnn} switched off, "
                f"which it took back {node.ran_s - ran_s:.3f} s ago"
            )


def _stands_still(node: SimNode) -> bool:
    databases = node.node.state.databases
    return not node.host.carried and all(node.workers.is_locked(db_id) for db_id in databases)


def fence_referee(history: History, lock: ClusterLock) -> tuple[Checker, ...]:
    """Every checker of fencing, for one run."""
    return (FencedFirst(history), FewFenceNobody(history, lock), NoLateFence(history))
