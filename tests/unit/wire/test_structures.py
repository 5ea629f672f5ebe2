# SPDX-License-Identifier: GPL-3.0-or-later
"""Every structure round-trips, has upstream's size, and survives whatever a peer may send in its place."""

from __future__ import annotations

import contextlib
import inspect
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.wire import structures
from ctdbpy.wire.codecs import Codec, Structure
from ctdbpy.wire.structures import (
    AddrInfo,
    BanState,
    Connection,
    DbGeneration,
    DbGenerations,
    DbIdEntry,
    DbIdMap,
    DbStatistics,
    DbVacuum,
    DisableMessage,
    EchoData,
    ElectionMessage,
    GLock,
    GLockRecord,
    HotKey,
    Iface,
    IfaceList,
    KeyData,
    LatencyCounter,
    LockStatistics,
    NodeEntry,
    NodeFlagChange,
    NodeMap,
    NotifyData,
    PidSrvid,
    PublicIp,
    PublicIpInfo,
    PublicIpList,
    PullDbExt,
    PushRecord,
    RecBuffer,
    RecData,
    RecordHeader,
    ServerId,
    SockAddr,
    SrvidMessage,
    Statistics,
    StatisticsList,
    TickleList,
    Timeval,
    TransDb,
    TraverseAll,
    TraverseAllExt,
    TraverseStart,
    TraverseStartExt,
    Tunables,
    TunableValue,
    Uptime,
    VarList,
    VnnMap,
)
from tests.unit.wire.strategies import PLAIN, STRUCTURES, damaged

KINDS = sorted(STRUCTURES, key=lambda kind: kind.__name__)
ANY = SockAddr("0.0.0.0")
CONNECTION = Connection(SockAddr("10.0.0.1", 1000), SockAddr("10.0.0.2", 445))
ZERO = Timeval()


def test_every_exported_structure_has_a_strategy() -> None:
    exported = {
        kind
        for kind in vars(structures).values()
        if inspect.isclass(kind) and issubclass(kind, Structure) and not inspect.isabstract(kind)
    }
    assert exported == set(STRUCTURES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_a_structure_round_trips(kind: type[Structure], draw: st.DataObject) -> None:
    value = draw.draw(STRUCTURES[kind])
    packed = value.pack()
    assert kind.unpack(packed) == value
    assert kind.SIZE in (None, len(packed))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not GLockRecord], ids=lambda kind: kind.__name__
)
@given(st.data(), st.binary(min_size=1, max_size=9))
def test_bytes_behind_a_structure_are_padding(
    kind: type[Structure], draw: st.DataObject, slack: bytes
) -> None:
    value = draw.draw(STRUCTURES[kind])
    assert kind.unpack(memoryview(value.pack() + slack)) == value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(st.data())
def test_a_structure_cut_short_is_refused(kind: type[Structure], draw: st.DataObject) -> None:
    packed = draw.draw(STRUCTURES[kind]).pack()
    for length in range(len(packed)):
        if kind is GLockRecord and length % GLock.SIZE == 0:
            continue  # it has no count: whole entries are a whole record
        with pytest.raises(ProtocolError):
            kind.unpack(packed[:length])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_a_damaged_structure_decodes_or_is_refused(kind: type[Structure], draw: st.DataObject) -> None:
    wrong = draw.draw(damaged(STRUCTURES[kind].map(lambda value: value.pack())))
    with contextlib.suppress(ProtocolError):
        kind.unpack(wrong).pack()


@pytest.mark.parametrize("codec", PLAIN, ids=lambda codec: type(codec).__name__)
@given(st.data())
def test_a_plain_value_round_trips(codec: Codec[Any], draw: st.DataObject) -> None:
    value = draw.draw(PLAIN[codec])
    packed = codec.pack(value)
    assert codec.unpack(packed) == value
    assert codec.size in (None, len(packed))


