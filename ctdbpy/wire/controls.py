# SPDX-License-Identifier: GPL-3.0-or-later
"""What each control carries in its request and its reply, and how that becomes bytes and back.

Where upstream's daemon compares the size of a request with the size of a structure, so do we; where it does
not look at the data of a request that has none, neither do we. Source: Samba's ctdb/server/ctdb_control.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Buffer
from ctdbpy.wire.codecs import (
    I32,
    U32,
    U64,
    Codec,
    Double,
    Ignored,
    Nothing,
    PaddedU32,
    Str0,
    Str0OrNothing,
    StrN,
    Structure,
    StructureCodec,
    Text,
)
from ctdbpy.wire.opcodes import Control
from ctdbpy.wire.structures import (
    AddrInfo,
    BanState,
    ConfigurationReport,
    ConfigurationRequest,
    Connection,
    DbGenerations,
    DbIdMap,
    DbStatistics,
    DbVacuum,
    EchoData,
    Iface,
    IfaceList,
    KeyData,
    NodeFlagChange,
    NodeMap,
    NotifyData,
    PidSrvid,
    Placements,
    PublicIp,
    PublicIpInfo,
    PublicIpList,
    PullDbExt,
    PushRecord,
    ReasonReport,
    RecBuffer,
    RecData,
    ServedConnections,
    SockAddr,
    Statistics,
    StatisticsList,
    TickleList,
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

__all__ = [
    "CONTROLS",
    "Control",
    "ControlSpec",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """A control's row; a daemon answers an obsolete one with status -1."""

    control: Control
    request: Codec[Any]
    reply: Codec[Any]
    obsolete: bool = False
    note: str = ""


def decode_request(opcode: int, data: Buffer) -> Any:
    """What a control asks with: a structure, a plain value, or None where it has no data.

    Raises:
        ProtocolError: the opcode is unknown, or the data is not what it takes.
    """
    spec = _spec_of(opcode)
    size = spec.request.size
    if size is not None and len(data) != size:
        raise ProtocolError(
            f"cannot decode request of control {spec.control.name!r}: it takes {size} bytes, got {len(data)}"
        )
    return spec.request.unpack(data)


def encode_request(opcode: int, value: object = None) -> bytes:
    """The data a control asks with; None where it has none."""
    return _spec_of(opcode).request.pack(value)


def decode_reply(opcode: int, data: Buffer) -> Any:
    """What a successful control answers besides its status; None where that is all.

    Raises:
        ProtocolError: the opcode is unknown, or the data is not what it answers.
    """
    return _spec_of(opcode).reply.unpack(data)


def encode_reply(opcode: int, value: object = None) -> bytes:
    """The data a control answers with; None where there is none, as with every failure."""
    return b"" if value is None else _spec_of(opcode).reply.pack(value)


def _spec_of(opcode: int) -> ControlSpec:
    spec = _BY_OPCODE.get(opcode)
    if spec is None:
        raise ProtocolError(f"cannot find control {opcode}: there is none of that number")
    return spec


_Shape = Codec[Any] | type[Structure]


def _live(control: Control, request: _Shape, reply: _Shape, note: str = "") -> ControlSpec:
    return ControlSpec(control, _codec_of(request), _codec_of(reply), False, note)


def _obsolete(control: Control) -> ControlSpec:
    return ControlSpec(control, Ignored, Ignored, True, "obsolete")


def _codec_of(shape: _Shape) -> Codec[Any]:
    return shape if isinstance(shape, Codec) else StructureCodec[Any](shape)


