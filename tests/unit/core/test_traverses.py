# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks over a database: one node, several, timeouts, clients and nodes that go."""

from __future__ import annotations

import struct

from ctdbpy.core.effects import HoldJob, SendControl, SendMessage, StopJob
from ctdbpy.core.inputs import (
    ClientBehind,
    LinkDown,
    LinkUp,
    MessageArrived,
    NodeControlArrived,
    TraverseEnded,
)
from ctdbpy.wire.constants import ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.records import RecData, RecordHeader
from ctdbpy.wire.srvids import SRVID_TRAVERSE_PACE
from ctdbpy.wire.structures import TraverseAll, TraverseAllExt, TraverseStart, TraverseStartExt
from tests.unit.core.fake_records import each_record
from tests.unit.core.fakes import Harness, of_kind, several_nodes

SRVID = 0xBE << 56 | 4711


def fill(harness: Harness, db_id: int) -> None:
    stored = harness.records.databases[db_id].records
    stored[b"mine"] = RecordHeader(1, harness.config.pnn).pack() + b"1"
    stored[b"theirs"] = RecordHeader(1, 5).pack() + b"2"
    stored[b"empty"] = RecordHeader(1, harness.config.pnn).pack()


def from_node(pnn: int, opcode: Control, data: bytes) -> NodeControlArrived:
    control = ReqControl(
        generation=0,
        destnode=0,
        srcnode=pnn,
        reqid=0,
        opcode=opcode,
        srvid=0,
        client_id=0,
        flags=int(ControlFlag.NOREPLY),
        data=data,
    )
    return NodeControlArrived(pnn, control)


def keys_seen(harness: Harness) -> list[bytes]:
    return [record.key for _, _, record in harness.records.to_clients]


def two_nodes() -> tuple[Harness, int]:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    harness.running_with_all()
    db_id = harness.attach()
    fill(harness, db_id)
    return harness, db_id


def test_a_volatile_walk_gives_what_is_owned_and_not_empty() -> None:
    harness = Harness()
    db_id = harness.attach()
    fill(harness, db_id)
    assert harness.ask(Control.TRAVERSE_START, TraverseStart(db_id, 77, SRVID).pack()).status == 0
    assert keys_seen(harness) == [b"mine", b""]
    assert {(client, srvid, record.reqid) for client, srvid, record in harness.records.to_clients} == {
        (7, SRVID, 77)
    }
    assert not harness.records.traverses


def test_an_extended_walk_may_have_the_empty_ones_too() -> None:
    harness = Harness()
    db_id = harness.attach()
    fill(harness, db_id)
    harness.ask(Control.TRAVERSE_START_EXT, TraverseStartExt(db_id, 77, SRVID, True).pack())
    assert keys_seen(harness) == [b"mine", b"empty", b""]


def test_a_persistent_walk_gives_everything_there_is_here() -> None:
    harness, _ = two_nodes()
    db_id = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    fill(harness, db_id)
    harness.ask(Control.TRAVERSE_START, TraverseStart(db_id, 77, SRVID).pack())
    assert keys_seen(harness) == [b"mine", b"theirs", b"empty", b""]


def test_an_unhealthy_database_is_not_walked_unless_allowed() -> None:
    harness = Harness()
    db_id = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    harness.node.state.databases[db_id].unhealthy = "ERROR"
    start = TraverseStart(db_id, 77, SRVID).pack()
    assert harness.ask(Control.TRAVERSE_START, start).status == -1
    harness.node.state.set_tunables(harness.node.state.tunables.replaced("AllowUnhealthyDBRead", 1))
    harness.node.state.effects.clear()
    assert harness.ask(Control.TRAVERSE_START, start).status == 0


def test_a_walk_ends_when_every_node_has_ended() -> None:
    harness, db_id = two_nodes()
    _, effects = harness.send(
        harness.connect(), Control.TRAVERSE_START, TraverseStart(db_id, 7, SRVID).pack()
    )
    (sent,) = of_kind(effects, SendControl)
    wanted = TraverseAll.unpack(sent.data)
    assert (sent.pnn, sent.opcode, sent.flags) == (1, Control.TRAVERSE_ALL, ControlFlag.NOREPLY)
    assert (wanted.db_id, wanted.pnn, wanted.client_reqid, wanted.srvid) == (db_id, 0, 7, SRVID)
    record = RecData.of(b"far", RecordHeader(1, 1), b"3", reqid=wanted.reqid)
    harness.give(from_node(1, Control.TRAVERSE_DATA, record.pack()))
    assert keys_seen(harness) == [b"mine", b"far"]
    harness.give(from_node(1, Control.TRAVERSE_DATA, RecData(wanted.reqid, b"", b"").pack()))
    assert keys_seen(harness) == [b"mine", b"far", b""]


def test_the_engine_may_tell_the_end_itself() -> None:
    harness, db_id = two_nodes()
    harness.send(harness.connect(), Control.TRAVERSE_START, TraverseStart(db_id, 7, SRVID).pack())
    traverse_id = next(iter(harness.records.traverses))
    harness.give(TraverseEnded(1, traverse_id + 1))
    assert harness.records.traverses
    harness.give(TraverseEnded(1, traverse_id))
    assert not harness.records.traverses


