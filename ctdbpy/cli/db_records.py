# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl db get`, `put`, `cat` and the like: records.

KEY and VALUE are text, or bytes in hexadecimal digits behind 0x; --nul ends a key with a NUL, as Samba's
programs often do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import click

from ctdbpy.cli.commands import a_database, asks, need_active
from ctdbpy.cli.db import db
from ctdbpy.cli.session import Session
from ctdbpy.client import databases
from ctdbpy.client.connection import Connection
from ctdbpy.client.databases import Database
from ctdbpy.client.records import locked
from ctdbpy.client.transactions import Transaction
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import BROADCAST_ACTIVE, RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import PushRecord
from ctdbpy.wire.nodes import VnnMap
from ctdbpy.wire.records import RecordHeader

_F = TypeVar("_F", bound=Callable[..., Any])
_ESCAPES: Final = {byte: f"\\x{byte:02x}" for byte in range(256) if not 32 <= byte < 127 or byte == 92}


def _nul(function: _F) -> _F:
    return click.option("--nul", is_flag=True, help="The key ends with a NUL.")(function)


@db.command("cat")
@a_database
@click.option("--local", is_flag=True, help="Only what lies in this node's file, deleted records included.")
@click.pass_obj
def cat(session: Session, database: str, local: bool) -> None:
    """Show all records of a database in the cluster."""
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        count = show_records(session, _local(connection, found) if local else _everywhere(connection, found))
    if not session.as_json:
        click.echo(f"{count} records")


def _everywhere(connection: Connection, database: Database) -> Iterator[tuple[bytes, RecordHeader, bytes]]:
    need_active(connection, f"show the records of '{database.name}' in the cluster")
    for record in connection.traverse(database.db_id):
        # Deleted records of persistent databases come along until vacuuming has removed them.
        if record.value:
            yield record.key, record.header, record.value


def _local(connection: Connection, database: Database) -> Iterator[tuple[bytes, RecordHeader, bytes]]:
    with databases.open_file(connection, database) as tdb:
        for key, data in tdb.traverse():
            if len(data) >= RecordHeader.SIZE:
                yield key, RecordHeader.unpack(data), data[RecordHeader.SIZE :]


@db.command("keys")
@a_database
@click.pass_obj
def keys(session: Session, database: str) -> None:
    """Show the keys of all records of a database in the cluster."""
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        shown = sorted(escaped(key) for key, _header, _value in _everywhere(connection, found))
    session.show({"keys": shown}, lambda answer: "".join(f"{key}\n" for key in answer["keys"]))


@db.command("get")
@a_database
@click.argument("key")
@click.option("--copy", is_flag=True, help="A read-only copy will do: it leaves the record where it is.")
@_nul
@click.pass_obj
def get(session: Session, database: str, key: str, copy: bool, nul: bool) -> None:
    """Show a record; that of a volatile database comes to this node."""
    raw = data_of(key, nul=nul)
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        with databases.open_file(connection, found) as tdb:
            if found.is_volatile:
                with locked(connection, tdb, found, raw, readonly=copy) as record:
                    value = record.value
            else:
                # Every node has it. One record is as some commit left it: no lock is needed for that.
                value = (tdb.fetch(raw) or b"")[RecordHeader.SIZE :]
    if not value:
        raise ClientError(f"cannot find key '{key}' in '{found.name}': there is no such record")
    answer = {"key": escaped(raw), "value": escaped(value), "value_hex": value.hex()}
    session.show(answer, lambda shown: f"{shown['value']}\n")


@db.command("put")
@a_database
@click.argument("key")
@click.argument("value")
@_nul
@click.pass_obj
def put(session: Session, database: str, key: str, value: str, nul: bool) -> None:
    """Store a record; in a persistent or replicated database on every node, as one transaction.

    An empty VALUE deletes it.
    """
    raw = data_of(key, nul=nul)
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        _store(connection, found, raw, data_of(value))
    session.done(f"the record is stored in {found.name}")


@db.command("delete")
@a_database
@click.argument("key")
@_nul
@asks
@click.pass_obj
def delete(session: Session, database: str, key: str, nul: bool) -> None:
    """Delete a record."""
    raw = data_of(key, nul=nul)
    session.confirm(f"the record '{key}' of '{database}' is lost")
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        _store(connection, found, raw, b"")
    session.done(f"the record is deleted from {found.name}")


