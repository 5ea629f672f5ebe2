# SPDX-License-Identifier: GPL-3.0-or-later
"""Every control: what a client asks, and the exact bytes it is answered."""

from __future__ import annotations

import pytest

from ctdbpy.core.controls import RAW, TABLE
from ctdbpy.core.effects import DropClient, Exit, SetHealth, SetLogLevel
from ctdbpy.core.inputs import NodeControlArrived, NodesRead
from ctdbpy.wire.codecs import I32, U32, U64, Double
from ctdbpy.wire.constants import INVALID_GENERATION, DbFlag, NodeFlag
from ctdbpy.wire.controls import CONTROLS, Control, decode_reply, encode_request
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.records import SEQNUM_KEY, RecBuffer, RecData, RecordHeader
from ctdbpy.wire.structures import (
    AddrInfo,
    BanState,
    Connection,
    DbIdEntry,
    DbIdMap,
    DbVacuum,
    EchoData,
    Iface,
    KeyData,
    NodeEntry,
    NodeFlagChange,
    NodeMap,
    NotifyData,
    PidSrvid,
    PublicIp,
    PullDbExt,
    PushRecord,
    SockAddr,
    TickleList,
    TransDb,
    Tunables,
    TunableValue,
    VarList,
    VnnMap,
)
from ctdbpy.wire.tunables import LISTED_NAMES
from tests.unit.core.fakes import FIRST_GENERATION, Harness, of_kind, several_nodes

IP = SockAddr("192.0.2.1", 445)
TCP = Connection(SockAddr("198.51.100.7", 50000), IP)
GENERATION = FIRST_GENERATION


def test_every_live_control_has_a_handler_and_no_obsolete_one_has() -> None:
    live = {spec.control for spec in CONTROLS.values() if not spec.obsolete}
    assert set(TABLE) == live
    assert live >= RAW


@pytest.mark.parametrize("control", [each.control for each in CONTROLS.values() if each.obsolete])
def test_an_obsolete_control_is_refused(control: Control) -> None:
    assert Harness().ask(control).status == -1


@pytest.mark.parametrize("opcode", [2, 12, 28, 38, 163, 0xFFFFFFFF])
def test_an_unknown_control_is_refused(opcode: int) -> None:
    assert Harness().ask(opcode).status == -1


