# SPDX-License-Identifier: GPL-3.0-or-later
"""How a value becomes bytes and back: structures know it themselves, plain values have a codec."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Buffer, Reader, Writer, decode_text, encode_text, pack_numbers, unpack_numbers

T = TypeVar("T")


class Structure(ABC):
    """A value with a layout of its own; bytes behind the layout are padding and ignored on decoding."""

    __slots__ = ()

    #: Bytes of the layout, or None where it varies.
    SIZE: ClassVar[int | None] = None

    @abstractmethod
    def write(self, writer: Writer) -> None: ...

    @classmethod
    @abstractmethod
    def read(cls, reader: Reader) -> Self: ...

    def pack(self) -> bytes:
        writer = Writer(type(self).__name__)
        self.write(writer)
        return writer.getvalue()

    @classmethod
    def unpack(cls, data: Buffer) -> Self:
        return cls.read(Reader(data, cls.__name__))


class Numbers(Structure):
    """A structure that is nothing but numbers: `LAYOUT` has one for each field, in order."""

    __slots__ = ()

    LAYOUT: ClassVar[struct.Struct]
    __match_args__: ClassVar[tuple[str, ...]]  # the names of the fields: `dataclass` sets it

    def write(self, writer: Writer) -> None:
        numbers = [getattr(self, name) for name in self.__match_args__]
        writer.raw(pack_numbers(self.LAYOUT, numbers, type(self).__name__))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(*cls.LAYOUT.unpack(reader.take(cls.LAYOUT.size, cls.__name__)))


class Codec(ABC, Generic[T]):
    """How a plain value travels; `size` is its exact number of bytes, or None where it varies."""

    size: int | None = None

    @abstractmethod
    def pack(self, value: T) -> bytes: ...

    @abstractmethod
    def unpack(self, data: Buffer) -> T: ...


class NumberCodec(Codec[T]):
    def __init__(self, name: str, layout: str) -> None:
        self._name = name
        self._layout = struct.Struct(layout)
        self.size = self._layout.size

    def pack(self, value: T) -> bytes:
        try:
            return self._layout.pack(value)
        except struct.error as reason:
            raise ProtocolError(f"cannot encode {self._name!r}: {value!r} does not fit: {reason}") from None

    def unpack(self, data: Buffer) -> T:
        number: Any = unpack_numbers(self._layout, data, 0, self._name)[0]
        value: T = number
        return value


class TextCodec(Codec[str]):
    """Text that fills the data: with a NUL at its end (`Str0`) or without (`Text`).

    Like upstream, both read text up to the first NUL or to the end of the data.
    """

    def __init__(self, terminator: bytes) -> None:
        self._terminator = terminator

    def pack(self, value: str) -> bytes:
        return encode_text(value) + self._terminator

    def unpack(self, data: Buffer) -> str:
        return decode_text(bytes(data))


class OptionalTextCodec(Codec[str | None]):
    """Text with its NUL, or no data at all for None: a database without a health problem has no reason."""

    def pack(self, value: str | None) -> bytes:
        return b"" if value is None else Str0.pack(value)

    def unpack(self, data: Buffer) -> str | None:
        return Str0.unpack(data) if len(data) else None


class CountedTextCodec(Codec[str]):
    """Text with its NUL behind a u32 that counts both: the name of a tunable asked for."""

    def pack(self, value: str) -> bytes:
        text = Str0.pack(value)
        return U32.pack(len(text)) + text

    def unpack(self, data: Buffer) -> str:
        return decode_text(Reader(data, "StrN").counted("text"))


class NothingCodec(Codec[None]):
    """No data: with `size` 0 anything else is refused, with None it is ignored.

    Upstream does one with some controls and the other with the rest.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size

    def pack(self, value: None) -> bytes:
        return b""

    def unpack(self, data: Buffer) -> None:
        return None


class StructureCodec(Codec[T]):
    def __init__(self, kind: type[Structure]) -> None:
        self.kind = kind
        self.size = kind.SIZE

    def pack(self, value: T) -> bytes:
        assert isinstance(value, self.kind), f"{value!r} is no {self.kind.__name__}"
        return value.pack()

    def unpack(self, data: Buffer) -> T:
        value: Any = self.kind.unpack(data)
        structure: T = value
        return structure


class PaddedU32Codec(Codec[int]):
    """A u32 in a field of eight bytes, the rest zero: GET_DB_SEQNUM names its database so."""

    size = 8

    def pack(self, value: int) -> bytes:
        return U32.pack(value) + bytes(4)

    def unpack(self, data: Buffer) -> int:
        return U32.unpack(data)


U32: Final = NumberCodec[int]("U32", "=I")
I32: Final = NumberCodec[int]("I32", "=i")
U64: Final = NumberCodec[int]("U64", "=Q")
Double: Final = NumberCodec[float]("Double", "=d")
Str0: Final = TextCodec(b"\0")
Text: Final = TextCodec(b"")
Str0OrNothing: Final = OptionalTextCodec()
StrN: Final = CountedTextCodec()
PaddedU32: Final = PaddedU32Codec()
Nothing: Final = NothingCodec(0)
Ignored: Final = NothingCodec(None)
