# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistent databases outlive the daemon; a damaged one is refused by name while the others serve."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import SEQNUM_KEY, RecData, RecordHeader
from tests.unit.daemon.conftest import Cluster, Daemon

PERSISTENT = DbFlag.PERSISTENT


def commit(connection: Connection, db_id: int, number: int, values: Iterable[tuple[bytes, bytes]]) -> None:
    """Commit records and the sequence number that counts the commits."""
    header = RecordHeader(number, 0)
    records = [RecData.of(key, header, value) for key, value in values]
    records.append(RecData.of(SEQNUM_KEY, header, number.to_bytes(8, "little")))
    assert connection.commit(db_id, tuple(records)) == 0


def contents(connection: Connection, db_id: int) -> dict[bytes, bytes]:
    """Values of a database by key."""
    walk = {record.key: record.data[RecordHeader.SIZE :] for record in connection.traverse(db_id)}
    return {key: value for key, value in walk.items() if key != SEQNUM_KEY}


def test_committed_records_and_their_sequence_number_survive_a_kill(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        db_id, _path, _flags = connection.attach("kept.tdb", PERSISTENT)
        for number in range(1, 6):
            commit(connection, db_id, number, [(b"key %d" % number, b"value"), (b"last", b"%d" % number)])
    daemon.end(signal.SIGKILL)
    daemon.start()
    with daemon.connect() as connection:
        # Attached by itself, before anybody asks for it.
        assert connection.ask(Control.GET_DBNAME, db_id) == "kept.tdb"
        assert connection.ask(Control.GET_DB_SEQNUM, db_id) == 5
        expected = {b"key %d" % number: b"value" for number in range(1, 6)} | {b"last": b"5"}
        assert contents(connection, db_id) == expected


def test_what_was_not_committed_is_gone_after_a_kill(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        db_id, path, _flags = connection.attach("half.tdb", PERSISTENT)
        commit(connection, db_id, 1, [(b"key", b"good")])
    daemon.end(signal.SIGKILL)
    # As a program that is killed in the middle of its transaction leaves the file.
    with Tdb.open(path, flags=0) as tdb:
        tdb.transaction_start()
        tdb.store(b"key", bytes(RecordHeader.SIZE) + b"bad")
    daemon.start()
    with daemon.connect() as connection:
        assert contents(connection, db_id) == {b"key": b"good"}


def test_volatile_records_do_not_survive(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        db_id, path, flags = connection.attach("gone.tdb")
        connection.call(db_id, b"key")
        with Tdb.open(path, flags=flags) as tdb:
            tdb.store(b"key", RecordHeader(1, 0).pack() + b"value")
    daemon.end()
    daemon.start()
    with daemon.connect() as connection:
        db_id, _path, _flags = connection.attach("gone.tdb")
        assert contents(connection, db_id) == {}


def overwrite(path: str) -> None:
    Path(path).write_bytes(b"this is no TDB file" * 1000)


def scramble(path: str) -> None:
    """Leave the header as it is, so that only a check of the whole file finds out."""
    data = bytearray(Path(path).read_bytes())
    for at in range(4096, len(data) - 8, 64):
        data[at : at + 8] = b"scramble"
    Path(path).write_bytes(data)


@pytest.mark.parametrize("damage", [overwrite, scramble])
def test_a_corrupt_database_is_refused_by_name_and_the_others_serve(daemon: Daemon, damage: object) -> None:
    assert callable(damage)
    with daemon.connect() as connection:
        bad, bad_path, _flags = connection.attach("bad.tdb", PERSISTENT)
        good, _path, _flags = connection.attach("good.tdb", PERSISTENT)
        for db_id in (bad, good):
            commit(connection, db_id, 1, [(b"key", b"value")])
    daemon.end()
    damage(bad_path)
    daemon.start()

    daemon.wait_log(r"ERROR: .*'bad\.tdb'.* is corrupt .*it was moved to")
    assert list(Path(bad_path).parent.glob("bad.tdb.0.corrupted.*"))
    with daemon.connect() as connection:
        db_id, _path, _flags = connection.attach("good.tdb", PERSISTENT)
        assert contents(connection, db_id) == {b"key": b"value"}
        assert "is corrupt" in connection.ask(Control.DB_GET_HEALTH, bad)
        assert connection.ask(Control.DB_GET_HEALTH, good) is None
        with pytest.raises(ClientError, match=r"cannot attach 'bad\.tdb': it is unhealthy: .*is corrupt"):
            connection.attach("bad.tdb", PERSISTENT)
    # Nor after the next start: nobody has given it good contents.
    daemon.end()
    daemon.start()
    with daemon.connect() as connection:
        with pytest.raises(ClientError, match=r"cannot attach 'bad\.tdb': it is unhealthy"):
            connection.attach("bad.tdb", PERSISTENT)
        # What `ctdb wipedb` ends with.
        connection.ask(Control.DB_SET_HEALTHY, bad)
        assert connection.attach("bad.tdb", PERSISTENT)[0] == bad
        assert contents(connection, bad) == {}
    daemon.end()
    daemon.start()
    with daemon.connect() as connection:
        assert connection.attach("bad.tdb", PERSISTENT)[0] == bad


def test_a_database_that_another_node_has_is_mended_by_the_recovery(make: Cluster) -> None:
    nodes = make(2)
    for node in nodes:
        node.start()
    with nodes[0].connect() as connection:
        db_id, _path, _flags = connection.attach("twice.tdb", PERSISTENT)
        commit(connection, db_id, 1, [(b"key", b"value")])
    with nodes[1].connect() as connection:
        path = connection.ask(Control.GETDBPATH, db_id)
    nodes[1].end()
    overwrite(path)
    nodes[1].start()
    nodes[1].wait_log(r"ERROR: .*'twice\.tdb'.* is corrupt")
    with nodes[1].connect() as connection:
        connection.attach("other.tdb")
        assert connection.ask(Control.DB_GET_HEALTH, db_id) is None
        assert contents(connection, db_id) == {b"key": b"value"}