@pytest.mark.parametrize("codec", PLAIN, ids=lambda codec: type(codec).__name__)
@given(st.binary(max_size=16))
def test_any_bytes_are_a_plain_value_or_refused(codec: Codec[Any], data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        codec.unpack(data)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (ANY, 28),
        (SockAddr("::1"), 28),
        (SockAddr(""), 28),
        (CONNECTION, 56),
        (RecData(1, b"key", b"data!"), 16 + 8),
        (RecBuffer(1, (RecData(1, b"key", b"data!"), RecData(1, b"k", b""))), 8 + 24 + 17),
        (LatencyCounter(), 32),
        (LockStatistics(), 112),
        (Statistics(), 488),
        (StatisticsList((Statistics(),) * 100), 8 + 48800),
        (DbStatistics(), 464),
        (DbStatistics(hot_keys=(HotKey(1, b"abc"), HotKey(2, b"d"))), 464 + 4),
        (VnnMap(1, (0, 1, 2)), 20),
        (DbIdMap((DbIdEntry(1), DbIdEntry(2))), 4 + 16),
        (DbGenerations((DbGeneration(1, 2),) * 3), 4 + 24),
        (NodeMap((NodeEntry(0, 0, ANY),) * 3), 4 + 3 * 36),
        (PublicIp(0, ANY), 32),
        (PublicIpList((PublicIp(0, ANY),)), 36),
        (Iface("eth0"), 24),
        (IfaceList((Iface("eth0"),)), 28),
        (PublicIpInfo(PublicIp(0, ANY), 0, (Iface("eth0"),)), 32 + 8 + 24),
        (AddrInfo(ANY, 24, "eth0"), 36 + 5),
        (AddrInfo(ANY, 24), 36),
        (TickleList(ANY, (CONNECTION,)), 32 + 56),
        (TunableValue("MonitorInterval", 15), 8 + 16),
        (VarList(("a", "b")), 4 + 5),
        (Tunables(), 248),
        (NodeFlagChange(0, 0, 0), 12),
        (BanState(0, 0), 8),
        (NotifyData(1, b"\0"), 13),
        (KeyData(1, RecordHeader(), b"key"), 36 + 3),
        (TraverseStart(1, 2, 3), 16),
        (TraverseStartExt(1, 2, 3), 24),
        (TraverseAll(1, 2, 3, 4, 5), 24),
        (TraverseAllExt(1, 2, 3, 4, 5), 32),
        (PullDbExt(1), 16),
        (TransDb(1, 2), 8),
        (DbVacuum(1), 5),
        (EchoData(0, b"abc"), 11),
        (Uptime(ZERO, ZERO), 64),
        (PidSrvid(1, 2), 12),
        (ElectionMessage(1, ZERO, 0, 0), 32),
        (SrvidMessage(1, 2), 16),
        (DisableMessage(1, 2, 3), 24),
        (ServerId(1, 2, 3, 4), 24),
        (GLockRecord((GLock(True, ServerId(1, 2, 3, 4)),)), 32),
        (PushRecord(1, 2, RecordHeader(), b"key", b"value"), 32 + 4 + 3 + 4 + 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Structure) else "",
)
def test_a_structure_has_upstreams_size(value: Structure, size: int) -> None:
    assert len(value.pack()) == size


def test_statistics_have_upstreams_layout() -> None:
    packed = Statistics(
        keepalive_packets_recv=1,
        node=structures.NodePackets(req_call=2, req_tunnel=3),
        client=structures.ClientPackets(req_call=4),
        timeouts=structures.Timeouts(traverse=5),
        reclock_ctdbd=LatencyCounter(num=6),
        reclock_recd=LatencyCounter(num=7),
        locks=LockStatistics(num_failed=8, latency=LatencyCounter(num=9), buckets=(10, *[0] * 15)),
        total_calls=11,
        memory_used=12,
        max_hop_count=13,
        hop_count_bucket=(14, *[0] * 15),
        call_latency=LatencyCounter(num=15),
        childwrite_latency=LatencyCounter(num=16),
        num_recoveries=17,
        start=Timeval(18),
        current=Timeval(19),
        total_ro_delegations=20,
        total_ro_revokes=21,
    ).pack()
    found = {offset: packed[offset] for offset in range(0, 488, 4) if packed[offset]}
    assert found == {
        32: 1,
        36: 2,
        68: 3,
        72: 4,
        96: 5,
        104: 6,
        136: 7,
        180: 8,
        184: 9,
        216: 10,
        280: 11,
        296: 12,
        304: 13,
        308: 14,
        376: 15,
        408: 16,
        440: 17,
        448: 18,
        464: 19,
        480: 20,
        484: 21,
    }