# What needs nothing but a running node: control, request, status, reply.
_SIMPLE: list[tuple[Control, object, int, bytes]] = [
    (Control.PING, None, 1, b""),
    (Control.GETVNNMAP, None, 0, VnnMap(GENERATION, (0,)).pack()),
    (Control.SETVNNMAP, VnnMap(5, (0,)), -1, b""),
    (Control.GET_DEBUG, None, 0, I32.pack(3)),
    (Control.GET_DBMAP, None, 0, DbIdMap().pack()),
    (Control.GET_RECMODE, None, 0, b""),
    (Control.SET_RECMODE, 0, 0, b""),
    (Control.SET_RECMODE, 7, -1, b""),
    (Control.STATISTICS_RESET, None, 0, b""),
    (Control.DEREGISTER_SRVID, None, -1, b""),
    (Control.GET_PID, None, 123, b""),
    (Control.FREEZE, None, 0, b""),
    (Control.GET_PNN, None, 0, b""),
    (Control.TCP_CLIENT, TCP, 0, b""),
    (Control.TCP_ADD, TCP, 0, b""),
    (Control.TCP_REMOVE, TCP, 0, b""),
    (Control.TCP_ADD_DELAYED_UPDATE, TCP, 0, b""),
    (Control.TCP_CLIENT_DISCONNECTED, TCP, 0, b""),
    (Control.TCP_CLIENT_PASSED, TCP, 0, b""),
    (Control.STARTUP, None, 0, b""),
    (Control.SET_TUNABLE, TunableValue("controltimeout", 9), 0, b""),
    (Control.SET_TUNABLE, TunableValue("DeterministicIPs", 1), 1, b""),
    (Control.SET_TUNABLE, TunableValue("NoSuchThing", 1), -1, b""),
    (Control.GET_TUNABLE, "CONTROLTIMEOUT", 0, U32.pack(60)),
    (Control.GET_TUNABLE, "VerifyRecoveryLock", 0, U32.pack(1)),
    (Control.GET_TUNABLE, "NoSuchThing", -22, b""),
    (Control.LIST_TUNABLES, None, 0, VarList(LISTED_NAMES).pack()),
    (Control.GET_ALL_TUNABLES, None, 0, Tunables().pack()),
    (Control.MODIFY_FLAGS, NodeFlagChange(0, 32, 0), 0, b""),
    (Control.MODIFY_FLAGS, NodeFlagChange(9, 32, 0), -1, b""),
    (Control.GET_TCP_TICKLE_LIST, IP, 1, b""),
    (Control.SET_TCP_TICKLE_LIST, TickleList(IP), 1, b""),
    (Control.SEND_GRATUITOUS_ARP, AddrInfo(IP, 24, "eth0"), 0, b""),
    (Control.START_RECOVERY, None, 0, b""),
    (Control.END_RECOVERY, None, 0, b""),
    (Control.RELOAD_NODES_FILE, None, 0, b""),
    (Control.ADD_PUBLIC_IP, AddrInfo(IP, 24, "eth0"), 0, b""),
    (Control.ADD_PUBLIC_IP, AddrInfo(IP, 24, ""), -1, b""),
    (Control.ADD_PUBLIC_IP, AddrInfo(IP, 33, "eth0"), -1, b""),
    (Control.DEL_PUBLIC_IP, AddrInfo(IP, 24, "eth0"), -1, b""),
    (Control.GET_CAPABILITIES, None, 0, U32.pack(0x30003)),
    (Control.RECD_PING, None, 0, b""),
    (Control.RELEASE_IP, PublicIp(1, IP), 0, b""),
    (Control.TAKEOVER_IP, PublicIp(0, IP), 0, b""),
    (Control.TAKEOVER_IP, PublicIp(1, IP), -1, b""),
    (Control.GET_PUBLIC_IPS, None, 0, U32.pack(0)),
    (
        Control.GET_NODEMAP,
        None,
        0,
        NodeMap((NodeEntry(0, 0, SockAddr("10.0.0.1")),)).pack(),
    ),
    (
        Control.GET_NODES_FILE,
        None,
        0,
        NodeMap((NodeEntry(0, 0, SockAddr("10.0.0.1")),)).pack(),
    ),
    (Control.RECD_RECLOCK_LATENCY, 0.25, 0, b""),
    (Control.GET_RECLOCK_FILE, None, 0, b""),
    (Control.CONTINUE_NODE, None, 0, b""),
    (Control.DISABLE_NODE, None, 0, b""),
    (Control.ENABLE_NODE, None, 0, b""),
    (Control.STOP_NODE, None, 0, b""),
    (Control.SET_LMASTERROLE, 1, 0, b""),
    (Control.SET_RECMASTERROLE, 1, 0, b""),
    (Control.SET_BAN_STATE, BanState(3, 10), -1, b""),
    (Control.SET_BAN_STATE, BanState(0, 10), 0, b""),
    (Control.GET_BAN_STATE, None, 0, BanState(0, 0).pack()),
    (Control.REGISTER_NOTIFY, NotifyData(5, b"x"), 0, b""),
    (Control.DEREGISTER_NOTIFY, 5, -1, b""),
    (Control.GET_PUBLIC_IP_INFO, IP, -1, b""),
    (Control.GET_IFACES, None, 0, U32.pack(0)),
    (Control.SET_IFACE_LINK_STATE, Iface("eth0", 1), -1, b""),
    (Control.RELOAD_PUBLIC_IPS, None, 0, b""),
    (Control.IPREALLOCATED, None, 0, b""),
    (Control.START_IPREALLOCATE, None, 0, b""),
    (Control.GET_RUNSTATE, None, 0, U32.pack(5)),
    (Control.REGISTER_SRVID, None, 0, b""),
    (Control.TUNNEL_REGISTER, None, 0, b""),
    (Control.TUNNEL_DEREGISTER, None, -1, b""),
    (Control.PROCESS_EXISTS, 4711, 0, b""),
    (Control.PROCESS_EXISTS, 1, -1, b""),
    (Control.CHECK_PID_SRVID, PidSrvid(4711, 9), -1, b""),
    (Control.ECHO_DATA, EchoData(3, b"hello"), 0, EchoData(3, b"hello").pack()),
    (Control.SHUTDOWN, None, 0, b""),
]


