# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that misbehave lose their connection, and nobody else anything."""

from __future__ import annotations

import os
import random
import resource
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.wire import packets
from ctdbpy.wire.constants import CURRENT_NODE
from ctdbpy.wire.controls import Control
from tests.unit.daemon.conftest import LIMIT_S, Daemon, cpu_s

HEADER = struct.Struct("=IIIIIIII")
MAGIC = 0x43544442


def header(length: int, *, magic: int = MAGIC, version: int = 1, operation: int = 7) -> bytes:
    return HEADER.pack(length, magic, version, 1, operation, CURRENT_NODE, 0, 1)


@pytest.fixture
def neighbour(daemon: Daemon) -> Iterator[Connection]:
    """A well-behaved client that was there before."""
    with daemon.connect() as connection:
        yield connection


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the daemon ends the connection, whatever it sends before."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize(
    "garbage",
    [
        header(31),
        header(0),
        header(0xFFFFFFFF),
        header((256 << 20) + 1),
        header(40, magic=0xDEADBEEF) + bytes(8),
        header(40, version=2) + bytes(8),
        b"GET / HTTP/1.1\r\nHost: ctdb\r\n\r\n" * 10,
        # A control whose data is longer than its packet.
        header(60) + struct.pack("=IIQIII", Control.PING, 0, 0, 0, 0, 0xFFFFFFFF) + bytes(0),
    ],
    ids=["short", "zero", "longest", "too-long", "magic", "version", "http", "data-length"],
)
def test_garbage_ends_its_own_connection_only(daemon: Daemon, neighbour: Connection, garbage: bytes) -> None:
    with daemon.raw() as bad:
        bad.sendall(garbage)
        bad.shutdown(socket.SHUT_WR)
        assert is_cut_off(bad)
    assert neighbour.control(Control.PING).status >= 1


def test_random_bytes_never_end_the_daemon(daemon: Daemon, neighbour: Connection) -> None:
    chance = random.Random(1)
    for _ in range(200):
        with daemon.raw() as bad:
            try:
                bad.sendall(chance.randbytes(chance.randrange(1, 500)))
                bad.shutdown(socket.SHUT_WR)
                assert is_cut_off(bad)
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert neighbour.control(Control.PING).status == 1


def test_every_control_with_random_data_is_answered_or_cut_off(daemon: Daemon, neighbour: Connection) -> None:
    chance = random.Random(2)
    # What ends the daemon, or the whole node, because it is asked to.
    deadly = {Control.SHUTDOWN, Control.SET_BAN_STATE, Control.FREEZE, Control.STOP_NODE, Control.SET_RECMODE}
    opcodes = [each for each in range(165) if each not in deadly]
    for opcode in opcodes * 4:
        with daemon.raw() as bad:
            data = chance.randbytes(chance.choice([0, 1, 4, 8, 12, 16, 24, 40, 100]))
            packet = packets.ReqControl(0, CURRENT_NODE, 0, 1, opcode, chance.getrandbits(64), 0, 0, data)
            bad.sendall(packet.encode(padded=False))
            bad.shutdown(socket.SHUT_WR)
            assert is_cut_off(bad)
    assert neighbour.control(Control.PING).status >= 1
    assert daemon.process is not None and daemon.process.poll() is None
    assert "defect" not in daemon.log()


def test_a_name_that_is_not_utf8_is_only_a_name(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        reply = connection.control(Control.DB_ATTACH, os.fsdecode(b"caf\xe9/\xff.tdb"))
        assert reply.status != 0
        assert "\\udce9" in reply.error
        assert connection.control(Control.PING).status >= 1


def test_a_half_sent_packet_that_never_ends_costs_nobody_anything(
    daemon: Daemon, neighbour: Connection
) -> None:
    with daemon.raw() as bad:
        bad.sendall(header(1000))
        for _ in range(10):
            assert neighbour.control(Control.PING).status >= 1


def test_a_client_that_never_reads_is_ended_when_too_much_waits_for_it(
    daemon: Daemon, neighbour: Connection
) -> None:
    with daemon.connect() as deaf:
        deaf.ask(Control.REGISTER_SRVID, srvid=0x77)
        piece = bytes(4 << 20)
        for _ in range(300 // 4):
            neighbour.message(neighbour.pnn, 0x77, piece)
        assert neighbour.control(Control.PING).status >= 1
        with pytest.raises(ClientError):
            while True:
                deaf.next_message(timeout_s=LIMIT_S)
    assert resident_bytes(daemon) < 400 << 20


def resident_bytes(daemon: Daemon) -> int:
    """Memory the daemon has in use."""
    with open(f"/proc/{daemon.pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_without_descriptors_clients_wait_and_the_daemon_neither_ends_nor_spins(daemon: Daemon) -> None:
    with daemon.connect() as first:
        fds = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (fds + 5, fds + 5))
        crowd = [daemon.raw() for _ in range(10)]
        daemon.wait_log("ERROR: cannot accept clients: Too many open files; those that come wait")
        before_s = cpu_s(daemon.pid)
        began_s = time.monotonic()
        while time.monotonic() - began_s < 1.0:
            # Nobody sends a message: this is a wait of its length.
            with pytest.raises(ClientError, match="time is up"):
                first.next_message(0.05)
            assert first.control(Control.PING).status >= 1
        assert cpu_s(daemon.pid) - before_s < 0.5
        for connection in crowd[:8]:
            connection.close()
        for connection in crowd[8:]:
            ping = packets.ReqControl(0, CURRENT_NODE, 0, 1, Control.PING, 0, 0, 0, b"")
            connection.sendall(ping.encode(padded=False))
            assert connection.recv(4096)
            connection.close()
        assert daemon.log().count("cannot accept clients") == 1


def test_a_thousand_clients_do_not_keep_helpers_from_starting(daemon: Daemon) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    crowd = [daemon.raw() for _ in range(1100)]
    try:
        with daemon.connect() as connection:
            db_id, _path, _flags = connection.attach("walked.tdb")
            # The first traverse starts the first scanner, whose socket has a high number in the daemon.
            assert list(connection.traverse(db_id)) == []
    finally:
        for each in crowd:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert "is not complete" not in daemon.log()
