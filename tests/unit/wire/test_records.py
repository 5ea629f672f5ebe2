# SPDX-License-Identifier: GPL-3.0-or-later
"""Records and headers as they lie in files and travel, and the hash, held against libtdb."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.records import SEQNUM_KEY, RecBuffer, RecData, RecordHeader, db_id_of, jenkins_hash
from tests.unit.wire.strategies import record_header


class TdbData(ctypes.Structure):
    _fields_ = (("dptr", ctypes.c_char_p), ("dsize", ctypes.c_size_t))


@pytest.fixture(scope="session")
def libtdb() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("tdb") or "libtdb.so.1")
    library.tdb_jenkins_hash.argtypes = [ctypes.POINTER(TdbData)]
    library.tdb_jenkins_hash.restype = ctypes.c_uint
    return library


@given(st.binary(max_size=80))
@example(b"")
@example(b"twelve bytes")
@example(b"twelve bytestwelve bytes")
def test_the_hash_is_libtdbs(libtdb: ctypes.CDLL, data: bytes) -> None:
    assert jenkins_hash(data) == libtdb.tdb_jenkins_hash(ctypes.byref(TdbData(data, len(data))))


def test_a_database_is_known_by_the_number_samba_gives_it() -> None:
    assert db_id_of("locking.tdb") == 0x7A19D84D
    assert db_id_of("g_lock.tdb") == 0x4D2A432B
    assert db_id_of("secrets.tdb") == 0x7132C184


def test_the_sequence_number_is_kept_under_upstreams_key() -> None:
    assert len(SEQNUM_KEY) == 23


@given(record_header, st.binary(max_size=8))
def test_a_record_header_round_trips_at_any_offset(header: RecordHeader, before: bytes) -> None:
    packed = header.pack()
    assert len(packed) == RecordHeader.SIZE
    assert RecordHeader.unpack(before + packed + b"data", len(before)) == header


def test_a_record_header_has_upstreams_layout() -> None:
    packed = RecordHeader(rsn=0x0102030405060708, dmaster=0x11, reserved=0x22, flags=0x33).pack()
    assert packed == bytes.fromhex("0807060504030201 11000000 22000000 33000000 00000000")


@pytest.mark.parametrize("length", range(24))
def test_a_record_shorter_than_its_header_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match="RecordHeader"):
        RecordHeader.unpack(bytes(length))
    with pytest.raises(ProtocolError, match="RecordHeader"):
        _ = RecData(0, b"key", bytes(length)).header


@given(record_header, st.binary(max_size=8))
def test_a_records_data_is_its_header_and_its_value(header: RecordHeader, value: bytes) -> None:
    record = RecData.of(b"key", header, value)
    assert (record.header, record.value) == (header, value)


def test_a_traverse_ends_with_an_empty_record() -> None:
    assert RecData(7, b"", b"").is_end
    assert not RecData.of(b"", RecordHeader()).is_end


def test_a_record_may_be_longer_than_its_key_and_data() -> None:
    first = bytes.fromhex("18000000 05000000 01000000 02000000") + b"kdd" + bytes(5)
    second = RecData(6, b"l", b"e")
    buffer = bytes.fromhex("01000000 02000000") + first + second.pack()
    assert RecBuffer.unpack(buffer) == RecBuffer(1, (RecData(5, b"k", b"dd"), second))


@pytest.mark.parametrize("length", [0, 15, 18, 20])
def test_a_record_whose_length_is_wrong_is_refused(length: int) -> None:
    packed = bytearray(RecData(0, b"k", b"dd").pack())
    packed[0] = length
    with pytest.raises(ProtocolError, match="RecData"):
        RecData.unpack(packed)


def test_records_that_claim_to_be_more_than_fit_are_refused() -> None:
    buffer = RecBuffer(1, (RecData(0, b"k", b"d"),)).pack()
    with pytest.raises(ProtocolError, match="2 records do not fit"):
        RecBuffer.unpack(buffer[:4] + b"\x02" + buffer[5:])
