# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` about databases as wholes."""

from __future__ import annotations

from ctdbpy.cli.ctdb.records import print_record
from ctdbpy.cli.ctdb.tool import BadUsage, Failed, Tool, code_of, warn
from ctdbpy.client import databases
from ctdbpy.client.connection import Refused, TimeUp
from ctdbpy.client.databases import Database
from ctdbpy.client.nodes import connected
from ctdbpy.errors import ClientError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag, NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader

_KINDS = {
    "persistent": DbFlag.PERSISTENT,
    "replicated": DbFlag.REPLICATED,
    "readonly": DbFlag.READONLY,
    "sticky": DbFlag.STICKY,
}


def do_getdbmap(tool: Tool) -> None:
    found = databases.list_databases(tool.connection, tool.cmd_pnn)
    if tool.options.is_machine:
        tool.row("ID", "Name", "Path", "Persistent", "Sticky", "Unhealthy", "Readonly", "Replicated")
    else:
        print(f"Number of databases:{len(found)}")
    for database in found:
        about = databases.describe(tool.connection, database, tool.cmd_pnn)
        words = {
            "PERSISTENT": database.flags & DbFlag.PERSISTENT,
            "STICKY": database.flags & DbFlag.STICKY,
            "READONLY": database.flags & DbFlag.READONLY,
            "REPLICATED": database.flags & DbFlag.REPLICATED,
            "UNHEALTHY": about.health,
        }
        if tool.options.is_machine:
            order = ("PERSISTENT", "STICKY", "UNHEALTHY", "READONLY", "REPLICATED")
            flags = (int(bool(words[word])) for word in order)
            tool.row(f"0x{database.db_id:08X}", database.name, about.path, *flags)
        else:
            text = "".join(f" {word}" for word, holds in words.items() if holds)
            print(f"dbid:0x{database.db_id:08x} name:{database.name} path:{about.path}{text}")


def do_getdbstatus(tool: Tool, name: str) -> None:
    database = tool.database(name)
    about = databases.describe(tool.connection, database, tool.cmd_pnn)
    print(f"dbid: 0x{database.db_id:08x}\nname: {database.name}\npath: {about.path}")
    for flag in (DbFlag.PERSISTENT, DbFlag.REPLICATED, DbFlag.STICKY, DbFlag.READONLY):
        print(f"{flag.name}: {'yes' if database.flags & flag else 'no'}")
    print(f"HEALTH: {about.health or 'OK'}")


def do_getdbseqnum(tool: Tool, name: str) -> None:
    database = tool.database(name)
    with tool.saying(f"Failed to get sequence number for DB {database.name}"):
        print(f"0x{tool.ask(Control.GET_DB_SEQNUM, database.db_id):x}")


def do_attach(tool: Tool, name: str, kind: str = "") -> None:
    if kind and kind not in _KINDS:
        raise BadUsage
    try:
        databases.attach(tool.connection, name, _KINDS.get(kind, DbFlag(0)))
    except Refused as error:
        raise Failed(code_of(error), f"attach: {name} failed to get db_id, ret={error.status}") from None
    # What upstream's program does next, and what shows that this process may use the file.
    databases.open_file(tool.connection, tool.database(name)).close()


def do_detach(tool: Tool, *names: str) -> int:
    _check_detachable(tool)
    code = 0
    for name in names:
        try:
            database = tool.database(name)
        except Failed as failed:
            warn(failed.text)
            continue
        if not database.is_volatile:
            raise Failed(1, "Only volatile databases can be detached")
        try:
            databases.detach(tool.all_nodes, database)
        except ClientError as error:
            warn(f"Database {database.name} detach failed")
            code = code_of(error)
    return code


def do_setdbreadonly(tool: Tool, name: str) -> None:
    _set_mode(tool, name, Control.SET_DB_READONLY, "READONLY")


def do_setdbsticky(tool: Tool, name: str) -> None:
    _set_mode(tool, name, Control.SET_DB_STICKY, "STICKY")


def do_catdb(tool: Tool, name: str) -> int:
    database = tool.database(name)
    open_file(tool, database).close()
    count, code = 0, 0
    try:
        for record in tool.connection.traverse(database.db_id):
            # Deleted records of persistent databases come along until vacuuming has removed them.
            if record.value:
                print_record(record.key, record.header, record.value)
                count += 1
    except (TimeUp, Refused) as error:
        code = code_of(error)
    print(f"Dumped {count} records")
    return code


def do_cattdb(tool: Tool, name: str) -> None:
    database = tool.database(name)
    count = 0
    with open_file(tool, database) as tdb:
        for key, data in tdb.traverse():
            if len(data) >= RecordHeader.SIZE:
                print_record(key, RecordHeader.unpack(data), data[RecordHeader.SIZE :])
                count += 1
    print(f"Dumped {count} record(s)")


def open_file(tool: Tool, database: Database) -> Tdb:
    """This node's file of a database, attached."""
    with tool.saying(f"Failed to attach to DB {database.name}"):
        return databases.open_file(tool.connection, database)


def _set_mode(tool: Tool, name: str, opcode: Control, mode: str) -> None:
    database = tool.database(name)
    if not database.is_volatile:
        raise Failed(1, f"{mode} can be set only on volatile DB")
    tool.ask(opcode, database.db_id)


def _check_detachable(tool: Tool) -> None:
    if tool.status(Control.GET_RECMODE) == RecoveryMode.ACTIVE:
        raise Failed(1, "Database cannot be detached when recovery is active")
    for node in tool.nodes:
        if node.pnn not in connected(tool.nodes):
            continue
        if node.flags & NodeFlag.INACTIVE:
            raise Failed(1, f"Database cannot be detached on inactive (stopped or banned) node {node.pnn}")
        with tool.saying(f"Unable to get tunable AllowClientDBAttach from node {node.pnn}"):
            allowed = tool.ask(Control.GET_TUNABLE, "AllowClientDBAttach", pnn=node.pnn)
        if allowed == 1:
            raise Failed(
                1,
                f"Database access is still active on node {node.pnn}. "
                "Set AllowclientDBAttach=0 on all nodes.",
            )
