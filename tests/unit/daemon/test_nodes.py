# SPDX-License-Identifier: GPL-3.0-or-later
"""Several daemons: links that break, peers that hang or lie, records in bulk between them."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
from collections.abc import Iterator

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire.constants import DbFlag, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecData, RecordHeader
from tests.unit.daemon.conftest import LIMIT_S, Cluster, Daemon, private_bytes, wait_standstill, wait_until


@pytest.fixture
def pair(make: Cluster) -> Iterator[list[Daemon]]:
    """Two nodes that have found each other; one that hangs is given up by keepalives."""
    yield begin(make, "KeepaliveInterval=1\nKeepaliveLimit=2\nStallLimit=600000\n")


def begin(make: Cluster, tunables: str) -> list[Daemon]:
    """Start two nodes and wait until they have found each other."""
    nodes = make(2)
    for node in nodes:
        (node.base / "ctdb.tunables").write_text(tunables)
        node.spawn()
    for node in nodes:
        node.wait_serving()
    wait_until(lambda: all(sees(node, 2) for node in nodes), "both see both")
    return nodes


def sees(node: Daemon, count: int) -> bool:
    """Whether a node counts so many connected ones, and recovery is over."""
    with node.connect() as connection:
        flags = [each.flags for each in connection.ask(Control.GET_NODEMAP).nodes]
        recovering = connection.control(Control.GET_RECMODE).status
    return not recovering and sum(not each & NodeFlag.DISCONNECTED for each in flags) == count


def test_a_killed_peer_is_noticed_named_and_taken_back(pair: list[Daemon]) -> None:
    first, second = pair
    address = (first.base / "nodes").read_text().split()[1]
    second.end(signal.SIGKILL)
    wait_until(lambda: sees(first, 1), "the first sees itself only")
    # Its guard says so, or the link breaks: whichever is heard first.
    first.wait_log(
        rf"node 1 flags .*DISCONNECTED.*: (it is gone: |connection (to|from) {address} port {first.port}: )"
    )
    first.wait_log(
        rf"WARNING: cannot connect to node 1 at {address} port {first.port}: "
        r"ECONNREFUSED Connection refused \(daemon not running\?\)"
    )
    second.start()
    wait_until(lambda: all(sees(node, 2) for node in pair), "both see both again")


def test_a_peer_that_hangs_is_given_up_and_taken_back(pair: list[Daemon]) -> None:
    first, second = pair
    os.kill(second.pid, signal.SIGSTOP)
    try:
        first.wait_log("node 1 flags .*DISCONNECTED.*: no packet in 2 keepalive intervals")
        wait_until(lambda: sees(first, 1), "the first sees itself only")
    finally:
        os.kill(second.pid, signal.SIGCONT)
    wait_until(lambda: all(sees(node, 2) for node in pair), "both see both again")


def test_a_peer_that_sends_garbage_loses_its_link_only(pair: list[Daemon]) -> None:
    first, _second = pair
    addresses = (first.base / "nodes").read_text().split()
    chance = random.Random(3)
    with first.connect() as connection:
        for _ in range(20):
            with socket.socket() as bad:
                bad.settimeout(LIMIT_S)
                bad.bind((addresses[1], 0))
                bad.connect((addresses[0], first.port))
                try:
                    bad.sendall(chance.randbytes(chance.randrange(32, 4000)))
                    bad.shutdown(socket.SHUT_WR)
                    while bad.recv(4096):
                        pass
                except (ConnectionResetError, BrokenPipeError):
                    pass
                except OSError as error:
                    # The daemon has closed it already: there is nothing left to shut down.
                    assert error.errno == errno.ENOTCONN
            assert connection.control(Control.PING).status >= 1
    wait_until(lambda: all(sees(node, 2) for node in pair), "both see both again")
    assert not any("defect" in node.log() for node in pair)


def test_a_stranger_is_refused(make: Cluster) -> None:
    first = make(2)[0].start()
    address = (first.base / "nodes").read_text().split()[0]
    stranger = address.rpartition(".")[0] + ".99"
    with socket.socket() as bad:
        bad.settimeout(LIMIT_S)
        bad.bind((stranger, 0))
        bad.connect((address, first.port))
        assert bad.recv(1) == b""
    first.wait_log(
        f"WARNING: refused a connection from '{stranger}': no node of the nodes file has this address"
    )


def fill(connection: Connection, name: str, pnn: int, count: int) -> int:
    """Put so many records of 100 KB that `pnn` owns into that node's copy."""
    db_id, path, flags = connection.attach(name)
    value = RecordHeader(1, pnn).pack() + bytes(100_000)
    with Tdb.open(path, flags=flags, open_flags=os.O_RDWR) as tdb:
        for number in range(count):
            tdb.store(b"%d" % number, value)
    return db_id