@pytest.mark.parametrize(("control", "value", "status", "data"), _SIMPLE)
def test_a_simple_control_is_answered_exactly(
    control: Control, value: object, status: int, data: bytes
) -> None:
    reply = Harness().ask(control, encode_request(control, value))
    assert (reply.status, reply.data) == (status, data), reply
    if status < 0:
        assert reply.error


# Controls about a database that is not there.
_NO_DATABASE: list[tuple[Control, object]] = [
    (Control.GETDBPATH, 1),
    (Control.GET_DBNAME, 1),
    (Control.ENABLE_SEQNUM, 1),
    (Control.UPDATE_SEQNUM, 1),
    (Control.WIPE_DATABASE, TransDb(1, 2)),
    (Control.TRY_DELETE_RECORDS, RecBuffer(1)),
    (Control.START_PERSISTENT_UPDATE, 1),
    (Control.CANCEL_PERSISTENT_UPDATE, 1),
    (Control.TRANS3_COMMIT, RecBuffer(1)),
    (Control.UPDATE_RECORD, RecBuffer(1)),
    (Control.GET_DB_SEQNUM, 1),
    (Control.DB_SET_HEALTHY, 1),
    (Control.DB_GET_HEALTH, 1),
    (Control.SCHEDULE_FOR_DELETION, KeyData(1, RecordHeader(), b"k")),
    (Control.SET_DB_READONLY, 1),
    (Control.SET_DB_STICKY, 1),
    (Control.GET_DB_STATISTICS, 1),
    (Control.DB_DETACH, 1),
    (Control.DB_FREEZE, 1),
    (Control.DB_THAW, 1),
    (Control.DB_TRANSACTION_START, TransDb(1, 2)),
    (Control.DB_TRANSACTION_COMMIT, TransDb(1, 2)),
    (Control.DB_TRANSACTION_CANCEL, 1),
    (Control.DB_PULL, PullDbExt(1)),
    (Control.DB_PUSH_START, PullDbExt(1)),
    (Control.DB_PUSH_CONFIRM, 1),
    (Control.DB_OPEN_FLAGS, 1),
    (Control.VACUUM_FETCH, RecBuffer(1)),
    (Control.DB_VACUUM, DbVacuum(1)),
    (Control.PUSH_RECORD, PushRecord(GENERATION, 1, RecordHeader(), b"k", b"v")),
]


@pytest.mark.parametrize(("control", "value"), _NO_DATABASE)
def test_a_database_that_is_not_attached_is_refused(control: Control, value: object) -> None:
    reply = Harness().ask(control, encode_request(control, value))
    assert (reply.status, reply.data) == (-1, b"")
    assert "0x00000001" in reply.error


@pytest.mark.parametrize("control", sorted(TABLE))
def test_data_of_a_wrong_size_is_refused(control: Control) -> None:
    size = CONTROLS[control].request.size
    if size is None:
        pytest.skip("takes any size")
    assert Harness().ask(control, bytes(size + 1)).status == -1


