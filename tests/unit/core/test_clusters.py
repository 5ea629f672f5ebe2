# SPDX-License-Identifier: GPL-3.0-or-later
"""Several nodes: they elect, recover, lose each other, and keep every record that any of them had newest."""

from __future__ import annotations

from ctdbpy.core.effects import JobKind
from ctdbpy.core.inputs import NodeAddress, NodesRead
from ctdbpy.wire.codecs import U32, U64
from ctdbpy.wire.constants import NodeFlag, RecoveryMode, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import SEQNUM_KEY, RecBuffer, RecData, RecordHeader, db_id_of
from ctdbpy.wire.structures import TunableValue
from tests.unit.core.clusters import Cluster

VOLATILE = "v.tdb"
PERSISTENT = "p.tdb"


def running(count: int = 3) -> Cluster:
    """A cluster that has come to rest."""
    cluster = Cluster(count)
    cluster.advance(10)
    return cluster


def alive(cluster: Cluster) -> list[int]:
    return [pnn for pnn in range(len(cluster.nodes)) if pnn not in cluster.dead]


def agree(cluster: Cluster, *nodes: int) -> None:
    """These nodes are one healthy cluster."""
    states = [cluster.nodes[pnn].node.state for pnn in nodes]
    assert {state.leader for state in states} <= set(nodes)
    assert len({state.leader for state in states}) == 1
    assert {(state.generation, tuple(state.lmasters)) for state in states} == {
        (states[0].generation, tuple(sorted(nodes)))
    }
    for state in states:
        assert (state.recmode, state.runstate) == (RecoveryMode.NORMAL, RunState.RUNNING)
        assert [state.nodes[pnn].flags for pnn in nodes] == [NodeFlag(0)] * len(nodes)
        for database in state.databases.values():
            assert database.generation == state.generation
            assert not database.is_frozen


def attach(cluster: Cluster, pnn: int, name: str, opcode: Control) -> int:
    status, data = cluster.ask(pnn, opcode, name.encode() + b"\0")
    assert status == 0
    return U32.unpack(data)


def stored(cluster: Cluster, pnn: int, name: str) -> dict[bytes, bytes]:
    return cluster.nodes[pnn].records.databases[db_id_of(name)].records


def test_three_nodes_become_one_cluster() -> None:
    cluster = running()
    agree(cluster, 0, 1, 2)
    assert cluster.nodes[0].node.state.leader == 2


def test_a_cluster_at_rest_does_not_recover_again() -> None:
    cluster = running()
    before = [harness.node.state.recoveries for harness in cluster.nodes]
    cluster.advance(60)
    assert [harness.node.state.recoveries for harness in cluster.nodes] == before


def test_an_attach_reaches_every_node() -> None:
    cluster = running()
    for name, opcode in (
        (VOLATILE, Control.DB_ATTACH),
        (PERSISTENT, Control.DB_ATTACH_PERSISTENT),
        ("r.tdb", Control.DB_ATTACH_REPLICATED),
    ):
        db_id = attach(cluster, 1, name, opcode)
        flags = {int(each.node.state.databases[db_id].flags) for each in cluster.nodes}
        assert len(flags) == 1


def test_a_commit_is_on_every_node() -> None:
    cluster = running()
    db_id = attach(cluster, 1, PERSISTENT, Control.DB_ATTACH_PERSISTENT)
    buffer = RecBuffer(db_id, (RecData.of(b"k", RecordHeader(1, 1), b"v"),)).pack()
    assert cluster.ask(1, Control.TRANS3_COMMIT, buffer) == (0, b"")
    assert {stored(cluster, pnn, PERSISTENT)[b"k"] for pnn in range(3)} == {RecordHeader(1, 1).pack() + b"v"}


def test_the_newest_copy_of_a_volatile_record_survives_the_death_of_a_node() -> None:
    for victim in range(3):
        cluster = running()
        attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
        for pnn in range(3):
            copies = stored(cluster, pnn, VOLATILE)
            copies[b"k"] = RecordHeader(5 + pnn, victim).pack() + b"%d" % pnn
            copies[b"empty"] = RecordHeader(1, 0).pack()
        cluster.kill(victim)
        cluster.advance(5)
        left = alive(cluster)
        agree(cluster, *left)
        leader = cluster.nodes[left[0]].node.state.leader
        for pnn in left:
            copies = stored(cluster, pnn, VOLATILE)
            assert set(copies) == {b"k"}
            assert copies[b"k"][24:] == b"%d" % max(left)
            assert RecordHeader.unpack(copies[b"k"]).dmaster == leader


def test_the_last_node_takes_over_records_that_others_owned() -> None:
    cluster = running(2)
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    stored(cluster, 0, VOLATILE)[b"k"] = RecordHeader(5, 1).pack() + b"old"
    cluster.kill(1)
    cluster.advance(5)
    agree(cluster, 0)
    assert RecordHeader.unpack(stored(cluster, 0, VOLATILE)[b"k"]).dmaster == 0


