# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters in trouble lose nothing that was acknowledged while a copy lives, and come to rest in peace.

A failing seed prints the command that replays it.
"""

from __future__ import annotations

import os

import pytest

from ctdbpy.sim import runs
from ctdbpy.sim.cluster import Cluster, run
from ctdbpy.sim.faults import FAULTS, FENCING_FAULTS

#: More on demand: CTDBPY_SEEDS=1000 ./dev test simulation
SEEDS = int(os.environ.get("CTDBPY_SEEDS", "40"))
#: (nodes, seed) that once found a mistake, of the code or of the simulation.
FOUND = [
    (2, 14),
    (3, 13),
    (3, 19),
    (3, 44),
    (3, 68),
    (3, 72),
    (3, 162),
    (3, 174),
    (3, 176),
    (3, 205),
    (3, 345),
    (3, 446),
    (3, 20003),
    (3, 40586),
    (4, 10),
    (5, 9),
    (5, 20019),
    (7, 1000),
    (7, 1001),
    (9, 91),
]
#: The same, of campaigns with fewer faults a run, which get through more of them.
CAMPAIGN_FAULTS = 8
FOUND_BY_CAMPAIGNS = [
    (3, 6002696),
    (2, 4011344),
    (2, 6011662),
    (3, 6014424),
    (2, 7004370),
    (2, 7014912),
    (5, 7016797),
]
_FREEZES = ("stop_and_pause", "pause_in_recovery", "long_pause", "isolate", "revive")
#: The same, with a fence command.
FOUND_WITH_FENCING = [
    runs.Wanted(8000047, 3, CAMPAIGN_FAULTS, _FREEZES, fencing=True),
    runs.Wanted(8000052, 3, CAMPAIGN_FAULTS, _FREEZES, fencing=True),
    runs.Wanted(8003841, 4, CAMPAIGN_FAULTS, fencing=True),
    runs.Wanted(26, 2, 12, ("long_pause", "isolate", "lock_lost"), fencing=True),
    runs.Wanted(100, 2, 12, fencing=True),
]


def _replay(wanted: runs.Wanted) -> None:
    result = runs.one(wanted)
    assert not result.failure, f"{result.failure}\nreplay: {wanted.command}"


@pytest.mark.parametrize("block", range(4))
def test_three_nodes_lose_nothing(block: int) -> None:
    for seed in range(1 + block, 1 + SEEDS, 4):
        _replay(runs.Wanted(seed, 3))


@pytest.mark.parametrize("nodes", [2, 5, 9])
def test_clusters_of_other_sizes_lose_nothing(nodes: int) -> None:
    for seed in range(2000, 2000 + max(2, SEEDS // 10)):
        _replay(runs.Wanted(seed, nodes))


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_clusters_with_addresses_have_each_in_one_place(nodes: int) -> None:
    for seed in range(3000, 3000 + max(2, SEEDS // 10)):
        _replay(runs.Wanted(seed, nodes, addresses=6))


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_clusters_with_a_fence_command_pass_nobody_over(nodes: int) -> None:
    for seed in range(4000, 4000 + max(4, SEEDS // 5)):
        _replay(runs.Wanted(seed, nodes, addresses=6 if seed % 4 == 0 else 0, fencing=True))


@pytest.mark.parametrize(("nodes", "seed"), FOUND)
def test_seeds_that_found_a_mistake_pass(nodes: int, seed: int) -> None:
    _replay(runs.Wanted(seed, nodes))


@pytest.mark.parametrize(("nodes", "seed"), FOUND_BY_CAMPAIGNS)
def test_seeds_of_campaigns_that_found_a_mistake_pass(nodes: int, seed: int) -> None:
    _replay(runs.Wanted(seed, nodes, CAMPAIGN_FAULTS))


@pytest.mark.parametrize("wanted", FOUND_WITH_FENCING, ids=lambda wanted: str(wanted.seed))
def test_seeds_that_fenced_too_few_or_too_many_pass(wanted: runs.Wanted) -> None:
    _replay(wanted)


@pytest.mark.parametrize("fault", [name for name, _ in FAULTS if name != "revive"])
def test_each_fault_alone_loses_nothing(fault: str) -> None:
    nodes = 2 if fault.startswith("lock_") else 3
    _replay(runs.Wanted(1, nodes, 8, (fault, "revive")))


@pytest.mark.parametrize("fault", [name for name, _ in (*FENCING_FAULTS, *FAULTS) if "pause" in name])
def test_whose_host_stands_still_is_not_passed_over(fault: str) -> None:
    for seed in (1, 2, 3):
        _replay(runs.Wanted(seed, 3, 8, (fault, "revive"), fencing=True))


def test_a_frozen_host_is_switched_off() -> None:
    cluster = run(1, faults=8, only=("long_pause",), fencing=True)
    assert cluster.switch is not None
    assert cluster.switch.taken > 0


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = run(77), run(77)
    assert first.world.trace == second.world.trace
    assert first.world.digest == second.world.digest
    assert first.changes == second.changes > 1000


def test_another_seed_gives_another_trace() -> None:
    assert run(78).world.digest != run(79).world.digest


def test_sixteen_nodes_come_to_rest() -> None:
    cluster = Cluster(5, nodes=16)
    cluster.boot()
    cluster.world.run(1.0)
    cluster.peace()
    assert cluster.changes > 100


def test_sixty_four_nodes_come_to_rest_after_a_partition() -> None:
    cluster = Cluster(6, nodes=64)
    cluster.boot()
    cluster.network.split(range(20))
    cluster.world.run(2.0)
    cluster.peace()
    assert cluster.changes > 100


def test_runs_of_a_seed_have_a_size_of_their_own() -> None:
    sizes = [wanted.nodes for wanted in runs.wanted_runs(1, 200, nodes=None)]
    assert sizes == [wanted.nodes for wanted in runs.wanted_runs(1, 200, nodes=None)]
    assert {2, 3, 5, 16} <= set(sizes) <= set(range(2, 17))


def test_some_runs_of_many_have_a_fence_command() -> None:
    fenced = [wanted.fencing for wanted in runs.wanted_runs(1, 200, nodes=None)]
    assert 40 < sum(fenced) < 120
    assert fenced == [wanted.fencing for wanted in runs.wanted_runs(1, 200, nodes=3)]
    assert not any(wanted.fencing for wanted in runs.wanted_runs(1, 20, nodes=None, fencing=False))
    assert "--no-fencing" in runs.Wanted(1, 3).command
