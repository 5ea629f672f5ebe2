# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection says what is wrong with the daemon, and leaves nothing open when it fails."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from ctdbpy.client.connection import Connection, TimeUp
from ctdbpy.errors import ClientError
from ctdbpy.wire import packets
from ctdbpy.wire.controls import Control

LIMIT_S = 20.0


def test_without_a_daemon_the_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with pytest.raises(ClientError, match=rf"'{path}': No such file or directory; is ctdbpyd running\?"):
        Connection(path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(ClientError, match=r"Connection refused; is ctdbpyd running\?"):
        Connection(path)


def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    open_before = set(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(ClientError, match="time is up"):
            Connection(path, timeout_s=0.1)
    assert set(os.listdir("/proc/self/fd")) == open_before


def test_it_waits_its_turn_when_many_connect_at_once(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            with pytest.raises(TimeUp, match=r"has not taken the connection within 0\.1 s"):
                Connection(path, timeout_s=0.1)


def test_a_daemon_that_ends_the_connection_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.recv(4096)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(ClientError, match="it closed the connection"):
            Connection(path, timeout_s=LIMIT_S)
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_messages_do_not_prolong_the_wait_for_an_answer(tmp_path: Path) -> None:
    """The leader tells each second that it leads; who waits for a silent node gives up nevertheless."""
    path = tmp_path / "socket"
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def chatter() -> None:
            peer, _address = listener.accept()
            with peer:
                asked = packets.decode(peer.recv(4096))
                peer.sendall(packets.ReplyControl(0, 0, 0, asked.reqid, 0, b"", "").encode(padded=False))
                message = packets.ReqMessage(0, 0, 0, 0, 7, b"").encode(padded=False)
                while not over.wait(0.02):
                    peer.sendall(message)

        thread = threading.Thread(target=chatter, daemon=True)
        thread.start()
        with Connection(path, timeout_s=LIMIT_S) as connection:
            with pytest.raises(TimeUp, match="time is up"):
                connection.control(Control.PING, timeout_s=0.2)
            assert connection.controls(Control.PING, nodes=[0, 1], timeout_s=0.2) == {}
            assert connection.message_to(8, timeout_s=0.1) is None
            kept = connection.message_to(7, timeout_s=LIMIT_S)
            assert kept is not None
            assert kept.srvid == 7
            over.set()
            thread.join(LIMIT_S)
    assert not thread.is_alive()
