# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl db`: databases as wholes. DB is a name, or a number that begins with 0x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ctdbpy.cli.commands import Answer, a_database, about_node, answers, asks, group, target
from ctdbpy.cli.session import Session
from ctdbpy.client import databases
from ctdbpy.client.connection import Connection
from ctdbpy.client.databases import Database
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import DbVacuum
from ctdbpy.wire.statistics import DbStatistics

db = group("Databases, their records, backups and modes.", "ctdbpy.cli.db_records", "ctdbpy.cli.db_files")

_KINDS = {
    "volatile": DbFlag(0),
    "persistent": DbFlag.PERSISTENT,
    "replicated": DbFlag.REPLICATED,
    "readonly": DbFlag.READONLY,
    "sticky": DbFlag.STICKY,
}
_MODES = {
    "readonly": (Control.SET_DB_READONLY, "read-only copies of its records may be made"),
    "sticky": (Control.SET_DB_STICKY, "its hot records stay for a while where they are"),
}


@db.command("list")
@about_node
@answers
def list_(session: Session, node: int | None) -> Answer:
    """Show the databases a node has attached."""
    with session.connect() as connection:
        number = target(connection, node)
        found = databases.list_databases(connection, number)
        rows = [_row(connection, each, number) for each in sorted(found, key=lambda each: each.name)]
    return {"databases": rows}


def _row(connection: Connection, database: Database, node: int) -> dict[str, Any]:
    about = databases.describe(connection, database, node)
    modes = [name for name in _MODES if database.flags & _KINDS[name]]
    return {
        "name": database.name,
        "id": f"0x{database.db_id:08x}",
        "kind": database.kind,
        "modes": modes,
        "health": about.health or "OK",
        "path": about.path,
    }


@db.command("status")
@a_database
@about_node
@answers
def status(session: Session, database: str, node: int | None) -> Answer:
    """Show kind, modes, health and file of a database."""
    with session.connect() as connection:
        number = target(connection, node)
        return _row(connection, databases.find_database(connection, database), number)


@db.command("seqnum")
@a_database
@about_node
@answers
def seqnum(session: Session, database: str, node: int | None) -> Answer:
    """Show how often a persistent or replicated database has been changed."""
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        asked = target(connection, node)
        return {"seqnum": connection.ask(Control.GET_DB_SEQNUM, found.db_id, destnode=asked)}


@db.command("statistics")
@a_database
@about_node
@answers
def statistics(session: Session, database: str, node: int | None) -> Answer:
    """Show what a node has counted for a database, and its hot records."""
    from ctdbpy.cli.node_counters import flat

    found = _statistics(session, database, node)
    facts = flat(found)
    del facts["hot_keys"]
    return {**facts, "hot_records": _hot(found)}


@db.command("hot")
@a_database
@about_node
@answers
def hot(session: Session, database: str, node: int | None) -> Answer:
    """Show the records of a database that migrate most often."""
    return {"hot_records": _hot(_statistics(session, database, node))}


def _statistics(session: Session, database: str, node: int | None) -> DbStatistics:
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        number = target(connection, node)
        counted: DbStatistics = connection.ask(Control.GET_DB_STATISTICS, found.db_id, destnode=number)
    return counted


def _hot(found: DbStatistics) -> list[dict[str, Any]]:
    keys = sorted(found.hot_keys, key=lambda each: -each.count)
    return [{"hops": each.count, "key": each.key.hex()} for each in keys]


# -- deeds ------------------------------------------------------------------------------------------


@db.command("attach")
@click.argument("name")
@click.argument("kind", type=click.Choice(tuple(_KINDS)), default="volatile")
@click.pass_obj
def attach(session: Session, name: str, kind: str) -> None:
    """Attach a database on every node, making it if it is not there."""
    with session.connect() as connection:
        found = databases.attach(connection, name, _KINDS[kind])
    session.done(f"{name} is attached", name=name, id=f"0x{found.db_id:08x}")


@db.command("detach")
@click.argument("names", nargs=-1, required=True, metavar="DB...")
@asks
@click.pass_obj
def detach(session: Session, names: tuple[str, ...]) -> None:
    """Detach volatile databases on every node; clients may not be allowed to attach meanwhile."""
    session.confirm(f"all records of {', '.join(names)} are lost")
    with session.cluster() as cluster:
        databases.check_detachable(cluster)
        for each in [databases.find_database(cluster.connection, name) for name in names]:
            databases.detach(cluster, each)
    session.done(f"{', '.join(names)} detached")


@db.command("mode")
@a_database
@click.argument("mode", type=click.Choice(tuple(_MODES)))
@about_node
@click.pass_obj
def mode(session: Session, database: str, mode: str, node: int | None) -> None:
    """Allow read-only copies of the records of a volatile database, or let hot ones stay."""
    control, text = _MODES[mode]
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        if not found.is_volatile:
            raise ClientError(
                f"cannot make '{found.name}' {mode}: it is {found.kind}; only volatile ones can be"
            )
        connection.ask(control, found.db_id, destnode=target(connection, node))
    session.done(f"{found.name}: {text}")


@db.command("wipe")
@a_database
@asks
@click.pass_obj
def wipe(session: Session, database: str) -> None:
    """Remove all records of a database, on every node."""
    with session.cluster() as cluster:
        found = databases.find_database(cluster.connection, database)
        session.confirm(f"all records of '{found.name}' ({found.kind}) are lost on every node")
        databases.replace_records(cluster, found)
    session.done(f"{found.name} has no records any more")


def _on_one_node(
    session: Session, database: str, node: int | None, deed: Callable[[Connection, Database, int], object]
) -> tuple[Database, int]:
    with session.connect() as connection:
        found = databases.find_database(connection, database)
        number = target(connection, node)
        deed(connection, found, number)
    return found, number


@db.command("freeze")
@a_database
@about_node
@asks
@click.pass_obj
def freeze(session: Session, database: str, node: int | None) -> None:
    """Have nobody use a node's copy of a database, until `thaw` or a recovery."""
    session.confirm(f"clients that use '{database}' stand still until it is thawed")

    def deed(connection: Connection, found: Database, number: int) -> None:
        connection.ask(Control.DB_FREEZE, found.db_id, destnode=number)

    found, number = _on_one_node(session, database, node, deed)
    session.done(f"{found.name} is frozen on node {number}")


@db.command("thaw")
@a_database
@about_node
@click.pass_obj
def thaw(session: Session, database: str, node: int | None) -> None:
    """Let clients use a node's copy of a database again."""

    def deed(connection: Connection, found: Database, number: int) -> None:
        connection.ask(Control.DB_THAW, found.db_id, destnode=number)

    found, number = _on_one_node(session, database, node, deed)
    session.done(f"{found.name} is thawed on node {number}")


@db.command("vacuum")
@a_database
@click.option("--full", is_flag=True, help="Look at every record, not only at those noted as deleted.")
@about_node
@click.pass_obj
def vacuum(session: Session, database: str, full: bool, node: int | None) -> None:
    """Remove deleted records of a volatile database now, and not when it is due."""

    def deed(connection: Connection, found: Database, number: int) -> None:
        if not found.is_volatile:
            raise ClientError(f"cannot vacuum '{found.name}': it is {found.kind}; it has no deleted records")
        connection.ask(Control.DB_VACUUM, DbVacuum(found.db_id, full), destnode=number)

    found, number = _on_one_node(session, database, node, deed)
    session.done(f"{found.name} is vacuumed on node {number}")
