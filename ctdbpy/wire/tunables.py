# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunables: numbers an administrator can change while a node runs.

Upstream's travel between nodes as one structure and are listed by name; ours are reached by name only, so
that lists and structures stay exactly upstream's. Source: Samba's ctdb/common/tunable.c and ctdb-tunables(7).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Final, Self

from ctdbpy.wire.buffers import Reader, Writer, pack_numbers
from ctdbpy.wire.codecs import Structure


@dataclass(frozen=True, slots=True)
class TunableSpec:
    """A tunable's row: obsolete ones keep their place in the structure, but can be neither listed nor set."""

    name: str
    default: int
    field: str
    obsolete: bool
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Tunables(Structure):
    """The values of all tunables; the defaults here are the defaults everywhere.

    `pack` and `unpack` carry upstream's only: unpacked ones have the defaults for ours.
    """

    SIZE: ClassVar[int] = 248

    max_redirect_count: int = 3
    seqnum_interval: int = 1000
    control_timeout: int = 60
    traverse_timeout: int = 20
    keepalive_interval: int = 5
    keepalive_limit: int = 5
    recover_timeout: int = 30
    recover_interval: int = 1
    election_timeout: int = 3
    takeover_timeout: int = 9
    monitor_interval: int = 15
    tickle_update_interval: int = 20
    script_timeout: int = 30
    monitor_timeout_count: int = 20
    script_unhealthy_on_timeout: int = 0
    recovery_grace_period: int = 120
    recovery_ban_period: int = 300
    database_hash_size: int = 100001
    database_max_dead: int = 5
    rerecovery_timeout: int = 10
    enable_bans: int = 1
    deterministic_public_ips: int = 0
    reclock_ping_period: int = 60
    no_ip_failback: int = 0
    disable_ip_failover: int = 0
    verbose_memory_names: int = 0
    recd_ping_timeout: int = 60
    recd_ping_failcount: int = 10
    log_latency_ms: int = 0
    reclock_latency_ms: int = 1000
    recovery_drop_all_ips: int = 120
    verify_recovery_lock: int = 1
    vacuum_interval: int = 10
    vacuum_max_run_time: int = 120
    repack_limit: int = 10000
    vacuum_limit: int = 5000
    max_queue_depth_drop_msg: int = 1000000
    allow_unhealthy_db_read: int = 0
    stat_history_interval: int = 1
    deferred_attach_timeout: int = 120
    vacuum_fast_path_count: int = 60
    lcp2_public_ip_assignment: int = 1
    allow_client_db_attach: int = 1
    recover_pdb_by_seqnum: int = 1
    deferred_rebalance_on_node_add: int = 300
    fetch_collapse: int = 1
    hopcount_make_sticky: int = 50
    sticky_duration: int = 600
    sticky_pindown: int = 200
    no_ip_takeover: int = 0
    db_record_count_warn: int = 100000
    db_record_size_warn: int = 10000000
    db_size_warn: int = 100000000
    pulldb_preallocation_size: int = 10485760
    no_ip_host_on_all_disabled: int = 1
    samba3_hack: int = 0
    mutex_enabled: int = 1
    lock_processes_per_db: int = 200
    rec_buffer_size_limit: int = 1000000
    queue_buffer_size: int = 1024
    ip_alloc_algorithm: int = 2
    allow_mixed_versions: int = 0
    # Ours.
    heartbeat_interval: int = 100
    heartbeat_limit: int = 5
    stall_limit: int = 2000
    record_hold_us: int = 300
    record_relief_moves: int = 100
    record_relief_seconds: int = 10
    record_relief_us: int = 2000
    spin_us: int = 5

    def get(self, name: str) -> int:
        """The value of a tunable by its name in any case.

        Raises:
            KeyError: there is none of that name.
        """
        value: int = getattr(self, _BY_NAME[name.lower()].field)
        return value

    def replaced(self, name: str, value: int) -> Self:
        """These tunables with one changed, by its name in any case.

        Raises:
            KeyError: there is none of that name.
            ValueError: the value is no unsigned number of 32 bits.
        """
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"cannot set tunable {name!r}: {value} is not from 0 to {0xFFFFFFFF}")
        return replace(self, **{_BY_NAME[name.lower()].field: value})

    def pairs(self) -> tuple[tuple[str, int], ...]:
        """Every tunable's name and value, upstream's in their order and then ours."""
        return tuple((spec.name, getattr(self, spec.field)) for spec in (*TUNABLES, *OWN_TUNABLES))

    def write(self, writer: Writer) -> None:
        values = [getattr(self, spec.field) for spec in TUNABLES]
        writer.raw(pack_numbers(_LAYOUT, values, "Tunables"))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(*_LAYOUT.unpack(reader.take(_LAYOUT.size, "tunables")))


def find_tunable(name: str) -> TunableSpec | None:
    """The row of a tunable by its name in any case."""
    return _BY_NAME.get(name.lower())


