# SPDX-License-Identifier: GPL-3.0-or-later
"""What only daemons of this program say to each other and to their tools; upstream's refuse or ignore it.

Source: docs/protocol.md, "Own controls and messages".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ctdbpy.wire.buffers import Reader, Writer, read_entries
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
