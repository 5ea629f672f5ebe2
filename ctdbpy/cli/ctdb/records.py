# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` about single records."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator
from typing import IO, Final

from ctdbpy.cli.ctdb.tool import BadUsage, Failed, Tool, leading_number, parse_number, warn
from ctdbpy.client.databases import Database, open_file
from ctdbpy.client.records import locked
from ctdbpy.client.transactions import Transaction
from ctdbpy.errors import StoreError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import BROADCAST_ACTIVE, RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import PushRecord
from ctdbpy.wire.nodes import VnnMap
from ctdbpy.wire.records import RecordHeader

#: What is printed as hexadecimal digits: all but plain characters, and quotes and backslashes.
_ESCAPES: Final = {byte: f"\\{byte:02X}" for byte in range(256) if not 32 <= byte < 127 or byte in b'"\\'}
#: Lines of ptrans are cut as upstream's buffer cuts them: what follows is read as a line of its own.
_LINE_SIZE: Final = 1023

_SHOWN_FLAGS: Final = (
    RecordFlag.MIGRATED_WITH_DATA,
    RecordFlag.VACUUM_MIGRATED,
    RecordFlag.AUTOMATIC,
    RecordFlag.RO_HAVE_DELEGATIONS,
    RecordFlag.RO_HAVE_READONLY,
    RecordFlag.RO_REVOKING_READONLY,
    RecordFlag.RO_REVOKE_COMPLETE,
)


# -- persistent and replicated databases ------------------------------------------------------------


def do_pfetch(tool: Tool, name: str, key_text: str) -> None:
    database = _replicated(tool, name)
    key = _parse(key_text, "key")
    with _begun(tool, database, readonly=True) as transaction:
        value = transaction.fetch(key)
    _print_bytes(value.split(b"\0", 1)[0] + b"\n")


def do_pstore(tool: Tool, name: str, key_text: str, value_text: str) -> None:
    database = _replicated(tool, name)
    key, value = _parse(key_text, "key"), _parse(value_text, "value")
    with _begun(tool, database) as transaction:
        transaction.store(key, value)


def do_pdelete(tool: Tool, name: str, key_text: str) -> None:
    database = _replicated(tool, name)
    key = _parse(key_text, "key")
    with _begun(tool, database) as transaction:
        transaction.store(key, b"")


def do_ptrans(tool: Tool, name: str, path: str | None = None) -> None:
    database = _replicated(tool, name)
    with _input(path) as file, _begun(tool, database) as transaction:
        for key, value in _read_pairs(file):
            transaction.store(key, value)


def _input(path: str | None) -> IO[bytes]:
    if path is None:
        return sys.stdin.buffer
    try:
        return open(path, "rb")
    except OSError:
        raise Failed(1, f"Failed to open file {path}") from None


def _replicated(tool: Tool, name: str) -> Database:
    database = tool.database(name)
    if database.is_volatile:
        raise Failed(1, f"Transactions not supported on DB {database.name}")
    return database


def _begun(tool: Tool, database: Database, *, readonly: bool = False) -> Transaction:
    with tool.saying(f"Failed to start transaction on db {database.name}"):
        return Transaction(tool.connection, database, readonly=readonly, limit_s=10 * 365 * 86400.0)


