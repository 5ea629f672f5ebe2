# SPDX-License-Identifier: GPL-3.0-or-later
"""Records as they lie in a TDB and travel between nodes, and the hash that names databases and lmasters.

Source: Samba's ctdb/protocol/protocol.h (ctdb_ltdb_header), ctdb/include/ctdb_protocol.h (ctdb_rec_data_old).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Buffer, Reader, Writer, encode_text, pack_numbers, unpack_numbers
from ctdbpy.wire.codecs import Structure

#: The key, with its NUL, under which persistent and replicated databases keep their sequence number, a u64.
SEQNUM_KEY: Final = b"__db_sequence_number__\0"

_HEADER: Final = struct.Struct("=QIII4x")
_REC_DATA: Final = struct.Struct("=IIII")
_REC_BUFFER: Final = struct.Struct("=II")

_U32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The 24 bytes before the data of every record in a CTDB database; a record of only these is deleted."""

    SIZE: ClassVar[int] = 24

    rsn: int = 0
    dmaster: int = 0
    reserved: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        return pack_numbers(_HEADER, (self.rsn, self.dmaster, self.reserved, self.flags), "RecordHeader")

    @classmethod
    def unpack(cls, data: Buffer, offset: int = 0) -> Self:
        return cls(*unpack_numbers(_HEADER, data, offset, "RecordHeader"))

    def write(self, writer: Writer) -> None:
        writer.raw(self.pack())

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls.unpack(reader.take(cls.SIZE, "header"))


@dataclass(frozen=True, slots=True)
class RecData(Structure):
    """A record on its way between nodes or to a client; `data` nearly always begins with its header."""

    SIZE_MIN: ClassVar[int] = _REC_DATA.size

    reqid: int
    key: bytes
    data: bytes

    @classmethod
    def of(cls, key: bytes, header: RecordHeader, value: bytes = b"", reqid: int = 0) -> Self:
        return cls(reqid, key, header.pack() + value)

    @property
    def header(self) -> RecordHeader:
        """The record header at the front of `data`.

        Raises:
            ProtocolError: `data` is shorter than a header.
        """
        return RecordHeader.unpack(self.data)

    @property
    def value(self) -> bytes:
        """What follows the record header in `data`; empty means deleted."""
        return self.data[RecordHeader.SIZE :]

    @property
    def is_end(self) -> bool:
        """Whether this is the empty record that ends a traverse."""
        return not self.key and not self.data

    def pack(self) -> bytes:
        keylen, datalen = len(self.key), len(self.data)
        numbers = (_REC_DATA.size + keylen + datalen, self.reqid, keylen, datalen)
        return pack_numbers(_REC_DATA, numbers, "RecData") + self.key + self.data

    @classmethod
    def unpack(cls, data: Buffer) -> Self:
        return cls.unpack_at(data, 0)[0]

    @classmethod
    def unpack_at(cls, data: Buffer, offset: int) -> tuple[Self, int]:
        """One record at `offset`, and the offset behind it: its own length says where that is."""
        length, reqid, keylen, datalen = unpack_numbers(_REC_DATA, data, offset, "RecData")
        if length > len(data) - offset:
            raise ProtocolError(
                f"cannot decode 'RecData': its length is {length}, {len(data) - offset} bytes are left"
            )
        if length < _REC_DATA.size + keylen + datalen:
            raise ProtocolError(
                f"cannot decode 'RecData': key and data of {keylen} + {datalen} bytes exceed length {length}"
            )
        start = offset + _REC_DATA.size
        middle, end = start + keylen, start + keylen + datalen
        return cls(reqid, bytes(data[start:middle]), bytes(data[middle:end])), offset + length

    def write(self, writer: Writer) -> None:
        writer.raw(self.pack())

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls.unpack(reader.rest())


@dataclass(frozen=True, slots=True)
class RecBuffer(Structure):
    """Records of one database back to back: what is pulled, pushed, committed and vacuumed."""

    db_id: int
    records: tuple[RecData, ...] = ()

    def pack(self) -> bytes:
        head = pack_numbers(_REC_BUFFER, (self.db_id, len(self.records)), "RecBuffer")
        return head + b"".join([record.pack() for record in self.records])

    @classmethod
    def unpack(cls, data: Buffer) -> Self:
        db_id, count = unpack_numbers(_REC_BUFFER, data, 0, "RecBuffer")
        if count * RecData.SIZE_MIN > len(data) - _REC_BUFFER.size:
            left = len(data) - _REC_BUFFER.size
            raise ProtocolError(f"cannot decode 'RecBuffer': {count} records do not fit in {left} bytes")
        offset = _REC_BUFFER.size
        records: list[RecData] = []
        for _ in range(count):
            record, offset = RecData.unpack_at(data, offset)
            records.append(record)
        return cls(db_id, tuple(records))

    def write(self, writer: Writer) -> None:
        writer.raw(self.pack())

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls.unpack(reader.rest())


def db_id_of(name: str) -> int:
    """The number a database is known by: the hash of its name with the NUL."""
    return jenkins_hash(encode_text(name, "database name") + b"\0")


def jenkins_hash(data: bytes) -> int:
    """The hash libtdb calls `tdb_jenkins_hash`: Bob Jenkins' lookup3, little end first, started with 0.

    `map[jenkins_hash(key) % size]` is a key's lmaster.
    """
    a = b = c = (0xDEADBEEF + len(data)) & _U32
    offset, left = 0, len(data)
    while left > 12:
        x, y, z = _WORDS.unpack_from(data, offset)
        a, b, c = _mix((a + x) & _U32, (b + y) & _U32, (c + z) & _U32)
        offset += 12
        left -= 12
    if not left:
        return c
    x, y, z = _WORDS.unpack(data[offset:].ljust(12, b"\0"))
    return _final((a + x) & _U32, (b + y) & _U32, (c + z) & _U32)


_WORDS: Final = struct.Struct("<III")


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _U32


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c & _U32) ^ _rotate(c, 4)
    c = c + b & _U32
    b = (b - a & _U32) ^ _rotate(a, 6)
    a = a + c & _U32
    c = (c - b & _U32) ^ _rotate(b, 8)
    b = b + a & _U32
    a = (a - c & _U32) ^ _rotate(c, 16)
    c = c + b & _U32
    b = (b - a & _U32) ^ _rotate(a, 19)
    a = a + c & _U32
    c = (c - b & _U32) ^ _rotate(b, 4)
    b = b + a & _U32
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = (c ^ b) - _rotate(b, 14) & _U32
    a = (a ^ c) - _rotate(c, 11) & _U32
    b = (b ^ a) - _rotate(a, 25) & _U32
    c = (c ^ b) - _rotate(b, 16) & _U32
    a = (a ^ c) - _rotate(c, 4) & _U32
    b = (b ^ a) - _rotate(a, 14) & _U32
    return (c ^ b) - _rotate(b, 24) & _U32
