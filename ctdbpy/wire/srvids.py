# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers messages are addressed to: fixed ones, and the ranges named by their top eight bits."""

from __future__ import annotations

from typing import Final

#: A listener on this one receives every message.
SRVID_ALL: Final = 0xFFFFFFFFFFFFFFFF

SRVID_RECOVERY: Final = 0xF001 << 48
#: Ours, to who sends records to the recovery srvid with the same lower bits: hold them or go on.
SRVID_PULL_PACE: Final = 0xF0C1 << 48
SRVID_BANNING: Final = 0xF002 << 48
SRVID_ELECTION: Final = 0xF100 << 48
SRVID_LEADER: Final = 0xF101 << 48
SRVID_RECONFIGURE: Final = 0xF200 << 48
SRVID_RELEASE_IP: Final = 0xF300 << 48
SRVID_TAKE_IP: Final = 0xF301 << 48
SRVID_IPREALLOCATED: Final = 0xF302 << 48
SRVID_START_IPREALLOCATE: Final = 0xF303 << 48
SRVID_SET_NODE_FLAGS: Final = 0xF400 << 48
#: Ours, between daemons: why a node wears its flags, and why the next control is sent.
SRVID_ACCOUNT: Final = 0xF4C0 << 48
SRVID_ORDER: Final = 0xF4C1 << 48
#: Ours, between daemons: why public addresses are where they are.
SRVID_PLACEMENTS: Final = 0xF4C2 << 48
SRVID_RECD_UPDATE_IP: Final = 0xF500 << 48
SRVID_VACUUM_FETCH: Final = 0xF700 << 48
SRVID_DETACH_DATABASE: Final = 0xF701 << 48
#: Ours, between daemons: hold a walk or let it go on. Upstream's have nobody who listens to it.
SRVID_TRAVERSE_PACE: Final = 0xF7C0 << 48
#: Ours, to the leader: a node wants a recovery, for the reason in words.
SRVID_RECOVERY_WANTED: Final = 0xF7C1 << 48
SRVID_MEM_DUMP: Final = 0xF800 << 48
SRVID_GETLOG: Final = 0xF801 << 48
SRVID_CLEARLOG: Final = 0xF802 << 48
SRVID_PUSH_NODE_FLAGS: Final = 0xF900 << 48
SRVID_RELOAD_NODES: Final = 0xFA00 << 48
SRVID_TAKEOVER_RUN: Final = 0xFB00 << 48
SRVID_REBALANCE_NODE: Final = 0xFB01 << 48
SRVID_DISABLE_TAKEOVER_RUNS: Final = 0xFB03 << 48
SRVID_DISABLE_RECOVERIES: Final = 0xFB04 << 48
SRVID_DISABLE_IP_CHECK: Final = 0xFC00 << 48

SRVID_PID_RANGE: Final = 0x00 << 56
SRVID_SERVER_RANGE: Final = 0x9E << 56
SRVID_TEST_RANGE: Final = 0xAE << 56
SRVID_CLIENT_RANGE: Final = 0xBE << 56
SRVID_TOOL_RANGE: Final = 0xCE << 56
SRVID_ISCSID_RANGE: Final = 0xDE << 56
SRVID_NFSD_RANGE: Final = 0xEE << 56
SRVID_SAMBA_RANGE: Final = 0xFE << 56

SRVID_SAMBA_NOTIFY: Final = 0xFE00000000000000
SRVID_SAMBA_NOTIFY_PROXY: Final = 0xFE00000000000001
SRVID_SAMBA_PROCESS: Final = 0xFE00000000000002

_RANGE_MASK: Final = 0xFF << 56


def in_range(srvid: int, srvid_range: int) -> bool:
    """Whether `srvid` lies in one of the ranges above, such as `SRVID_TOOL_RANGE`."""
    return srvid & _RANGE_MASK == srvid_range


def is_pid(srvid: int) -> bool:
    """Whether `srvid` is a process id: Samba addresses a process by it."""
    return srvid & _RANGE_MASK == SRVID_PID_RANGE


def srvid_of_client(pid: int) -> int:
    """Where a client receives what it asked for, such as the records of a traverse."""
    return SRVID_CLIENT_RANGE | (pid & 0xFFFFFFFF)


def srvid_of_server(pnn: int, counter: int) -> int:
    """Where a daemon receives replies to the messages it sends, one number for each request."""
    return SRVID_SERVER_RANGE | (pnn & 0xFFFFFF) << 32 | (counter & 0xFFFFFFFF)


def srvid_of_pace(srvid: int) -> int:
    """Where the sender of records to `srvid` hears that it is to hold them."""
    return SRVID_PULL_PACE | srvid & (1 << 48) - 1


def srvid_of_recovery(counter: int) -> int:
    """Where a leader receives the records of one database it pulls."""
    return SRVID_RECOVERY | (counter & 0xFFFFFFFF)
