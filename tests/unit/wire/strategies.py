# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of every structure, packet, request and reply, for tests that must hold for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ctdbpy.wire import codecs, events, packets, structures
from ctdbpy.wire.codecs import Codec, Structure, StructureCodec
from ctdbpy.wire.statistics import BUCKETS, HOT_KEYS_MAX

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
f64 = st.floats(allow_nan=False)
data = st.binary(max_size=64)
key = st.binary(min_size=1, max_size=32)

characters = st.characters(codec="utf-8", exclude_characters="\0")
text = st.text(characters, max_size=24)
name = st.text(st.characters(codec="utf-8", exclude_characters="\0:"), min_size=1, max_size=16)
iface_name = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=17)
not_utf8 = st.binary(max_size=24).filter(lambda raw: b"\0" not in raw).map(codecs.Str0.unpack)


def tuples_of(element: st.SearchStrategy[Any], size_max: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, max_size=size_max).map(tuple)


def build(kind: type[Any], *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, *parts)


buckets = st.tuples(*[u32] * BUCKETS)

sock_addr = st.one_of(
    build(structures.SockAddr, st.ip_addresses(v=4).map(str), u16),
    build(structures.SockAddr, st.ip_addresses(v=6).map(str), u16),
    build(structures.SockAddr, st.integers(1, 2**32 - 1).map(lambda scope: f"fe80::1%{scope}"), u16),
    st.just(structures.SockAddr("")),
)
connection = build(structures.Connection, sock_addr, sock_addr)
public_ip = build(structures.PublicIp, u32, sock_addr)
iface = build(structures.Iface, iface_name, u16, u32)
record_header = build(structures.RecordHeader, u64, u32, u32, u32)
rec_data = build(structures.RecData, u32, data, data)
timeval = build(structures.Timeval, i64, i64)
db_generation = build(structures.DbGeneration, u32, u32)
reason = build(structures.Reason, u64, u32, u32, u32, st.text(characters, max_size=4), text)
reasons = build(structures.Reasons, tuples_of(reason))
placement = build(structures.Placement, sock_addr, reason)
node_entry = build(structures.NodeEntry, u32, u32, sock_addr)
db_id_entry = build(structures.DbIdEntry, u32, u8)
latency_counter = build(structures.LatencyCounter, i32, f64, f64, f64)
node_packets = build(structures.NodePackets, *[u32] * 9)
client_packets = build(structures.ClientPackets, *[u32] * 4)
timeouts = build(structures.Timeouts, *[u32] * 3)
lock_statistics = build(structures.LockStatistics, *[u32] * 4, latency_counter, buckets)
statistics = build(
    structures.Statistics,
    *[u32] * 9,
    node_packets,
    client_packets,
    timeouts,
    latency_counter,
    latency_counter,
    lock_statistics,
    *[u32] * 7,
    buckets,
    latency_counter,
    latency_counter,
    u32,
    timeval,
    timeval,
    u32,
    u32,
)
hot_key = build(structures.HotKey, u32, key)
server_id = build(structures.ServerId, u64, u32, u32, u64)
g_lock = build(structures.GLock, st.booleans(), server_id)

#: A strategy for every structure; a test holds this against what the room exports.
STRUCTURES: dict[type[Structure], st.SearchStrategy[Any]] = {
    structures.AddrInfo: build(structures.AddrInfo, sock_addr, u32, text),
    structures.BanState: build(structures.BanState, u32, u32),
    structures.ClientPackets: client_packets,
    structures.Connection: connection,
    structures.DbGeneration: db_generation,
    structures.DbGenerations: build(structures.DbGenerations, tuples_of(db_generation)),
    structures.DbIdEntry: db_id_entry,
    structures.DbIdMap: build(structures.DbIdMap, tuples_of(db_id_entry)),
    structures.DbStatistics: build(
        structures.DbStatistics,
        lock_statistics,
        latency_counter,
        u32,
        u32,
        buckets,
        tuples_of(hot_key, HOT_KEYS_MAX),
    ),
    structures.DbVacuum: build(structures.DbVacuum, u32, st.booleans()),
    structures.DisableMessage: build(structures.DisableMessage, u32, u64, u32),
    structures.EchoData: build(structures.EchoData, u32, data),
    structures.ElectionMessage: build(structures.ElectionMessage, u32, timeval, u32, u32),
    structures.GLock: g_lock,
    structures.GLockRecord: build(structures.GLockRecord, tuples_of(g_lock)),
    structures.Iface: iface,
    structures.IfaceList: build(structures.IfaceList, tuples_of(iface)),
    structures.KeyData: build(structures.KeyData, u32, record_header, key),
    structures.LatencyCounter: latency_counter,
    structures.LockStatistics: lock_statistics,
    structures.NodeEntry: node_entry,
    structures.NodeFlagChange: build(structures.NodeFlagChange, u32, u32, u32),
    structures.NodeMap: build(structures.NodeMap, tuples_of(node_entry)),
    structures.NodePackets: node_packets,
    structures.NotifyData: build(structures.NotifyData, u64, data),
    structures.PidSrvid: build(structures.PidSrvid, i32, u64),
    structures.Placement: placement,
    structures.Placements: build(structures.Placements, st.booleans(), tuples_of(placement)),
    structures.PublicIp: public_ip,
    structures.PublicIpInfo: build(structures.PublicIpInfo, public_ip, u32, tuples_of(iface)),
    structures.PublicIpList: build(structures.PublicIpList, tuples_of(public_ip)),
    structures.PullDbExt: build(structures.PullDbExt, u32, u32, u64),
    structures.PushRecord: build(structures.PushRecord, u32, u32, record_header, key, data),
    structures.ConfigurationReport: build(structures.ConfigurationReport, u64, text, text, text, text, text),
    structures.ConfigurationRequest: build(structures.ConfigurationRequest, u32, text),
    structures.Reason: reason,
    structures.ReasonReport: build(structures.ReasonReport, reasons, reasons),
    structures.Reasons: reasons,
    structures.RecBuffer: build(structures.RecBuffer, u32, tuples_of(rec_data)),
    structures.RecData: rec_data,
    structures.ServedConnections: build(structures.ServedConnections, u32, tuples_of(connection)),
    structures.ServerId: server_id,
    structures.SockAddr: sock_addr,
    structures.SrvidMessage: build(structures.SrvidMessage, u32, u64),
    structures.Statistics: statistics,
    structures.StatisticsList: build(structures.StatisticsList, tuples_of(statistics, 2)),
    structures.TickleList: build(structures.TickleList, sock_addr, tuples_of(connection)),
    structures.Timeouts: timeouts,
    structures.Timeval: timeval,
    structures.TransDb: build(structures.TransDb, u32, u32),
    structures.TraverseAll: build(structures.TraverseAll, u32, u32, u32, u32, u64),
    structures.TraverseAllExt: build(structures.TraverseAllExt, u32, u32, u32, u32, u64, st.booleans()),
    structures.TraverseStart: build(structures.TraverseStart, u32, u32, u64),
    structures.TraverseStartExt: build(structures.TraverseStartExt, u32, u32, u64, st.booleans()),
    structures.TunableValue: build(structures.TunableValue, text, u32),
    structures.Tunables: build(structures.Tunables, *[u32] * 62),
    structures.Uptime: build(structures.Uptime, timeval, timeval, timeval, timeval),
    structures.VarList: build(structures.VarList, tuples_of(name)),
    structures.VnnMap: build(structures.VnnMap, u32, tuples_of(u32)),
}

