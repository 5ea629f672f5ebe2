# SPDX-License-Identifier: GPL-3.0-or-later
"""Under load that never pauses the daemon still keeps its times and answers everybody."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctdbpy.client.connection import Connection
from ctdbpy.wire import packets
from ctdbpy.wire.constants import CURRENT_NODE, CallFlag, CallId
from ctdbpy.wire.controls import Control
from tests.unit.daemon.conftest import LIMIT_S, Cluster, Daemon

FLOODERS = 4


@contextmanager
def flood(daemon: Daemon, packet: packets.Packet) -> Iterator[None]:
    """Clients that send the same packet without a pause, and read whatever comes."""
    batch = packet.encode(padded=False) * 500
    over = threading.Event()

    def send(connection: socket.socket) -> None:
        try:
            while not over.is_set():
                connection.sendall(batch)
        except OSError:
            assert over.is_set()

    def drop(connection: socket.socket) -> None:
        while connection.recv(1 << 20):
            pass

    connections = [daemon.raw() for _ in range(FLOODERS)]
    threads = [
        threading.Thread(target=act, args=(connection,), daemon=True)
        for connection in connections
        for act in (send, drop)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for connection in connections:
            connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(LIMIT_S)
        for connection in connections:
            connection.close()


def call(db_id: int) -> packets.Packet:
    """One that the record engine answers at once."""
    return packets.ReqCall(0, 0, 0, 1, CallFlag.IMMEDIATE_MIGRATION, db_id, CallId.FETCH, 0, b"key", b"")


def message(connection: Connection) -> packets.Packet:
    """One that nobody listens for."""
    return packets.ReqMessage(0, connection.pnn, connection.pnn, 0, 0x4711, b"nobody")


def test_timers_keep_their_time_while_packets_never_pause(make: Cluster, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(LIMIT_S)
        daemon = make()[0].start(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="200000")
        with daemon.connect() as connection:
            db_id = connection.attach("called.tdb")[0]
        with flood(daemon, call(db_id)):
            gaps = []
            before_s = time.monotonic()
            # What was sent before the flood is still in the socket.
            for _ in range(40):
                while b"WATCHDOG=1" not in manager.recv(4096):
                    pass
                now_s = time.monotonic()
                gaps.append(now_s - before_s)
                before_s = now_s
        assert max(gaps) < 0.5


def test_everybody_is_answered_while_others_flood_the_daemon(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        ping = packets.ReqControl(0, CURRENT_NODE, 0, 1, Control.PING, 0, 0, 0, b"")
        for packet in (message(connection), ping):
            with flood(daemon, packet):
                worst = 0.0
                for _ in range(20):
                    began_s = time.monotonic()
                    assert connection.control(Control.PING).status >= 1
                    worst = max(worst, time.monotonic() - began_s)
            assert worst < 2.0
