# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl db backup`, `restore` and the like: databases and files."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import click

from ctdbpy.cli.commands import a_database, asks, waits
from ctdbpy.cli.db import db
from ctdbpy.cli.db_records import data_of, record_answer, record_text, show_records
from ctdbpy.cli.session import Session
from ctdbpy.client import backups, databases
from ctdbpy.client.backups import Backup
from ctdbpy.errors import ClientError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.records import RecordHeader


@db.command("backup")
@a_database
@click.argument("file")
@waits
@click.pass_obj
def backup(session: Session, database: str, file: str) -> None:
    """Write this node's copy of a database into FILE; upstream's `ctdb restoredb` reads it too."""
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        with databases.open_file(connection, found) as tdb:
            try:
                written = backups.write_backup(
                    file,
                    found.name,
                    found.flags,
                    found.db_id,
                    tdb,
                    lambda records: session.progress(f"all is written: {records} records are"),
                )
            except OSError as error:
                raise ClientError(f"cannot write '{file}': {error.strerror}") from error
    text = f"{written.records} records of {found.name} are in {file}"
    session.done(text, file=file, records=written.records)


@db.command("restore")
@click.argument("file")
@click.option("--to", "name", metavar="NAME", help="Into a database of another name.")
@asks
@waits
@click.pass_obj
def restore(session: Session, file: str, name: str | None) -> None:
    """Replace all records of a database by those in FILE, on every node."""
    found = _read(file)
    backups.check_backup(found)
    target = name or found.name
    moment = datetime.fromtimestamp(found.time_s, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    session.confirm(
        f"all records of '{target}' are replaced on every node by the {found.records} of {moment}"
    )
    with session.cluster() as cluster:
        database = databases.attach(cluster.connection, target, found.flags)
        databases.replace_records(cluster, database, backups.read_buffers(found), count=found.records)
    session.done(f"{target} has the {found.records} records of {moment}", records=found.records)


@db.command("show-backup")
@click.argument("file")
@click.pass_obj
def show_backup(session: Session, file: str) -> None:
    """Show the records in FILE, without the daemon."""
    buffers = backups.read_buffers(_read(file))
    show_records(
        session, ((each.key, each.header, each.value) for buffer in buffers for each in buffer.records)
    )


@db.command("file-get")
@click.argument("file")
@click.argument("key")
@click.option("-o", "--output", metavar="FILE", help="Write header and value there, as they are.")
@click.option("--nul", is_flag=True, help="The key ends with a NUL.")
@click.pass_obj
def file_get(session: Session, file: str, key: str, output: str | None, nul: bool) -> None:
    """Show a record of a TDB file, past the daemon."""
    raw = data_of(key, nul=nul)
    with Tdb.open(file, open_flags=os.O_RDWR) as tdb:
        data = tdb.fetch(raw)
    if data is None or len(data) < RecordHeader.SIZE:
        raise ClientError(f"cannot find key '{key}' in '{file}': there is no such record with a header")
    if output is not None:
        try:
            with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(data)
        except OSError as error:
            raise ClientError(f"cannot write '{output}': {error.strerror}") from error
    answer = record_answer(raw, RecordHeader.unpack(data), data[RecordHeader.SIZE :])
    session.show(answer, record_text)


@db.command("file-put")
@click.argument("file")
@click.argument("key")
@click.argument("value")
@click.option("--rsn", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--dmaster", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--nul", is_flag=True, help="The key ends with a NUL.")
@asks
@click.pass_obj
def file_put(session: Session, file: str, key: str, value: str, rsn: int, dmaster: int, nul: bool) -> None:
    """Store a record in a TDB file, past the daemon and all its rules."""
    session.confirm(f"'{file}' is changed past the daemon, on this node alone")
    with Tdb.open(file, open_flags=os.O_RDWR) as tdb:
        tdb.store(data_of(key, nul=nul), RecordHeader(rsn, dmaster).pack() + data_of(value))
    session.done(f"the record is stored in {file}")


def _read(path: str) -> Backup:
    try:
        return backups.read_backup(path)
    except OSError as error:
        raise ClientError(f"cannot read '{path}': {error.strerror}") from error
