# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol's numbers: operations, flags, calls, capabilities, run states, events, special nodes."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = 0x43544442
VERSION: Final = 1
HEADER_SIZE: Final = 32
CTDB_PORT: Final = 4379

#: Upstream has no limit. A persistent transaction travels as one packet, so one that rewrites a database of
#: DBSizeWarn (100 MB) has to pass; more than twice that is no packet but a lost frame, and must not make
#: us reserve memory.
MAX_PACKET_SIZE: Final = 256 * 1024 * 1024

#: Senders round a packet up to this and write the rounded length into its header.
PACKET_ALIGNMENT: Final = 8

#: The generation of a node that has not been through a recovery yet.
INVALID_GENERATION: Final = 1

CURRENT_NODE: Final = 0xF0000001
BROADCAST_ALL: Final = 0xF0000002
BROADCAST_ACTIVE: Final = 0xF0000003
BROADCAST_CONNECTED: Final = 0xF0000004
MULTICAST: Final = 0xF0000005
UNKNOWN_PNN: Final = 0xFFFFFFFF

BROADCASTS: Final = frozenset({BROADCAST_ALL, BROADCAST_ACTIVE, BROADCAST_CONNECTED})

#: In a request to pull a database: records of every lmaster.
LMASTER_ANY: Final = 0xFFFFFFFF


class Operation(IntEnum):
    """What kind of packet follows the header; 6 is unused."""

    REQ_CALL = 0
    REPLY_CALL = 1
    REQ_DMASTER = 2
    REPLY_DMASTER = 3
    REPLY_ERROR = 4
    REQ_MESSAGE = 5
    REQ_CONTROL = 7
    REPLY_CONTROL = 8
    REQ_KEEPALIVE = 9
    REQ_TUNNEL = 10


class NodeFlag(IntFlag):
    DISCONNECTED = 0x01
    UNHEALTHY = 0x02
    PERMANENTLY_DISABLED = 0x04
    BANNED = 0x08
    DELETED = 0x10
    STOPPED = 0x20
    DISABLED = UNHEALTHY | PERMANENTLY_DISABLED
    INACTIVE = DISCONNECTED | BANNED | DELETED | STOPPED


def flag_names(flags: NodeFlag) -> str:
    """Flags as the `ctdb` tool prints them: `OK` or names joined by `|`."""
    names = [
        name
        for name, flag in (
            ("DISCONNECTED", NodeFlag.DISCONNECTED),
            ("DISABLED", NodeFlag.PERMANENTLY_DISABLED),
            ("BANNED", NodeFlag.BANNED),
            ("UNHEALTHY", NodeFlag.UNHEALTHY),
            ("DELETED", NodeFlag.DELETED),
            ("STOPPED", NodeFlag.STOPPED),
        )
        if flags & flag
    ]
    return "|".join(names) or "OK"


class RecordFlag(IntFlag):
    """Flags in a record's header; the two PERSISTENT ones mean something to Samba's newer clients only."""

    PERSISTENT = 0x00000001
    PERSISTENT_IN_PROGRESS = 0x00000002
    MIGRATED_WITH_DATA = 0x00010000
    VACUUM_MIGRATED = 0x00020000
    AUTOMATIC = 0x00040000
    RO_HAVE_DELEGATIONS = 0x01000000
    RO_HAVE_READONLY = 0x02000000
    RO_REVOKING_READONLY = 0x04000000
    RO_REVOKE_COMPLETE = 0x08000000
    RO_FLAGS = RO_HAVE_DELEGATIONS | RO_HAVE_READONLY | RO_REVOKING_READONLY | RO_REVOKE_COMPLETE


class DbFlag(IntFlag):
    """Kind and modes of a database; no kind bit means volatile."""

    PERSISTENT = 0x01
    READONLY = 0x02
    STICKY = 0x04
    REPLICATED = 0x08


class TdbFlag(IntFlag):
    """libtdb's open flags, as DB_OPEN_FLAGS answers them."""

    CLEAR_IF_FIRST = 1
    INTERNAL = 2
    NOLOCK = 4
    NOMMAP = 8
    CONVERT = 16
    BIGENDIAN = 32
    NOSYNC = 64
    SEQNUM = 128
    VOLATILE = 256
    ALLOW_NESTING = 512
    DISALLOW_NESTING = 1024
    INCOMPATIBLE_HASH = 2048
    MUTEX_LOCKING = 4096


class CallFlag(IntFlag):
    IMMEDIATE_MIGRATION = 0x1
    VACUUM_MIGRATION = 0x2
    WANT_READONLY = 0x4


class CallId(IntEnum):
    """The functions a REQ_CALL can name: reply with nothing, with the data, with header and data."""

    NULL = 0xFF000001
    FETCH = 0xFF000002
    FETCH_WITH_HEADER = 0xFF000003


class ControlFlag(IntFlag):
    """Flags of a REQ_CONTROL; the upper half means something else for each opcode."""

    NOREPLY = 0x00000001
    PUBLIC_IP_ONLY_AVAILABLE = 0x00010000
    ATTACH_RECOVERY = 0x00020000
    OPCODE_SPECIFIC = 0xFFFF0000


class TunnelFlag(IntFlag):
    REQUEST = 0x01
    REPLY = 0x02
    NOREPLY = 0x10


TUNNEL_TEST: Final = 0xFFFFFFFF00000000


class Capability(IntFlag):
    """What a node is willing to be; LVS and NATGW are obsolete."""

    RECMASTER = 0x00000001
    LMASTER = 0x00000002
    LVS = 0x00000004
    NATGW = 0x00000008
    PARALLEL_RECOVERY = 0x00010000
    FRAGMENTED_CONTROLS = 0x00020000
    FEATURES = PARALLEL_RECOVERY | FRAGMENTED_CONTROLS
    DEFAULT = RECMASTER | LMASTER | PARALLEL_RECOVERY | FRAGMENTED_CONTROLS


class RunState(IntEnum):
    UNKNOWN = 0
    INIT = 1
    SETUP = 2
    FIRST_RECOVERY = 3
    STARTUP = 4
    RUNNING = 5
    SHUTDOWN = 6


class RecoveryMode(IntEnum):
    NORMAL = 0
    ACTIVE = 1


class Event(IntEnum):
    """The events that event scripts run on; STOPPED, STATUS and RELOAD are never run."""

    INIT = 0
    SETUP = 1
    STARTUP = 2
    START_RECOVERY = 3
    RECOVERED = 4
    TAKE_IP = 5
    RELEASE_IP = 6
    STOPPED = 7
    MONITOR = 8
    STATUS = 9
    SHUTDOWN = 10
    RELOAD = 11
    UPDATE_IP = 12
    IPREALLOCATED = 13
    START_IPREALLOCATE = 14

    @property
    def script_name(self) -> str:
        """The first argument of a script run on this event, such as `takeip`."""
        return self.name.lower().replace("_", "")
