# SPDX-License-Identifier: GPL-3.0-or-later
"""Empty records are removed, but never while a copy may be left elsewhere."""

from __future__ import annotations

from ctdbpy.core.effects import JobKind, ReplyToClient, SendControl
from ctdbpy.core.inputs import LinkUp, ReplyArrived
from ctdbpy.core.records.vacuum import FETCHES_MAX
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReplyControl
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader
from ctdbpy.wire.structures import DbVacuum
from tests.unit.core.fakes import Harness, of_kind, several_nodes

MIGRATED = int(RecordFlag.MIGRATED_WITH_DATA)


def empty(harness: Harness, db_id: int, key: bytes, *, queued: bool = True, **header: int) -> None:
    packed = RecordHeader(**({"rsn": 3, "dmaster": harness.config.pnn} | header)).pack()
    harness.records.databases[db_id].records[key] = packed
    if queued:
        harness.records.schedule_deletion(db_id, packed, key)


def with_node() -> tuple[Harness, int]:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    harness.running_with_all()
    return harness, harness.attach()


def key_of(harness: Harness, lmaster: int, number: int = 0) -> bytes:
    keys = (b"key %d" % n for n in range(1000))
    return [key for key in keys if harness.node.state.lmaster(key) == lmaster][number]


def start(harness: Harness, db_id: int, full: bool = False) -> tuple[int, list[object]]:
    client_id = next(iter(harness.node.state.clients), None) or harness.connect()
    reqid, effects = harness.send(client_id, Control.DB_VACUUM, DbVacuum(db_id, full).pack())
    return reqid, list(effects)


def answer(sent: SendControl, status: int, data: bytes) -> ReplyArrived:
    packet = ReplyControl(
        generation=0, destnode=0, srcnode=sent.pnn, reqid=sent.reqid, status=status, data=data, error=""
    )
    return ReplyArrived(sent.pnn, packet)


def finish(harness: Harness, reqid: int) -> ReplyToClient:
    effects = harness.advance(0.05)
    (reply,) = harness.replies(effects, reqid)
    return reply


def test_queued_records_vanish_at_the_next_interval() -> None:
    harness = Harness()
    db_id = harness.attach()
    empty(harness, db_id, b"gone")
    empty(harness, db_id, b"gone, too", flags=MIGRATED)
    harness.advance(9)
    assert len(harness.records.databases[db_id].records) == 2
    harness.advance(2)
    assert not harness.records.databases[db_id].records
    assert harness.records.counted[f"vacuum {db_id}"] == 1


def test_records_that_changed_or_are_locked_stay() -> None:
    harness = Harness()
    db_id = harness.attach()
    for key in (b"stored again", b"newer", b"locked", b"read-only", b"not ours", b"vanished"):
        empty(harness, db_id, key)
    database = harness.records.databases[db_id]
    database.records[b"stored again"] += b"data"
    empty(harness, db_id, b"newer", queued=False, rsn=4)
    empty(harness, db_id, b"read-only", queued=False, flags=int(RecordFlag.RO_HAVE_DELEGATIONS))
    empty(harness, db_id, b"not ours", queued=False, dmaster=4)
    del database.records[b"vanished"]
    database.locked.add(b"locked")
    reqid, _ = start(harness, db_id)
    assert finish(harness, reqid).status == 0
    assert set(database.records) == {b"stored again", b"newer", b"locked", b"read-only", b"not ours"}


def test_a_full_run_finds_what_no_queue_names() -> None:
    harness = Harness()
    db_id = harness.attach()
    empty(harness, db_id, b"forgotten", queued=False)
    reqid, _ = start(harness, db_id)
    harness.advance(0.1)
    assert harness.records.databases[db_id].records
    reqid, _ = start(harness, db_id, full=True)
    assert finish(harness, reqid).status == 0
    assert not harness.records.databases[db_id].records