def _store(connection: Connection, database: Database, key: bytes, value: bytes) -> None:
    if not database.is_volatile:
        with Transaction(connection, database) as transaction:
            transaction.store(key, value)
        return
    with (
        databases.open_file(connection, database) as tdb,
        locked(connection, tdb, database, key) as record,
    ):
        if value:
            record.store(value)
        else:
            record.delete()


@db.command("load")
@a_database
@click.argument("file", type=click.File("r"), default="-")
@click.pass_obj
def load(session: Session, database: str, file: Any) -> None:
    """Store the records of FILE, or of standard input, in one transaction.

    A line is "KEY" "VALUE", each in quotes, perhaps with 0x before hexadecimal digits in them; an empty value
    deletes. Nothing is stored if a line is none.
    """
    pairs = [_pair(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        with Transaction(connection, found) as transaction:
            for key, value in pairs:
                transaction.store(key, value)
    session.done(f"{len(pairs)} records are stored in {found.name}", records=len(pairs))


def _pair(number: int, line: str) -> tuple[bytes, bytes]:
    parts = line.split('"')
    if len(parts) != 5 or any(part.strip() for part in parts[::2]) or not parts[1]:
        raise ClientError(f'cannot load line {number}: it is not "KEY" "VALUE"')
    return data_of(parts[1]), data_of(parts[3])


@db.command("push")
@a_database
@click.argument("key")
@click.argument("value")
@_nul
@click.pass_obj
def push(session: Session, database: str, key: str, value: str, nul: bool) -> None:
    """Store a record of a volatile database here, and copies of it on all active nodes at once."""
    raw, data = data_of(key, nul=nul), data_of(value)
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        if not found.is_volatile:
            raise ClientError(
                f"cannot push to '{found.name}': it is {found.kind}; `db put` reaches every node"
            )
        push_record(connection, found, raw, data)
    session.done(f"the record is stored in {found.name} on all active nodes")


def push_record(connection: Connection, database: Database, key: bytes, value: bytes) -> None:
    """The same, for a database that is known."""
    vnnmap: VnnMap = connection.ask(Control.GETVNNMAP)
    with (
        databases.open_file(connection, database) as tdb,
        locked(connection, tdb, database, key) as record,
    ):
        flags = record.header.flags | RecordFlag.MIGRATED_WITH_DATA
        record.header = RecordHeader(record.header.rsn + 1, record.header.dmaster, 0, flags)
        record.store(value)
        pushed = PushRecord(vnnmap.generation, database.db_id, record.header, key, value)
        connection.tell(Control.PUSH_RECORD, pushed, destnode=BROADCAST_ACTIVE)


# -- text -------------------------------------------------------------------------------------------


def data_of(text: str, *, nul: bool = False) -> bytes:
    """Bytes from the command line."""
    if text.startswith("0x"):
        try:
            data = bytes.fromhex(text[2:])
        except ValueError:
            raise ClientError(f"cannot use '{text}': these are not hexadecimal digits in pairs") from None
    else:
        data = text.encode("utf-8", "surrogateescape")
    return data + b"\0" if nul else data


def escaped(data: bytes) -> str:
    r"""Bytes as text, those that are no plain characters as \xNN."""
    return data.decode("latin-1").translate(_ESCAPES)


def record_answer(key: bytes, header: RecordHeader, value: bytes) -> dict[str, Any]:
    """A record as data."""
    flags = [flag.name for flag in RecordFlag if header.flags & flag]
    return {
        "key": escaped(key),
        "key_hex": key.hex(),
        "dmaster": header.dmaster,
        "rsn": header.rsn,
        "flags": flags,
        "value": escaped(value),
        "value_hex": value.hex(),
    }


def show_records(session: Session, records: Iterable[tuple[bytes, RecordHeader, bytes]]) -> int:
    """Show records one by one, there may be many; in JSON they are one answer all the same."""
    count = 0
    for key, header, value in records:
        answer = record_answer(key, header, value)
        if session.as_json:
            click.echo(("," if count else '{"records": [') + "\n" + json.dumps(answer), nl=False)
        else:
            click.echo(record_text(answer), nl=False)
        count += 1
    if session.as_json:
        click.echo("\n]}" if count else '{"records": []}')
    return count


def record_text(answer: dict[str, Any]) -> str:
    """A record as text."""
    flags = f" {' '.join(answer['flags'])}" if answer["flags"] else ""
    head = f"{answer['key']}  (dmaster {answer['dmaster']}, rsn {answer['rsn']}{flags})\n"
    return f"{head}    {answer['value']}\n"
