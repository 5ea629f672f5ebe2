# SPDX-License-Identifier: GPL-3.0-or-later
"""Records move between engines: counted by clients on all nodes, over wires that deliver in random order."""

from __future__ import annotations

import os
import random

import pytest

from tests.unit.store.network import MAGIC, Counting, Network, Node, frames


@pytest.mark.parametrize("seed", range(12))
def test_no_increment_is_lost_and_every_record_has_one_dmaster(seed: int) -> None:
    network = Network(seed, count=3, hold_us=500 if seed % 2 else 0)
    counting = Counting(network, clients=4, keys=1 + seed % 4)
    counting.work(10_000)
    counting.check_rest()
    assert sum(counting.count.values()) == sum(client.done for client in counting.clients)
    assert [node.complaints for node in network.nodes] == [[], [], []]


@pytest.mark.parametrize("seed", range(6))
def test_without_fetch_collapse_nothing_is_lost_either(seed: int) -> None:
    network = Network(1000 + seed, count=4)
    for node in network.nodes:
        node.engine.set_tunables((("FetchCollapse", 0),))
    counting = Counting(network, clients=3, keys=2)
    counting.work(4000)
    counting.check_rest()
    assert [node.complaints for node in network.nodes] == [[]] * 4


@pytest.mark.parametrize("seed", range(12))
def test_copies_are_taken_back_before_anybody_writes(seed: int) -> None:
    network = Network(2000 + seed, count=3, readonly=True)
    counting = Counting(network, clients=2, keys=1 + seed % 3, readers=3)
    counting.work(4000)
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


@pytest.mark.parametrize("seed", range(4))
def test_copies_that_cannot_be_had_back_keep_writers_waiting_and_nobody_else(seed: int) -> None:
    network = Network(4000 + seed, count=3, readonly=True)
    counting = Counting(network, clients=2, keys=2, readers=3)
    counting.work(100)
    network.refuse_updates = True
    for _ in range(400):
        counting.advance(network.random.choice(counting.clients), True)
        network.step()
    network.refuse_updates = False
    counting.work(200)
    counting.check_rest()


# 100075: an update sent before a recovery arrived after it and put an old header over a new one.
@pytest.mark.parametrize("seed", [100075, *range(int(os.environ.get("CTDBPY_SOAK_SEEDS", "20")))])
def test_whatever_a_seed_brings_together_ends_well(seed: int) -> None:
    chance = random.Random(seed)
    readonly = chance.random() < 0.5
    network = Network(seed, chance.randint(2, 5), readonly=readonly, hold_us=chance.choice((0, 500)))
    for node in network.nodes:
        collapse, moves = chance.randint(0, 1), chance.choice((0, 5, 100))
        node.engine.set_tunables((("FetchCollapse", collapse), ("RecordReliefMoves", moves)))
    clients, keys = chance.randint(1, 6), chance.randint(1, 6)
    counting = Counting(network, clients, keys, readers=chance.randint(0, 4) if readonly else 0)
    for _ in range(chance.randint(0, 6)):
        for _ in range(chance.randint(1, 300)):
            counting.advance(network.random.choice(counting.clients), True)
            if network.random.random() < 0.6:
                network.step()
        if chance.random() < 0.5:
            network.renew_generation()
    counting.work(3000)
    counting.check_rest()
    assert not any(node.complaints for node in network.nodes)


# -- what the checkers are worth ------------------------------------------------------------


class Faulty(Network):
    """Wires that lose one packet that carries a record, or bring an old one again."""

    lose = False
    repeat = False
    _kept = b""
    _count = 0

    def carry(self, data: bytes) -> bytes:
        carried = b""
        for frame in frames(data):
            assert int.from_bytes(frame[4:8], "little") == MAGIC
            if frame[16] == 3:
                self._count += 1
                if self._count == 50:
                    self._kept = frame
                    if self.lose:
                        continue
                if self._count == 80 and self.repeat:
                    # To where it went before: pretend that this wire leads there.
                    self._again()
            carried += frame
        return carried

    def _again(self) -> None:
        target = int.from_bytes(self._kept[20:24], "little")
        source = int.from_bytes(self._kept[24:28], "little")
        self.wires[source, target] += self._kept


def test_a_lost_record_is_noticed() -> None:
    network = Faulty(1)
    network.lose = True
    with pytest.raises(AssertionError, match=r"wait for ever|not come to rest"):
        Counting(network, clients=2, keys=1).work(600)


def test_a_record_that_arrives_twice_is_noticed() -> None:
    network = Faulty(2)
    network.repeat = True
    counting = Counting(network, clients=2, keys=1)
    with pytest.raises(AssertionError):
        counting.work(600)
        counting.check_rest()
        assert [node.complaints for node in network.nodes] == [[], [], []]


class Forgetful(Network):
    """Nodes that say they took their copy back, and keep it."""

    def update(self, node: Node, data: bytes) -> int:
        return 0


def test_a_copy_that_was_kept_is_noticed() -> None:
    network = Forgetful(3, readonly=True)
    with pytest.raises(AssertionError, match="stale copy"):
        Counting(network, clients=2, keys=1, readers=3).work(2000)