def test_databases_answer_name_path_flags_and_modes() -> None:
    harness = Harness()
    volatile = harness.attach("locking.tdb")
    persistent = harness.attach("secrets.tdb", Control.DB_ATTACH_PERSISTENT)
    replicated = harness.attach("ctdb.tdb", Control.DB_ATTACH_REPLICATED)
    assert harness.ask(Control.GET_DBNAME, U32.pack(volatile)).data == b"locking.tdb\0"
    assert harness.ask(Control.GETDBPATH, U32.pack(volatile)).data.endswith(b"/locking.tdb.0\0")
    assert harness.ask(Control.DB_OPEN_FLAGS, U32.pack(volatile)).data == I32.pack(0x1C41)
    assert harness.ask(Control.DB_OPEN_FLAGS, U32.pack(persistent)).data == I32.pack(0x400)
    for mode in (Control.SET_DB_READONLY, Control.SET_DB_STICKY):
        assert harness.ask(mode, U32.pack(volatile)).status == 0
        assert harness.ask(mode, U32.pack(persistent)).status == -1
    flags = DbFlag.READONLY | DbFlag.STICKY
    assert harness.records.databases[volatile].flags == flags
    entries = (
        DbIdEntry(replicated, int(DbFlag.REPLICATED)),
        DbIdEntry(persistent, int(DbFlag.PERSISTENT)),
        DbIdEntry(volatile, int(flags)),
    )
    assert harness.ask(Control.GET_DBMAP).data == DbIdMap(entries).pack()


def test_attaching_again_gives_the_same_id_but_no_other_kind() -> None:
    harness = Harness()
    db_id = harness.attach("a.tdb", Control.DB_ATTACH_PERSISTENT)
    assert harness.ask(Control.DB_ATTACH_PERSISTENT, b"a.tdb\0").data == U32.pack(db_id)
    assert harness.ask(Control.DB_ATTACH, b"a.tdb\0").status == 0
    assert harness.ask(Control.DB_ATTACH_REPLICATED, b"a.tdb\0").status == -1


@pytest.mark.parametrize("name", [b"\0", b"a/b\0", b"..\0", b"x" * 300 + b"\0"])
def test_a_name_that_is_no_file_name_is_refused(name: bytes) -> None:
    assert Harness().ask(Control.DB_ATTACH, name).status == -1


def test_a_file_that_cannot_be_opened_is_refused_with_its_reason() -> None:
    harness = Harness()
    harness.records.refused["bad.tdb"] = "it is corrupt"
    reply = harness.ask(Control.DB_ATTACH_PERSISTENT, b"bad.tdb\0")
    assert reply.status == -1
    assert "bad.tdb" in reply.error and "corrupt" in reply.error


def test_attaching_and_detaching_depend_on_their_tunable() -> None:
    harness = Harness()
    db_id = harness.attach("a.tdb")
    persistent = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    assert harness.ask(Control.DB_DETACH, U32.pack(db_id)).status == -1
    tunable = TunableValue("AllowClientDBAttach", 0).pack()
    assert harness.ask(Control.SET_TUNABLE, tunable).status == 0
    assert harness.records.tunables["AllowClientDBAttach"] == 0
    assert harness.ask(Control.DB_ATTACH, b"b.tdb\0").status == -1
    assert harness.ask(Control.DB_DETACH, U32.pack(persistent)).status == -1
    assert harness.ask(Control.DB_DETACH, U32.pack(db_id)).status == 0
    assert db_id not in harness.records.databases


def test_health_is_told_and_mended() -> None:
    harness = Harness()
    db_id = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    assert harness.ask(Control.DB_GET_HEALTH, U32.pack(db_id)).data == b""
    harness.node.state.databases[db_id].unhealthy = "ERROR"
    assert harness.ask(Control.DB_GET_HEALTH, U32.pack(db_id)).data == b"ERROR\0"
    assert harness.ask(Control.DB_SET_HEALTHY, U32.pack(db_id)).status == 0
    assert harness.ask(Control.DB_GET_HEALTH, U32.pack(db_id)).data == b""
    assert SetHealth("p.tdb", "") in harness.effects


