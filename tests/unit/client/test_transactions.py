# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction stores all or nothing, counts once, and waits for whoever has one."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from ctdbpy.client.connection import Connection, TimeUp
from ctdbpy.client.databases import Database, attach, open_file
from ctdbpy.client.records import locked
from ctdbpy.client.transactions import LOCK_DATABASE, Transaction
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.misc import GLock, GLockRecord, ServerId
from tests.unit.daemon.conftest import Daemon


@pytest.fixture
def connection(daemon: Daemon) -> Iterator[Connection]:
    with daemon.connect() as connection:
        yield connection


@pytest.fixture
def database(connection: Connection) -> Database:
    return attach(connection, "secrets.tdb", DbFlag.PERSISTENT)


def seqnum(connection: Connection, database: Database) -> int:
    found: int = connection.ask(Control.GET_DB_SEQNUM, database.db_id)
    return found


def fetch(connection: Connection, database: Database, key: bytes) -> bytes:
    with Transaction(connection, database, readonly=True) as transaction:
        return transaction.fetch(key)


def test_all_of_it_is_stored_at_its_end(connection: Connection, database: Database) -> None:
    with Transaction(connection, database) as transaction:
        transaction.store(b"a", b"1")
        transaction.store(b"b", b"2")
        transaction.store(b"a", b"3")
        assert transaction.fetch(b"a") == b"3"
        assert seqnum(connection, database) == 0
    assert [fetch(connection, database, key) for key in (b"a", b"b", b"c")] == [b"3", b"2", b""]
    assert seqnum(connection, database) == 1


def test_one_that_fails_or_changes_nothing_leaves_no_trace(
    connection: Connection, database: Database
) -> None:
    with Transaction(connection, database) as transaction:
        transaction.store(b"a", b"1")
    with pytest.raises(RuntimeError), Transaction(connection, database) as transaction:
        transaction.store(b"a", b"2")
        raise RuntimeError
    with Transaction(connection, database) as transaction:
        transaction.store(b"a", b"1")
        transaction.store(b"new", b"value")
        transaction.store(b"new", b"")
        transaction.store(b"absent", b"")
    assert fetch(connection, database, b"a") == b"1"
    assert seqnum(connection, database) == 1


@pytest.mark.parametrize("form", ["tool", "samba", "samba_shared"])
@pytest.mark.parametrize("lives", [True, False])
def test_a_lock_in_either_form_counts_while_its_holder_lives(
    connection: Connection, database: Database, form: str, lives: bool
) -> None:
    # Another client of the daemon, or a process that is none.
    holder = ServerId(os.getpid() if lives else 1, 7, 0, 99)
    nobody = ServerId(0, 0, 0, 0)
    record = {
        "tool": GLockRecord((GLock(True, holder),)).pack(),
        "samba": _samba_lock(holder),
        "samba_shared": _samba_lock(nobody, holder),
    }[form]
    locks = attach(connection, LOCK_DATABASE, DbFlag(0))
    key = f"transaction_db_0x{database.db_id:08x}".encode() + b"\0"
    with open_file(connection, locks) as tdb, locked(connection, tdb, locks, key) as lock:
        lock.store(record)
    transaction = Transaction(connection, database, limit_s=0.1)
    if lives:
        with pytest.raises(TimeUp):
            transaction.__enter__()
        return
    with transaction:
        transaction.store(b"a", b"1")
    assert fetch(connection, database, b"a") == b"1"


def _samba_lock(exclusive: ServerId, *shared: ServerId) -> bytes:
    watcher = bytes(32)
    ids = b"".join(each.pack() for each in shared)
    return (
        struct.pack("=I", 1) + watcher + exclusive.pack() + bytes(16) + struct.pack("=I", len(shared)) + ids
    )


def test_volatile_databases_have_none(connection: Connection) -> None:
    volatile = attach(connection, "locking.tdb", DbFlag(0))
    with pytest.raises(ClientError, match="it is volatile"):
        Transaction(connection, volatile)
