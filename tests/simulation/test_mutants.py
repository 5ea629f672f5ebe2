# SPDX-License-Identifier: GPL-3.0-or-later
"""Every checker notices a mistake that is made on purpose."""

from __future__ import annotations

import pytest

from ctdbpy.sim.cluster import Cluster
from tests.simulation.mutants import TABLE, Mutant, hunt


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mistake_is_noticed(mutant: Mutant) -> None:
    verdict = hunt(mutant)
    assert verdict.is_killed, verdict.text


def test_every_checker_has_a_mistake_to_notice() -> None:
    first = {mutant.checkers[0] for mutant in TABLE}
    assert {checker.name for checker in Cluster(1).checkers} <= first