def test_the_sequence_number_is_read_from_its_record() -> None:
    harness = Harness()
    db_id = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    request = encode_request(Control.GET_DB_SEQNUM, db_id)
    assert harness.ask(Control.GET_DB_SEQNUM, request).data == U64.pack(0)
    harness.records.databases[db_id].records[SEQNUM_KEY] = RecordHeader(1).pack() + U64.pack(42)
    assert harness.ask(Control.GET_DB_SEQNUM, request).data == U64.pack(42)


def test_a_locked_sequence_number_is_waited_for() -> None:
    harness = Harness()
    db_id = harness.attach("p.tdb", Control.DB_ATTACH_PERSISTENT)
    database = harness.records.databases[db_id]
    database.records[SEQNUM_KEY] = RecordHeader(1).pack() + U64.pack(7)
    database.locked.add(SEQNUM_KEY)
    request = encode_request(Control.GET_DB_SEQNUM, db_id)
    reqid, effects = harness.send(7, Control.GET_DB_SEQNUM, request)
    assert not harness.replies(effects, reqid)
    database.locked.clear()
    assert harness.replies(harness.advance(0.1), reqid)[0].data == U64.pack(7)
    database.locked.add(SEQNUM_KEY)
    reqid, effects = harness.send(7, Control.GET_DB_SEQNUM, request)
    assert harness.replies(harness.advance(30), reqid)[0].status == -1


def test_processes_exist_only_as_clients_and_with_their_srvid() -> None:
    harness = Harness()
    client_id = harness.connect(3, pid=99)
    assert harness.ask(Control.REGISTER_SRVID, srvid=0x77, client_id=client_id).status == 0
    assert harness.ask(Control.CHECK_PID_SRVID, PidSrvid(99, 0x77).pack()).status == 0
    assert harness.ask(Control.CHECK_PID_SRVID, PidSrvid(99, 0x78).pack()).status == -1
    assert harness.ask(Control.CHECK_PID_SRVID, PidSrvid(98, 0x77).pack()).status == -1
    assert harness.ask(Control.DEREGISTER_SRVID, srvid=0x77, client_id=client_id).status == 0
    assert harness.ask(Control.CHECK_PID_SRVID, PidSrvid(99, 0x77).pack()).status == -1
    harness.connect(4, pid=100)
    harness.hang_up(client_id)
    assert harness.ask(Control.PROCESS_EXISTS, I32.pack(99)).status == -1


def test_an_inactive_node_hangs_up_on_processes_asked_for() -> None:
    harness = Harness()
    harness.connect(3, pid=99)
    harness.ask(Control.STOP_NODE)
    assert harness.ask(Control.PROCESS_EXISTS, I32.pack(99)).status == -1
    assert [each.client_id for each in of_kind(harness.effects, DropClient)] == [3]


def test_tunnels_belong_to_one_client() -> None:
    harness = Harness()
    harness.connect(1)
    harness.connect(2)
    assert harness.ask(Control.TUNNEL_REGISTER, srvid=5, client_id=1).status == 0
    assert harness.ask(Control.TUNNEL_REGISTER, srvid=5, client_id=2).status == -1
    assert harness.ask(Control.TUNNEL_DEREGISTER, srvid=5, client_id=2).status == -1
    assert harness.ask(Control.TUNNEL_DEREGISTER, srvid=5, client_id=1).status == 0


