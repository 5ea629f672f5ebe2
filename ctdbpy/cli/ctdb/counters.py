# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` that print counters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from ctdbpy.cli.ctdb.nodes import ago
from ctdbpy.cli.ctdb.tool import Tool, leading_number
from ctdbpy.wire.controls import Control
from ctdbpy.wire.statistics import HOT_KEYS_MAX, DbStatistics, HotKey, LatencyCounter, Statistics
from ctdbpy.wire.structures import StatisticsList

_VERSION: Final = 1

#: The counters in the order in which they are printed; a dot makes a group.
_COUNTERS: Final = (
    *("num_clients", "frozen", "recovering", "num_recoveries"),
    *("client_packets_sent", "client_packets_recv", "node_packets_sent", "node_packets_recv"),
    *("keepalive_packets_sent", "keepalive_packets_recv"),
    *("node.req_call", "node.reply_call", "node.req_dmaster", "node.reply_dmaster", "node.reply_error"),
    *("node.req_message", "node.req_control", "node.reply_control", "node.req_tunnel"),
    *("client.req_call", "client.req_message", "client.req_control", "client.req_tunnel"),
    *("timeouts.call", "timeouts.control", "timeouts.traverse"),
    *("locks.num_calls", "locks.num_current", "locks.num_pending", "locks.num_failed"),
    *("total_calls", "pending_calls", "childwrite_calls", "pending_childwrite_calls"),
    *("memory_used", "max_hop_count", "total_ro_delegations", "total_ro_revokes"),
)
_LOCKS: Final = tuple(f"locks.{name}" for name in ("num_calls", "num_current", "num_pending", "num_failed"))
_DB_COUNTERS: Final = ("db_ro_delegations", "db_ro_revokes", *_LOCKS)

#: Latencies, for machines and for people: each in an order of its own.
_MACHINE_LATENCIES: Final = {
    "reclock_ctdbd": "reclock_ctdbd",
    "reclock_recd": "reclock_recd",
    "call": "call_latency",
    "lockwait": "locks.latency",
    "childwrite": "childwrite_latency",
}
_LATENCIES: Final = {
    "locks_latency": "locks.latency",
    "reclock_ctdbd": "reclock_ctdbd",
    "reclock_recd": "reclock_recd",
    "call_latency": "call_latency",
    "childwrite_latency": "childwrite_latency",
}


def do_statistics(tool: Tool) -> None:
    _print(tool, [tool.ask(Control.STATISTICS)])


def do_statisticsreset(tool: Tool) -> None:
    tool.ask(Control.STATISTICS_RESET)


def do_stats(tool: Tool, count_text: str = "0") -> None:
    count = leading_number(count_text)
    found: StatisticsList = tool.ask(Control.GET_STAT_HISTORY)
    entries = found.entries[: count + 1] if count > 0 else found.entries
    _print(tool, [each for each in entries if each.start.sec])


def do_dbstatistics(tool: Tool, name: str) -> None:
    database = tool.database(name)
    with tool.saying(f"Failed to get statistics for DB {database.name}"):
        found: DbStatistics = tool.ask(Control.GET_DB_STATISTICS, database.db_id)
    print(f"DB Statistics {database.name}")
    _print_counters(found, _DB_COUNTERS)
    _print_buckets("hop_count_buckets", found.hop_count_bucket)
    _print_buckets("lock_buckets", found.locks.buckets)
    _print_latency("locks_latency", found.locks.latency)
    _print_latency("vacuum_latency", found.vacuum)
    print(f" Num Hot Keys:     {HOT_KEYS_MAX}")
    # Those there are stand last: the slots are in order of their counts.
    unused = (HotKey(0, b""),) * (HOT_KEYS_MAX - len(found.hot_keys))
    for hot in (*unused, *found.hot_keys):
        print(f"     Count:{hot.count} Key:{hot.key.hex()}")


def _print(tool: Tool, entries: list[Statistics]) -> None:
    for number, entry in enumerate(entries):
        if tool.options.is_machine:
            if number == 0:
                _print_fields(tool, _header())
            _print_fields(tool, _fields(entry))
        else:
            _print_block(entry)


def _header() -> Iterable[str]:
    yield from ("CTDB version", "Current time of statistics", "Statistics collected since", *_COUNTERS)
    for name in _MACHINE_LATENCIES:
        yield from (f"{part}_{name}_latency" for part in ("num", "min", "avg", "max"))


def _fields(entry: Statistics) -> Iterable[str]:
    yield from (str(_VERSION), str(entry.current.sec), str(entry.start.sec))
    yield from (str(attrgetter(name)(entry)) for name in _COUNTERS)
    for name in _MACHINE_LATENCIES.values():
        latency: LatencyCounter = attrgetter(name)(entry)
        yield str(latency.num)
        yield from (f"{part:.6f}" for part in (latency.min, _average(latency), latency.max))


def _print_fields(tool: Tool, fields: Iterable[str]) -> None:
    print("".join(f"{field}{tool.options.separator}" for field in fields))


def _print_block(entry: Statistics) -> None:
    print(f"CTDB version {_VERSION}")
    print(f"Current time of statistics  :                {time.ctime(entry.current.sec)}")
    since = ago(entry.current.sec - entry.start.sec)
    print(f"Statistics collected since  : ({since}) {time.ctime(entry.start.sec)}")
    _print_counters(entry, _COUNTERS)
    _print_buckets("hop_count_buckets", entry.hop_count_bucket)
    _print_buckets("lock_buckets", entry.locks.buckets)
    for name, field in _LATENCIES.items():
        _print_latency(name, attrgetter(field)(entry))


def _print_counters(entry: Statistics | DbStatistics, names: Iterable[str]) -> None:
    last = ""
    for name in names:
        group, dot, field = name.rpartition(".")
        value = attrgetter(name)(entry)
        if not dot:
            print(f" {field:<22}    {value:>10}")
            continue
        if group != last:
            print(f" {group}")
            last = group
        print(f"     {field:<22}{value:>10}")


def _print_buckets(name: str, buckets: Iterable[int]) -> None:
    print(f" {name}:" + "".join(f" {count}" for count in buckets))


def _print_latency(name: str, latency: LatencyCounter) -> None:
    label = f"{name:<18} MIN/AVG/MAX"
    seconds = "/".join(f"{part:.6f}" for part in (latency.min, _average(latency), latency.max))
    print(f" {label:<30}     {seconds} sec out of {latency.num}")


def _average(latency: LatencyCounter) -> float:
    return latency.total / latency.num if latency.num else 0.0
