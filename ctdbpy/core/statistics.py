# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of a node as upstream's statistics have them, and their history.

Source: reference/ctdb.md 5.5 (statistics, db_statistics), 7.18.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any, Final

from ctdbpy.core.state import Database, State
from ctdbpy.wire.structures import (
    ClientPackets,
    DbStatistics,
    HotKey,
    LatencyCounter,
    LockStatistics,
    NodePackets,
    Statistics,
    StatisticsList,
    Timeouts,
)

HISTORY: Final = 100

_NODE_KINDS: Final = (
    "req_call",
    "reply_call",
    "req_dmaster",
    "reply_dmaster",
    "reply_error",
    "req_message",
    "req_control",
    "reply_control",
    "req_tunnel",
)
_CLIENT_KINDS: Final = ("req_call", "req_message", "req_control", "req_tunnel")
#: What only counts up; the rest are present values, which an interval of the history has as they are.
_COUNTED: Final = (
    "client_packets_sent",
    "client_packets_recv",
    "node_packets_sent",
    "node_packets_recv",
    "keepalive_packets_sent",
    "keepalive_packets_recv",
    "total_calls",
    "childwrite_calls",
    "num_recoveries",
    "total_ro_delegations",
    "total_ro_revokes",
)
_U32: Final = 0xFFFFFFFF


