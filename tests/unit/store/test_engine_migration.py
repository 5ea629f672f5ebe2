# SPDX-License-Identifier: GPL-3.0-or-later
"""Records move between engines: counted by clients on all nodes, over wires that deliver in random order."""

from __future__ import annotations

import pytest

from tests.unit.store.network import Counting, Network


@pytest.mark.parametrize("seed", range(12))
def test_no_increment_is_lost_and_every_record_has_one_dmaster(seed: int) -> None:
    network = Network(seed, count=3, hold_us=500 if seed % 2 else 0)
    counting = Counting(network, clients=4, keys=1 + seed % 4)
    counting.work(1500)
    counting.check_rest()
    assert sum(counting.count.values()) == sum(client.done for client in counting.clients)
    assert [node.complaints for node in network.nodes] == [[], [], []]


@pytest.mark.parametrize("seed", range(6))
def test_without_fetch_collapse_nothing_is_lost_either(seed: int) -> None:
    network = Network(1000 + seed, count=4)
    for node in network.nodes:
        node.engine.set_tunables((("FetchCollapse", 0),))
    counting = Counting(network, clients=3, keys=2)
    counting.work(800)
    counting.check_rest()
    assert [node.complaints for node in network.nodes] == [[]] * 4


@pytest.mark.parametrize("seed", range(12))
def test_copies_are_taken_back_before_anybody_writes(seed: int) -> None:
    network = Network(2000 + seed, count=3, readonly=True)
    counting = Counting(network, clients=2, keys=1 + seed % 3, readers=3)
    counting.work(800)
    counting.check_rest()
    assert [node.complaints for node in network.nodes] == [[], [], []]
    given = sum(node.engine.counters_by_name()["total_ro_delegations"] for node in network.nodes)
    revoked = sum(node.engine.counters_by_name()["total_ro_revokes"] for node in network.nodes)
    assert given > 0 and revoked > 0


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_calls_under_way_outlive_a_recovery(seed: int, readonly: bool) -> None:
    network = Network(3000 + seed, count=3, readonly=readonly)
    counting = Counting(network, clients=3, keys=3, readers=2 if readonly else 0)
    for _ in range(12):
        for _ in range(60):
            counting.advance(network.random.choice(counting.clients), True)
            if network.random.random() < 0.6:
                network.step()
        network.renew_generation()
    counting.work(200)
    counting.check_rest()
