# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of a node and of a database, as `ctdb statistics` and `ctdb dbstatistics` show them.

Source: Samba's ctdb/protocol/protocol.h (ctdb_latency_counter, ctdb_statistics, ctdb_db_statistics).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from ctdbpy.wire.buffers import Reader, Writer, pack_numbers, read_entries
from ctdbpy.wire.codecs import Numbers, Structure
from ctdbpy.wire.nodes import NEVER, Timeval

BUCKETS: Final = 16
HOT_KEYS_MAX: Final = 10

_BUCKETS: Final = struct.Struct(f"={BUCKETS}I")
_NO_BUCKETS: Final = (0,) * BUCKETS


@dataclass(frozen=True, slots=True)
class LatencyCounter(Numbers):
    """How often something took time, and the seconds it took at least, at most and in all."""

    SIZE: ClassVar[int] = 32
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=i4xddd")

    num: int = 0
    min: float = 0.0
    max: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class NodePackets(Numbers):
    """Packets from and to other nodes by kind."""

    SIZE: ClassVar[int] = 36
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=9I")

    req_call: int = 0
    reply_call: int = 0
    req_dmaster: int = 0
    reply_dmaster: int = 0
    reply_error: int = 0
    req_message: int = 0
    req_control: int = 0
    reply_control: int = 0
    req_tunnel: int = 0


@dataclass(frozen=True, slots=True)
class ClientPackets(Numbers):
    """Packets from clients by kind."""

    SIZE: ClassVar[int] = 16
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=4I")

    req_call: int = 0
    req_message: int = 0
    req_control: int = 0
    req_tunnel: int = 0


@dataclass(frozen=True, slots=True)
class Timeouts(Numbers):
    SIZE: ClassVar[int] = 12
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=3I")

    call: int = 0
    control: int = 0
    traverse: int = 0


@dataclass(frozen=True, slots=True)
class LockStatistics(Structure):
    """Waits for locks, by result and by how long they took (bucket n: up to about 2**n ms)."""

    SIZE: ClassVar[int] = 112

    num_calls: int = 0
    num_current: int = 0
    num_pending: int = 0
    num_failed: int = 0
    latency: LatencyCounter = LatencyCounter()
    buckets: tuple[int, ...] = _NO_BUCKETS

    def write(self, writer: Writer) -> None:
        writer.u32(self.num_calls, "num_calls").u32(self.num_current, "num_current")
        writer.u32(self.num_pending, "num_pending").u32(self.num_failed, "num_failed")
        self.latency.write(writer)
        _write_buckets(writer, self.buckets)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        calls, current = reader.u32("num_calls"), reader.u32("num_current")
        pending, failed = reader.u32("num_pending"), reader.u32("num_failed")
        return cls(calls, current, pending, failed, LatencyCounter.read(reader), _read_buckets(reader))


@dataclass(frozen=True, slots=True)
class Statistics(Structure):
    """Everything a node counts, since `start` and as of `current`."""

    SIZE: ClassVar[int] = 488

    num_clients: int = 0
    frozen: int = 0
    recovering: int = 0
    client_packets_sent: int = 0
    client_packets_recv: int = 0
    node_packets_sent: int = 0
    node_packets_recv: int = 0
    keepalive_packets_sent: int = 0
    keepalive_packets_recv: int = 0
    node: NodePackets = NodePackets()
    client: ClientPackets = ClientPackets()
    timeouts: Timeouts = Timeouts()
    reclock_ctdbd: LatencyCounter = LatencyCounter()
    reclock_recd: LatencyCounter = LatencyCounter()
    locks: LockStatistics = LockStatistics()
    total_calls: int = 0
    pending_calls: int = 0
    childwrite_calls: int = 0
    pending_childwrite_calls: int = 0
    memory_used: int = 0
    last_counter: int = 0
    max_hop_count: int = 0
    hop_count_bucket: tuple[int, ...] = _NO_BUCKETS
    call_latency: LatencyCounter = LatencyCounter()
    childwrite_latency: LatencyCounter = LatencyCounter()
    num_recoveries: int = 0
    start: Timeval = NEVER
    current: Timeval = NEVER
    total_ro_delegations: int = 0
    total_ro_revokes: int = 0

    def write(self, writer: Writer) -> None:
        for name in _STATISTICS_HEAD:
            writer.u32(getattr(self, name), name)
        for group in (self.node, self.client, self.timeouts):
            group.write(writer)
        writer.pad(4)
        for part in (self.reclock_ctdbd, self.reclock_recd, self.locks):
            part.write(writer)
        for name in _STATISTICS_CALLS:
            writer.u32(getattr(self, name), name)
        _write_buckets(writer, self.hop_count_bucket)
        writer.pad(4)
        self.call_latency.write(writer)
        self.childwrite_latency.write(writer)
        writer.u32(self.num_recoveries, "num_recoveries").pad(4)
        self.start.write(writer)
        self.current.write(writer)
        writer.u32(self.total_ro_delegations, "total_ro_delegations")
        writer.u32(self.total_ro_revokes, "total_ro_revokes")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        values: list[Any] = [reader.u32(name) for name in _STATISTICS_HEAD]
        values += NodePackets.read(reader), ClientPackets.read(reader), Timeouts.read(reader)
        reader.skip(4)
        values += LatencyCounter.read(reader), LatencyCounter.read(reader), LockStatistics.read(reader)
        values += [reader.u32(name) for name in _STATISTICS_CALLS]
        values.append(_read_buckets(reader))
        reader.skip(4)
        values += LatencyCounter.read(reader), LatencyCounter.read(reader)
        values.append(reader.u32("num_recoveries"))
        reader.skip(4)
        values += Timeval.read(reader), Timeval.read(reader)
        values += reader.u32("total_ro_delegations"), reader.u32("total_ro_revokes")
        return cls(*values)


