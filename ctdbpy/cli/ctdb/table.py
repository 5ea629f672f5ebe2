# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command of `ctdb`: what it takes, where it is done, and whether it needs the daemon.

A command `do-this` is the function `do_do_this` of its module, which is imported when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_ANY: Final = 1000


@dataclass(frozen=True, slots=True)
class Command:
    """One row. counts: how many arguments it takes at least and at most."""

    name: str
    module: str
    counts: tuple[int, int]
    arguments: str
    text: str
    needs_daemon: bool = True
    is_remote: bool = True

    @property
    def function(self) -> str:
        return "do_" + self.name.replace("-", "_")


def _here(name: str, module: str, counts: tuple[int, int], arguments: str, text: str) -> Command:
    """A command that is about this node."""
    return Command(name, module, counts, arguments, text, is_remote=False)


def _alone(name: str, module: str, counts: tuple[int, int], arguments: str, text: str) -> Command:
    """A command that needs no daemon."""
    return Command(name, module, counts, arguments, text, needs_daemon=False, is_remote=False)


# Where upstream does not look at arguments that are too many, neither do we.
_ROWS: Final = (
    _alone("version", "nodes", (0, _ANY), "", "print the version"),
    Command("status", "nodes", (0, 0), "", "print nodes, generation, recovery mode and leader"),
    Command("uptime", "nodes", (0, _ANY), "", "print since when the daemon runs, and its last recovery"),
    Command("ping", "nodes", (0, _ANY), "", "ask the daemon for a sign of life"),
    Command(
        "runstate",
        "nodes",
        (0, _ANY),
        "[setup|first_recovery|startup|running]",
        "print or check the run state",
    ),
    Command("getvar", "settings", (1, 1), "<name>", "print a tunable"),
    Command("setvar", "settings", (2, 2), "<name> <value>", "set a tunable"),
    Command("listvars", "settings", (0, 0), "", "print all tunables"),
    Command("statistics", "counters", (0, 0), "", "print the counters"),
    Command("statisticsreset", "counters", (0, 0), "", "set the counters back"),
    Command("stats", "counters", (0, 1), "[count]", "print the counters of past intervals"),
    Command("ip", "addresses", (0, 1), "[all]", "print public addresses and their nodes"),
    Command("ipinfo", "addresses", (1, 1), "<ip>", "print what is known about a public address"),
    Command("ifaces", "addresses", (0, 0), "", "print the interfaces for public addresses"),
    Command(
        "setifacelink", "addresses", (2, 2), "<iface> up|down", "say that an interface has a link or none"
    ),
    Command("process-exists", "nodes", (1, 2), "<pid> [<srvid>]", "check that a process is a client"),
    Command("getdbmap", "databases", (0, 0), "", "print the attached databases"),
    Command(
        "getdbstatus", "databases", (1, 1), "<dbname|dbid>", "print kind, modes and health of a database"
    ),
    _here("catdb", "databases", (1, 1), "<dbname|dbid>", "print all records of a database in the cluster"),
    _here(
        "cattdb", "databases", (1, 1), "<dbname|dbid>", "print all records in this node's file of a database"
    ),
    Command("getcapabilities", "nodes", (0, 0), "", "print what the node may be"),
    _here("pnn", "nodes", (0, _ANY), "", "print this node's number"),
    _here("lvs", "events", (1, 1), "leader|list|status", "print about LVS"),
    Command("setdebug", "settings", (1, 1), "ERROR|WARNING|NOTICE|INFO|DEBUG", "set the log level"),
    Command("getdebug", "settings", (0, 0), "", "print the log level"),
    _here("attach", "databases", (1, 2), "<dbname> [persistent|replicated]", "attach a database"),
    _here("detach", "databases", (1, _ANY), "<dbname|dbid> ...", "detach volatile databases"),
    Command("dumpmemory", "nodes", (0, _ANY), "", "print how the daemon uses memory"),
    Command("rddumpmemory", "nodes", (0, _ANY), "", "print how what leads the cluster uses memory"),
    Command("getpid", "nodes", (0, _ANY), "", "print the daemon's process id"),
    Command("disable", "deeds", (0, 0), "", "have a node host no public addresses"),
    Command("enable", "deeds", (0, 0), "", "end what disable did"),
    Command("stop", "deeds", (0, 0), "", "take a node out of the cluster"),
    Command("continue", "deeds", (0, 0), "", "end what stop did"),
    Command("ban", "deeds", (1, 1), "<bantime>", "keep a node out of the cluster for some seconds"),
    Command("unban", "deeds", (0, 0), "", "end a ban"),
    Command("shutdown", "deeds", (0, 0), "", "end the daemon"),
    Command("recover", "deeds", (0, 0), "", "recover the databases"),
    Command("sync", "deeds", (0, 0), "", "the older name of ipreallocate"),
    Command("ipreallocate", "deeds", (0, 0), "", "distribute the public addresses anew"),
    Command("gratarp", "addresses", (2, 2), "<ip> <interface>", "announce an address to the network"),
    _alone(
        "tickle", "tickles", (0, 2), "<srcip:port> <dstip:port>", "send the packet that wakes a connection"
    ),
    Command(
        "gettickles", "tickles", (1, 2), "<ip> [<port>]", "print the connections to wake after a takeover"
    ),
    Command("addtickle", "tickles", (0, 2), "<ip>:<port> <ip>:<port>", "add a connection to these"),
    Command("deltickle", "tickles", (0, 2), "<ip>:<port> <ip>:<port>", "remove a connection from these"),
    Command("listnodes", "nodes", (0, 0), "", "print the nodes file", needs_daemon=False),
    _here("reloadnodes", "deeds", (0, _ANY), "", "have all nodes read the nodes file again"),
    _here("moveip", "addresses", (2, 2), "<ip> <node>", "move a public address to a node"),
    Command("addip", "addresses", (2, 2), "<ip/mask> <iface>", "add a public address to a node"),
    Command("delip", "addresses", (1, 1), "<ip>", "delete a public address from a node"),
    _here("backupdb", "backups", (2, 2), "<dbname|dbid> <file>", "write a database into a file"),
    _here("restoredb", "backups", (1, 2), "<file> [dbname]", "replace a database by what a file holds"),
    _alone("dumpdbbackup", "backups", (1, 1), "<file>", "print the records of such a file"),
    _here("wipedb", "backups", (1, 1), "<dbname|dbid>", "remove all records of a database"),
    Command("leader", "nodes", (0, _ANY), "", "print the leader's number"),
    _alone(
        "event",
        "events",
        (0, _ANY),
        "run|status|script ...",
        "run event scripts, print about them, enable them",
    ),
    _alone(
        "scriptstatus",
        "events",
        (0, 1),
        "[init|setup|startup|monitor|takeip|releaseip|ipreallocated]",
        "print how an event's scripts ended",
    ),
    _here("natgw", "events", (1, 1), "leader|list|status", "print about the NAT gateway"),
    Command("getreclock", "settings", (0, 0), "", "print the cluster lock"),
    Command("setlmasterrole", "settings", (1, 1), "on|off", "let a node be lmaster, or not"),
    Command("setleaderrole", "settings", (1, 1), "on|off", "let a node be leader, or not"),
    Command("setdbreadonly", "databases", (1, 1), "<dbname|dbid>", "allow read-only copies of records"),
    Command("setdbsticky", "databases", (1, 1), "<dbname|dbid>", "let hot records stay for a while"),
    _here("pfetch", "records", (2, 2), "<dbname|dbid> <key>", "print a record of a persistent database"),
    _here(
        "pstore", "records", (3, 3), "<dbname|dbid> <key> <value>", "store a record of a persistent database"
    ),
    _here("pdelete", "records", (2, 2), "<dbname|dbid> <key>", "delete a record of a persistent database"),
    _here("ptrans", "records", (1, 2), "<dbname|dbid> [<file>]", "change many records in one transaction"),
    Command("tfetch", "records", (2, 3), "<tdb-file> <key> [<file>]", "print a record of a TDB file"),
    Command(
        "tstore",
        "records",
        (3, 5),
        "<tdb-file> <key> <data> [<rsn> <dmaster>]",
        "store a record in a TDB file",
    ),
    _here(
        "readkey",
        "records",
        (2, 3),
        "<dbname|dbid> <key> [readonly]",
        "print a record of a volatile database",
    ),
    _here(
        "writekey", "records", (3, 3), "<dbname|dbid> <key> <value>", "store a record of a volatile database"
    ),
    _here("deletekey", "records", (2, 2), "<dbname|dbid> <key>", "delete a record of a volatile database"),
    _alone("checktcpport", "tickles", (1, 1), "<port>", "check that nothing listens on a TCP port"),
    _here("getdbseqnum", "databases", (1, 1), "<dbname|dbid>", "print the sequence number of a database"),
    Command(
        "nodestatus", "nodes", (0, 1), "[all|<pnn-list>]", "print the states of nodes, and exit with them"
    ),
    Command("dbstatistics", "counters", (1, 1), "<dbname|dbid>", "print the counters of a database"),
    _here(
        "reloadips", "addresses", (0, 1), "[all|<pnn-list>]", "have nodes read their public addresses again"
    ),
    # Newer than 4.17.
    _here(
        "pushrecord", "records", (3, 3), "<dbname|dbid> <key> <value>", "store a record on all nodes at once"
    ),
)

COMMANDS: Final = {row.name: row for row in _ROWS}