def test_after_enough_fast_runs_comes_a_full_one() -> None:
    harness = Harness()
    harness.node.state.tunables = harness.node.state.tunables.replaced("VacuumFastPathCount", 2)
    harness.attach()
    harness.advance(21)
    assert not harness.workers.seen
    harness.advance(10)
    assert [job.kind for job in harness.workers.seen] == [JobKind.VACUUM_SCAN]
    harness.advance(20)
    assert len(harness.workers.seen) == 1


def test_persistent_frozen_and_recovering_databases_are_not_vacuumed() -> None:
    harness = Harness()
    persistent = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    db_id = harness.attach()
    assert harness.ask(Control.DB_VACUUM, DbVacuum(persistent).pack()).status == -1
    harness.ask(Control.DB_FREEZE, U32.pack(db_id))
    assert harness.ask(Control.DB_VACUUM, DbVacuum(db_id).pack()).status == -1
    harness.advance(30)
    harness.ask(Control.DB_THAW, U32.pack(db_id))
    harness.pause_recoveries()
    assert harness.ask(Control.DB_VACUUM, DbVacuum(db_id).pack()).status == -1
    assert f"vacuum {db_id}" not in harness.records.counted


def test_a_freeze_cuts_a_run_short_and_the_rest_is_queued_again() -> None:
    harness = Harness()
    db_id = harness.attach()
    for number in range(500):
        empty(harness, db_id, b"%d" % number)
    reqid, _ = start(harness, db_id)
    assert len(harness.records.databases[db_id].records) == 300
    effects = harness.send(7, Control.DB_FREEZE, U32.pack(db_id))[1]
    assert [each.status for each in harness.replies(effects, reqid)] == [-1]
    assert len(harness.records.databases[db_id].deletions) == 300
    harness.ask(Control.DB_THAW, U32.pack(db_id))
    reqid, _ = start(harness, db_id)
    assert finish(harness, reqid).status == 0
    assert not harness.records.databases[db_id].records


def test_a_detach_cuts_a_run_short() -> None:
    harness = Harness()
    db_id = harness.attach()
    for number in range(500):
        empty(harness, db_id, b"%d" % number)
    harness.node.state.tunables = harness.node.state.tunables.replaced("AllowClientDBAttach", 0)
    reqid, _ = start(harness, db_id)
    _, effects = harness.send(7, Control.DB_DETACH, U32.pack(db_id))
    assert [each.status for each in harness.replies(effects, reqid)] == [-1]
    harness.advance(30)


def test_a_run_that_takes_too_long_is_cut_short() -> None:
    harness = Harness()
    db_id = harness.attach()
    harness.hold_jobs = True
    reqid, _ = start(harness, db_id, full=True)
    assert [each.status for each in harness.replies(harness.advance(121), reqid)] == [-1]


def test_one_run_at_a_time() -> None:
    harness = Harness()
    first, second = harness.attach("a.tdb"), harness.attach("b.tdb")
    harness.hold_jobs = True
    one, _ = start(harness, first, full=True)
    two, _ = start(harness, second, full=True)
    assert len(harness.held) == 1
    harness.release_jobs()
    effects = harness.advance(1)
    assert [len(harness.replies(effects, each)) for each in (one, two)] == [0, 1]
    assert len(harness.workers.seen) == 2


def test_a_foreign_lmaster_is_asked_to_fetch() -> None:
    harness, db_id = with_node()
    key = key_of(harness, 1)
    empty(harness, db_id, key)
    reqid, effects = start(harness, db_id)
    (sent,) = of_kind(list(effects), SendControl)  # type: ignore[arg-type]
    assert (sent.pnn, sent.opcode) == (1, Control.VACUUM_FETCH)
    (record,) = RecBuffer.unpack(sent.data).records
    assert (record.key, record.reqid, record.value) == (key, 0, b"")
    assert finish(harness, reqid).status == 0
    assert key in harness.records.databases[db_id].records


