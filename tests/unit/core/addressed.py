# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of several nodes with public addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctdbpy.core.effects import Effect, ReplyToNode
from ctdbpy.core.inputs import (
    Input,
    MessageArrived,
    PublicAddress,
)
from ctdbpy.core.state import Quorum
from ctdbpy.wire.constants import ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReqControl
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness, of_kind

ADDRESSES = tuple(f"192.0.2.{number}" for number in range(1, 13))
LINES = tuple(PublicAddress(each, 24, ("eth0", "eth1")) for each in ADDRESSES)
MAJORITY = {"quorum": Quorum.MAJORITY}


def order(opcode: Control, pnn: int) -> ReqControl:
    """A control for a node that nobody waits for."""
    return ReqControl(0, pnn, pnn, 0, opcode, 0, 0, ControlFlag.NOREPLY, b"")


class Addressed(Cluster):
    """A cluster with public addresses, healthy, that never has one twice."""

    def __init__(self, count: int = 3, **changes: Any) -> None:
        #: After so many answers of this node to others something happens.
        self.answering, self.interrupted_after, self._answers = -1, 0, 0
        self.interrupt: Callable[[], object] = lambda: None
        super().__init__(count, **({"public_addresses": LINES} | MAJORITY | changes))
        for harness in self.nodes:
            harness.give(harness.host.seen())
        self.advance(10)

    def _send_all(self, harness: Harness, effects: list[Effect]) -> None:
        super()._send_all(harness, effects)
        if harness.config.pnn == self.answering and of_kind(effects, ReplyToNode):
            self._answers += 1
            if self._answers == self.interrupted_after:
                self.interrupt()
        twice = {address: pnns for address, pnns in self.holders().items() if len(pnns) > 1}
        assert not twice, twice

    def _look_at_leases(self) -> None:
        super()._look_at_leases()
        for pnn, told in self._told.items():
            harness = self.nodes[pnn]
            near = [other for one, other in self.links if one == pnn and pnn in self._told[other].linked]
            if told.keeps and len(near) < told.needed and harness.host.carried and pnn not in self.dead:
                # The helper that holds them sees that the lease is over.
                harness.host.carried.clear()
                self._queue.append((pnn, harness.host.seen()))

    def holders(self) -> dict[str, list[int]]:
        """By address: nodes that have it on an interface."""
        found: dict[str, list[int]] = {}
        for pnn, harness in enumerate(self.nodes):
            if pnn not in self.dead:
                for address in harness.host.carried:
                    found.setdefault(address, []).append(pnn)
        return found

    def counts(self) -> list[int]:
        return [len(each.host.carried) if pnn not in self.dead else 0 for pnn, each in enumerate(self.nodes)]

    def check_hosted(self) -> None:
        """Every address is somewhere, and all who know it know where."""
        holders = self.holders()
        assert sorted(holders) == sorted(ADDRESSES)
        for address, (pnn,) in holders.items():
            assert self.nodes[pnn].node.rooms.addresses.table.entries[address].pnn == pnn

    def give_all(self, pnn: int, happened: list[Input]) -> None:
        """Inputs of one node, one right after the other: what follows from them comes later."""
        self._queue += [(pnn, each) for each in happened]
        self._deliver()

    @property
    def leader(self) -> int:
        (leader,) = {
            each.node.state.leader
            for pnn, each in enumerate(self.nodes)
            if pnn not in self.dead and each.node.state.has_lease
        }
        return leader

    def tell(self, harness: Harness, effects: list[Effect]) -> None:
        """A node's effects, which have waited, arrive."""
        self._send_all(harness, effects)
        self._deliver()

    def message(self, srvid: int, data: bytes) -> None:
        """A tool's message to all nodes."""
        for pnn in range(len(self.nodes)):
            self.give(pnn, MessageArrived(0, srvid, data))
