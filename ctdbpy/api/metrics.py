# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon of this node counts and knows, as Prometheus metrics: asked anew for each scrape.

Everything comes from the daemon of this node and is answered at once, so that a dead peer delays nothing.
Names end in their unit; counters begin anew when the daemon does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ctdbpy.client import databases, event_socket
from ctdbpy.client.addresses import addresses_of
from ctdbpy.client.connection import Connection
from ctdbpy.errors import CtdbpyError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.events import StatusRequest
from ctdbpy.wire.statistics import DbStatistics, LatencyCounter, LockStatistics, Statistics
from ctdbpy.wire.structures import NodeMap

#: Bucket n of a lock's waits ends at about 2**n milliseconds; the last one has no end.
_LOCK_BOUNDS_S: Final = tuple(2**n / 1000 for n in range(15))
_EVENTS: Final = ("monitor", "startup", "startrecovery", "recovered", "takeip", "releaseip", "ipreallocated")
_FLAGS: Final = (
    NodeFlag.DISCONNECTED,
    NodeFlag.UNHEALTHY,
    NodeFlag.PERMANENTLY_DISABLED,
    NodeFlag.BANNED,
    NodeFlag.STOPPED,
)


class DaemonCollector(Collector):
    """Asks the daemon behind `socket`, and the event scripts' results behind `event_socket`."""

    def __init__(self, socket: str, events: str, *, timeout_s: float) -> None:
        self._socket = socket
        self._events = events
        self._timeout_s = timeout_s

    def collect(self) -> Iterator[Metric]:
        """All metrics; of a daemon that does not answer, that alone."""
        began_s = time.monotonic()
        up = GaugeMetricFamily("ctdbpy_up", "Whether the daemon of this node answers.")
        found: list[Metric] = []
        try:
            with Connection(self._socket, timeout_s=self._timeout_s) as connection:
                found += _nodes(connection)
                found += _statistics(connection)
                found += _databases(connection)
                found += _addresses(connection)
            found += _scripts(self._events, self._timeout_s)
            up.add_metric([], 1)
        except CtdbpyError:
            # Half an answer would look like a change of the cluster.
            found.clear()
            up.add_metric([], 0)
        yield up
        yield from found
        took = GaugeMetricFamily("ctdbpy_scrape_seconds", "How long it took to ask the daemon.")
        took.add_metric([], time.monotonic() - began_s)
        yield took


def is_alive(socket: str, timeout_s: float) -> bool:
    """The daemon of this node answers."""
    try:
        with Connection(socket, timeout_s=timeout_s) as connection:
            connection.control(Control.PING)
    except CtdbpyError:
        return False
    return True


def is_ready(socket: str, timeout_s: float) -> bool:
    """The daemon of this node serves clients: it is a healthy member of a cluster that is not recovering."""
    try:
        with Connection(socket, timeout_s=timeout_s) as connection:
            mode = connection.control(Control.GET_RECMODE).status
            nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
            own = next((node for node in nodemap.nodes if node.pnn == connection.pnn), None)
    except CtdbpyError:
        return False
    return mode == RecoveryMode.NORMAL and own is not None and not own.flags


# -- what is asked ----------------------------------------------------------------------------------


def _nodes(connection: Connection) -> Iterator[Metric]:
    nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
    flags = GaugeMetricFamily(
        "ctdbpy_node_flag", "Whether a node has a flag, as this node sees it.", labels=["node", "flag"]
    )
    for node in nodemap.nodes:
        if not node.flags & NodeFlag.DELETED:
            for flag in _FLAGS:
                name = (flag.name or "").lower().removeprefix("permanently_")
                flags.add_metric([str(node.pnn), name], int(bool(node.flags & flag)))
    yield flags
    leader: int = connection.ask(Control.GET_LEADER)
    led = GaugeMetricFamily("ctdbpy_leader", "The node that leads, as this node knows; -1: nobody.")
    led.add_metric([], -1 if leader == UNKNOWN_PNN else leader)
    yield led
    leads = GaugeMetricFamily("ctdbpy_is_leader", "Whether this node leads.")
    leads.add_metric([], int(leader == connection.pnn))
    yield leads
    mode = connection.control(Control.GET_RECMODE).status
    recovering = GaugeMetricFamily("ctdbpy_recovery_mode", "1 while the databases wait for a recovery.")
    recovering.add_metric([], int(mode != RecoveryMode.NORMAL))
    yield recovering


def _statistics(connection: Connection) -> Iterator[Metric]:
    found: Statistics = connection.ask(Control.STATISTICS)
    gauges = {
        "clients": (found.num_clients, "Programs connected to this node's daemon."),
        "pending_calls": (found.pending_calls, "Calls that wait for a record."),
        "waiting_locks": (found.locks.num_pending, "Waits for a lock that wait for their turn."),
        "max_hops": (found.max_hop_count, "The most hops a call has made."),
    }
    for name, (value, about) in gauges.items():
        gauge = GaugeMetricFamily(f"ctdbpy_{name}", about)
        gauge.add_metric([], value)
        yield gauge
    counters = {
        "calls": (found.total_calls, "Calls for records."),
        "migrations": (found.node.reply_dmaster, "Records that came to this node."),
        "recoveries": (found.num_recoveries, "Recoveries that this node was part of."),
        "readonly_delegations": (found.total_ro_delegations, "Read-only copies given."),
        "readonly_revokes": (found.total_ro_revokes, "Read-only copies taken back."),
    }
    for name, (value, about) in counters.items():
        yield _counter(name, about, value)
    yield from _packets(found)
    timeouts = CounterMetricFamily("ctdbpy_timeouts", "What was not answered in time.", labels=["what"])
    for each in fields(found.timeouts):
        timeouts.add_metric([each.name], getattr(found.timeouts, each.name))
    yield timeouts
    yield from _latency("call", "Calls, from question to answer", found.call_latency)
    yield _lock_waits([((), found.locks)], [], "lock_wait_seconds")
    started = GaugeMetricFamily("ctdbpy_statistics_start_seconds", "Since when is counted, as Unix time.")
    started.add_metric([], found.start.sec + found.start.usec / 1e6)
    yield started


