# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever fails by chance, each address is in one place, and in some place once it is mended."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from ctdbpy.core.failover import run, slices
from ctdbpy.core.failover.slices import SLICE
from ctdbpy.wire.controls import Control
from tests.unit.core.addressed import Addressed


class Troubles:
    """Failures by chance, each with what mends it."""

    def __init__(self, cluster: Addressed, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance
        self.count = len(cluster.nodes)

    def next(self) -> tuple[str, Callable[[], None]]:
        """One failure; its name, and its repair."""
        pnn = self.chance.randrange(self.count)
        kinds = [self.die, self.cut_off, self.part, self.disable, self.stop]
        kinds += [self.sicken, self.unplug, self.meddle]
        kind = self.chance.choice(kinds)
        return f"{kind.__name__} {pnn}", kind(pnn)

    def die(self, pnn: int) -> Callable[[], None]:
        self.cluster.kill(pnn)

        def repair() -> None:
            self.cluster.restart(pnn)
            self.cluster.give(pnn, self.cluster.nodes[pnn].host.seen())

        return repair

    def cut_off(self, pnn: int) -> Callable[[], None]:
        others = [each for each in range(self.count) if each != pnn]
        for other in others:
            self.cluster.cut(pnn, other)

        def repair() -> None:
            for other in others:
                self.cluster.link(pnn, other)

        return repair

    def part(self, pnn: int) -> Callable[[], None]:
        """Two nodes lose each other and nobody else."""
        other = (pnn + 1 + self.chance.randrange(self.count - 1)) % self.count
        self.cluster.cut(pnn, other)
        return lambda: self.cluster.link(pnn, other)

    def disable(self, pnn: int) -> Callable[[], None]:
        self.cluster.ask(pnn, Control.DISABLE_NODE)
        return lambda: self._ask(pnn, Control.ENABLE_NODE)

    def stop(self, pnn: int) -> Callable[[], None]:
        self.cluster.ask(pnn, Control.STOP_NODE)
        return lambda: self._ask(pnn, Control.CONTINUE_NODE)

    def _ask(self, pnn: int, opcode: Control) -> None:
        self.cluster.ask(pnn, opcode)

    def sicken(self, pnn: int) -> Callable[[], None]:
        self.cluster.nodes[pnn].verdicts["monitor"] = (errno.ENOEXEC, "50.samba failed")
        return self.cluster.nodes[pnn].verdicts.clear

    def unplug(self, pnn: int) -> Callable[[], None]:
        harness = self.cluster.nodes[pnn]
        names = self.chance.choice([["eth0"], ["eth1"], ["eth0", "eth1"]])
        harness.host.links.update(dict.fromkeys(names, False))
        self.cluster.give(pnn, harness.host.seen())

        def repair() -> None:
            harness.host.links.update(dict.fromkeys(names, True))
            self.cluster.give(pnn, harness.host.seen())

        return repair

    def meddle(self, pnn: int) -> Callable[[], None]:
        """Somebody removes addresses by hand."""
        harness = self.cluster.nodes[pnn]
        for address in list(harness.host.carried):
            if self.chance.random() < 0.5:
                del harness.host.carried[address]
        self.cluster.give(pnn, harness.host.seen())
        return lambda: None


@pytest.mark.parametrize(("seed", "slice_"), [(0, SLICE), (1, SLICE), (2, 1), (3, 500)])
def test_each_address_is_in_one_place_whatever_fails(
    seed: int, slice_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run, slices):
        monkeypatch.setattr(module, "SLICE", slice_)
    chance = random.Random(seed)
    cluster = Addressed(4)
    troubles = Troubles(cluster, chance)
    for number in range(50):
        name, repair = troubles.next()
        cluster.advance(chance.choice([0.0, 0.3, 20.0]))
        if number % 2:
            cluster.advance(20)
            try:
                cluster.check_hosted()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {number}: after {name}") from error
        repair()
        cluster.advance(20)
        try:
            cluster.check_hosted()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {number}: after {name} was repaired") from error
        assert max(cluster.counts()) - min(cluster.counts()) <= 1
        for harness in cluster.nodes:
            harness.effects.clear()
            harness.events.clear()
