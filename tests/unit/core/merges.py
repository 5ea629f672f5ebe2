# SPDX-License-Identifier: GPL-3.0-or-later
"""The table in which a recovery brings copies together, as a dictionary."""

from __future__ import annotations

from ctdbpy.wire.constants import RecordFlag
from ctdbpy.wire.records import RecBuffer, RecData, RecordHeader


class FakeMerge:
    """`store.merge` on a dictionary: the highest rsn wins, empty records are left out."""

    def __init__(self, db_id: int, leader: int, is_volatile: bool) -> None:
        self.db_id = db_id
        self.leader = leader
        self.is_volatile = is_volatile
        self.records: dict[bytes, RecData] = {}

    def add(self, buffer: bytes, pnn: int) -> int:
        received = RecBuffer.unpack(buffer)
        for record in received.records:
            old = self.records.get(record.key)
            if old is None or record.header.rsn > old.header.rsn:
                self.records[record.key] = record
        return len(received.records)

    def take(self, limit: int) -> tuple[bytes, int]:
        taken: list[RecData] = []
        size = 0
        while self.records and size < limit:
            key = next(iter(self.records))
            record = self.records.pop(key)
            if not record.value and self.is_volatile:
                continue
            header = record.header
            if self.is_volatile:
                flags = header.flags | RecordFlag.MIGRATED_WITH_DATA
                header = RecordHeader(header.rsn, self.leader, 0, flags)
            taken.append(RecData.of(key, header, record.value))
            size += len(record.data)
        return RecBuffer(self.db_id, tuple(taken)).pack(), len(taken)
