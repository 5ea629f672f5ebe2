# SPDX-License-Identifier: GPL-3.0-or-later
"""One database's way through a recovery: whose copies count, and what becomes of them."""

from __future__ import annotations

from ctdbpy.core.effects import HoldJob, JobKind, Log, LogLevel, SendControl
from ctdbpy.core.inputs import MessageArrived
from ctdbpy.core.state import Quorum
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import INVALID_GENERATION, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader, db_id_of
from ctdbpy.wire.srvids import SRVID_RECOVERY, srvid_of_pace
from ctdbpy.wire.structures import PullDbExt, TunableValue
from tests.unit.core.clusters import Cluster

NAME = "v.tdb"
DB_ID = db_id_of(NAME)
LEADER = 2


def with_database(quorum: Quorum = Quorum.NONE) -> Cluster:
    """A cluster at rest that has a volatile database."""
    cluster = Cluster(3, quorum=quorum)
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
    cluster = with_database(Quorum.MAJORITY)
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


def test_many_buffers_are_sent_no_faster_than_they_are_stored() -> None:
    cluster = with_database()
    for pnn in range(3):
        cluster.ask(pnn, Control.SET_TUNABLE, TunableValue("RecBufferSizeLimit", 1).pack())
    for number in range(100):
        put(cluster, number % 3, b"key %d" % number, 1, b"value")
    leader = cluster.nodes[LEADER]
    leader.effects.clear()
    recover(cluster)
    assert {pnn: len(values(cluster, pnn)) for pnn in range(3)} == dict.fromkeys(range(3), 100)
    pings = [each for each in leader.effects if isinstance(each, SendControl) and each.opcode == Control.PING]
    held = [each.held for each in leader.effects if isinstance(each, HoldJob)]
    assert pings
    assert True in held
    assert held == [bool(number % 2 == 0) for number in range(len(held))]


def test_a_node_holds_its_records_while_the_leader_says_so() -> None:
    cluster = with_database()
    source = cluster.nodes[0]
    cluster.ask(0, Control.DB_FREEZE, U32.pack(DB_ID))
    source.hold_jobs = True
    srvid = SRVID_RECOVERY + 77
    cluster.send(0, Control.DB_PULL, PullDbExt(DB_ID, 0xFFFFFFFF, srvid).pack())
    (pull,) = [job for job in source.held if job.kind is JobKind.PULL]
    for said, held in ((b"\1", [True]), (b"\0", [False]), (b"\0", [False])):
        source.effects.clear()
        cluster.give(0, MessageArrived(LEADER, srvid_of_pace(srvid), said))
        assert [each.held for each in source.effects if isinstance(each, HoldJob)] == held
    cluster.give(0, MessageArrived(LEADER, srvid_of_pace(srvid), b"\1"))
    source.effects.clear()
    # Who said it may be gone.
    cluster.advance(1.5)
    assert HoldJob(pull.job_id, False) in source.effects
    cluster.release(0)
    source.effects.clear()
    cluster.give(0, MessageArrived(LEADER, srvid_of_pace(srvid), b"\1"))
    assert not [each for each in source.effects if isinstance(each, HoldJob)]


def test_what_builds_on_each_other_may_be_asked_at_once() -> None:
    cluster = with_database()
    put(cluster, 0, b"k", 1, b"v")
    source = cluster.nodes[0]
    source.hold_jobs = True
    cluster.send(0, Control.DB_FREEZE, U32.pack(DB_ID))
    cluster.send(0, Control.DB_TRANSACTION_START, U32.pack(DB_ID) + U32.pack(source.node.state.generation))
    cluster.send(0, Control.WIPE_DATABASE, U32.pack(DB_ID) + U32.pack(source.node.state.generation))
    assert [job.kind for job in source.held] == [JobKind.FREEZE]
    source.hold_jobs = False
    cluster.release(0)
    assert [job.kind for job in source.workers.seen][-3:] == [JobKind.FREEZE, JobKind.BEGIN, JobKind.WIPE]
    assert records(cluster, 0) == {}
