# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases as a client works with them: finding, attaching, their files, and replacing all their records."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ctdbpy.client.connection import Connection, Refused
from ctdbpy.client.nodes import Cluster, active, connected
from ctdbpy.errors import ClientError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag, NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import DbIdMap, PullDbExt, TransDb
from ctdbpy.wire.records import RecBuffer
from ctdbpy.wire.srvids import SRVID_TOOL_RANGE

#: Kinds whose records every node holds.
REPLICATED = DbFlag.PERSISTENT | DbFlag.REPLICATED

_SRVID_PUSH = SRVID_TOOL_RANGE | 2 << 48


class Unknown(ClientError):
    """No database is attached under that name."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database that a node has attached."""

    db_id: int
    name: str
    flags: DbFlag

    @property
    def is_volatile(self) -> bool:
        return not self.flags & REPLICATED

    @property
    def kind(self) -> str:
        """volatile, persistent or replicated."""
        if self.flags & DbFlag.PERSISTENT:
            return "persistent"
        return "replicated" if self.flags & DbFlag.REPLICATED else "volatile"


@dataclass(frozen=True, slots=True)
class Description:
    """What a node says about its copy of a database; `health` is why it is unhealthy, or None."""

    database: Database
    path: str
    health: str | None


def list_databases(connection: Connection, destnode: int) -> list[Database]:
    """The databases that a node has attached."""
    dbmap: DbIdMap = connection.ask(Control.GET_DBMAP, destnode=destnode)
    return [
        Database(
            each.db_id,
            connection.ask(Control.GET_DBNAME, each.db_id, destnode=destnode),
            DbFlag(each.flags),
        )
        for each in dbmap.entries
    ]


def find_database(connection: Connection, name: str) -> Database:
    """The database of that name, or of that number when it begins with 0x, on this node. Raises Unknown."""
    dbmap: DbIdMap = connection.ask(Control.GET_DBMAP)
    number = _number(name) if name.startswith("0x") else None
    for each in dbmap.entries:
        if number is not None and each.db_id != number:
            continue
        found = connection.ask(Control.GET_DBNAME, each.db_id)
        if number is not None or found == name:
            return Database(each.db_id, found, DbFlag(each.flags))
    raise Unknown(f"cannot find database '{name}': no such database is attached on this node")


def describe(connection: Connection, database: Database, destnode: int) -> Description:
    """Where a node keeps its copy, and whether it is healthy."""
    path = connection.ask(Control.GETDBPATH, database.db_id, destnode=destnode)
    health = connection.ask(Control.DB_GET_HEALTH, database.db_id, destnode=destnode)
    return Description(database, path, health or None)


def attach(connection: Connection, name: str, flags: DbFlag) -> Database:
    """Attach a database, set its modes on every connected node. Raises Refused, also when it is unhealthy."""
    db_id, _path, _open_flags = connection.attach(name, flags & REPLICATED)
    health = connection.ask(Control.DB_GET_HEALTH, db_id)
    if health:
        raise Refused(f"cannot attach '{name}': it is unhealthy: {health}", errno.EIO)
    for flag, control in (
        (DbFlag.READONLY, Control.SET_DB_READONLY),
        (DbFlag.STICKY, Control.SET_DB_STICKY),
    ):
        if flags & flag:
            cluster = Cluster(connection)
            cluster.everywhere(control, db_id, connected(cluster.nodes()))
    return Database(db_id, name, flags)


def open_file(connection: Connection, database: Database) -> Tdb:
    """Attach, and open this node's copy of the file. Raises Refused, StoreError."""
    attach(connection, database.name, database.flags & REPLICATED)
    path = connection.ask(Control.GETDBPATH, database.db_id)
    flags = connection.ask(Control.DB_OPEN_FLAGS, database.db_id)
    return Tdb.open(path, flags=flags, open_flags=os.O_RDWR)


def check_detachable(cluster: Cluster) -> None:
    """Raise ClientError when databases cannot be detached now: recovery, inactive node, clients allowed."""
    connection = cluster.connection
    if connection.control(Control.GET_RECMODE).status == RecoveryMode.ACTIVE:
        raise ClientError("cannot detach a database: a recovery is under way; try again when it is over")
    for node in cluster.nodes():
        if node.flags & (NodeFlag.DISCONNECTED | NodeFlag.DELETED):
            continue
        if node.flags & NodeFlag.INACTIVE:
            raise ClientError(
                f"cannot detach a database: node {node.pnn} is banned or stopped; have it take part first"
            )
        if connection.ask(Control.GET_TUNABLE, "AllowClientDBAttach", destnode=node.pnn) == 1:
            raise ClientError(
                f"cannot detach a database: clients may attach on node {node.pnn}; "
                "set AllowClientDBAttach to 0 on all nodes first"
            )


def detach(cluster: Cluster, database: Database) -> None:
    """Detach a volatile database on every connected node."""
    if not database.is_volatile:
        raise ClientError(
            f"cannot detach '{database.name}': it is {database.kind}; only volatile ones can be"
        )
    # The daemon that hears it from a client passes it on to all nodes.
    cluster.connection.ask(Control.DB_DETACH, database.db_id)


def replace_records(
    cluster: Cluster, database: Database, buffers: Iterable[RecBuffer] = (), *, count: int = 0
) -> None:
    """Have every active node hold these records of a database and no others, `count` in all.

    All or nothing: should it fail after the databases are frozen, a recovery brings back what was there.
    """
    connection = cluster.connection
    generation = cluster.generation()
    nodes = active(cluster.nodes())
    transaction = TransDb(database.db_id, generation)
    try:
        cluster.everywhere(Control.DB_FREEZE, database.db_id, nodes)
        cluster.everywhere(Control.DB_TRANSACTION_START, transaction, nodes)
        cluster.everywhere(Control.WIPE_DATABASE, transaction, nodes)
        if count:
            _push(cluster, database, buffers, count, nodes)
        cluster.everywhere(Control.DB_SET_HEALTHY, database.db_id, nodes)
        cluster.everywhere(Control.DB_TRANSACTION_COMMIT, transaction, nodes)
        cluster.everywhere(Control.DB_THAW, database.db_id, nodes)
    except BaseException:
        with suppress(ClientError):
            connection.control(Control.SET_RECMODE, RecoveryMode.ACTIVE)
        raise


def _push(
    cluster: Cluster, database: Database, buffers: Iterable[RecBuffer], count: int, nodes: list[int]
) -> None:
    push = PullDbExt(database.db_id, 0, _SRVID_PUSH)
    cluster.everywhere(Control.DB_PUSH_START, push, nodes)
    sent = 0
    for buffer in buffers:
        data = RecBuffer(database.db_id, buffer.records).pack()
        for pnn in nodes:
            cluster.connection.message(pnn, _SRVID_PUSH, data)
        sent += len(buffer.records)
        cluster.progress(f"all records are there: {sent} of {count} are sent")
    for pnn, arrived in cluster.everywhere(Control.DB_PUSH_CONFIRM, database.db_id, nodes).items():
        if arrived != count:
            raise ClientError(
                f"cannot fill '{database.name}': node {pnn} has got {arrived} of {count} records"
            )


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise Unknown(f"cannot find database '{text}': it is not a number in hexadecimal digits") from None