def test_database_statistics_have_upstreams_layout() -> None:
    packed = DbStatistics(
        locks=LockStatistics(num_calls=1),
        vacuum=LatencyCounter(num=2),
        db_ro_delegations=3,
        db_ro_revokes=4,
        hop_count_bucket=(5, *[0] * 15),
        hot_keys=(HotKey(6, b"k" * 7), HotKey(8, b"l" * 9)),
    ).pack()
    found = {offset: packed[offset] for offset in range(0, 464, 4) if packed[offset]}
    assert found == {0: 1, 112: 2, 144: 3, 148: 4, 152: 5, 216: 10, 224: 6, 240: 7, 248: 8, 264: 9}
    assert packed[464:] == b"k" * 7 + b"l" * 9


HUGE = b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (VnnMap, bytes(4) + HUGE),
        (NodeMap, HUGE),
        (DbIdMap, HUGE),
        (DbGenerations, HUGE),
        (PublicIpList, HUGE),
        (IfaceList, HUGE),
        (PublicIpInfo, ANY.pack() + bytes(8) + HUGE),
        (TickleList, ANY.pack() + HUGE),
        (StatisticsList, HUGE + bytes(4)),
        (RecBuffer, bytes(4) + HUGE),
        (RecData, HUGE + bytes(12)),
        (RecData, b"\x10\0\0\0" + bytes(4) + HUGE + bytes(4)),
        (TunableValue, bytes(4) + HUGE),
        (VarList, HUGE),
        (NotifyData, bytes(8) + HUGE),
        (EchoData, bytes(4) + HUGE),
        (KeyData, bytes(32) + HUGE),
        (PushRecord, bytes(32) + HUGE),
        (AddrInfo, ANY.pack() + bytes(4) + HUGE),
        (DbStatistics, bytes(464 - 8) + HUGE + HUGE),
    ],
    ids=lambda value: value.__name__ if inspect.isclass(value) else "",
)
def test_a_length_beyond_the_data_reserves_no_memory(kind: type[Structure], data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            kind.unpack(data + bytes(64))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_more_hot_keys_than_slots_are_refused() -> None:
    with pytest.raises(ProtocolError, match="num_hot_keys"):
        DbStatistics.unpack(bytes(216) + b"\x0b" + bytes(464))
    with pytest.raises(ProtocolError, match="hot_keys"):
        DbStatistics(hot_keys=(HotKey(1, b"k"),) * 11).pack()


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (VnnMap(-1), "generation"),
        (BanState(0, 2**32), "BanState"),
        (LockStatistics(buckets=(1, 2)), "buckets"),
        (Iface("an interface's name", 1), "name"),
        (TunableValue("a\0b", 1), "NUL"),
        (VarList(("\udfff",)), "not valid text"),
        (SockAddr("10.0.0.300"), "10.0.0.300"),
        (SockAddr("localhost"), "localhost"),
        (SockAddr("fe80::1%eth0"), "eth0"),
        (SockAddr("10.0.0.1", 65536), "65536"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(value: Structure, field: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        value.pack()


def test_a_g_lock_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="type"):
        GLockRecord.unpack(b"\x02" + bytes(31))


def test_variable_lists_read_like_upstreams() -> None:
    assert VarList(("One", "Two")).pack() == b"\x09\0\0\0:One:Two\0"
    assert VarList.unpack(b"\x08\0\0\0One:Two\0") == VarList(("One", "Two"))


@settings(max_examples=30)
@given(st.floats(0, 2**33))
def test_a_time_keeps_its_microseconds(time_s: float) -> None:
    assert abs(Timeval.of(time_s).time_s - time_s) < 1e-5
    assert 0 <= Timeval.of(time_s).usec < 1_000_000
