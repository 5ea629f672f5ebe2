# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases that stand still: freeze, transaction, pull, push, thaw, and workers that die."""

from __future__ import annotations

from ctdbpy.core.effects import JobKind, ReplyToNode, SendMessage
from ctdbpy.core.inputs import MessageArrived, NodeControlArrived, SessionLost
from ctdbpy.core.records.freezes import BUFFERS_AHEAD
from ctdbpy.wire.codecs import U32, U64
from ctdbpy.wire.constants import LMASTER_ANY, RecoveryMode
from ctdbpy.wire.controls import Control, encode_request
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.records import SEQNUM_KEY, RecBuffer, RecData, RecordHeader
from ctdbpy.wire.structures import PullDbExt, TransDb
from tests.unit.core.fakes import FIRST_GENERATION, Harness, of_kind

GENERATION = FIRST_GENERATION
SRVID = 0xCE02 << 48


class Frozen(Harness):
    """A node with one persistent database of two records, frozen."""

    def __init__(self, *, freeze: bool = True) -> None:
        super().__init__()
        self.db_id = self.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
        self.stored = self.records.databases[self.db_id].records
        self.stored[b"a"] = RecordHeader(1).pack() + b"A"
        self.stored[SEQNUM_KEY] = RecordHeader(1).pack() + U64.pack(5)
        if freeze:
            assert self.status(Control.DB_FREEZE) == 0

    def status(self, control: Control) -> int:
        return self.ask(control, encode_request(control, self.db_id)).status

    def in_transaction(self, control: Control, transaction: int = GENERATION) -> int:
        return self.ask(control, TransDb(self.db_id, transaction).pack()).status


def test_freezing_again_and_thawing_what_moves_are_nothing() -> None:
    harness = Frozen()
    assert harness.records.databases[harness.db_id].frozen
    assert harness.status(Control.DB_FREEZE) == 0
    assert harness.status(Control.DB_THAW) == 0
    assert harness.status(Control.DB_THAW) == 0
    assert not harness.records.databases[harness.db_id].frozen
    assert [job.kind for job in harness.workers.seen] == [JobKind.FREEZE, JobKind.THAW]


def test_jobs_of_one_freeze_share_a_session_and_the_next_has_another() -> None:
    harness = Frozen()
    harness.in_transaction(Control.DB_TRANSACTION_START)
    harness.status(Control.DB_THAW)
    harness.status(Control.DB_FREEZE)
    sessions = [job.session for job in harness.workers.seen]
    assert len(set(sessions[:-1])) == 1
    assert sessions[-1] not in (0, sessions[0])


def test_two_freezes_at_once_share_one_worker() -> None:
    harness = Frozen(freeze=False)
    harness.hold_jobs = True
    request = U32.pack(harness.db_id)
    first, _ = harness.send(7, Control.DB_FREEZE, request)
    second, _ = harness.send(7, Control.DB_FREEZE, request)
    effects = harness.release_jobs()
    assert [harness.replies(effects, reqid)[0].status for reqid in (first, second)] == [0, 0]
    assert len(harness.workers.seen) == 1


def test_a_thaw_during_a_freeze_waits_and_a_freeze_during_a_thaw_too() -> None:
    harness = Frozen(freeze=False)
    request = U32.pack(harness.db_id)
    harness.hold_jobs = True
    freeze, _ = harness.send(7, Control.DB_FREEZE, request)
    thaw, effects = harness.send(7, Control.DB_THAW, request)
    again, _ = harness.send(7, Control.DB_FREEZE, request)
    assert not harness.replies(effects, thaw)
    effects = harness.release_jobs()
    assert {harness.replies(effects, reqid)[0].status for reqid in (freeze, thaw, again)} == {0}


def test_without_freeze_or_transaction_nothing_is_changed() -> None:
    harness = Frozen(freeze=False)
    for control in (Control.DB_TRANSACTION_START, Control.DB_TRANSACTION_COMMIT, Control.WIPE_DATABASE):
        assert harness.in_transaction(control) == -1
    pull = PullDbExt(harness.db_id, LMASTER_ANY, SRVID).pack()
    assert harness.ask(Control.DB_PULL, pull).status == -1
    assert harness.ask(Control.DB_PUSH_START, pull).status == -1
    harness.status(Control.DB_FREEZE)
    assert harness.in_transaction(Control.DB_TRANSACTION_COMMIT) == -1
    assert harness.in_transaction(Control.WIPE_DATABASE) == -1
    assert harness.status(Control.DB_PUSH_CONFIRM) == -1
    assert harness.in_transaction(Control.DB_TRANSACTION_START, 5) == -1
    assert harness.in_transaction(Control.DB_TRANSACTION_START) == 0
    assert harness.in_transaction(Control.DB_TRANSACTION_COMMIT, 5) == -1
    assert harness.in_transaction(Control.WIPE_DATABASE, 5) == -1
    assert harness.stored