_LAYOUT: Final = struct.Struct("=62I")
_DEFAULTS: Final[dict[str, int]] = {
    entry.name: entry.default for entry in fields(Tunables) if isinstance(entry.default, int)
}


def _live(name: str, field: str, unit: str, meaning: str) -> TunableSpec:
    return TunableSpec(name, _DEFAULTS[field], field, False, unit, meaning)


def _obsolete(name: str, field: str) -> TunableSpec:
    return TunableSpec(
        name, _DEFAULTS[field], field, True, "", "obsolete: kept for its place in the structure"
    )


#: Upstream's, in the order of the structure.
TUNABLES: Final[tuple[TunableSpec, ...]] = (
    _obsolete("MaxRedirectCount", "max_redirect_count"),
    _live(
        "SeqnumInterval",
        "seqnum_interval",
        "ms",
        "between announcements that a database with a sequence number has changed",
    ),
    _live("ControlTimeout", "control_timeout", "s", "a daemon waits for the answer to a control"),
    _live("TraverseTimeout", "traverse_timeout", "s", "a traverse may take"),
    _live("KeepaliveInterval", "keepalive_interval", "s", "between keepalives to each node"),
    _live(
        "KeepaliveLimit",
        "keepalive_limit",
        "intervals",
        "without a packet from a node until it counts as dead",
    ),
    _live("RecoverTimeout", "recover_timeout", "s", "recovery waits for the answer to a control"),
    _live("RecoverInterval", "recover_interval", "s", "between the checks that look for a reason to recover"),
    _live("ElectionTimeout", "election_timeout", "s", "an election by messages lasts"),
    _live(
        "TakeoverTimeout",
        "takeover_timeout",
        "s",
        "a step of a takeover run may take; the whole run gets three times this",
    ),
    _live("MonitorInterval", "monitor_interval", "s", "between monitor events"),
    _live(
        "TickleUpdateInterval",
        "tickle_update_interval",
        "s",
        "between updates of the other nodes' tickle lists",
    ),
    _live("EventScriptTimeout", "script_timeout", "s", "all scripts of one event together may take"),
    _live(
        "MonitorTimeoutCount",
        "monitor_timeout_count",
        "events",
        "monitor events in a row that may time out before the node is unhealthy",
    ),
    _obsolete("EventScriptUnhealthyOnTimeout", "script_unhealthy_on_timeout"),
    _live("RecoveryGracePeriod", "recovery_grace_period", "s", "until ban credits are forgiven"),
    _live("RecoveryBanPeriod", "recovery_ban_period", "s", "a node stays banned"),
    _live("DatabaseHashSize", "database_hash_size", "chains", "hash chains of a new TDB file"),
    _live("DatabaseMaxDead", "database_max_dead", "records", "dead records kept in a hash chain for reuse"),
    _live("RerecoveryTimeout", "rerecovery_timeout", "s", "after a recovery during which no other begins"),
    _live("EnableBans", "enable_bans", "flag", "0: nodes are never banned"),
    _obsolete("DeterministicIPs", "deterministic_public_ips"),
    _obsolete("ReclockPingPeriod", "reclock_ping_period"),
    _live(
        "NoIPFailback",
        "no_ip_failback",
        "flag",
        "1: addresses stay where they are while that node is healthy",
    ),
    _obsolete("DisableIPFailover", "disable_ip_failover"),
    _live(
        "VerboseMemoryNames", "verbose_memory_names", "flag", "1: name allocations in memory dumps in detail"
    ),
    _live("RecdPingTimeout", "recd_ping_timeout", "s", "between pings of the recovery daemon"),
    _live(
        "RecdFailCount",
        "recd_ping_failcount",
        "pings",
        "missed pings after which the recovery daemon is restarted",
    ),
    _live("LogLatencyMs", "log_latency_ms", "ms", "of latency beyond which a call is logged; 0: none is"),
    _live(
        "RecLockLatencyMs",
        "reclock_latency_ms",
        "ms",
        "of latency beyond which taking the cluster lock is logged",
    ),
    _live(
        "RecoveryDropAllIPs",
        "recovery_drop_all_ips",
        "s",
        "in recovery after which all public addresses are dropped",
    ),
    _obsolete("VerifyRecoveryLock", "verify_recovery_lock"),
    _live("VacuumInterval", "vacuum_interval", "s", "between vacuum runs of a database"),
    _live("VacuumMaxRunTime", "vacuum_max_run_time", "s", "a vacuum run may take"),
    _live("RepackLimit", "repack_limit", "records", "in the free list beyond which a file is repacked"),
    _obsolete("VacuumLimit", "vacuum_limit"),
    _live(
        "MaxQueueDropMsg",
        "max_queue_depth_drop_msg",
        "packets",
        "queued for a client at which it is disconnected",
    ),
    _live("AllowUnhealthyDBRead", "allow_unhealthy_db_read", "flag", "1: unhealthy databases may be read"),
    _live("StatHistoryInterval", "stat_history_interval", "s", "each entry of the statistics history covers"),
    _live("DeferredAttachTO", "deferred_attach_timeout", "s", "an attach waits for a recovery to end"),
    _live(
        "VacuumFastPathCount",
        "vacuum_fast_path_count",
        "runs",
        "vacuum runs from the delete queue for each run over the whole file",
    ),
    _obsolete("LCP2PublicIPs", "lcp2_public_ip_assignment"),
    _live(
        "AllowClientDBAttach",
        "allow_client_db_attach",
        "flag",
        "0: clients may not attach databases, and may detach them",
    ),
    _obsolete("RecoverPDBBySeqNum", "recover_pdb_by_seqnum"),
    _obsolete("DeferredRebalanceOnNodeAdd", "deferred_rebalance_on_node_add"),
    _live(
        "FetchCollapse",
        "fetch_collapse",
        "flag",
        "1: one request for a record stands for all clients that want it",
    ),
    _live(
        "HopcountMakeSticky",
        "hopcount_make_sticky",
        "hops",
        "after which a record of a sticky database becomes sticky",
    ),
    _live("StickyDuration", "sticky_duration", "s", "a record stays sticky"),
    _live("StickyPindown", "sticky_pindown", "ms", "a sticky record stays on a node"),
    _live("NoIPTakeover", "no_ip_takeover", "flag", "1: addresses that no node holds are not assigned"),
    _live(
        "DBRecordCountWarn",
        "db_record_count_warn",
        "records",
        "in a database beyond which recovery warns; 0: never",
    ),
    _live(
        "DBRecordSizeWarn",
        "db_record_size_warn",
        "bytes",
        "in a record beyond which recovery warns; 0: never",
    ),
    _live("DBSizeWarn", "db_size_warn", "bytes", "in a database beyond which recovery warns; 0: never"),
    _live(
        "PullDBPreallocation", "pulldb_preallocation_size", "bytes", "a buffer for pulled records grows by"
    ),
    _obsolete("NoIPHostOnAllDisabled", "no_ip_host_on_all_disabled"),
    _obsolete("Samba3AvoidDeadlocks", "samba3_hack"),
    _obsolete("TDBMutexEnabled", "mutex_enabled"),
    _live(
        "LockProcessesPerDB",
        "lock_processes_per_db",
        "processes",
        "waiting for record locks of one database at the same time",
    ),
    _live(
        "RecBufferSizeLimit",
        "rec_buffer_size_limit",
        "bytes",
        "of records sent together in recovery and vacuum",
    ),
    _live("QueueBufferSize", "queue_buffer_size", "bytes", "read from a socket at a time"),
    _live(
        "IPAllocAlgorithm",
        "ip_alloc_algorithm",
        "algorithm",
        "0: deterministic, 1: non-deterministic, 2: LCP2",
    ),
    _live("AllowMixedVersions", "allow_mixed_versions", "flag", "1: nodes of another version may join"),
)