def test_statistics_have_their_size_and_what_was_counted() -> None:
    harness = Harness()
    harness.records.counted = {"client_packets_recv": 5, "node.req_call": 6, "locks.num_calls": 7}
    data = harness.ask(Control.STATISTICS).data
    assert len(data) == 488
    statistics = decode_reply(Control.STATISTICS, data)
    assert (statistics.client_packets_recv, statistics.node.req_call, statistics.locks.num_calls) == (5, 6, 7)
    assert (statistics.num_clients, statistics.num_recoveries) == (1, 1)
    assert statistics.memory_used > 0
    assert statistics.start.sec == 1_700_000_100
    assert harness.ask(Control.RECD_RECLOCK_LATENCY, Double.pack(0.5)).status == 0
    harness.ask(Control.RECD_RECLOCK_LATENCY, Double.pack(0.25))
    latency = decode_reply(Control.STATISTICS, harness.ask(Control.STATISTICS).data).reclock_recd
    assert (latency.num, latency.min, latency.max, latency.total) == (2, 0.25, 0.5, 0.75)
    harness.now_s += 10
    assert harness.ask(Control.STATISTICS_RESET).status == 0
    statistics = decode_reply(Control.STATISTICS, harness.ask(Control.STATISTICS).data)
    assert (statistics.client_packets_recv, statistics.num_recoveries, statistics.reclock_recd.num) == (
        0,
        0,
        0,
    )
    assert statistics.start.sec == 1_700_000_110


def test_the_history_has_a_hundred_intervals_newest_first() -> None:
    harness = Harness()
    harness.records.counted = {"client_packets_recv": 5}
    harness.advance(1.5)
    harness.records.counted = {"client_packets_recv": 7}
    harness.advance(1)
    data = harness.ask(Control.GET_STAT_HISTORY).data
    assert len(data) == 8 + 100 * 488
    entries = decode_reply(Control.GET_STAT_HISTORY, data).entries
    assert [entry.client_packets_recv for entry in entries[:3]] == [2, 5, 0]
    assert [entry.start.sec for entry in entries[:3]] == [1_700_000_101, 1_700_000_100, 0]


def test_database_statistics_have_hot_keys_ascending() -> None:
    harness = Harness()
    db_id = harness.attach()
    data = harness.ask(Control.GET_DB_STATISTICS, U32.pack(db_id)).data
    assert len(data) == 464 + len(b"coolhot")
    statistics = decode_reply(Control.GET_DB_STATISTICS, data)
    assert [(hot.count, hot.key) for hot in statistics.hot_keys] == [(1, b"cool"), (9, b"hot")]
    assert (statistics.locks.num_calls, statistics.locks.latency.num) == (3, 1)
    assert statistics.hop_count_bucket == (4,) * 16


def test_the_memory_report_looks_like_one_of_talloc() -> None:
    harness = Harness()
    harness.attach("a b.tdb")
    lines = harness.ask(Control.DUMP_MEMORY).data.decode().splitlines()
    assert lines[0].startswith("full talloc report on 'ctdbpy' (total ")
    assert len(lines) >= 10
    for line in lines[1:]:
        head, _, tail = line.partition(" contains ")
        assert head.startswith("    ")
        number, _, rest = tail.strip().partition(" bytes in ")
        assert number.isdigit()
        assert rest.split()[1:4] == ["blocks", "(ref", "0)"]
        assert int(rest.split()[4], 16) > 0


def test_the_uptime_has_the_moments_of_the_last_recovery() -> None:
    harness = Harness()
    harness.advance(7)
    uptime = decode_reply(Control.UPTIME, harness.ask(Control.UPTIME).data)
    assert (uptime.now.sec, uptime.start.sec) == (1_700_000_107, 1_700_000_100)
    assert (uptime.recovery_start.sec, uptime.recovery_end.sec) == (1_700_000_100, 1_700_000_100)


def test_the_log_level_is_whatever_was_set() -> None:
    harness = Harness()
    assert harness.ask(Control.SET_DEBUG, I32.pack(-3)).status == 0
    assert harness.ask(Control.GET_DEBUG).data == I32.pack(-3)
    assert SetLogLevel(-3) in harness.effects


def test_the_cluster_lock_is_told() -> None:
    assert Harness(cluster_lock="/cluster/lock").ask(Control.GET_RECLOCK_FILE).data == b"/cluster/lock\0"


def test_shutting_down_twice_is_once() -> None:
    harness = Harness()
    harness.ask(Control.SHUTDOWN)
    assert harness.ask(Control.SHUTDOWN).status == 0
    assert harness.ask(Control.GET_RUNSTATE).data == U32.pack(6)
    assert [each.code for each in of_kind(harness.effects, Exit)] == [0]


