# SPDX-License-Identifier: GPL-3.0-or-later
"""One database's way through a recovery: whose copies count, and what becomes of them."""

from __future__ import annotations

from ctdbpy.core.effects import Log, LogLevel
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import INVALID_GENERATION, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader, db_id_of
from tests.unit.core.clusters import Cluster

NAME = "v.tdb"
DB_ID = db_id_of(NAME)
LEADER = 2


def with_database(count: int = 3) -> Cluster:
    """A cluster at rest that has a volatile database."""
    cluster = Cluster(count)
    cluster.advance(10)
    assert cluster.ask(0, Control.DB_ATTACH, NAME.encode() + b"\0")[0] == 0
    recover(cluster)
    return cluster


def recover(cluster: Cluster) -> None:
    before = cluster.nodes[LEADER].node.state.recoveries
    cluster.send(LEADER, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(5)
    assert cluster.nodes[LEADER].node.state.recoveries > before
    assert not cluster.nodes[LEADER].node.state.is_recovering


def records(cluster: Cluster, pnn: int) -> dict[bytes, bytes]:
    return cluster.nodes[pnn].records.databases[DB_ID].records


def put(cluster: Cluster, pnn: int, key: bytes, rsn: int, value: bytes) -> None:
    records(cluster, pnn)[key] = RecordHeader(rsn, pnn).pack() + value


def belong_to(cluster: Cluster, pnn: int, generation: int) -> None:
    """A node's copy is of this generation; only in recovery mode may it be another than the map's."""
    state = cluster.nodes[pnn].node.state
    state.recmode = RecoveryMode.ACTIVE
    state.databases[DB_ID].generation = generation


def values(cluster: Cluster, pnn: int) -> dict[bytes, bytes]:
    return {key: record[RecordHeader.SIZE :] for key, record in records(cluster, pnn).items()}


def test_of_each_record_the_newest_copy_is_on_every_node() -> None:
    cluster = with_database()
    put(cluster, 0, b"a", 5, b"old")
    put(cluster, 1, b"a", 7, b"new")
    put(cluster, 2, b"b", 1, b"only")
    put(cluster, 0, b"gone", 3, b"value")
    put(cluster, 1, b"gone", 4, b"")
    recover(cluster)
    for pnn in range(3):
        assert values(cluster, pnn) == {b"a": b"new", b"b": b"only"}


def test_copies_of_an_earlier_generation_do_not_count() -> None:
    cluster = with_database()
    put(cluster, 0, b"a", 5, b"right")
    put(cluster, 1, b"a", 900, b"stale")
    put(cluster, 1, b"ghost", 900, b"stale")
    belong_to(cluster, 1, cluster.nodes[1].node.state.generation - 1)
    recover(cluster)
    for pnn in range(3):
        assert values(cluster, pnn) == {b"a": b"right"}
    told = [each for each in cluster.nodes[LEADER].effects if isinstance(each, Log) and "stale" in each.text]
    assert [each.level for each in told] == [LogLevel.NOTICE]
    assert told[0].text.startswith("node 1 brings stale copies")


def test_an_invalid_copy_counts_only_where_all_are_invalid() -> None:
    cluster = with_database()
    put(cluster, 0, b"a", 5, b"right")
    put(cluster, 1, b"a", 900, b"stale")
    belong_to(cluster, 1, INVALID_GENERATION)
    recover(cluster)
    assert values(cluster, LEADER) == {b"a": b"right"}

    put(cluster, 1, b"a", 950, b"newest")
    for pnn in range(3):
        belong_to(cluster, pnn, INVALID_GENERATION)
    recover(cluster)
    assert values(cluster, LEADER) == {b"a": b"newest"}