#: Ours: for nodes of this daemon alone.
OWN_TUNABLES: Final[tuple[TunableSpec, ...]] = (
    _live("HeartbeatInterval", "heartbeat_interval", "ms", "between heartbeats to each node"),
    _live(
        "HeartbeatLimit", "heartbeat_limit", "intervals", "without a heartbeat until a node counts as silent"
    ),
    _live(
        "StallLimit",
        "stall_limit",
        "ms",
        "without progress until a daemon counts as dead though its guard lives",
    ),
    _live("RecordHoldUs", "record_hold_us", "us", "a record that just arrived stays for its client at most"),
    _live(
        "RecordReliefMoves",
        "record_relief_moves",
        "moves",
        "of a record within a second while several clients here wait make it stay a moment; 0: never",
    ),
    _live("RecordReliefSeconds", "record_relief_seconds", "s", "for which a record that bounces is relieved"),
    _live("RecordReliefUs", "record_relief_us", "us", "a relieved record stays for its clients at most"),
    _live("SpinUs", "spin_us", "us", "to look again, with recent traffic, before sleeping; 0: sleep at once"),
)

_BY_NAME: Final = {spec.name.lower(): spec for spec in (*TUNABLES, *OWN_TUNABLES)}


def _list_order() -> tuple[TunableSpec, ...]:
    """Upstream's table has two rows elsewhere than its structure: each right behind another."""
    moved = {"LCP2PublicIPs": "DeterministicIPs", "VacuumFastPathCount": "VacuumLimit"}
    table = [spec for spec in TUNABLES if spec.name not in moved]
    for name, before in moved.items():
        table.insert(table.index(_BY_NAME[before.lower()]) + 1, _BY_NAME[name.lower()])
    return tuple(table)


#: Upstream's, in the order of its table of names.
TUNABLES_IN_LIST_ORDER: Final = _list_order()

#: What LIST_TUNABLES answers.
LISTED_NAMES: Final = tuple(spec.name for spec in TUNABLES_IN_LIST_ORDER if not spec.obsolete)
