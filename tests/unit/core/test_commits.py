# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions of clients on persistent databases."""

from __future__ import annotations

from ctdbpy.core.effects import JobKind, SendControl, StopJob
from ctdbpy.core.inputs import LinkDown, LinkUp, ReplyArrived, RevokeWanted
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReplyControl
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader
from tests.unit.core.fakes import FIRST_GENERATION, Harness, of_kind, several_nodes


def buffer(db_id: int, rsn: int = 1, value: bytes = b"v") -> bytes:
    return RecBuffer(db_id, (RecData.of(b"k", RecordHeader(rsn), value),)).pack()


def persistent(harness: Harness) -> int:
    return harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)


def reply(effect: SendControl, status: int = 0) -> ReplyArrived:
    packet = ReplyControl(
        generation=0, destnode=0, srcnode=effect.pnn, reqid=effect.reqid, status=status, data=b"", error=""
    )
    return ReplyArrived(effect.pnn, packet)


def test_a_commit_is_stored_and_the_old_rsn_refused() -> None:
    harness = Harness()
    db_id = persistent(harness)
    assert harness.ask(Control.TRANS3_COMMIT, buffer(db_id)).status == 0
    assert harness.records.databases[db_id].records[b"k"] == RecordHeader(1).pack() + b"v"
    assert harness.ask(Control.UPDATE_RECORD, buffer(db_id, 1, b"other")).status == 1
    assert harness.ask(Control.UPDATE_RECORD, buffer(db_id, 1, b"v")).status == 0


def test_a_commit_that_fails_ends_in_a_recovery_and_says_so() -> None:
    harness = Harness()
    db_id = persistent(harness)
    harness.ask(Control.TRANS3_COMMIT, buffer(db_id))
    answer = harness.ask(Control.TRANS3_COMMIT, buffer(db_id, 1, b"other"))
    assert (answer.status, answer.error) == (2, "trans3 commit ended by recovery")
    assert harness.node.state.recoveries == 2
    assert harness.ask(Control.TRANS3_COMMIT, buffer(db_id, 2, b"other")).status == 0


def test_volatile_unhealthy_and_foreign_commits_are_refused() -> None:
    harness = Harness()
    volatile = harness.attach()
    db_id = persistent(harness)
    assert harness.ask(Control.TRANS3_COMMIT, buffer(volatile)).status == -1
    harness.node.state.databases[db_id].unhealthy = "ERROR"
    assert harness.ask(Control.TRANS3_COMMIT, buffer(db_id)).status == -1
    assert harness.ask(Control.UPDATE_RECORD, buffer(db_id)).status == -1
    assert harness.ask(Control.TRANS3_COMMIT, b"short").status == -1
    assert harness.ask(Control.UPDATE_RECORD, U32.pack(db_id) + U32.pack(FIRST_GENERATION)).status == -1
    assert not harness.workers.seen


def test_nothing_is_committed_or_updated_in_recovery() -> None:
    harness = Harness()
    db_id = persistent(harness)
    harness.pause_recoveries()
    assert harness.ask(Control.TRANS3_COMMIT, buffer(db_id)).status == -1
    assert harness.ask(Control.UPDATE_RECORD, buffer(db_id)).status == -1


def test_an_empty_update_needs_no_worker() -> None:
    harness = Harness()
    db_id = persistent(harness)
    assert harness.ask(Control.UPDATE_RECORD, RecBuffer(db_id).pack()).status == 0
    assert not harness.workers.seen


def test_one_commit_for_a_database_and_one_for_a_client() -> None:
    harness = Harness()
    db_id = persistent(harness)
    other = harness.attach("q.tdb", Control.DB_ATTACH_PERSISTENT)
    harness.connect(1)
    harness.connect(2)
    harness.hold_jobs = True
    first, _ = harness.send(1, Control.TRANS3_COMMIT, buffer(db_id))
    assert harness.ask(Control.TRANS3_COMMIT, buffer(db_id), client_id=2).status == -1
    assert harness.ask(Control.TRANS3_COMMIT, buffer(other), client_id=1).status == -1
    second, _ = harness.send(2, Control.TRANS3_COMMIT, buffer(other))
    effects = harness.release_jobs()
    assert [harness.replies(effects, each)[0].status for each in (first, second)] == [0, 0]