def test_a_wipe_is_undone_unless_committed() -> None:
    harness = Frozen()
    harness.in_transaction(Control.DB_TRANSACTION_START)
    assert harness.in_transaction(Control.WIPE_DATABASE) == 0
    assert not harness.stored
    assert harness.status(Control.DB_TRANSACTION_CANCEL) == 0
    assert len(harness.stored) == 2
    assert harness.status(Control.DB_TRANSACTION_CANCEL) == 0
    harness.in_transaction(Control.DB_TRANSACTION_START)
    harness.in_transaction(Control.WIPE_DATABASE)
    assert harness.in_transaction(Control.DB_TRANSACTION_START) == 0
    assert len(harness.stored) == 2
    harness.in_transaction(Control.WIPE_DATABASE)
    assert harness.status(Control.DB_THAW) == 0
    assert len(harness.stored) == 2
    harness.status(Control.DB_FREEZE)
    harness.in_transaction(Control.DB_TRANSACTION_START)
    harness.in_transaction(Control.WIPE_DATABASE)
    assert harness.in_transaction(Control.DB_TRANSACTION_COMMIT) == 0
    harness.status(Control.DB_THAW)
    assert not harness.stored


def test_the_next_recovery_finds_what_was_there_before_one_that_was_left_open() -> None:
    harness = Frozen()
    harness.in_transaction(Control.DB_TRANSACTION_START)
    harness.in_transaction(Control.WIPE_DATABASE)
    assert not harness.stored
    assert harness.status(Control.DB_FREEZE) == 0
    assert len(harness.stored) == 2


def test_a_commit_mends_an_unhealthy_database() -> None:
    harness = Frozen()
    harness.node.state.databases[harness.db_id].unhealthy = "ERROR"
    harness.in_transaction(Control.DB_TRANSACTION_START)
    assert harness.in_transaction(Control.DB_TRANSACTION_COMMIT) == 0
    assert harness.node.state.databases[harness.db_id].unhealthy == ""


def test_a_commit_without_any_healthy_node_says_so() -> None:
    harness = Frozen()
    harness.node.state.databases[harness.db_id].unhealthy = "ERROR"
    harness.ask(Control.DISABLE_NODE)
    for _ in range(2):
        harness.in_transaction(Control.DB_TRANSACTION_START)
        assert harness.in_transaction(Control.DB_TRANSACTION_COMMIT) == 0
    assert harness.node.state.databases[harness.db_id].unhealthy == "NO-HEALTHY-NODES - ERROR"


def test_records_are_pulled_as_messages_to_who_asks() -> None:
    harness = Frozen()
    reply = harness.ask(Control.DB_PULL, PullDbExt(harness.db_id, LMASTER_ANY, SRVID).pack())
    assert reply.data == U32.pack(2)
    (message,) = [each for each in of_kind(harness.effects, SendMessage) if each.srvid == SRVID]
    assert message.destnode == 0
    assert {record.key for record in RecBuffer.unpack(message.data).records} == {b"a", SEQNUM_KEY}


def test_an_inactive_nodes_volatile_records_are_void() -> None:
    harness = Harness()
    db_id = harness.attach()
    harness.records.databases[db_id].records[b"a"] = RecordHeader(1).pack() + b"A"
    harness.ask(Control.STOP_NODE)
    assert harness.ask(Control.DB_PULL, PullDbExt(db_id, LMASTER_ANY, SRVID).pack()).data == U32.pack(0)


def test_records_are_pushed_as_messages_and_counted() -> None:
    harness = Frozen()
    harness.in_transaction(Control.DB_TRANSACTION_START)
    push = PullDbExt(harness.db_id, 0, SRVID).pack()
    assert harness.ask(Control.DB_PUSH_START, push).status == 0
    assert SRVID in harness.listening
    # A backup's buffers carry the id of the database they were taken from.
    for db_id, keys in ((harness.db_id, (b"x", b"y")), (99, (b"z",))):
        records = tuple(RecData.of(key, RecordHeader(2), b"new") for key in keys)
        harness.give(MessageArrived(0, SRVID, RecBuffer(db_id, records).pack()))
    reply = harness.ask(Control.DB_PUSH_CONFIRM, U32.pack(harness.db_id))
    assert reply.data == U32.pack(3)
    assert SRVID not in harness.listening
    assert {b"x", b"y", b"z"} <= set(harness.stored)