PLAIN: dict[Codec[Any], st.SearchStrategy[Any]] = {
    codecs.U32: u32,
    codecs.I32: i32,
    codecs.U64: u64,
    codecs.Double: f64,
    codecs.Str0: text | not_utf8,
    codecs.Text: text,
    codecs.StrN: text,
    codecs.Str0OrNothing: st.none() | text,
    codecs.PaddedU32: u32,
    codecs.Nothing: st.none(),
    codecs.Ignored: st.none(),
}


def of_codec(codec: Codec[Any]) -> st.SearchStrategy[Any]:
    """Values a codec carries."""
    if isinstance(codec, StructureCodec):
        return STRUCTURES[codec.kind]
    return PLAIN[codec]


_common = u32, u32, u32, u32

PACKETS: dict[type[Any], st.SearchStrategy[Any]] = {
    packets.ReqCall: build(packets.ReqCall, *_common, u32, u32, u32, u32, key, data),
    packets.ReplyCall: build(packets.ReplyCall, *_common, i32, data),
    packets.ReplyError: build(packets.ReplyError, *_common, i32, text),
    packets.ReqDmaster: build(packets.ReqDmaster, *_common, u32, u64, u32, key, data, u32),
    packets.ReplyDmaster: build(packets.ReplyDmaster, *_common, u32, u64, key, data, u32),
    packets.ReqMessage: build(packets.ReqMessage, *_common, u64, data),
    packets.ReqControl: build(packets.ReqControl, *_common, u32, u64, u32, u32, data),
    packets.ReplyControl: build(packets.ReplyControl, *_common, i32, data, text),
    packets.ReqKeepalive: build(packets.ReqKeepalive, *_common, u32, u32),
    packets.ReqTunnel: build(packets.ReqTunnel, *_common, u64, u32, data),
}
packet = st.one_of(*PACKETS.values())

_optional_text = st.none() | text
_script_status = build(events.ScriptStatus, text, timeval, timeval, i32, _optional_text)
event_request = st.one_of(
    build(events.RunRequest, text, text, _optional_text, u32, u32),
    build(events.StatusRequest, text, text),
    build(events.ScriptRequest, text, text, st.sampled_from(events.ScriptAction)),
)
event_reply = st.one_of(
    build(events.Reply, st.sampled_from([events.Command.RUN, events.Command.SCRIPT]), i32),
    build(events.Reply, st.just(events.Command.STATUS), i32.filter(bool)),
    build(
        events.Reply,
        st.just(events.Command.STATUS),
        st.just(0),
        build(events.EventStatus, i32, tuples_of(_script_status)),
    ),
)


@st.composite
def damaged(draw: st.DrawFn, encoded: st.SearchStrategy[bytes]) -> bytes:
    """An encoding with some bytes overwritten, and perhaps cut short or continued."""
    damaged = bytearray(draw(encoded))
    for _ in range(draw(st.integers(1, 4))):
        if damaged:
            at = draw(st.integers(0, len(damaged) - 1))
            patch = draw(
                st.sampled_from([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"])
                | st.binary(max_size=4)
            )
            damaged[at : at + len(patch)] = patch
    if draw(st.booleans()):
        del damaged[draw(st.integers(0, len(damaged))) :]
    return bytes(damaged + draw(st.binary(max_size=8)))