def test_a_client_that_vanishes_while_committing_means_recovery() -> None:
    harness = Harness()
    db_id = persistent(harness)
    client_id = harness.connect()
    harness.hold_jobs = True
    harness.send(client_id, Control.TRANS3_COMMIT, buffer(db_id))
    harness.hang_up(client_id)
    harness.release_jobs()
    assert harness.node.state.recoveries == 2


def test_old_style_updates_count_for_a_client_that_vanishes() -> None:
    harness = Harness()
    db_id = U32.pack(persistent(harness))
    volatile = U32.pack(harness.attach())
    client_id = harness.connect()
    assert harness.ask(Control.START_PERSISTENT_UPDATE, volatile).status == -1
    for control in (Control.START_PERSISTENT_UPDATE, Control.CANCEL_PERSISTENT_UPDATE):
        assert harness.ask(control, db_id).status == 0
    harness.hang_up(client_id)
    assert harness.node.state.recoveries == 1
    client_id = harness.connect()
    harness.ask(Control.START_PERSISTENT_UPDATE, db_id)
    harness.hang_up(client_id)
    assert harness.node.state.recoveries == 2


def test_an_update_that_takes_too_long_is_stopped() -> None:
    harness = Harness()
    db_id = persistent(harness)
    client_id = harness.connect()
    harness.hold_jobs = True
    reqid, _ = harness.send(client_id, Control.UPDATE_RECORD, buffer(db_id))
    effects = harness.advance(61)
    assert harness.replies(effects, reqid)[0].status == -1
    assert of_kind(effects, StopJob)


def test_a_commit_goes_to_every_active_node_of_the_map() -> None:
    harness = Harness(several_nodes(3))
    for pnn in (1, 2):
        harness.give(LinkUp(pnn))
    state = harness.running_with_all()
    db_id = persistent(harness)
    client_id = harness.connect()
    reqid, effects = harness.send(client_id, Control.TRANS3_COMMIT, buffer(db_id))
    sent = [each for each in of_kind(effects, SendControl) if each.opcode == Control.UPDATE_RECORD]
    assert [(each.pnn, each.data) for each in sent] == [(1, buffer(db_id)), (2, buffer(db_id))]
    assert [job.kind for job in harness.workers.seen] == [JobKind.UPDATE]
    assert not harness.replies(harness.give(reply(sent[0])), reqid)
    assert harness.replies(harness.give(reply(sent[1])), reqid)[0].status == 0
    assert not state.is_recovering


def test_a_commit_fails_when_a_node_dies() -> None:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    state = harness.running_with_all()
    db_id = persistent(harness)
    client_id = harness.connect()
    harness.send(client_id, Control.TRANS3_COMMIT, buffer(db_id))
    harness.give(LinkDown(1, "reset"))
    assert state.is_recovering
    assert "the link to node 1 broke" in state.recovery_wanted


def test_copies_are_revoked_on_every_node_that_has_one() -> None:
    harness = Harness(several_nodes(3))
    for pnn in (1, 2):
        harness.give(LinkUp(pnn))
    harness.running_with_all()
    db_id = harness.attach()
    for status, good in ((0, True), (-1, False)):
        effects = harness.give(RevokeWanted(db_id, b"k", buffer(db_id), (1, 2)))
        sent = of_kind(effects, SendControl)
        assert [each.pnn for each in sent] == [1, 2]
        harness.give(reply(sent[0]))
        harness.give(reply(sent[1], status))
        assert harness.records.revocations[-1] == (db_id, b"k", good)