_STATISTICS_HEAD: Final = (
    "num_clients",
    "frozen",
    "recovering",
    "client_packets_sent",
    "client_packets_recv",
    "node_packets_sent",
    "node_packets_recv",
    "keepalive_packets_sent",
    "keepalive_packets_recv",
)
_STATISTICS_CALLS: Final = (
    "total_calls",
    "pending_calls",
    "childwrite_calls",
    "pending_childwrite_calls",
    "memory_used",
    "last_counter",
    "max_hop_count",
)


@dataclass(frozen=True, slots=True)
class StatisticsList(Structure):
    """A node's counters interval by interval, newest first; upstream always sends 100."""

    entries: tuple[Statistics, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.i32(len(self.entries), "num").pad(4)
        for entry in self.entries:
            entry.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        number = reader.i32("num")
        reader.skip(4)
        reader.check_count(number, Statistics.SIZE, "num")
        return cls(read_entries(reader, Statistics, number))


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key that migrates often; `count` is its hops."""

    count: int
    key: bytes


@dataclass(frozen=True, slots=True)
class DbStatistics(Structure):
    """The counters of one database; slots for hot keys that are empty are left out of `hot_keys`."""

    locks: LockStatistics = LockStatistics()
    vacuum: LatencyCounter = LatencyCounter()
    db_ro_delegations: int = 0
    db_ro_revokes: int = 0
    hop_count_bucket: tuple[int, ...] = _NO_BUCKETS
    hot_keys: tuple[HotKey, ...] = ()

    def write(self, writer: Writer) -> None:
        if len(self.hot_keys) > HOT_KEYS_MAX:
            raise writer.error("hot_keys", f"{len(self.hot_keys)} are more than {HOT_KEYS_MAX}")
        self.locks.write(writer)
        self.vacuum.write(writer)
        writer.u32(self.db_ro_delegations, "db_ro_delegations").u32(self.db_ro_revokes, "db_ro_revokes")
        _write_buckets(writer, self.hop_count_bucket)
        # Upstream says ten whatever is in use, and its readers always read ten slots.
        writer.u32(HOT_KEYS_MAX, "num_hot_keys").pad(4)
        for slot in range(HOT_KEYS_MAX):
            hot = self.hot_keys[slot] if slot < len(self.hot_keys) else HotKey(0, b"")
            writer.u32(hot.count, "count").pad(4)
            writer.pad(8)  # a pointer in the sender's memory
            writer.u64(len(hot.key), "keylen")
        for hot in self.hot_keys:
            writer.raw(hot.key)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        locks, vacuum = LockStatistics.read(reader), LatencyCounter.read(reader)
        delegations, revokes = reader.u32("db_ro_delegations"), reader.u32("db_ro_revokes")
        hops = _read_buckets(reader)
        number = reader.u32("num_hot_keys")
        if number > HOT_KEYS_MAX:
            raise reader.error("num_hot_keys", f"{number} are more than {HOT_KEYS_MAX}")
        reader.skip(4)
        slots: list[tuple[int, int]] = []
        for _ in range(HOT_KEYS_MAX):
            count = reader.u32("count")
            reader.skip(12, "pointer")
            slots.append((count, reader.u64("keylen")))
        keys = tuple(HotKey(count, reader.take(keylen, "key")) for count, keylen in slots)
        return cls(
            locks, vacuum, delegations, revokes, hops, tuple(hot for hot in keys if hot.count or hot.key)
        )


def _write_buckets(writer: Writer, buckets: tuple[int, ...]) -> None:
    writer.raw(pack_numbers(_BUCKETS, buckets, "buckets"))


def _read_buckets(reader: Reader) -> tuple[int, ...]:
    return _BUCKETS.unpack(reader.take(_BUCKETS.size, "buckets"))
