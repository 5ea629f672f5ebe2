# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of the cluster: who they are, what flags they wear, who leads them, and the messages between leaders.

Source: Samba's ctdb/protocol/protocol.h (ctdb_vnn_map to ctdb_disable_message).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from ctdbpy.wire.addresses import SockAddr
from ctdbpy.wire.buffers import Reader, Writer, read_entries
from ctdbpy.wire.codecs import Numbers, Structure
from ctdbpy.wire.constants import INVALID_GENERATION


@dataclass(frozen=True, slots=True, order=True)
class Timeval(Numbers):
    """A point in time since 1970; all zero means never."""

    SIZE: ClassVar[int] = 16
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=qq")

    sec: int = 0
    usec: int = 0

    @classmethod
    def of(cls, time_s: float) -> Self:
        """From seconds, rounded to microseconds."""
        sec, usec = divmod(round(time_s * 1_000_000), 1_000_000)
        return cls(sec, usec)

    @property
    def time_s(self) -> float:
        return self.sec + self.usec / 1_000_000


NEVER: Final = Timeval()


@dataclass(frozen=True, slots=True)
class VnnMap(Structure):
    """The lmasters, and the generation of the recovery that chose them."""

    generation: int = INVALID_GENERATION
    map: tuple[int, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(self.generation, "generation").u32(len(self.map), "size")
        for pnn in self.map:
            writer.u32(pnn, "map")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        generation, size = reader.u32("generation"), reader.count(4, "size")
        return cls(generation, tuple(reader.u32("map") for _ in range(size)))


@dataclass(frozen=True, slots=True)
class NodeEntry(Structure):
    """A node of the nodes file; a deleted one keeps its number and has the address 0.0.0.0."""

    SIZE: ClassVar[int] = 36

    pnn: int
    flags: int
    address: SockAddr

    def write(self, writer: Writer) -> None:
        writer.u32(self.pnn, "pnn").u32(self.flags, "flags")
        self.address.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.u32("pnn"), reader.u32("flags"), SockAddr.read(reader))


@dataclass(frozen=True, slots=True)
class NodeMap(Structure):
    nodes: tuple[NodeEntry, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u32(len(self.nodes), "num")
        for node in self.nodes:
            node.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(read_entries(reader, NodeEntry, reader.count(NodeEntry.SIZE, "num")))


@dataclass(frozen=True, slots=True)
class NodeFlagChange(Numbers):
    SIZE: ClassVar[int] = 12
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=III")

    pnn: int
    new_flags: int
    old_flags: int


@dataclass(frozen=True, slots=True)
class BanState(Numbers):
    """Who is banned and for how many seconds; 0 is not, or no longer, banned."""

    SIZE: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=II")

    pnn: int
    time_s: int


@dataclass(frozen=True, slots=True)
class Uptime(Structure):
    SIZE: ClassVar[int] = 64

    now: Timeval
    start: Timeval
    recovery_start: Timeval = NEVER
    recovery_end: Timeval = NEVER

    def write(self, writer: Writer) -> None:
        for moment in (self.now, self.start, self.recovery_start, self.recovery_end):
            moment.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(Timeval.read(reader), Timeval.read(reader), Timeval.read(reader), Timeval.read(reader))


@dataclass(frozen=True, slots=True)
class ElectionMessage(Structure):
    """A candidate's claim to lead: more connected nodes win, then the earlier `priority_time`."""

    SIZE: ClassVar[int] = 32

    num_connected: int
    priority_time: Timeval
    pnn: int
    node_flags: int

    def write(self, writer: Writer) -> None:
        writer.u32(self.num_connected, "num_connected").pad(4)
        self.priority_time.write(writer)
        writer.u32(self.pnn, "pnn").u32(self.node_flags, "node_flags")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        num_connected = reader.u32("num_connected")
        reader.skip(4)
        return cls(num_connected, Timeval.read(reader), reader.u32("pnn"), reader.u32("node_flags"))


@dataclass(frozen=True, slots=True)
class SrvidMessage(Numbers):
    """Where to send the answer of a message that asks for something; srvid 0 wants none."""

    SIZE: ClassVar[int] = 16
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=I4xQ")

    pnn: int
    srvid: int


@dataclass(frozen=True, slots=True)
class DisableMessage(Numbers):
    """Ask a leader to leave out takeover runs or recoveries for some seconds; 0 enables them again."""

    SIZE: ClassVar[int] = 24
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=I4xQI4x")

    pnn: int
    srvid: int
    timeout_s: int
