# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases on three nodes, step by step: every node's own copy is what it is under Debian's daemon."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.store.tdb import jenkins_hash
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import db_id_of
from ctdbpy.wire.structures import DbVacuum
from tests.interop.conftest import Pair, pair_of
from tests.interop.masks import check_same
from tests.interop.stand import Stand

KEYS = [f"key{number}" for number in range(6)]


@pytest.fixture(scope="module")
def trio() -> Iterator[Pair]:
    """Three nodes of each flavour."""
    with pair_of(nodes=3) as both:
        yield both


def test_vacuuming_takes_the_same_steps_on_every_node(trio: Pair) -> None:
    ours, debians = ("\n".join(_vacuumed(stand)) for stand in (trio.ours, trio.debian))
    check_same(ours, debians)
    assert "Dumped 6 record(s)" in ours, "none is gone before its time"
    assert re.findall("Dumped .*", ours)[-3:] == ["Dumped 0 record(s)"] * 3


def _vacuumed(stand: Stand) -> Iterator[str]:
    """What each node's copy says after each step of the way that deleted records go."""
    database = "vacuumed.tdb"
    for host in stand.lab.nodes:
        stand.cluster.tool(host, "attach", database)
    for key in KEYS:
        stand.cluster.tool("n0", "writekey", database, key, "value")
        for host in stand.lab.nodes:
            stand.cluster.tool(host, "readkey", database, key)
    yield from _copies(stand, database)
    for key in KEYS:
        # Away from its lmaster: the lmaster has to be told and has to fetch it.
        host = stand.lab.nodes[(jenkins_hash(key.encode()) + 1) % 3]
        stand.cluster.tool(host, "deletekey", database, key)
    yield from _copies(stand, database)
    for _round in range(3):
        for host in stand.lab.nodes:
            with Connection(stand.lab.path(host, "/run/ctdb/ctdbd.socket")) as connection:
                connection.ask(Control.DB_VACUUM, DbVacuum(db_id_of(database), False))
            yield from _copies(stand, database)


def _copies(stand: Stand, database: str) -> Iterator[str]:
    for host in stand.lab.nodes:
        said = stand.cluster.tool(host, "cattdb", database).stdout
        # A record's journey ends with one store here and two there, so its rsn grows by one or two.
        said = re.sub(r"^rsn: .*\n", "", said, flags=re.MULTILINE)
        # In the order of the keys: the order in the file is chance.
        records = re.findall(r"key\(.*?\n\n", said, re.DOTALL)
        yield f"{host}:\n{''.join(sorted(records))}{said[sum(map(len, records)) :]}"


def test_a_detached_database_is_empty_when_it_is_attached_again(trio: Pair) -> None:
    for stand in (trio.ours, trio.debian):
        tool, nodes = stand.cluster.tool, stand.lab.nodes
        tool("n0", "attach", "comes.tdb")
        tool("n1", "writekey", "comes.tdb", "key", "value")
        # A recovery and a walk: helpers of the daemons have the file open now.
        tool("n0", "recover")
        assert "Dumped 1 records" in tool("n2", "catdb", "comes.tdb").stdout
        for host in nodes:
            tool(host, "setvar", "AllowClientDBAttach", "0")
        tool("n1", "detach", "comes.tdb")
        for host in nodes:
            assert "comes.tdb" not in tool(host, "getdbmap").stdout
            tool(host, "setvar", "AllowClientDBAttach", "1")
        tool("n0", "attach", "comes.tdb")
        assert "Dumped 0 records" in tool("n2", "catdb", "comes.tdb").stdout
        tool("n2", "writekey", "comes.tdb", "key", "again")
        assert tool("n0", "readkey", "comes.tdb", "key").stdout == "Data: size:5 ptr:[again]\n"
