# SPDX-License-Identifier: GPL-3.0-or-later
"""Every control's request and reply round-trip, and sizes are checked where upstream's daemon checks them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.controls import (
    CONTROLS,
    Control,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from ctdbpy.wire.opcodes import OWN_CONTROLS
from ctdbpy.wire.structures import DbVacuum, PidSrvid
from tests.unit.wire.strategies import damaged, of_codec

LIVE = [control for control, spec in CONTROLS.items() if not spec.obsolete]
OBSOLETE = [control for control, spec in CONTROLS.items() if spec.obsolete]

#: Requests that upstream's daemon refuses at any other size than this.
SIZES = {
    0: """
        GET_DEBUG STATISTICS GET_ALL_TUNABLES DUMP_MEMORY STATISTICS_RESET RELOAD_NODES_FILE PING
        GET_RUNSTATE FREEZE IPREALLOCATED GET_PUBLIC_IPS STARTUP RECD_PING GET_RECLOCK_FILE
        STOP_NODE CONTINUE_NODE GET_BAN_STATE GET_IFACES GET_STAT_HISTORY RELOAD_PUBLIC_IPS
        DISABLE_NODE ENABLE_NODE START_IPREALLOCATE GET_DB_GENERATIONS GET_LEADER
    """,
    4: """
        PROCESS_EXISTS SET_DEBUG GETDBPATH GET_DBNAME SET_DB_STICKY SET_DB_READONLY ENABLE_SEQNUM
        UPDATE_SEQNUM SET_RECMODE SET_LMASTERROLE SET_RECMASTERROLE DB_SET_HEALTHY DB_GET_HEALTH
        GET_DB_STATISTICS DB_FREEZE DB_THAW DB_TRANSACTION_CANCEL DB_PUSH_CONFIRM DB_OPEN_FLAGS
        DB_DETACH START_PERSISTENT_UPDATE CANCEL_PERSISTENT_UPDATE GET_REASONS
        GET_CONNECTIONS CONFIRM_FENCED
    """,
    5: """
        DB_VACUUM
    """,
    8: """
        WIPE_DATABASE RECD_RECLOCK_LATENCY SET_BAN_STATE DEREGISTER_NOTIFY GET_DB_SEQNUM
        DB_TRANSACTION_START DB_TRANSACTION_COMMIT
    """,
    12: """
        MODIFY_FLAGS CHECK_PID_SRVID
    """,
    16: """
        TRAVERSE_START TRAVERSE_KILL DB_PULL DB_PUSH_START
    """,
    24: """
        TRAVERSE_START_EXT TRAVERSE_ALL SET_IFACE_LINK_STATE
    """,
    28: """
        GET_TCP_TICKLE_LIST GET_PUBLIC_IP_INFO GET_PLACEMENTS
    """,
    32: """
        TRAVERSE_ALL_EXT TAKEOVER_IP RELEASE_IP
    """,
    56: """
        TCP_CLIENT TCP_ADD TCP_ADD_DELAYED_UPDATE TCP_REMOVE TCP_CLIENT_DISCONNECTED
        TCP_CLIENT_PASSED
    """,
}


def test_every_opcode_has_a_row() -> None:
    assert set(CONTROLS) == set(Control)
    assert all(spec.control is control for control, spec in CONTROLS.items())


def test_upstreams_obsolete_controls_are_obsolete() -> None:
    assert {int(control) for control in OBSOLETE} == {
        *(10, 11, 13, 14, 19, 31, 32, 34, 37, 42, 43, 51, 54, 57, 58, 59, 60, 62, 65, 66, 75, 76, 79),
        *(83, 84, 85, 86, 96, 100, 103, 107, 108, 111, 112, 113, 116, 117, 118, 130, 136),
    }


def test_our_own_numbers_are_far_from_upstreams() -> None:
    own = {control.name: int(control) for control in Control if control.is_own}
    assert own == {
        "GET_DB_GENERATIONS": 0x43540001,
        "GET_REASONS": 0x43540002,
        "GET_PLACEMENTS": 0x43540003,
        "GET_CONNECTIONS": 0x43540004,
        "GET_LEADER": 0x43540005,
        "CONFIGURE": 0x43540006,
        "CONFIRM_FENCED": 0x43540007,
    }


def test_numbers_that_were_never_given_are_unknown() -> None:
    unused = {2, 12, 28, 38, 39, 40, 41, 68, 73, 92, 93, 94, 95, 106}
    assert set(range(163)) - {int(control) for control in Control} == unused
    assert all(control < 163 for control in Control if not control.is_own)
    for opcode in (*unused, 163, OWN_CONTROLS, 2**32 - 1):
        with pytest.raises(ProtocolError, match=str(opcode)):
            decode_request(opcode, b"")
        with pytest.raises(ProtocolError, match=str(opcode)):
            decode_reply(opcode, b"")


@pytest.mark.parametrize("control", LIVE, ids=lambda control: control.name)
@given(st.data())
def test_a_request_round_trips(control: Control, draw: st.DataObject) -> None:
    value = draw.draw(of_codec(CONTROLS[control].request))
    assert decode_request(int(control), encode_request(control, value)) == value


@pytest.mark.parametrize("control", LIVE, ids=lambda control: control.name)
@given(st.data())
def test_a_reply_round_trips(control: Control, draw: st.DataObject) -> None:
    value = draw.draw(of_codec(CONTROLS[control].reply))
    assert decode_reply(int(control), encode_reply(control, value)) == value


@pytest.mark.parametrize("control", LIVE, ids=lambda control: control.name)
@given(st.data())
def test_damaged_data_decodes_or_is_refused(control: Control, draw: st.DataObject) -> None:
    spec = CONTROLS[control]
    for codec, decode in ((spec.request, decode_request), (spec.reply, decode_reply)):
        with contextlib.suppress(ProtocolError):
            decode(control, draw.draw(damaged(of_codec(codec).map(codec.pack))))


@pytest.mark.parametrize("size", SIZES)
def test_a_request_of_another_size_is_refused(size: int) -> None:
    for name in SIZES[size].split():
        control = Control[name]
        decode_request(control, bytes(size))
        for wrong in {0, size - 1, size + 1, size + 8} - {size, -1}:
            with pytest.raises(ProtocolError, match=f"{name!r}: it takes {size} bytes, got {wrong}"):
                decode_request(control, bytes(wrong))


def test_sizes_are_checked_only_where_upstream_checks_them() -> None:
    ignored = {control.name for control in LIVE if CONTROLS[control].request.size is None}
    assert ignored == {
        *("GETVNNMAP", "GET_DBMAP", "GET_NODEMAP", "GET_NODES_FILE", "GET_RECMODE", "GET_PID", "GET_PNN"),
        *("REGISTER_SRVID", "DEREGISTER_SRVID", "SHUTDOWN", "LIST_TUNABLES", "UPTIME", "START_RECOVERY"),
        *("END_RECOVERY", "GET_CAPABILITIES", "TUNNEL_REGISTER", "TUNNEL_DEREGISTER"),
        # These vary in length.
        "CONFIGURE",
        *("SETVNNMAP", "DB_ATTACH", "DB_ATTACH_PERSISTENT", "DB_ATTACH_REPLICATED", "TRAVERSE_DATA"),
        *("SET_TUNABLE", "GET_TUNABLE", "SET_TCP_TICKLE_LIST", "UPDATE_RECORD", "SEND_GRATUITOUS_ARP"),
        *("TRY_DELETE_RECORDS", "ADD_PUBLIC_IP", "DEL_PUBLIC_IP", "REGISTER_NOTIFY", "TRANS3_COMMIT"),
        *("SCHEDULE_FOR_DELETION", "VACUUM_FETCH", "ECHO_DATA", "PUSH_RECORD"),
    }
    for name in ("GETVNNMAP", "SHUTDOWN", "REGISTER_SRVID"):
        assert decode_request(Control[name], b"anything") is None


@pytest.mark.parametrize("control", OBSOLETE, ids=lambda control: control.name)
def test_an_obsolete_controls_data_is_not_looked_at(control: Control) -> None:
    assert decode_request(control, b"anything") is None
    assert encode_reply(control) == b""


@pytest.mark.parametrize(
    ("control", "value", "data"),
    [
        (Control.DB_ATTACH, "locking.tdb", b"locking.tdb\0"),
        (Control.GET_TUNABLE, "MonitorInterval", b"\x10\0\0\0MonitorInterval\0"),
        (Control.GET_DB_SEQNUM, 0x01020304, bytes.fromhex("04030201 00000000")),
        (Control.CHECK_PID_SRVID, PidSrvid(-2, 3), bytes.fromhex("feffffff 0300000000000000")),
        (Control.DB_VACUUM, DbVacuum(1, True), bytes.fromhex("01000000 01")),
        (Control.PROCESS_EXISTS, -1, b"\xff" * 4),
        (Control.PING, None, b""),
    ],
)
def test_a_request_has_upstreams_bytes(control: Control, value: object, data: bytes) -> None:
    assert encode_request(control, value) == data
    assert decode_request(control, data) == value


@pytest.mark.parametrize(
    ("control", "value", "data"),
    [
        (Control.DB_GET_HEALTH, None, b""),
        (Control.DB_GET_HEALTH, "it is broken", b"it is broken\0"),
        (Control.GET_RECLOCK_FILE, None, b""),
        (Control.DUMP_MEMORY, "a report", b"a report"),
        (Control.GETDBPATH, "/a/b.tdb.0", b"/a/b.tdb.0\0"),
        (Control.DB_OPEN_FLAGS, 7233, bytes.fromhex("411c0000")),
        (Control.DB_ATTACH, 0x7A19D84D, bytes.fromhex("4dd8197a")),
    ],
)
def test_a_reply_has_upstreams_bytes(control: Control, value: Any, data: bytes) -> None:
    assert encode_reply(control, value) == data
    assert decode_reply(control, data) == value


def test_a_reply_that_lacks_its_data_is_refused() -> None:
    for control in (Control.DB_ATTACH, Control.GET_NODEMAP, Control.UPTIME, Control.STATISTICS):
        with pytest.raises(ProtocolError):
            decode_reply(control, b"")


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="U32"):
        encode_request(Control.SET_RECMODE, -1)
    with pytest.raises(ProtocolError, match="NUL"):
        encode_request(Control.DB_ATTACH, "a\0b")