def test_the_highest_sequence_number_wins_for_persistent_databases() -> None:
    cluster = running()
    attach(cluster, 0, PERSISTENT, Control.DB_ATTACH_PERSISTENT)
    for pnn, seqnum in ((0, 4), (1, 9), (2, 7)):
        copies = stored(cluster, pnn, PERSISTENT)
        copies[SEQNUM_KEY] = RecordHeader(100 - seqnum).pack() + U64.pack(seqnum)
        copies[b"%d" % pnn] = RecordHeader(1).pack() + b"x"
    cluster.send(2, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(5)
    agree(cluster, 0, 1, 2)
    for pnn in range(3):
        assert set(stored(cluster, pnn, PERSISTENT)) == {SEQNUM_KEY, b"1"}


def test_a_leader_that_dies_is_followed_within_two_seconds() -> None:
    cluster = running()
    cluster.kill(2)
    cluster.advance(2)
    agree(cluster, 0, 1)


def test_two_halves_that_meet_again_become_one() -> None:
    cluster = running()
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    cluster.cut(0, 2)
    cluster.cut(1, 2)
    cluster.advance(5)
    agree(cluster, 0, 1)
    agree(cluster, 2)
    cluster.link(0, 2)
    cluster.link(1, 2)
    cluster.advance(15)
    agree(cluster, 0, 1, 2)


def test_a_stopped_node_leaves_and_comes_back() -> None:
    for pnn in (0, 2):
        cluster = running()
        attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
        assert cluster.ask(pnn, Control.STOP_NODE)[0] == 0
        cluster.advance(5)
        others = [each for each in range(3) if each != pnn]
        agree(cluster, *others)
        assert cluster.nodes[others[0]].node.state.nodes[pnn].flags == NodeFlag.STOPPED
        stored(cluster, pnn, VOLATILE)[b"void"] = RecordHeader(99, pnn).pack() + b"old"
        assert cluster.ask(pnn, Control.CONTINUE_NODE)[0] == 0
        cluster.advance(10)
        agree(cluster, 0, 1, 2)
        assert b"void" not in stored(cluster, 0, VOLATILE)


def test_flags_of_a_disabled_node_are_known_everywhere_at_once() -> None:
    cluster = running()
    cluster.ask(1, Control.DISABLE_NODE)
    for harness in cluster.nodes:
        assert harness.node.state.nodes[1].flags == NodeFlag.PERMANENTLY_DISABLED
    cluster.ask(1, Control.ENABLE_NODE)
    cluster.advance(2)
    agree(cluster, 0, 1, 2)


def test_a_step_that_fails_repeats_the_recovery() -> None:
    cluster = running()
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    cluster.nodes[1].workers.failing.add(JobKind.COMMIT)
    cluster.send(2, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(3)
    assert cluster.nodes[2].node.state.is_recovering
    cluster.nodes[1].workers.failing.clear()
    cluster.advance(5)
    agree(cluster, 0, 1, 2)


def test_a_node_that_dies_during_a_recovery_repeats_it_without_it() -> None:
    cluster = running()
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    stored(cluster, 0, VOLATILE)[b"k"] = RecordHeader(5, 0).pack() + b"v"
    cluster.nodes[1].hold_jobs = True
    cluster.send(2, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(2)
    assert cluster.nodes[1].held
    cluster.kill(1)
    cluster.advance(5)
    agree(cluster, 0, 2)
    assert stored(cluster, 2, VOLATILE)[b"k"][24:] == b"v"


def test_a_leader_that_dies_during_a_recovery_is_followed_by_another_one() -> None:
    cluster = running()
    attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    stored(cluster, 0, VOLATILE)[b"k"] = RecordHeader(5, 0).pack() + b"v"
    cluster.nodes[2].hold_jobs = True
    cluster.send(2, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(2)
    cluster.kill(2)
    cluster.advance(5)
    agree(cluster, 0, 1)
    assert stored(cluster, 1, VOLATILE)[b"k"][24:] == b"v"


def test_a_node_without_the_lmaster_role_is_not_in_the_map() -> None:
    cluster = running()
    cluster.ask(0, Control.SET_LMASTERROLE, U32.pack(0))
    cluster.advance(5)
    assert tuple(cluster.nodes[2].node.state.lmasters) == (1, 2)
    cluster.ask(0, Control.SET_LMASTERROLE, U32.pack(1))
    cluster.advance(5)
    agree(cluster, 0, 1, 2)


def test_a_leader_without_the_leader_role_gives_way() -> None:
    cluster = running()
    cluster.ask(2, Control.SET_RECMASTERROLE, U32.pack(0))
    cluster.advance(8)
    assert cluster.nodes[0].node.state.leader in (0, 1)
    agree(cluster, 0, 1, 2)


def test_a_detach_reaches_every_node() -> None:
    cluster = running()
    db_id = attach(cluster, 0, VOLATILE, Control.DB_ATTACH)
    for pnn in range(3):
        cluster.ask(pnn, Control.SET_TUNABLE, TunableValue("AllowClientDBAttach", 0).pack())
    assert cluster.ask(1, Control.DB_DETACH, U32.pack(db_id))[0] == 0
    assert not any(harness.node.state.databases for harness in cluster.nodes)


def test_a_node_deleted_from_the_file_is_not_missed() -> None:
    cluster = running()
    nodes = tuple(NodeAddress(pnn, f"10.0.0.{pnn + 1}", deleted=pnn == 0) for pnn in range(3))
    cluster.kill(0)
    cluster.advance(5)
    for pnn in (1, 2):
        cluster.nodes[pnn].nodes_file = NodesRead(0, nodes)
        assert cluster.ask(pnn, Control.RELOAD_NODES_FILE)[0] == 0
    cluster.advance(5)
    agree(cluster, 1, 2)