def _packets(found: Statistics) -> Iterator[Metric]:
    totals = CounterMetricFamily(
        "ctdbpy_packets", "Packets, by whom they were exchanged with.", labels=["peer", "way"]
    )
    totals.add_metric(["client", "sent"], found.client_packets_sent)
    totals.add_metric(["client", "received"], found.client_packets_recv)
    totals.add_metric(["node", "sent"], found.node_packets_sent)
    totals.add_metric(["node", "received"], found.node_packets_recv)
    totals.add_metric(["keepalive", "sent"], found.keepalive_packets_sent)
    totals.add_metric(["keepalive", "received"], found.keepalive_packets_recv)
    yield totals
    kinds = CounterMetricFamily("ctdbpy_packets_by_kind", "Packets by kind.", labels=["peer", "kind"])
    for peer, group in (("node", found.node), ("client", found.client)):
        for each in fields(group):
            kinds.add_metric([peer, each.name], getattr(group, each.name))
    yield kinds


def _databases(connection: Connection) -> Iterator[Metric]:
    hops = GaugeMetricFamily(
        "ctdbpy_hot_record_hops",
        "Hops of the records that move most; the key is given in hexadecimal digits.",
        labels=["database", "key"],
    )
    waits: list[tuple[tuple[str, ...], LockStatistics]] = []
    vacuums = CounterMetricFamily("ctdbpy_vacuum_runs", "Vacuuming runs.", labels=["database"])
    vacuumed = CounterMetricFamily("ctdbpy_vacuum_seconds", "Time spent vacuuming.", labels=["database"])
    for database in databases.list_databases(connection, connection.pnn):
        found: DbStatistics = connection.ask(Control.GET_DB_STATISTICS, database.db_id)
        waits.append(((database.name,), found.locks))
        vacuums.add_metric([database.name], found.vacuum.num)
        vacuumed.add_metric([database.name], found.vacuum.total)
        for hot in found.hot_keys:
            if hot.count:
                hops.add_metric([database.name, hot.key.hex()], hot.count)
    yield hops
    yield vacuums
    yield vacuumed
    yield _lock_waits(waits, ["database"], "database_lock_wait_seconds")


def _addresses(connection: Connection) -> Iterator[Metric]:
    owner = GaugeMetricFamily(
        "ctdbpy_public_address_owner", "The node that has a public address, -1 for none.", labels=["address"]
    )
    here = 0
    for ip in addresses_of(connection, connection.pnn):
        owner.add_metric([ip.address.host], -1 if ip.pnn == UNKNOWN_PNN else ip.pnn)
        here += ip.pnn == connection.pnn
    yield owner
    held = GaugeMetricFamily("ctdbpy_public_addresses_here", "Public addresses that this node has.")
    held.add_metric([], here)
    yield held


def _scripts(path: str, timeout_s: float) -> Iterator[Metric]:
    seconds = GaugeMetricFamily(
        "ctdbpy_event_script_seconds", "How long a script took the last time.", labels=["event", "script"]
    )
    result = GaugeMetricFamily(
        "ctdbpy_event_script_result",
        "How a script ended the last time: 0 well, more its exit status, less an errno.",
        labels=["event", "script"],
    )
    for event in _EVENTS:
        status = event_socket.ask(path, StatusRequest("legacy", event), timeout_s=timeout_s).status
        for script in status.scripts if status is not None else ():
            seconds.add_metric([event, script.name], script.end.time_s - script.begin.time_s)
            result.add_metric([event, script.name], script.result)
    yield seconds
    yield result


# -- shapes -----------------------------------------------------------------------------------------


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    counter = CounterMetricFamily(f"ctdbpy_{name}", about)
    counter.add_metric([], value)
    return counter


def _latency(name: str, about: str, latency: LatencyCounter) -> Iterator[Metric]:
    yield _counter(f"{name}_latency_count", f"{about}: how many.", latency.num)
    yield _counter(f"{name}_latency_seconds", f"{about}: time in all.", latency.total)
    longest = GaugeMetricFamily(f"ctdbpy_{name}_latency_max_seconds", f"{about}: the longest.")
    longest.add_metric([], latency.max)
    yield longest


def _lock_waits(
    found: list[tuple[tuple[str, ...], LockStatistics]], labels: list[str], name: str
) -> HistogramMetricFamily:
    waits = HistogramMetricFamily(f"ctdbpy_{name}", "Waits for locks of records.", labels=labels)
    for values, locks in found:
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound_s, number in zip(_LOCK_BOUNDS_S, locks.buckets, strict=False):
            below += number
            buckets.append((str(bound_s), below))
        buckets.append(("+Inf", sum(locks.buckets)))
        waits.add_metric(list(values), buckets, sum_value=locks.latency.total)
    return waits
