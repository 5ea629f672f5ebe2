# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and answers about databases: which there are, traverse, recovery's pulls, vacuum, transactions.

Source: Samba's ctdb/protocol/protocol.h (ctdb_dbid_map to ctdb_push_record_data).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ctdbpy.wire.buffers import Reader, Writer, read_entries
from ctdbpy.wire.codecs import Numbers, Structure
from ctdbpy.wire.constants import LMASTER_ANY
from ctdbpy.wire.records import RecordHeader


@dataclass(frozen=True, slots=True)
class DbIdEntry(Numbers):
    SIZE: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IB3x")

    db_id: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class DbIdMap(Structure):
    """The databases a node has attached."""

    entries: tuple[DbIdEntry, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.entries), "num")
        for entry in self.entries:
            entry.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_entries(reader, DbIdEntry, reader.count(DbIdEntry.SIZE, "num")))


@dataclass(frozen=True, slots=True)
class KeyData(Structure):
    """A record by key and header: one that its owner has emptied and vacuum should remove."""

    db_id: int
    header: RecordHeader
    key: bytes

    def write(self, writer: Writer) -> None:
        writer.u32(self.db_id, "db_id").pad(4)
        self.header.write(writer)
        writer.counted(self.key, "key")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        db_id = reader.u32("db_id")
        reader.skip(4)
        return cls(db_id, RecordHeader.read(reader), reader.counted("key"))


@dataclass(frozen=True, slots=True)
class PushRecord(Structure):
    """A record for every active node to store at once, unless the generation has moved on."""

    generation: int
    db_id: int
    header: RecordHeader
    key: bytes
    value: bytes

    def write(self, writer: Writer) -> None:
        writer.u32(self.generation, "generation").u32(self.db_id, "db_id")
        self.header.write(writer)
        writer.counted(self.key, "key").counted(self.value, "value")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        generation, db_id = reader.u32("generation"), reader.u32("db_id")
        return cls(
            generation, db_id, RecordHeader.read(reader), reader.counted("key"), reader.counted("value")
        )


@dataclass(frozen=True, slots=True)
class TraverseStart(Numbers):
    """A client's wish to see every record of a database as messages to `srvid`."""

    SIZE: ClassVar[int] = 16
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IIQ")

    db_id: int
    reqid: int
    srvid: int


@dataclass(frozen=True, slots=True)
class TraverseStartExt(Numbers):
    SIZE: ClassVar[int] = 24
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IIQ?7x")

    db_id: int
    reqid: int
    srvid: int
    with_empty: bool = False


@dataclass(frozen=True, slots=True)
class TraverseAll(Numbers):
    """What the traversing node asks of every node: its records, as controls to `pnn` under `reqid`."""

    SIZE: ClassVar[int] = 24
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IIIIQ")

    db_id: int
    reqid: int
    pnn: int
    client_reqid: int
    srvid: int


@dataclass(frozen=True, slots=True)
class TraverseAllExt(Numbers):
    SIZE: ClassVar[int] = 32
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IIIIQ?7x")

    db_id: int
    reqid: int
    pnn: int
    client_reqid: int
    srvid: int
    with_empty: bool = False


@dataclass(frozen=True, slots=True)
class PullDbExt(Numbers):
    """Pull from or push to one database of a node, the records as messages to `srvid`."""

    SIZE: ClassVar[int] = 16
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IIQ")

    db_id: int
    lmaster: int = LMASTER_ANY
    srvid: int = 0


@dataclass(frozen=True, slots=True)
class TransDb(Numbers):
    """A database and the recovery transaction on it; the transaction's id is the new generation."""

    SIZE: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=II")

    db_id: int
    tid: int


@dataclass(frozen=True, slots=True)
class DbVacuum(Numbers):
    SIZE: ClassVar[int] = 5
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=I?")

    db_id: int
    full: bool = False