def test_what_another_node_keeps_is_kept_here() -> None:
    harness, db_id = with_node()
    keys = [key_of(harness, 0, number) for number in range(3)]
    for key in keys[:2]:
        empty(harness, db_id, key, flags=MIGRATED)
    empty(harness, db_id, keys[2])
    reqid, effects = start(harness, db_id)
    (sent,) = of_kind(list(effects), SendControl)  # type: ignore[arg-type]
    assert (sent.pnn, sent.opcode) == (1, Control.TRY_DELETE_RECORDS)
    assert {record.key for record in RecBuffer.unpack(sent.data).records} == set(keys[:2])
    assert set(harness.records.databases[db_id].records) == set(keys[:2])
    kept = RecBuffer(db_id, (RecData.of(keys[0], RecordHeader(4, 1)),)).pack()
    harness.give(answer(sent, 0, kept))
    assert finish(harness, reqid).status == 0
    assert set(harness.records.databases[db_id].records) == {keys[0]}


def test_a_node_that_fails_or_babbles_ends_the_run_and_nothing_is_deleted() -> None:
    for status, data in ((-1, b""), (0, b"nonsense")):
        harness, db_id = with_node()
        key = key_of(harness, 0)
        empty(harness, db_id, key, flags=MIGRATED)
        reqid, effects = start(harness, db_id)
        (sent,) = of_kind(list(effects), SendControl)  # type: ignore[arg-type]
        assert harness.replies(harness.give(answer(sent, status, data)), reqid)[0].status == -1
        assert key in harness.records.databases[db_id].records


def test_records_are_fetched_for_the_lmaster_by_its_next_run() -> None:
    harness, db_id = with_node()
    keys = [b"%d" % number for number in range(250)]
    for key in keys:
        empty(harness, db_id, key, queued=False, dmaster=1)
    gone, ours = b"gone", b"ours"
    empty(harness, db_id, ours, queued=False)
    records = tuple(RecData.of(key, RecordHeader()) for key in (*keys, gone, ours))
    assert harness.ask(Control.VACUUM_FETCH, RecBuffer(db_id, records).pack()).status == 0
    assert not harness.records.fetched, "upstream's tests see each step by itself"
    reqid, _effects = start(harness, db_id)
    assert len(harness.records.fetched) == 200
    assert not harness.replies(harness.advance(1), reqid), "the run waits for them"
    assert [key for _, key in harness.records.fetched] == keys
    for key in keys:
        empty(harness, db_id, key, queued=False)
    assert harness.replies(harness.advance(1), reqid)[0].status == 0


def test_a_record_that_cannot_be_fetched_holds_no_deletion_up() -> None:
    harness, db_id = with_node()
    empty(harness, db_id, b"stuck", queued=False, dmaster=1)
    harness.ask(Control.VACUUM_FETCH, RecBuffer(db_id, (RecData.of(b"stuck", RecordHeader()),)).pack())
    key = key_of(harness, 0)
    empty(harness, db_id, key)
    reqid, _effects = start(harness, db_id)
    assert key not in harness.records.databases[db_id].records
    effects = harness.advance(harness.node.state.tunables.vacuum_max_run_time + 1)
    assert harness.replies(effects, reqid)[0].status == -1


def test_only_so_many_records_are_noted_to_be_fetched() -> None:
    harness, db_id = with_node()
    for batch in range(3):
        keys = [b"%d" % number for number in range(batch * 50_000, (batch + 1) * 50_000)]
        buffer = RecBuffer(db_id, tuple(RecData.of(key, RecordHeader()) for key in keys))
        harness.ask(Control.VACUUM_FETCH, buffer.pack())
        for key in keys:
            empty(harness, db_id, key, queued=False, dmaster=1)
    start(harness, db_id)
    harness.advance(10)
    assert len(harness.records.fetched) == FETCHES_MAX