def test_a_nodes_file_that_cannot_be_read_is_refused() -> None:
    harness = Harness()
    harness.nodes_file = NodesRead(0, (), "no such file")
    for control in (Control.GET_NODES_FILE, Control.RELOAD_NODES_FILE):
        reply = harness.ask(control)
        assert reply.status == -1
        assert "no such file" in reply.error


def test_pushed_records_are_stored_unless_owned_or_of_another_generation() -> None:
    harness = Harness()
    db_id = harness.attach()
    stored = harness.records.databases[db_id].records

    def push(generation: int, dmaster: int) -> int:
        pushed = PushRecord(generation, db_id, RecordHeader(5, dmaster), b"k", b"v")
        return harness.ask(Control.PUSH_RECORD, pushed.pack()).status

    assert push(GENERATION - 1, 1) == 0
    assert push(GENERATION, 0) == 0
    assert not stored
    assert push(GENERATION, 1) == 0
    assert stored[b"k"] == RecordHeader(5, 1, 0, 0x10000).pack() + b"v"


def test_what_only_clients_may_ask_is_refused_to_nodes() -> None:
    harness = Harness()
    for control in (Control.REGISTER_SRVID, Control.TUNNEL_REGISTER):
        request = ReqControl(
            generation=0,
            destnode=0,
            srcnode=1,
            reqid=5,
            opcode=control,
            srvid=1,
            client_id=0,
            flags=0,
            data=b"",
        )
        replies = [each for each in harness.give(NodeControlArrived(1, request)) if hasattr(each, "status")]
        assert [each.status for each in replies] == [-1]


def test_a_stopped_node_forgets_its_generation() -> None:
    harness = Harness()
    harness.ask(Control.STOP_NODE)
    assert harness.ask(Control.GETVNNMAP).data == VnnMap(INVALID_GENERATION, (0,)).pack()
    assert harness.ask(Control.GET_RECMODE).status == 1
    nodemap = decode_reply(Control.GET_NODEMAP, harness.ask(Control.GET_NODEMAP).data)
    assert nodemap.nodes[0].flags == NodeFlag.STOPPED


def test_scheduling_a_deletion_queues_the_record() -> None:
    harness = Harness()
    db_id = harness.attach()
    header = RecordHeader(3, 0)
    assert harness.ask(Control.SCHEDULE_FOR_DELETION, KeyData(db_id, header, b"k").pack()).status == 0
    assert harness.records.databases[db_id].deletions == {b"k": header.pack()}


def test_try_delete_names_what_stays() -> None:
    harness = Harness(several_nodes(2, pnn=1))
    db_id = _database_on_second_node(harness)
    state = harness.node.state
    theirs = next(key for key in (b"%d" % n for n in range(99)) if state.lmaster(key) == 0)
    ours = next(key for key in (b"%d" % n for n in range(99)) if state.lmaster(key) == 1)
    stored = harness.records.databases[db_id].records
    stored[theirs] = RecordHeader(3, 0).pack() + b"old"
    records = (
        RecData.of(theirs, RecordHeader(4, 0)),
        RecData.of(ours, RecordHeader(4, 0)),
        RecData(0, b"short", b"xx"),
    )
    reply = harness.ask(Control.TRY_DELETE_RECORDS, RecBuffer(db_id, records).pack())
    assert reply.status == 0
    kept = RecBuffer.unpack(reply.data)
    assert [record.key for record in kept.records] == [ours, b"short"]
    assert not stored


def _database_on_second_node(harness: Harness) -> int:
    request = ReqControl(
        generation=0,
        destnode=1,
        srcnode=0,
        reqid=5,
        opcode=Control.DB_ATTACH,
        srvid=0,
        client_id=0,
        flags=0,
        data=b"a.tdb\0",
    )
    harness.give(NodeControlArrived(0, request))
    return next(iter(harness.node.state.databases))