class Statistician:
    """Collects what the record engine and the core count: timeouts and recoveries are the core's."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._since_s = 0.0
        self._reclock = LatencyCounter()
        self._reclock_check = LatencyCounter()
        self._history: deque[Statistics] = deque(maxlen=HISTORY)
        self._last = Statistics()
        self._timeouts = (0, 0)
        self._timeouts_before = (0, 0)
        self._recoveries_before = 0
        self.deadline_s: float | None = None

    def begin(self) -> None:
        """Count from now on."""
        self._since_s = self._state.now_s
        self._last = self.current(0)
        self._arm()

    def note_timeouts(self, control: int, traverse: int) -> None:
        """How many controls and traverses have been late since start."""
        self._timeouts = (control, traverse)

    def note_reclock(self, seconds: float) -> None:
        """How long taking the cluster lock took (RECD_RECLOCK_LATENCY)."""
        self._reclock = _counted_one(self._reclock, seconds)

    def note_reclock_check(self, seconds: float) -> None:
        """How long it took to see that another node holds the cluster lock."""
        self._reclock_check = _counted_one(self._reclock_check, seconds)

    def current(self, memory: int) -> Statistics:
        """All counters since start or the last reset."""
        state = self._state
        counters = state.records.counters()
        latencies = state.records.latencies()
        buckets = state.records.buckets()
        databases = state.databases.values()

        def count(name: str) -> int:
            return counters.get(name, 0) & _U32

        return Statistics(
            num_clients=len(state.clients),
            frozen=int(bool(databases) and all(database.is_frozen for database in databases)),
            recovering=int(state.is_recovering),
            client_packets_sent=count("client_packets_sent"),
            client_packets_recv=count("client_packets_recv"),
            node_packets_sent=count("node_packets_sent"),
            node_packets_recv=count("node_packets_recv"),
            keepalive_packets_sent=count("keepalive_packets_sent"),
            keepalive_packets_recv=count("keepalive_packets_recv"),
            node=NodePackets(*(count(f"node.{kind}") for kind in _NODE_KINDS)),
            client=ClientPackets(*(count(f"client.{kind}") for kind in _CLIENT_KINDS)),
            timeouts=Timeouts(
                count("timeouts.call"),
                self._timeouts[0] - self._timeouts_before[0],
                self._timeouts[1] - self._timeouts_before[1],
            ),
            reclock_ctdbd=self._reclock_check,
            reclock_recd=self._reclock,
            locks=_locks(counters, latencies, buckets),
            total_calls=count("total_calls"),
            pending_calls=count("pending_calls"),
            memory_used=memory & _U32,
            max_hop_count=count("max_hop_count"),
            hop_count_bucket=_sixteen(buckets.get("hop_count", ())),
            call_latency=_latency(latencies.get("call")),
            num_recoveries=state.recoveries - self._recoveries_before,
            start=state.timeval(self._since_s),
            current=state.timeval(state.now_s),
            total_ro_delegations=count("total_ro_delegations"),
            total_ro_revokes=count("total_ro_revokes"),
        )

    def of_database(self, database: Database) -> DbStatistics:
        """The counters of one database."""
        records = self._state.records
        counters = records.db_counters(database.db_id)
        latencies = records.db_latencies(database.db_id)
        buckets = records.db_buckets(database.db_id)
        hot = sorted(records.hot_keys(database.db_id))[-10:]
        return DbStatistics(
            locks=_locks(counters, latencies, buckets),
            vacuum=_latency(latencies.get("vacuum")),
            db_ro_delegations=counters.get("db_ro_delegations", 0) & _U32,
            db_ro_revokes=counters.get("db_ro_revokes", 0) & _U32,
            hop_count_bucket=_sixteen(buckets.get("hop_count", ())),
            hot_keys=tuple(HotKey(number, key) for number, key in hot),
        )

    def history(self) -> StatisticsList:
        """The last hundred intervals, newest first; one that was not yet has a start of zero."""
        entries = list(self._history)
        return StatisticsList(tuple(entries + [Statistics()] * (HISTORY - len(entries))))

    def reset(self) -> None:
        """Count everything from nothing again."""
        self._state.records.reset_counters()
        self._since_s = self._state.now_s
        self._reclock = LatencyCounter()
        self._reclock_check = LatencyCounter()
        self._timeouts_before = self._timeouts
        self._recoveries_before = self._state.recoveries
        self._last = self.current(0)

    def wake(self, now_s: float) -> None:
        """Close an interval of the history."""
        if self.deadline_s is None or now_s < self.deadline_s:
            return
        current = self.current(0)
        self._history.appendleft(_since(self._last, current))
        self._last = current
        self._arm()

    def _arm(self) -> None:
        self.deadline_s = self._state.now_s + max(self._state.tunables.stat_history_interval, 1)


def _locks(
    counters: dict[str, int],
    latencies: dict[str, tuple[int, float, float, float]],
    buckets: dict[str, tuple[int, ...]],
) -> LockStatistics:
    calls, current, pending, failed = (
        counters.get(f"locks.num_{what}", 0) & _U32 for what in ("calls", "current", "pending", "failed")
    )
    return LockStatistics(
        calls,
        current,
        pending,
        failed,
        _latency(latencies.get("lock")),
        _sixteen(buckets.get("locks", ())),
    )


def _counted_one(before: LatencyCounter, seconds: float) -> LatencyCounter:
    return LatencyCounter(
        before.num + 1,
        seconds if not before.num else min(before.min, seconds),
        max(before.max, seconds),
        before.total + seconds,
    )


def _latency(numbers: tuple[int, float, float, float] | None) -> LatencyCounter:
    return LatencyCounter() if numbers is None else LatencyCounter(*numbers)


def _sixteen(buckets: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(number & _U32 for number in (*buckets, *(0,) * 16)[:16])


def _since(before: Statistics, after: Statistics) -> Statistics:
    """What was counted between two moments; present values stay as they are at the later one."""

    hops = zip(before.hop_count_bucket, after.hop_count_bucket, strict=True)
    return replace(
        after,
        **_counted(before, after),
        node=NodePackets(*(max(_field(after.node, k) - _field(before.node, k), 0) for k in _NODE_KINDS)),
        client=ClientPackets(
            *(max(_field(after.client, k) - _field(before.client, k), 0) for k in _CLIENT_KINDS)
        ),
        hop_count_bucket=tuple(max(now - then, 0) for then, now in hops),
        start=before.current,
        current=after.current,
    )


def _counted(before: Statistics, after: Statistics) -> dict[str, Any]:
    return {name: max(getattr(after, name) - getattr(before, name), 0) for name in _COUNTED}


def _field(group: NodePackets | ClientPackets, name: str) -> int:
    number: int = getattr(group, name)
    return number
