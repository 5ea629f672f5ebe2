# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection says what is wrong with the daemon, and leaves nothing open when it fails."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError

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
