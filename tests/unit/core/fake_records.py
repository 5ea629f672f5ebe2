# SPDX-License-Identifier: GPL-3.0-or-later
"""A record engine made of dictionaries, honest about what it keeps."""

from __future__ import annotations

from collections.abc import Iterable

from ctdbpy.core.ports import Busy
from ctdbpy.errors import StoreError
from ctdbpy.wire.constants import (
    DbFlag,
    RecordFlag,
    TdbFlag,
)
from ctdbpy.wire.records import RecData, RecordHeader

Latency = tuple[int, float, float, float]


class FakeDatabase:
    """An open file: its records with headers, and what is locked."""

    def __init__(self, name: str, flags: int) -> None:
        self.name = name
        self.flags = flags
        self.records: dict[bytes, bytes] = {}
        self.locked: set[bytes] = set()
        self.deletions: dict[bytes, bytes] = {}
        self.seqnum = 0
        self.counts = False
        self.frozen = False
        self.generation = 0


class FakeRecords:
    """`core.ports.Records` on dictionaries. `refused` are names whose files cannot be opened."""

    def __init__(self, pnn: int = 0) -> None:
        self.pnn = pnn
        self.databases: dict[int, FakeDatabase] = {}
        self.refused: dict[str, str] = {}
        self.generation = 0
        self.lmasters: tuple[int, ...] = ()
        self.flags: tuple[int, ...] = ()
        self.tunables: dict[str, int] = {}
        self.recovering = False
        self.srvids: dict[int, list[int]] = {}
        self.tunnels: dict[int, int] = {}
        self.traverses: dict[int, tuple[int, int, int]] = {}
        self.to_clients: list[tuple[int, int, RecData]] = []
        self.to_nodes: list[tuple[int, int, bytes, bool]] = []
        self.fetched: list[tuple[int, bytes]] = []
        self.revocations: list[tuple[int, bytes, bool]] = []
        self.packets: dict[int, int] = {}
        self.counted: dict[str, int] = {"client_packets_recv": 0}
        self.resets = 0

    def set_map(self, generation: int, lmasters: tuple[int, ...]) -> None:
        self.generation, self.lmasters = generation, lmasters

    def set_nodes(self, flags: tuple[int, ...]) -> None:
        self.flags = flags

    def set_tunables(self, values: tuple[tuple[str, int], ...]) -> None:
        self.tunables = dict(values)

    def set_recovery(self, active: bool) -> None:
        self.recovering = active

    def attach(self, db_id: int, name: str, flags: int) -> None:
        if name in self.refused:
            raise StoreError(f"cannot open {name!r}: {self.refused[name]}")
        assert db_id not in self.databases
        self.databases[db_id] = FakeDatabase(name, flags)

    def detach(self, db_id: int) -> None:
        del self.databases[db_id]

    def path(self, db_id: int) -> str:
        return f"/var/lib/ctdb/volatile/{self.databases[db_id].name}.{self.pnn}"

    def open_flags(self, db_id: int) -> int:
        if self.databases[db_id].flags & DbFlag.PERSISTENT:
            return int(TdbFlag.DISALLOW_NESTING)
        return int(
            TdbFlag.NOSYNC
            | TdbFlag.CLEAR_IF_FIRST
            | TdbFlag.INCOMPATIBLE_HASH
            | TdbFlag.DISALLOW_NESTING
            | TdbFlag.MUTEX_LOCKING
        )

    def set_db_flags(self, db_id: int, flags: int) -> None:
        self.databases[db_id].flags = flags

    def set_db_generation(self, db_id: int, generation: int) -> None:
        self.databases[db_id].generation = generation

    def set_frozen(self, db_id: int, frozen: bool) -> None:
        self.databases[db_id].frozen = frozen

    def fetch(self, db_id: int, key: bytes) -> bytes | None:
        database = self.databases[db_id]
        if key in database.locked:
            raise Busy
        return database.records.get(key)

    def tdb_seqnum(self, db_id: int) -> int:
        return self.databases[db_id].seqnum

    def enable_seqnum(self, db_id: int) -> None:
        self.databases[db_id].counts = True

    def bump_seqnum(self, db_id: int) -> None:
        database = self.databases[db_id]
        database.seqnum += database.counts

    def schedule_deletion(self, db_id: int, header: bytes, key: bytes) -> None:
        assert len(header) == RecordHeader.SIZE
        self.databases[db_id].deletions[key] = header

    def take_deletions(self, db_id: int, limit: int) -> list[tuple[bytes, bytes]]:
        queue = self.databases[db_id].deletions
        return [(key, queue.pop(key)) for key in list(queue)[:limit]]

    def delete_if_unchanged(self, db_id: int, key: bytes, header: bytes) -> bool:
        database = self.databases[db_id]
        if key in database.locked or database.records.get(key) != header:
            return False
        if RecordHeader.unpack(header).dmaster != self.pnn:
            return False
        del database.records[key]
        return True

    def try_delete(self, db_id: int, key: bytes, rsn: int) -> bool:
        database = self.databases[db_id]
        stored = database.records.get(key)
        if stored is None:
            return True
        header = RecordHeader.unpack(stored)
        if key in database.locked or header.rsn > rsn or header.dmaster == self.pnn:
            return False
        if header.flags & RecordFlag.RO_FLAGS:
            return False
        del database.records[key]
        return True

    def vacuum_fetch(self, db_id: int, key: bytes) -> None:
        self.fetched.append((db_id, key))

    def note_vacuum(self, db_id: int, duration_s: float) -> None:
        assert duration_s >= 0
        self.counted[f"vacuum {db_id}"] = self.counted.get(f"vacuum {db_id}", 0) + 1

    def revoked(self, db_id: int, key: bytes, good: bool) -> None:
        self.revocations.append((db_id, key, good))

    def packets_from(self, pnn: int) -> int:
        return self.packets.get(pnn, 0)

    def register_srvid(self, client_id: int, srvid: int) -> None:
        self.srvids.setdefault(client_id, []).append(srvid)

    def deregister_srvid(self, client_id: int, srvid: int) -> bool:
        if not self.has_srvid(client_id, srvid):
            return False
        self.srvids[client_id].remove(srvid)
        return True

    def has_srvid(self, client_id: int, srvid: int) -> bool:
        return srvid in self.srvids.get(client_id, [])

    def register_tunnel(self, client_id: int, tunnel_id: int) -> bool:
        return self.tunnels.setdefault(tunnel_id, client_id) == client_id

    def deregister_tunnel(self, client_id: int, tunnel_id: int) -> bool:
        if self.tunnels.get(tunnel_id) != client_id:
            return False
        del self.tunnels[tunnel_id]
        return True

    def open_traverse(self, traverse_id: int, client_id: int, srvid: int, reqid: int) -> None:
        self.traverses[traverse_id] = (client_id, srvid, reqid)

    def close_traverse(self, traverse_id: int, finish: bool) -> None:
        client_id, srvid, reqid = self.traverses.pop(traverse_id)
        if finish:
            self.to_clients.append((client_id, srvid, RecData(reqid, b"", b"")))

    def forward_traverse(self, traverse_id: int, part: bytes) -> None:
        client_id, srvid, reqid = self.traverses[traverse_id]
        for record in each_record(part):
            self.to_clients.append((client_id, srvid, RecData(reqid, record.key, record.data)))

    def send_traverse(self, pnn: int, traverse_id: int, part: bytes, last: bool) -> None:
        self.to_nodes.append((pnn, traverse_id, part, last))

    def counters(self) -> dict[str, int]:
        return dict(self.counted)

    def latencies(self) -> dict[str, Latency]:
        return {"call": (2, 0.1, 0.3, 0.4)}

    def buckets(self) -> dict[str, tuple[int, ...]]:
        return {"hop_count": (1,) * 16, "locks": (2,) * 16}

    def db_counters(self, db_id: int) -> dict[str, int]:
        return {"locks.num_calls": 3}

    def db_latencies(self, db_id: int) -> dict[str, Latency]:
        return {"lock": (1, 0.5, 0.5, 0.5)}

    def db_buckets(self, db_id: int) -> dict[str, tuple[int, ...]]:
        return {"hop_count": (4,) * 16}

    def hot_keys(self, db_id: int) -> list[tuple[int, bytes]]:
        return [(1, b"cool"), (9, b"hot")]

    def reset_counters(self) -> None:
        self.resets += 1
        self.counted = {}


def each_record(part: bytes) -> Iterable[RecData]:
    """Back-to-back records."""
    offset = 0
    while offset < len(part):
        record, offset = RecData.unpack_at(part, offset)
        yield record
