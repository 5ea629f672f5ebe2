# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters in trouble lose nothing that was acknowledged while a copy lives, and come to rest in peace.

A failing seed prints the command that replays it.
"""

from __future__ import annotations

import os

import pytest

from ctdbpy.sim.cluster import Cluster, run

#: More on demand: CTDBPY_SEEDS=1000 ./dev test simulation
SEEDS = int(os.environ.get("CTDBPY_SEEDS", "40"))
#: (nodes, seed) that once found a mistake, of the code or of the simulation.
FOUND = [(3, 44), (3, 68), (7, 1000), (7, 1001)]


def _replay(seed: int, nodes: int, faults: int) -> None:
    try:
        run(seed, nodes=nodes, faults=faults)
    except AssertionError as error:
        command = f"python -m ctdbpy.sim --seed {seed} --nodes {nodes} --faults {faults} --trace"
        raise AssertionError(f"{error}\nreplay: {command}") from error


@pytest.mark.parametrize("block", range(4))
def test_three_nodes_lose_nothing(block: int) -> None:
    for seed in range(1 + block, 1 + SEEDS, 4):
        _replay(seed, 3, 12)


@pytest.mark.parametrize("nodes", [2, 5, 9])
def test_clusters_of_other_sizes_lose_nothing(nodes: int) -> None:
    for seed in range(2000, 2000 + max(2, SEEDS // 10)):
        _replay(seed, nodes, 10)


@pytest.mark.parametrize(("nodes", "seed"), FOUND)
def test_seeds_that_found_a_mistake_pass(nodes: int, seed: int) -> None:
    _replay(seed, nodes, 20 if nodes == 7 else 12)


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = run(77), run(77)
    assert first.world.trace == second.world.trace
    assert first.world.digest == second.world.digest
    assert first.ledger.changes == second.ledger.changes > 1000


def test_another_seed_gives_another_trace() -> None:
    assert run(78).world.digest != run(79).world.digest


def test_sixteen_nodes_come_to_rest() -> None:
    cluster = Cluster(5, nodes=16, clients=1)
    cluster.boot()
    cluster.world.run(1.0)
    cluster.peace()
    assert cluster.ledger.changes > 100
