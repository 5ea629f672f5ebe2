# SPDX-License-Identifier: GPL-3.0-or-later
"""Reader and writer are each other's inverse, and a reader never goes beyond its data."""

from __future__ import annotations

import pytest
from hypothesis import given

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Reader, Writer, decode_text, encode_text
from tests.unit.wire.strategies import data, f64, i32, i64, not_utf8, text, u8, u16, u32, u64


@given(u8, u16, u32, i32, u64, i64, f64, data, text)
def test_what_is_written_is_read(
    a: int, b: int, c: int, d: int, e: int, f: int, g: float, raw: bytes, words: str
) -> None:
    writer = Writer("thing").u8(a).u16(b).u32(c).i32(d).u64(e).i64(f).f64(g)
    writer.counted(raw).align(8).string(words).pad(3)
    reader = Reader(writer.getvalue(), "thing")
    numbers = (
        reader.u8(),
        reader.u16(),
        reader.u32(),
        reader.i32(),
        reader.u64(),
        reader.i64(),
        reader.f64(),
    )
    assert numbers == (a, b, c, d, e, f, g)
    assert reader.counted() == raw
    reader.align(8)
    assert reader.offset % 8 == 0
    assert reader.string(len(words.encode()) + 1) == words
    assert reader.remaining == 3
    reader.skip(2)
    assert reader.rest() == b"\0"
    assert len(writer) == reader.offset


def test_an_error_names_the_thing_the_field_and_what_is_missing() -> None:
    reader = Reader(b"\1\2\3\4\5\6", "Thing")
    reader.u32("first")
    with pytest.raises(ProtocolError) as refused:
        reader.u32("second")
    assert str(refused.value) == (
        "cannot decode 'Thing': field 'second': it needs 4 bytes at offset 4, 2 are left"
    )
    assert reader.remaining == 2


@pytest.mark.parametrize("size_min", [1, 4, 2**40])
def test_a_count_of_more_than_can_follow_is_refused(size_min: int) -> None:
    with pytest.raises(ProtocolError, match="4294967295 entries"):
        Reader(b"\xff\xff\xff\xff" + bytes(100)).count(size_min)
    with pytest.raises(ProtocolError, match="-1 entries"):
        Reader(bytes(100)).check_count(-1, size_min)


def test_a_count_that_just_fits_is_believed() -> None:
    assert Reader(b"\2\0\0\0" + bytes(8)).count(4) == 2


def test_no_step_goes_back() -> None:
    for step in (Reader(bytes(8)).take, Reader(bytes(8)).skip):
        with pytest.raises(ProtocolError):
            step(-1)


def test_bytes_are_read_from_any_buffer() -> None:
    for buffer in (b"\1\0\0\0", bytearray(b"\1\0\0\0"), memoryview(b"\1\0\0\0")):
        assert Reader(buffer).u32() == 1


@pytest.mark.parametrize(
    ("write", "number"), [("u8", 256), ("u16", -1), ("u32", 2**32), ("i32", 2**31), ("u64", -1)]
)
def test_a_number_that_does_not_fit_is_refused(write: str, number: int) -> None:
    with pytest.raises(ProtocolError, match="field 'count'"):
        getattr(Writer("Thing"), write)(number, "count")


@given(not_utf8)
def test_text_that_is_not_utf8_survives(words: str) -> None:
    assert decode_text(encode_text(words)) == words


def test_text_ends_at_its_first_nul_or_at_its_end() -> None:
    assert decode_text(b"abc\0def\0") == "abc"
    assert decode_text(b"abc") == "abc"
    with pytest.raises(ProtocolError, match="NUL"):
        encode_text("abc\0")