def test_a_node_that_dies_ends_its_share() -> None:
    harness, db_id = two_nodes()
    harness.send(harness.connect(), Control.TRAVERSE_START, TraverseStart(db_id, 7, SRVID).pack())
    harness.give(LinkDown(1, "reset"))
    assert keys_seen(harness)[-1] == b""


def test_a_walk_that_takes_too_long_ends_and_is_killed_elsewhere() -> None:
    harness, db_id = two_nodes()
    harness.hold_jobs = True
    harness.send(harness.connect(), Control.TRAVERSE_START, TraverseStart(db_id, 7, SRVID).pack())
    effects = harness.advance(21)
    assert keys_seen(harness) == [b""]
    kills = [each for each in of_kind(effects, SendControl) if each.opcode == Control.TRAVERSE_KILL]
    assert [(each.pnn, each.data) for each in kills] == [(1, TraverseStart(db_id, 7, SRVID).pack())]
    assert of_kind(effects, StopJob)
    assert harness.node.rooms.traverses.timeouts == 1


def test_a_client_that_is_behind_has_other_nodes_wait_and_gets_more_time() -> None:
    harness, db_id = two_nodes()
    harness.hold_jobs = True
    client_id, other = harness.connect(), harness.connect(8)
    harness.send(client_id, Control.TRAVERSE_START, TraverseStart(db_id, 7, SRVID).pack())
    traverse_id = next(iter(harness.records.traverses))
    assert not of_kind(harness.give(ClientBehind(other, True)), SendMessage)
    for behind in (True, False):
        harness.advance(15)
        (sent,) = of_kind(harness.give(ClientBehind(client_id, behind)), SendMessage)
        assert (sent.destnode, sent.srvid) == (1, SRVID_TRAVERSE_PACE)
        assert sent.data == struct.pack("=II", traverse_id, behind)
    assert harness.records.traverses
    harness.advance(21)
    assert not harness.records.traverses


def test_a_served_walk_waits_while_the_asking_node_says_so() -> None:
    harness, db_id = two_nodes()
    harness.hold_jobs = True
    harness.give(from_node(1, Control.TRAVERSE_ALL, TraverseAll(db_id, 9, 1, 3, SRVID).pack()))
    for held in (True, False):
        message = MessageArrived(1, SRVID_TRAVERSE_PACE, struct.pack("=II", 9, held))
        (effect,) = of_kind(harness.give(message), HoldJob)
        assert effect.held is held
    for pnn, data in ((1, struct.pack("=II", 8, 1)), (0, struct.pack("=II", 9, 1)), (1, b"short")):
        assert not of_kind(harness.give(MessageArrived(pnn, SRVID_TRAVERSE_PACE, data)), HoldJob)


def test_a_client_that_goes_ends_its_walks_everywhere() -> None:
    harness, db_id = two_nodes()
    harness.hold_jobs = True
    client_id = harness.connect()
    harness.send(client_id, Control.TRAVERSE_START, TraverseStart(db_id, 7, SRVID).pack())
    effects = harness.hang_up(client_id)
    assert of_kind(effects, StopJob)
    assert [each.opcode for each in of_kind(effects, SendControl)] == [Control.TRAVERSE_KILL]
    assert not harness.records.traverses and not keys_seen(harness)


def test_another_nodes_walk_is_served_and_ended() -> None:
    harness, db_id = two_nodes()
    harness.give(from_node(1, Control.TRAVERSE_ALL, TraverseAll(db_id, 9, 1, 3, SRVID).pack()))
    (part, end) = harness.records.to_nodes
    assert [(record.key, record.reqid) for record in each_record(part[2])] == [(b"mine", 9)]
    assert (part[:2], end) == ((1, 9), (1, 9, b"", True))
    harness.give(from_node(1, Control.TRAVERSE_ALL_EXT, TraverseAllExt(db_id, 10, 1, 3, SRVID, True).pack()))
    assert [record.key for record in each_record(harness.records.to_nodes[2][2])] == [b"mine", b"empty"]


def test_another_nodes_walk_can_be_killed() -> None:
    harness, db_id = two_nodes()
    harness.hold_jobs = True
    wanted = TraverseAll(db_id, 9, 1, 3, SRVID).pack()
    harness.give(from_node(1, Control.TRAVERSE_ALL, wanted))
    harness.give(from_node(1, Control.TRAVERSE_ALL, wanted))
    assert len(harness.held) == 1
    assert not of_kind(
        harness.give(from_node(1, Control.TRAVERSE_KILL, TraverseStart(db_id, 4, SRVID).pack())), StopJob
    )
    effects = harness.give(from_node(1, Control.TRAVERSE_KILL, TraverseStart(db_id, 3, SRVID).pack()))
    assert of_kind(effects, StopJob)
    harness.give(from_node(1, Control.TRAVERSE_ALL, wanted))
    assert of_kind(harness.give(LinkDown(1, "reset")), StopJob)
    harness.release_jobs()
    assert not harness.records.to_nodes