def test_the_other_nodes_wait_too_for_a_client_that_reads_slowly(pair: list[Daemon]) -> None:
    first, second = pair
    with first.connect() as slow, first.connect() as other, second.connect() as there:
        db_id = fill(there, "large.tdb", 1, 3000)
        slow.attach("large.tdb")
        before = [private_bytes(node.pid) for node in pair]
        slow.start_traverse(db_id, 0x88)
        wait_standstill(second)
        assert other.control(Control.PING).status >= 1
        most = [0, 0]
        keys = set()
        while True:
            record = RecData.unpack(slow.next_message(LIMIT_S).data)
            now = [private_bytes(node.pid) for node in pair]
            most = [max(old, new - was) for old, new, was in zip(most, now, before, strict=True)]
            if not record.key:
                break
            keys.add(record.key)
        assert len(keys) == 3000
        assert max(most) < 64 << 20
        # The worker there is free again.
        assert len(list(other.traverse(db_id))) == 3000


def test_a_recovery_of_large_databases_fills_no_memory_where_they_are_pulled(pair: list[Daemon]) -> None:
    first, second = pair
    with first.connect() as here, second.connect() as there:
        # The keys are the same: the leader merges them.
        for connection in (here, there):
            db_id = fill(connection, "large.tdb", connection.pnn, 3000)
        leader = next(node for node in pair if "recovery done in" in node.log())
        pulled = next(node for node in pair if node is not leader)
        before, most, done = private_bytes(pulled.pid), 0, leader.log().count("recovery done in")

        def is_done() -> bool:
            nonlocal most
            most = max(most, private_bytes(pulled.pid) - before)
            return leader.log().count("recovery done in") > done

        here.ask(Control.SET_RECMODE, 1)
        wait_until(is_done, "a recovery")
        assert most < 128 << 20
        assert len(list(here.traverse(db_id))) == 3000
    assert not any("recovery failed" in node.log() for node in pair)


def test_twenty_databases_are_recovered_side_by_side(make: Cluster) -> None:
    nodes = make(3)
    for node in nodes:
        node.spawn()
    for node in nodes:
        node.wait_serving()
    wait_until(lambda: all(sees(node, 3) for node in nodes), "all see all")

    def last_duration() -> float:
        found = "".join(node.log() for node in nodes).rpartition("20 databases rebuilt in ")[2]
        return float(found.split()[0])

    with nodes[0].connect() as connection:
        for number in range(20):
            connection.attach(f"db{number}.tdb", DbFlag.PERSISTENT if number % 4 == 3 else DbFlag(0))
        taken = []
        for number in range(1, 4):
            connection.ask(Control.SET_RECMODE, 1)
            wait_until(
                lambda: "".join(node.log() for node in nodes).count("20 databases rebuilt in ") >= number,  # noqa: B023
                "a recovery",
            )
            wait_until(lambda: all(sees(node, 3) for node in nodes), "it is over")
            taken.append(last_duration())
    # One after the other, each waiting for its turn of the control timeout, they would take minutes. How fast
    # it is stands in docs/performance.md: the machine that runs the tests has other things to do as well.
    assert min(taken) < 20