_SPECS: Final = (
    _live(Control.PROCESS_EXISTS, I32, Nothing, "status 0 if it is a client here"),
    _live(Control.STATISTICS, Nothing, Statistics),
    _live(Control.PING, Nothing, Nothing, "status is the number of clients"),
    _live(Control.GETDBPATH, U32, Str0),
    _live(Control.GETVNNMAP, Ignored, VnnMap),
    _live(Control.SETVNNMAP, VnnMap, Nothing, "only while recovery is active"),
    _live(Control.GET_DEBUG, Nothing, I32),
    _live(Control.SET_DEBUG, I32, Nothing),
    _live(Control.GET_DBMAP, Ignored, DbIdMap),
    _live(Control.GET_RECMODE, Ignored, Nothing, "status is the recovery mode"),
    _live(Control.SET_RECMODE, U32, Nothing, "may answer late"),
    _live(Control.STATISTICS_RESET, Nothing, Nothing),
    _live(Control.DB_ATTACH, Str0, U32, "answers late in recovery"),
    _live(Control.TRAVERSE_START, TraverseStart, Nothing),
    _live(Control.TRAVERSE_ALL, TraverseAll, Nothing, "broadcast, no reply"),
    _live(Control.TRAVERSE_DATA, RecData, Nothing, "no reply"),
    _live(Control.REGISTER_SRVID, Ignored, Nothing, "the srvid is in the packet"),
    _live(Control.DEREGISTER_SRVID, Ignored, Nothing, "the srvid is in the packet"),
    _live(Control.GET_DBNAME, U32, Str0),
    _live(Control.ENABLE_SEQNUM, U32, Nothing),
    _live(Control.UPDATE_SEQNUM, U32, Nothing, "broadcast, no reply"),
    _live(Control.DUMP_MEMORY, Nothing, Text),
    _live(Control.GET_PID, Ignored, Nothing, "status is the pid"),
    _live(Control.FREEZE, Nothing, Nothing, "answers late"),
    _live(Control.GET_PNN, Ignored, Nothing, "status is the pnn"),
    _live(Control.SHUTDOWN, Ignored, Nothing, "normally without a reply"),
    _live(Control.TCP_CLIENT, Connection, Nothing),
    _live(Control.TCP_ADD, Connection, Nothing),
    _live(Control.TCP_REMOVE, Connection, Nothing),
    _live(Control.STARTUP, Nothing, Nothing, "broadcast: peers send their tickle lists again"),
    _live(Control.SET_TUNABLE, TunableValue, Nothing, "status 1 if obsolete"),
    _live(Control.GET_TUNABLE, StrN, U32, "status -22 if unknown"),
    _live(Control.LIST_TUNABLES, Ignored, VarList),
    _live(Control.MODIFY_FLAGS, NodeFlagChange, Nothing),
    _live(Control.GET_ALL_TUNABLES, Nothing, Tunables),
    _live(
        Control.GET_TCP_TICKLE_LIST, SockAddr, TickleList, "port 0 is every port; status 1 if no public IP"
    ),
    _live(Control.SET_TCP_TICKLE_LIST, TickleList, Nothing),
    _live(Control.DB_ATTACH_PERSISTENT, Str0, U32, "answers late in recovery"),
    _live(Control.UPDATE_RECORD, RecBuffer, Nothing, "answers late"),
    _live(Control.SEND_GRATUITOUS_ARP, AddrInfo, Nothing),
    _live(Control.WIPE_DATABASE, TransDb, Nothing),
    _live(Control.UPTIME, Ignored, Uptime),
    _live(Control.START_RECOVERY, Ignored, Nothing, "answers when the event has run"),
    _live(Control.END_RECOVERY, Ignored, Nothing, "answers when the event has run"),
    _live(Control.RELOAD_NODES_FILE, Nothing, Nothing),
    _live(Control.TRY_DELETE_RECORDS, RecBuffer, RecBuffer, "answers the records that were not deleted"),
    _live(Control.ADD_PUBLIC_IP, AddrInfo, Nothing),
    _live(Control.DEL_PUBLIC_IP, AddrInfo, Nothing),
    _live(Control.GET_CAPABILITIES, Ignored, U32),
    _live(Control.START_PERSISTENT_UPDATE, U32, Nothing, "obsolete upstream, but still executed"),
    _live(Control.CANCEL_PERSISTENT_UPDATE, U32, Nothing, "obsolete upstream, but still executed"),
    _live(Control.RECD_PING, Nothing, Nothing),
    _live(Control.RELEASE_IP, PublicIp, Nothing, "pnn is the next owner; answers when the event has run"),
    _live(Control.TAKEOVER_IP, PublicIp, Nothing, "answers when the event has run"),
    _live(Control.GET_PUBLIC_IPS, Nothing, PublicIpList, "flag PUBLIC_IP_ONLY_AVAILABLE"),
    _live(Control.GET_NODEMAP, Ignored, NodeMap),
    _live(Control.TRAVERSE_KILL, TraverseStart, Nothing, "broadcast, no reply"),
    _live(Control.RECD_RECLOCK_LATENCY, Double, Nothing),
    _live(Control.GET_RECLOCK_FILE, Nothing, Str0OrNothing),
    _live(Control.STOP_NODE, Nothing, Nothing),
    _live(Control.CONTINUE_NODE, Nothing, Nothing),
    _live(Control.SET_LMASTERROLE, U32, Nothing),
    _live(Control.SET_RECMASTERROLE, U32, Nothing),
    _live(Control.SET_BAN_STATE, BanState, Nothing),
    _live(Control.GET_BAN_STATE, Nothing, BanState),
    _live(Control.REGISTER_NOTIFY, NotifyData, Nothing),
    _live(Control.DEREGISTER_NOTIFY, U64, Nothing),
    _live(Control.TRANS3_COMMIT, RecBuffer, Nothing, "status 0 done, 1 failed, 2 ended by a recovery"),
    _live(Control.GET_DB_SEQNUM, PaddedU32, U64),
    _live(Control.DB_SET_HEALTHY, U32, Nothing),
    _live(Control.DB_GET_HEALTH, U32, Str0OrNothing, "no data is healthy"),
    _live(Control.GET_PUBLIC_IP_INFO, SockAddr, PublicIpInfo),
    _live(Control.GET_IFACES, Nothing, IfaceList),
    _live(Control.SET_IFACE_LINK_STATE, Iface, Nothing),
    _live(Control.TCP_ADD_DELAYED_UPDATE, Connection, Nothing),
    _live(Control.GET_STAT_HISTORY, Nothing, StatisticsList),
    _live(Control.SCHEDULE_FOR_DELETION, KeyData, Nothing),
    _live(Control.SET_DB_READONLY, U32, Nothing),
    _live(Control.TRAVERSE_START_EXT, TraverseStartExt, Nothing),
    _live(Control.GET_DB_STATISTICS, U32, DbStatistics),
    _live(Control.SET_DB_STICKY, U32, Nothing),
    _live(Control.RELOAD_PUBLIC_IPS, Nothing, Nothing, "answers late"),
    _live(Control.TRAVERSE_ALL_EXT, TraverseAllExt, Nothing, "broadcast, no reply"),
    _live(Control.IPREALLOCATED, Nothing, Nothing, "answers when the event has run"),
    _live(Control.GET_RUNSTATE, Nothing, U32),
    _live(Control.DB_DETACH, U32, Nothing),
    _live(Control.GET_NODES_FILE, Ignored, NodeMap),
    _live(Control.DB_FREEZE, U32, Nothing, "answers late"),
    _live(Control.DB_THAW, U32, Nothing),
    _live(Control.DB_TRANSACTION_START, TransDb, Nothing),
    _live(Control.DB_TRANSACTION_COMMIT, TransDb, Nothing),
    _live(Control.DB_TRANSACTION_CANCEL, U32, Nothing),
    _live(Control.DB_PULL, PullDbExt, U32, "answers the number of records, which go as messages"),
    _live(Control.DB_PUSH_START, PullDbExt, Nothing),
    _live(Control.DB_PUSH_CONFIRM, U32, U32, "answers the number of records"),
    _live(Control.DB_OPEN_FLAGS, U32, I32),
    _live(Control.DB_ATTACH_REPLICATED, Str0, U32, "answers late in recovery"),
    _live(Control.CHECK_PID_SRVID, PidSrvid, Nothing, "status 0 if that client has it registered"),
    _live(Control.TUNNEL_REGISTER, Ignored, Nothing, "the tunnel is in the packet as srvid"),
    _live(Control.TUNNEL_DEREGISTER, Ignored, Nothing, "the tunnel is in the packet as srvid"),
    _live(Control.VACUUM_FETCH, RecBuffer, Nothing),
    _live(Control.DB_VACUUM, DbVacuum, Nothing, "answers late"),
    _live(Control.ECHO_DATA, EchoData, EchoData),
    _live(Control.DISABLE_NODE, Nothing, Nothing),
    _live(Control.ENABLE_NODE, Nothing, Nothing),
    _live(Control.TCP_CLIENT_DISCONNECTED, Connection, Nothing, "since Samba 4.18.11"),
    _live(Control.TCP_CLIENT_PASSED, Connection, Nothing, "since Samba 4.18.11"),
    _live(Control.START_IPREALLOCATE, Nothing, Nothing, "newer than 4.17; answers when the event has run"),
    _live(Control.PUSH_RECORD, PushRecord, Nothing, "newer than 4.17; broadcast, no reply"),
    _live(Control.GET_DB_GENERATIONS, Nothing, DbGenerations, "ours"),
    _live(Control.GET_REASONS, U32, ReasonReport, "ours; of one node, or with UNKNOWN_PNN of every one"),
    _live(Control.GET_PLACEMENTS, SockAddr, Placements, "ours; of one address, or with 0.0.0.0 of all"),
    _live(
        Control.GET_CONNECTIONS, U32, ServedConnections, "ours; answers when there are not so many, or soon"
    ),
    _live(Control.GET_LEADER, Nothing, U32, "ours; UNKNOWN_PNN is nobody"),
    _live(Control.CONFIGURE, ConfigurationRequest, ConfigurationReport, "ours; answers late"),
    _live(Control.CONFIRM_FENCED, U32, Nothing, "ours; to the leader: this node is certainly off"),
    _obsolete(Control.GET_NODEMAPv4),
    _obsolete(Control.SET_DMASTER),
    _obsolete(Control.PULL_DB),
    _obsolete(Control.PUSH_DB),
    _obsolete(Control.SET_CALL),
    _obsolete(Control.GET_RECMASTER),
    _obsolete(Control.SET_RECMASTER),
    _obsolete(Control.THAW),
    _obsolete(Control.GET_MONMODE),
    _obsolete(Control.TAKEOVER_IPv4),
    _obsolete(Control.RELEASE_IPv4),
    _obsolete(Control.GET_PUBLIC_IPSv4),
    _obsolete(Control.KILL_TCP),
    _obsolete(Control.REGISTER_SERVER_ID),
    _obsolete(Control.UNREGISTER_SERVER_ID),
    _obsolete(Control.CHECK_SERVER_ID),
    _obsolete(Control.GET_SERVER_ID_LIST),
    _obsolete(Control.PERSISTENT_STORE),
    _obsolete(Control.TRANSACTION_START),
    _obsolete(Control.TRANSACTION_COMMIT),
    _obsolete(Control.ENABLE_MONITOR),
    _obsolete(Control.DISABLE_MONITOR),
    _obsolete(Control.RUN_EVENTSCRIPTS),
    _obsolete(Control.TRANS2_COMMIT),
    _obsolete(Control.TRANS2_FINISHED),
    _obsolete(Control.TRANS2_ERROR),
    _obsolete(Control.TRANS2_COMMIT_RETRY),
    _obsolete(Control.GET_EVENT_SCRIPT_STATUS),
    _obsolete(Control.SET_RECLOCK_FILE),
    _obsolete(Control.SET_NATGWSTATE),
    _obsolete(Control.ENABLE_SCRIPT),
    _obsolete(Control.DISABLE_SCRIPT),
    _obsolete(Control.SET_DB_PRIORITY),
    _obsolete(Control.GET_DB_PRIORITY),
    _obsolete(Control.TRANSACTION_CANCEL),
    _obsolete(Control.TRANS2_ACTIVE),
    _obsolete(Control.GET_LOG),
    _obsolete(Control.CLEAR_LOG),
    _obsolete(Control.CHECK_SRVIDS),
    _obsolete(Control.RECEIVE_RECORDS),
)

#: Every control upstream ever numbered, and ours.
CONTROLS: Final[Mapping[Control, ControlSpec]] = MappingProxyType({spec.control: spec for spec in _SPECS})

_BY_OPCODE: Final[dict[int, ControlSpec]] = {int(control): spec for control, spec in CONTROLS.items()}
