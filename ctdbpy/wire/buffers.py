# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and write the protocol's integers, strings and paddings: the one place where lengths are believed."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, Protocol, Self, TypeVar

from ctdbpy.errors import ProtocolError

Buffer = bytes | bytearray | memoryview

_U8: Final = struct.Struct("=B")
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_I32: Final = struct.Struct("=i")
_U64: Final = struct.Struct("=Q")
_I64: Final = struct.Struct("=q")
_F64: Final = struct.Struct("=d")


class Reader:
    """Read a structure from front to back; whatever is missing raises `ProtocolError` naming the field.

    `what` names the thing that is being read in those errors.
    """

    __slots__ = ("_data", "_end", "_offset", "_what")

    def __init__(self, data: Buffer, what: str = "data") -> None:
        self._data = memoryview(data)
        self._end = len(self._data)
        self._offset = 0
        self._what = what

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def remaining(self) -> int:
        return self._end - self._offset

    def u8(self, field: str = "u8") -> int:
        return self._number(_U8, field)

    def u16(self, field: str = "u16") -> int:
        return self._number(_U16, field)

    def u32(self, field: str = "u32") -> int:
        return self._number(_U32, field)

    def i32(self, field: str = "i32") -> int:
        return self._number(_I32, field)

    def u64(self, field: str = "u64") -> int:
        return self._number(_U64, field)

    def i64(self, field: str = "i64") -> int:
        return self._number(_I64, field)

    def f64(self, field: str = "f64") -> float:
        number: float = _F64.unpack_from(self._data, self._advance(8, field))[0]
        return number

    def take(self, count: int, field: str = "bytes") -> bytes:
        start = self._advance(count, field)
        return bytes(self._data[start : start + count])

    def skip(self, count: int, field: str = "padding") -> None:
        self._advance(count, field)

    def align(self, boundary: int, field: str = "padding") -> None:
        """Skip to the next multiple of `boundary`, counted from the start of the data."""
        self._advance(-self._offset % boundary, field)

    def rest(self) -> bytes:
        """Take everything that is left, which may be nothing."""
        return self.take(self.remaining)

    def count(self, size_min: int, field: str = "count") -> int:
        """Read a u32 that counts entries of at least `size_min` bytes, and refuse more than can follow."""
        number = self.u32(field)
        self.check_count(number, size_min, field)
        return number

    def check_count(self, number: int, size_min: int, field: str = "count") -> None:
        """Refuse a number of entries that cannot fit in the bytes left: asked before a list is begun."""
        if number < 0 or number * size_min > self.remaining:
            raise self.error(
                field,
                f"{number} entries of at least {size_min} bytes do not fit in the {self.remaining} left",
            )

    def counted(self, field: str = "bytes") -> bytes:
        """Read a u32 length and that many bytes."""
        return self.take(self.u32(field), field)

    def string(self, count: int, field: str = "string") -> str:
        """Read `count` bytes of text that ends at its first NUL, or at their end as upstream accepts."""
        return decode_text(self.take(count, field))

    def error(self, field: str, reason: str) -> ProtocolError:
        return ProtocolError(f"cannot decode {self._what!r}: field {field!r}: {reason}")

    def _number(self, form: struct.Struct, field: str) -> int:
        number: int = form.unpack_from(self._data, self._advance(form.size, field))[0]
        return number

    def _advance(self, count: int, field: str) -> int:
        start = self._offset
        if count < 0 or count > self._end - start:
            raise self.error(field, f"it needs {count} bytes at offset {start}, {self._end - start} are left")
        self._offset = start + count
        return start


class Writer:
    """Write a structure from front to back; a number that does not fit its field raises `ProtocolError`."""

    __slots__ = ("_data", "_what")

    def __init__(self, what: str = "data") -> None:
        self._data = bytearray()
        self._what = what

    def __len__(self) -> int:
        return len(self._data)

    def u8(self, number: int, field: str = "u8") -> Self:
        return self._number(_U8, number, field)

    def u16(self, number: int, field: str = "u16") -> Self:
        return self._number(_U16, number, field)

    def u32(self, number: int, field: str = "u32") -> Self:
        return self._number(_U32, number, field)

    def i32(self, number: int, field: str = "i32") -> Self:
        return self._number(_I32, number, field)

    def u64(self, number: int, field: str = "u64") -> Self:
        return self._number(_U64, number, field)

    def i64(self, number: int, field: str = "i64") -> Self:
        return self._number(_I64, number, field)

    def f64(self, number: float, field: str = "f64") -> Self:
        return self._number(_F64, number, field)

    def raw(self, data: Buffer) -> Self:
        self._data += data
        return self

    def pad(self, count: int) -> Self:
        self._data += bytes(count)
        return self

    def align(self, boundary: int) -> Self:
        """Write zeros up to the next multiple of `boundary`, counted from the start of the data."""
        return self.pad(-len(self._data) % boundary)

    def counted(self, data: bytes, field: str = "bytes") -> Self:
        """Write a u32 length and the bytes."""
        return self.u32(len(data), field).raw(data)

    def string(self, text: str, field: str = "string") -> Self:
        """Write text and its NUL."""
        self._data += encode_text(text, f"{self._what}.{field}") + b"\0"
        return self

    def getvalue(self) -> bytes:
        return bytes(self._data)

    def error(self, field: str, reason: str) -> ProtocolError:
        return ProtocolError(f"cannot encode {self._what!r}: field {field!r}: {reason}")

    def _number(self, form: struct.Struct, number: float, field: str) -> Self:
        try:
            self._data += form.pack(number)
        except struct.error as reason:
            raise self.error(field, f"{number!r} does not fit: {reason}") from None
        return self


class Readable(Protocol):
    @classmethod
    def read(cls, reader: Reader) -> Self: ...


_T = TypeVar("_T", bound=Readable)


def read_entries(reader: Reader, kind: type[_T], number: int) -> tuple[_T, ...]:
    """Read `number` entries back to back; the caller has checked that so many can fit."""
    return tuple(kind.read(reader) for _ in range(number))


def decode_text(data: bytes) -> str:
    """Text up to its first NUL; bytes that are not UTF-8 survive a round trip."""
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def encode_text(text: str, what: str = "text") -> bytes:
    """Text without a NUL; one inside it would be cut there by every reader, so it is refused."""
    if "\0" in text:
        raise ProtocolError(f"cannot encode {what!r}: {text!r} contains a NUL")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as reason:
        raise ProtocolError(f"cannot encode {what!r}: {text!r} is not valid text: {reason}") from None


def pack_numbers(form: struct.Struct, numbers: Iterable[float], what: str) -> bytes:
    """Pack a fixed layout, with the protocol's own error if a number does not fit."""
    try:
        return form.pack(*numbers)
    except struct.error as reason:
        raise ProtocolError(f"cannot encode {what!r}: {reason}") from None


def unpack_numbers(form: struct.Struct, data: Buffer, offset: int, what: str) -> tuple[int, ...]:
    """Unpack a fixed layout at `offset`, with the protocol's own error if the data ends before it does."""
    if offset < 0 or len(data) - offset < form.size:
        left = len(data) - offset
        raise ProtocolError(
            f"cannot decode {what!r}: it needs {form.size} bytes at offset {offset}, {left} are left"
        )
    return form.unpack_from(data, offset)
