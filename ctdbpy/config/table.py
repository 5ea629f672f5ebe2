# SPDX-License-Identifier: GPL-3.0-or-later
"""The one table of settings: it reads ctdb.conf and makes docs/settings.md and the manual page.

Rows marked `own` are this daemon's. Debian's ctdbd passes over options it does not know, so a file with them
still serves both. Source: ctdb.conf(5) of 4.17 and of newest master.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ctdbpy.config.values import (
    Context,
    Value,
    read_address,
    read_automatic,
    read_boolean,
    read_command,
    read_deprecated_lock,
    read_directory,
    read_integer,
    read_log_format,
    read_log_level,
    read_log_location,
    read_port,
    read_quorum,
    read_script,
    read_string,
    read_transport,
)


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One row: where it stands in the file, where in `Settings`, how its text becomes a value."""

    section: str
    option: str
    field: str
    values: str
    default: str
    meaning: str
    read: Callable[[str, Context], Value]
    own: bool = False
    newest: bool = False
    """Newest master has it and 4.17 does not."""
    shared: bool = False
    """Nodes that differ in it do harm to each other."""


_BOOL = "true, yes, false, no"
_LEVEL = "ERROR, WARNING, NOTICE, INFO, DEBUG or 0-10"

SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec(
        "logging",
        "location",
        "log_location",
        "file:PATH, syslog, syslog:METHOD",
        "file:/var/log/ctdb/log.ctdb",
        (
            "Where the log goes. METHOD is nonblocking (datagrams to /dev/log), udp or udp-rfc5424 "
            "(127.0.0.1 port 514). The directory of PATH must exist."
        ),
        read_log_location,
    ),
    SettingSpec(
        "logging",
        "log level",
        "log_level",
        _LEVEL,
        "NOTICE",
        "The least important lines that are still written.",
        read_log_level,
    ),
    SettingSpec(
        "logging",
        "format",
        "log_format",
        "text, json",
        "text",
        (
            "How lines look in a file and on standard error: as upstream's, or each as one JSON object with "
            "time, host, program, pid, level, text and incident (docs/operations.md). Syslog has its own."
        ),
        read_log_format,
        own=True,
    ),
    SettingSpec(
        "cluster",
        "cluster lock",
        "cluster_lock",
        "FILE or !COMMAND",
        "none",
        (
            "The lock that only one side of a split cluster can hold, the same on all nodes. FILE lies on "
            "the cluster file system, in a directory that is there; it is made if need be, must not be "
            "removed, and is locked as upstream's helper does it. !COMMAND is a program with arguments cut "
            "at blanks, run without a shell: it prints 0 once it holds the lock (1 held elsewhere, 2 too "
            "late, 3 wrong), keeps running as long as it does, and gives it back on SIGTERM."
        ),
        read_string,
        shared=True,
    ),
    SettingSpec(
        "cluster",
        "recovery lock",
        "recovery_lock",
        "FILE or !COMMAND",
        "none",
        "Deprecated name of 'cluster lock'; used when that is not set.",
        read_deprecated_lock,
    ),
    SettingSpec(
        "cluster",
        "leader capability",
        "leader_capability",
        _BOOL,
        "true",
        "Whether this node may become leader.",
        read_boolean,
    ),
    SettingSpec(
        "cluster",
        "leader timeout",
        "leader_timeout_s",
        "seconds, from 1",
        "5",
        "Time without a word from the leader after which a node calls an election.",
        read_integer(1),
        shared=True,
    ),
    SettingSpec(
        "cluster",
        "node address",
        "node_address",
        "IP address",
        "the first of the nodes file that this host has",
        "The private address of this node. It must stand in the nodes file.",
        read_address,
    ),
    SettingSpec(
        "cluster",
        "transport",
        "transport",
        "tcp",
        "tcp",
        "How nodes talk to each other.",
        read_transport,
        shared=True,
    ),
    SettingSpec(
        "cluster",
        "nodes list",
        "nodes_list",
        "FILE or !COMMAND",
        "/etc/ctdb/nodes",
        "The nodes file, or a command that prints one (full path, arguments divided by blanks, no quoting).",
        read_string,
        newest=True,
    ),
    SettingSpec(
        "cluster",
        "quorum",
        "quorum",
        "auto, majority, lock, none",
        "auto",
        (
            "What this node needs to serve: a majority of the configured nodes, the cluster lock, or "
            "neither (as upstream). auto is a majority from three nodes up, otherwise the lock if one is "
            "set."
        ),
        read_quorum,
        own=True,
        shared=True,
    ),
    SettingSpec(
        "cluster",
        "fence command",
        "fence_command",
        "FILE [ARGUMENTS]",
        "none",
        (
            "Takes the power from a lost node before others go on without it: the leader runs it without a "
            "shell as 'FILE ARGUMENTS off PNN ADDRESS', with the node's private address. Status 0 means that "
            "the node is certainly off; with any other, or none in time, records and addresses wait and it "
            "is run again. FILE has its full path; arguments are cut at blanks. Needs a quorum."
        ),
        read_command,
        own=True,
        shared=True,
    ),
    SettingSpec(
        "cluster",
        "fence timeout",
        "fence_timeout_s",
        "seconds, from 1",
        "20",
        "How long the fence command may take.",
        read_integer(1),
        own=True,
        shared=True,
    ),
    SettingSpec(
        "cluster",
        "port",
        "port",
        "1-65535",
        "service ctdb in /etc/services, else 4379",
        "TCP port of the node links. The same on all nodes.",
        read_port,
        own=True,
        shared=True,
    ),
    SettingSpec(
        "database",
        "volatile database directory",
        "volatile_directory",
        "directory",
        "/var/lib/ctdb/volatile",
        "Where volatile databases live. Local storage; a tmpfs is fine. Must exist.",
        read_directory,
    ),
    SettingSpec(
        "database",
        "persistent database directory",
        "persistent_directory",
        "directory",
        "/var/lib/ctdb/persistent",
        "Where persistent databases live. Local storage that survives a restart. Must exist.",
        read_directory,
    ),
    SettingSpec(
        "database",
        "state database directory",
        "state_directory",
        "directory",
        "/var/lib/ctdb/state",
        "Where the daemon's own databases live. Must exist.",
        read_directory,
    ),
    SettingSpec(
        "database",
        "lock debug script",
        "lock_debug_script",
        "file name",
        "none",
        (
            "Run when a database lock cannot be had for long. Only the file name counts; it is looked for "
            "in /etc/ctdb."
        ),
        read_script,
    ),
    SettingSpec(
        "database",
        "tdb mutexes",
        "tdb_mutexes",
        _BOOL,
        "true",
        "Robust mutexes instead of file locks for volatile databases.",
        read_boolean,
        shared=True,
    ),
    SettingSpec(
        "event",
        "debug script",
        "event_debug_script",
        "file name",
        "none",
        "Run when an event script hangs. Only the file name counts; it is looked for in /etc/ctdb.",
        read_script,
    ),
    SettingSpec(
        "failover",
        "disabled",
        "failover_disabled",
        _BOOL,
        "false",
        "Never move public addresses.",
        read_boolean,
        shared=True,
    ),
    SettingSpec(
        "failover",
        "configure addresses",
        "puts_addresses",
        _BOOL,
        "true",
        "Put public addresses on interfaces. If false, something else does: events and `ctdb ip` tell where.",
        read_boolean,
        own=True,
        shared=True,
    ),
    SettingSpec(
        "failover",
        "scripts first",
        "scripts_first",
        "auto, true, false",
        "auto",
        "Addresses move after event scripts have run, not before. auto: if an NFS event script is enabled.",
        read_automatic,
        own=True,
        shared=True,
    ),
    SettingSpec(
        "failover",
        "shutdown failover timeout",
        "shutdown_failover_timeout_s",
        "seconds, 0 is off",
        "10",
        "How long a node that shuts down waits for its addresses to be taken over.",
        read_integer(0),
        newest=True,
    ),
    SettingSpec(
        "failover",
        "shutdown extra timeout",
        "shutdown_extra_timeout_s",
        "seconds",
        "0",
        "How much longer it waits after that succeeded.",
        read_integer(0),
        newest=True,
    ),
    SettingSpec(
        "legacy",
        "realtime scheduling",
        "realtime_scheduling",
        _BOOL,
        "true",
        "Ask for SCHED_FIFO, so that a busy machine does not delay the daemon.",
        read_boolean,
    ),
    SettingSpec(
        "legacy",
        "lmaster capability",
        "lmaster_capability",
        _BOOL,
        "true",
        "Whether this node may be location master of records.",
        read_boolean,
    ),
    SettingSpec(
        "legacy",
        "start as stopped",
        "start_as_stopped",
        _BOOL,
        "false",
        "Start with the flag STOPPED.",
        read_boolean,
    ),
    SettingSpec(
        "legacy",
        "start as disabled",
        "start_as_disabled",
        _BOOL,
        "false",
        "Start with the flag DISABLED.",
        read_boolean,
    ),
    SettingSpec(
        "legacy",
        "script log level",
        "script_log_level",
        _LEVEL,
        "ERROR",
        "The level at which the output of event scripts is logged.",
        read_log_level,
    ),
)
