# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls of our own: what a leader and our tools ask, which upstream's daemons refuse."""

from __future__ import annotations

from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import INVALID_GENERATION
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import DbGeneration, DbGenerations
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness


def generations(harness: Harness) -> dict[int, int]:
    reply = harness.ask(Control.GET_DB_GENERATIONS)
    assert reply.status == 0
    return {each.db_id: each.generation for each in DbGenerations.unpack(reply.data).entries}


def test_a_node_tells_the_generation_of_each_database() -> None:
    harness = Harness()
    assert generations(harness) == {}
    volatile = harness.attach("locking.tdb")
    persistent = harness.attach("secrets.tdb", Control.DB_ATTACH_PERSISTENT)
    current = harness.node.state.generation
    assert current != INVALID_GENERATION
    assert generations(harness) == {volatile: current, persistent: current}


def test_a_node_that_left_has_no_generation_that_counts() -> None:
    harness = Harness()
    volatile = harness.attach("locking.tdb")
    harness.ask(Control.STOP_NODE)
    assert generations(harness) == {volatile: INVALID_GENERATION}


def test_another_node_may_ask() -> None:
    cluster = Cluster(2)
    cluster.advance(5)
    status, data = cluster.ask(0, Control.DB_ATTACH, b"locking.tdb\0")
    assert status == 0
    db_id = U32.unpack(data)
    routing = cluster.nodes[1].node.rooms.routing
    answer = routing.call(0, Control.GET_DB_GENERATIONS)
    cluster.advance(1)
    current = cluster.nodes[0].node.state.generation
    assert DbGenerations.unpack(answer.result().data).entries == (DbGeneration(db_id, current),)