def test_a_leader_that_pushes_is_answered_when_most_is_stored() -> None:
    harness = Frozen()
    harness.in_transaction(Control.DB_TRANSACTION_START)
    assert harness.ask(Control.DB_PUSH_START, PullDbExt(harness.db_id, 0, SRVID).pack()).status == 0
    ping = ReqControl(0, 0, 1, 9, Control.PING, 0, 0, 0, b"")

    def pings() -> int:
        return len(of_kind(harness.give(NodeControlArrived(1, ping)), ReplyToNode))

    harness.hold_jobs = True
    for number in range(BUFFERS_AHEAD):
        record = RecData.of(b"%d" % number, RecordHeader(2), b"new")
        harness.give(MessageArrived(0, SRVID, RecBuffer(harness.db_id, (record,)).pack()))
    assert pings() == 1
    harness.give(MessageArrived(0, SRVID, RecBuffer(harness.db_id, (record,)).pack()))
    assert pings() == 0
    assert len(of_kind(harness.release_jobs(), ReplyToNode)) == 1
    assert pings() == 1


def test_a_push_that_is_given_up_gives_way_to_the_next() -> None:
    harness = Frozen()
    assert harness.ask(Control.DB_PUSH_START, PullDbExt(harness.db_id, 0, 1).pack()).status == 0
    assert harness.ask(Control.DB_PUSH_START, PullDbExt(harness.db_id, 0, 2).pack()).status == 0
    assert {1, 2} & harness.listening == {2}
    harness.status(Control.DB_THAW)
    assert not {1, 2} & harness.listening


def test_what_a_worker_cannot_do_is_refused_with_its_words() -> None:
    for kind, control in (
        (JobKind.BEGIN, Control.DB_TRANSACTION_START),
        (JobKind.COMMIT, Control.DB_TRANSACTION_COMMIT),
        (JobKind.WIPE, Control.WIPE_DATABASE),
    ):
        harness = Frozen()
        if kind is not JobKind.BEGIN:
            harness.in_transaction(Control.DB_TRANSACTION_START)
        harness.workers.failing.add(kind)
        reply = harness.ask(control, TransDb(harness.db_id, GENERATION).pack())
        assert reply.status == -1
        assert "told to fail" in reply.error
    harness = Frozen()
    harness.workers.failing |= {JobKind.PULL, JobKind.PUSH}
    pull = PullDbExt(harness.db_id, LMASTER_ANY, SRVID).pack()
    assert harness.ask(Control.DB_PULL, pull).status == -1
    harness.ask(Control.DB_PUSH_START, pull)
    harness.give(MessageArrived(0, SRVID, RecBuffer(harness.db_id).pack()))
    assert harness.status(Control.DB_PUSH_CONFIRM) == -1


def test_a_freeze_that_fails_leaves_the_database_moving() -> None:
    harness = Frozen(freeze=False)
    harness.workers.failing.add(JobKind.FREEZE)
    assert harness.status(Control.DB_FREEZE) == -1
    assert not harness.records.databases[harness.db_id].frozen
    assert harness.ask(Control.FREEZE).status == -1


def test_a_thaw_that_has_waited_while_another_recovery_began_is_refused() -> None:
    harness = Frozen(freeze=False)
    request = U32.pack(harness.db_id)
    harness.hold_jobs = True
    harness.send(7, Control.DB_FREEZE, request)
    thaw, effects = harness.send(7, Control.DB_THAW, request)
    assert not harness.replies(effects, thaw)
    harness.node.state.recmode = RecoveryMode.ACTIVE
    harness.node.state.generation += 1
    effects = harness.release_jobs()
    assert "another recovery has begun" in harness.replies(effects, thaw)[0].error


def test_a_worker_that_dies_thaws_its_database() -> None:
    harness = Frozen()
    harness.in_transaction(Control.DB_TRANSACTION_START)
    database = harness.node.state.databases[harness.db_id]
    harness.give(SessionLost(database.session + 1, harness.db_id, "another one"))
    assert harness.records.databases[harness.db_id].frozen
    harness.give(SessionLost(database.session, harness.db_id, "killed"))
    assert harness.in_transaction(Control.DB_TRANSACTION_COMMIT) == -1
    assert not harness.records.databases[harness.db_id].frozen
    harness.give(SessionLost(5, 12345, "killed"))


def test_a_worker_that_dies_while_it_freezes_fails_the_freeze() -> None:
    harness = Frozen(freeze=False)
    harness.hold_jobs = True
    reqid, _ = harness.send(7, Control.DB_FREEZE, U32.pack(harness.db_id))
    session = harness.node.state.databases[harness.db_id].session
    harness.give(SessionLost(session, harness.db_id, "killed"))
    assert harness.replies(harness.release_jobs(), reqid)[0].status == -1
    assert harness.status(Control.DB_FREEZE) == 0


def test_the_sequence_number_of_a_frozen_database_needs_a_transaction() -> None:
    harness = Frozen()
    request = encode_request(Control.GET_DB_SEQNUM, harness.db_id)
    assert harness.ask(Control.GET_DB_SEQNUM, request).status == -1
    harness.in_transaction(Control.DB_TRANSACTION_START)
    assert harness.ask(Control.GET_DB_SEQNUM, request).data == U64.pack(5)
    harness.workers.failing.add(JobKind.FETCH)
    assert harness.ask(Control.GET_DB_SEQNUM, request).status == -1
