# SPDX-License-Identifier: GPL-3.0-or-later
"""Structures about one client or one value: tunables by name, notifications, processes, echo, g_lock.

Source: Samba's ctdb/protocol/protocol.h (ctdb_tunable to ctdb_g_lock_list).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ctdbpy.wire.buffers import Reader, Writer, encode_text
from ctdbpy.wire.codecs import Numbers, Structure


@dataclass(frozen=True, slots=True)
class TunableValue(Structure):
    """A tunable to set."""

    name: str
    value: int

    def write(self, writer: Writer) -> None:
        writer.u32(self.value, "value")
        writer.counted(encode_text(self.name, "tunable name") + b"\0", "name")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        value = reader.u32("value")
        return cls(reader.string(reader.u32("len"), "name"), value)


@dataclass(frozen=True, slots=True)
class VarList(Structure):
    """Names joined by colons; like upstream's daemon we begin with a colon, and readers skip empty names."""

    names: tuple[str, ...] = ()

    def write(self, writer: Writer) -> None:
        text = b":".join([b"", *(encode_text(name, "variable name") for name in self.names)])
        writer.counted(text + b"\0", "names")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        text = reader.string(reader.u32("len"), "names")
        return cls(tuple(name for name in text.split(":") if name))


@dataclass(frozen=True, slots=True)
class NotifyData(Structure):
    """A message a client leaves with the daemon, to be sent to `srvid` when the client is gone."""

    srvid: int
    data: bytes = b""

    def write(self, writer: Writer) -> None:
        writer.u64(self.srvid, "srvid").counted(self.data, "data")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.u64("srvid"), reader.counted("data"))


@dataclass(frozen=True, slots=True)
class EchoData(Structure):
    """Data to be sent back after so many seconds."""

    timeout_s: int
    data: bytes = b""

    def write(self, writer: Writer) -> None:
        writer.u32(self.timeout_s, "timeout").counted(self.data, "data")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.u32("timeout"), reader.counted("data"))


@dataclass(frozen=True, slots=True)
class PidSrvid(Numbers):
    """A process and the unique number it has registered; 12 bytes, the second field unaligned."""

    SIZE: ClassVar[int] = 12
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=iQ")

    pid: int
    srvid: int


@dataclass(frozen=True, slots=True)
class ServerId(Numbers):
    """A process of Samba anywhere in the cluster."""

    SIZE: ClassVar[int] = 24
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QIIQ")

    pid: int
    task_id: int
    vnn: int
    unique_id: int


@dataclass(frozen=True, slots=True)
class GLock(Structure):
    """One holder of a g_lock as upstream's tool writes it, which is not how Samba does."""

    SIZE: ClassVar[int] = 32

    is_write: bool
    server_id: ServerId

    def write(self, writer: Writer) -> None:
        writer.u32(int(self.is_write), "type").pad(4)
        self.server_id.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        kind = reader.u32("type")
        if kind > 1:
            raise reader.error("type", f"{kind} is neither 0 (read) nor 1 (write)")
        reader.skip(4)
        return cls(kind == 1, ServerId.read(reader))


@dataclass(frozen=True, slots=True)
class GLockRecord(Structure):
    """The holders of a g_lock, filling a record's data without a count."""

    locks: tuple[GLock, ...] = ()

    def write(self, writer: Writer) -> None:
        for lock in self.locks:
            lock.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        locks: list[GLock] = []
        while reader.remaining:
            locks.append(GLock.read(reader))
        return cls(tuple(locks))
