# SPDX-License-Identifier: GPL-3.0-or-later
"""What only daemons of this program say to each other and to their tools; upstream's refuse or ignore it.

Source: docs/protocol.md, "Own controls and messages".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, Self

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.addresses import Connection, SockAddr
from ctdbpy.wire.buffers import Reader, Writer, decode_text, encode_text, read_entries
from ctdbpy.wire.codecs import Numbers, Structure


@dataclass(frozen=True, slots=True)
class DbGeneration(Numbers):
    """The recovery a node's copy of a database has been through; INVALID_GENERATION: none that counts."""

    SIZE: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=II")

    db_id: int
    generation: int


@dataclass(frozen=True, slots=True)
class DbGenerations(Structure):
    """The same of every database that a node has attached."""

    entries: tuple[DbGeneration, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.entries), "num")
        for entry in self.entries:
            entry.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_entries(reader, DbGeneration, reader.count(DbGeneration.SIZE, "num")))


#: More of a reason's text is cut off, in bytes of UTF-8.
REASON_TEXT_MAX: Final = 512
#: What a node says of itself has at most an entry for each flag, and one for standing still.
ACCOUNT_MAX: Final = 16
_KIND_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Reason(Structure):
    """Something that happened to a node, and why.

    `source` is the node that says so, whose clock `wall_us` is (microseconds since 1970).
    flags: of a reason that stands the flag it is about, 0 for none; of an event those the node wore then.
    kind: a word that sorts events, such as `flags`, `ban`, `recovery`.
    """

    wall_us: int
    pnn: int
    source: int
    flags: int
    kind: str
    text: str

    SIZE_MIN: ClassVar[int] = 28

    def write(self, writer: Writer) -> None:
        kind, text = encode_text(self.kind, "kind"), encode_text(self.text)
        if len(kind) > _KIND_MAX or len(text) > REASON_TEXT_MAX:
            raise ProtocolError(f"cannot encode 'Reason': {len(kind)} + {len(text)} bytes of text")
        writer.u64(self.wall_us, "wall_us")
        writer.u32(self.pnn, "pnn").u32(self.source, "source").u32(self.flags, "flags")
        writer.counted(kind, "kind").counted(text, "text")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        wall_us = reader.u64("wall_us")
        pnn, source, flags = reader.u32("pnn"), reader.u32("source"), reader.u32("flags")
        return cls(wall_us, pnn, source, flags, _read_text(reader, "kind", _KIND_MAX), _read_text(reader))


def _read_text(reader: Reader, field: str = "text", limit: int = REASON_TEXT_MAX) -> str:
    length = reader.u32(field)
    if length > limit:
        raise reader.error(field, f"{length} bytes, no more than {limit} are allowed")
    return decode_text(reader.take(length, field))


def reason_text(text: str) -> str:
    """Text as a reason may carry it: one line of printable characters, cut to the limit."""
    if text.isprintable() and len(text) * 4 <= REASON_TEXT_MAX:
        return text
    text = "".join(each if each.isprintable() else "?" for each in text)
    data = text.encode()
    if len(data) <= REASON_TEXT_MAX:
        return text
    return data[: REASON_TEXT_MAX - 3].decode(errors="ignore") + "…"


@dataclass(frozen=True, slots=True)
class Reasons(Structure):
    entries: tuple[Reason, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.entries), "num")
        for entry in self.entries:
            entry.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_entries(reader, Reason, reader.count(Reason.SIZE_MIN, "num")))


@dataclass(frozen=True, slots=True)
class ReasonReport(Structure):
    """Why nodes are as they are (`standing`), and what led to it (`events`, the newest last)."""

    standing: Reasons = Reasons()
    events: Reasons = Reasons()

    def write(self, writer: Writer) -> None:
        self.standing.write(writer)
        self.events.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(Reasons.read(reader), Reasons.read(reader))


@dataclass(frozen=True, slots=True)
class Placement(Structure):
    """Why a public address is where it is: `pnn` of the reason is who has it, UNKNOWN_PNN if nobody."""

    address: SockAddr
    reason: Reason

    SIZE_MIN: ClassVar[int] = SockAddr.SIZE + Reason.SIZE_MIN

    def write(self, writer: Writer) -> None:
        self.address.write(writer)
        self.reason.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(SockAddr.read(reader), Reason.read(reader))


@dataclass(frozen=True, slots=True)
class Placements(Structure):
    """Several. is_news: they have just been decided on; if not, who knows a later one keeps that."""

    is_news: bool = False
    entries: tuple[Placement, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(int(self.is_news), "is_news")
        writer.u32(len(self.entries), "num")
        for entry in self.entries:
            entry.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        is_news = reader.u32("is_news")
        return cls(bool(is_news), read_entries(reader, Placement, reader.count(Placement.SIZE_MIN, "num")))


#: So many connections are named; more are only counted.
CONNECTIONS_NAMED_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class ServedConnections(Structure):
    """How many clients' connections to public addresses a node's programs serve, and the first of them."""

    count: int = 0
    first: tuple[Connection, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(self.count, "count")
        writer.u32(len(self.first), "num")
        for connection in self.first:
            connection.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        count = reader.u32("count")
        return cls(count, read_entries(reader, Connection, reader.count(Connection.SIZE, "num")))


#: More text about a configuration does not go into one packet, in bytes of UTF-8.
CONFIGURATION_TEXT_MAX: Final = 1 << 22


#: What a node calls a cluster file that it was given, in front of a line's number.
GIVEN_FILE: Final = "cluster.yaml"


class ConfigurationAction(IntEnum):
    """What a node is to do about its configuration."""

    READ = 0
    """Read the files that it would start with."""
    CHECK = 1
    """See whether a cluster file would do."""
    STORE = 2
    """Keep the cluster file, if it would do."""


@dataclass(frozen=True, slots=True)
class ConfigurationRequest(Structure):
    """`text` is that of the cluster file to CHECK or STORE."""

    action: int
    text: str = ""

    def write(self, writer: Writer) -> None:
        writer.u32(self.action, "action")
        _write_long(writer, self.text, "text")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.u32("action"), _read_text(reader, "text", CONFIGURATION_TEXT_MAX))


@dataclass(frozen=True, slots=True)
class ConfigurationReport(Structure):
    """How a node runs, and how it would with the files or the text it was asked about.

    wall_us: the node's clock, microseconds since 1970. source: where its configuration comes from.
    running and found: facts, each a line `NAME = VALUE`; found is empty if there are problems.
    problems and notes: lines.
    """

    wall_us: int
    source: str = ""
    running: str = ""
    found: str = ""
    problems: str = ""
    notes: str = ""

    def write(self, writer: Writer) -> None:
        writer.u64(self.wall_us, "wall_us")
        for field in ("source", "running", "found", "problems", "notes"):
            _write_long(writer, getattr(self, field), field)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        wall_us = reader.u64("wall_us")
        fields = ("source", "running", "found", "problems", "notes")
        return cls(wall_us, *(_read_text(reader, field, CONFIGURATION_TEXT_MAX) for field in fields))


def _write_long(writer: Writer, text: str, field: str) -> None:
    data = encode_text(text, field)
    if len(data) > CONFIGURATION_TEXT_MAX:
        raise ProtocolError(f"cannot encode field '{field}': {len(data)} bytes of text")
    writer.counted(data, field)