def _read_pairs(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the good lines; others are left out, and some are complained about."""
    while line := file.readline(_LINE_SIZE):
        text = line.decode(errors="surrogateescape")
        try:
            key, text = _parse_quoted(text)
            if key:
                value, _text = _parse_quoted(text)
                yield key, value
        except Failed as failed:
            warn(failed.text)


def _parse_quoted(text: str) -> tuple[bytes, str]:
    text = text.lstrip(" \t")
    if not text.startswith('"'):
        raise Failed(1, f"Unsupported input format in {text}")
    inside, quote, rest = text[1:].partition('"')
    if not quote:
        raise Failed(1, f'Unmatched " in input {text}')
    return parse_data(inside), rest


# -- volatile databases -----------------------------------------------------------------------------


def do_readkey(tool: Tool, name: str, key_text: str, mode: str = "") -> None:
    if mode not in ("", "readonly"):
        raise BadUsage
    database = _volatile(tool, name)
    with _attached(tool, database) as tdb:
        key = _parse(key_text, "key")
        with (
            tool.saying(f"Failed to read record for key {key_text}"),
            locked(tool.connection, tdb, database, key, readonly=bool(mode)) as record,
        ):
            value = record.value
    shown = value.split(b"\0", 1)[0]
    _print_bytes(b"Data: size:%d ptr:[%s]\n" % (len(value), shown))


def do_writekey(tool: Tool, name: str, key_text: str, value_text: str) -> None:
    database = _volatile(tool, name)
    with _attached(tool, database) as tdb:
        key, value = _parse(key_text, "key"), _parse(value_text, "value")
        with (
            tool.saying(f"Failed to store record for key {key_text}"),
            locked(tool.connection, tdb, database, key) as record,
        ):
            record.store(value)


def do_deletekey(tool: Tool, name: str, key_text: str) -> None:
    database = _volatile(tool, name)
    with _attached(tool, database) as tdb:
        key = _parse(key_text, "key")
        with (
            tool.saying(f"Failed to delete record for key {key_text}"),
            locked(tool.connection, tdb, database, key) as record,
        ):
            record.delete()


def do_pushrecord(tool: Tool, name: str, key_text: str, value_text: str) -> None:
    database = _volatile(tool, name)
    vnnmap: VnnMap = tool.connection.ask(Control.GETVNNMAP)
    with _attached(tool, database) as tdb:
        key, value = _parse(key_text, "key"), _parse(value_text, "value")
        with locked(tool.connection, tdb, database, key) as record:
            flags = record.header.flags | RecordFlag.MIGRATED_WITH_DATA
            record.header = RecordHeader(record.header.rsn + 1, record.header.dmaster, 0, flags)
            record.store(value)
            pushed = PushRecord(vnnmap.generation, database.db_id, record.header, key, value)
            tool.connection.tell(Control.PUSH_RECORD, pushed, destnode=BROADCAST_ACTIVE)


def _volatile(tool: Tool, name: str) -> Database:
    database = tool.database(name)
    if not database.is_volatile:
        raise Failed(1, f"DB {database.name} is not a volatile database")
    return database


def _attached(tool: Tool, database: Database) -> Tdb:
    with tool.saying(f"Failed to attach to DB {database.name}"):
        return open_file(tool.connection, database)


# -- TDB files --------------------------------------------------------------------------------------


def do_tfetch(_tool: Tool, path: str, key_text: str, out: str | None = None) -> None:
    with _open(path) as tdb:
        data = tdb.fetch(_parse(key_text, "key"))
    if data is None:
        raise Failed(1, f"No record for key {key_text}")
    if len(data) < RecordHeader.SIZE:
        raise Failed(1, f"Invalid record for key {key_text}")
    if out is not None:
        _write(out, data)
    print(_header_text(RecordHeader.unpack(data)))
    print(_data_text("data", data[RecordHeader.SIZE :]))


def do_tstore(
    _tool: Tool, path: str, key_text: str, value_text: str, rsn_text: str = "0", dmaster_text: str = "0"
) -> None:
    with _open(path) as tdb:
        key, value = _parse(key_text, "key"), _parse(value_text, "value")
        rsn = parse_number(rsn_text)
        if rsn is None:
            raise Failed(errno.EINVAL)
        header = RecordHeader(rsn & 0xFFFFFFFFFFFFFFFF, leading_number(dmaster_text) & 0xFFFFFFFF)
        try:
            tdb.store(key, header.pack() + value)
        except StoreError:
            raise Failed(1, f"Failed to write record {key_text} to file {path}") from None


def _open(path: str) -> Tdb:
    try:
        return Tdb.open(path, open_flags=os.O_RDWR)
    except StoreError:
        raise Failed(1, f"Failed to open TDB file {path}") from None


def _write(path: str, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:
        warn(f"Failed to open output file {path}")
        return
    with open(descriptor, "wb") as file:
        try:
            file.write(data)
        except OSError:
            warn("Failed to write record to file")


# -- text -------------------------------------------------------------------------------------------


def parse_data(text: str) -> bytes:
    """Bytes from the command line: hexadecimal digits behind 0x, else the text itself."""
    if not text.startswith("0x"):
        return os.fsencode(text)
    digits = text[2:]
    if len(digits) % 2:
        raise Failed(errno.EINVAL, f"Key ({digits}) contains odd number of hex digits")
    try:
        return b"".join(struct.pack("B", int(digits[at : at + 2], 16)) for at in range(0, len(digits), 2))
    except ValueError:
        raise Failed(errno.EINVAL, f"Invalid hex: {digits}") from None


def _parse(text: str, what: str) -> bytes:
    try:
        return parse_data(text)
    except Failed as failed:
        warn(failed.text)
        raise Failed(failed.code, f"Failed to parse {what} {text}") from None


def print_record(key: bytes, header: RecordHeader, value: bytes) -> None:
    """A record with its header, and an empty line."""
    sys.stdout.write(f"{_data_text('key', key)}\n{_header_text(header)}\n{_data_text('data', value)}\n\n")


def _header_text(header: RecordHeader) -> str:
    flags = header.flags
    names = "".join(f" {flag.name}" for flag in _SHOWN_FLAGS if flags & flag) if flags else ""
    return f"dmaster: {header.dmaster}\nrsn: {header.rsn}\nflags: 0x{flags:08x}{names}"


def _data_text(what: str, data: bytes) -> str:
    """Bytes, those that are no plain characters as hexadecimal digits."""
    return f'{what}({len(data)}) = "{data.decode("latin-1").translate(_ESCAPES)}"'


def _print_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
