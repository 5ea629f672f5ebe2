# SPDX-License-Identifier: GPL-3.0-or-later
"""The listening Unix socket."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ctdbpy.errors import HostError
from ctdbpy.host.unix_socket import PATH_BYTES_MAX, ListeningSocket, PeerCredentials, peer_credentials


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(str(path))
    return client


def stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(path))


def test_only_its_owner_may_connect_and_the_umask_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        listening = ListeningSocket.listen(tmp_path / "s")
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert listening.note is None
    assert not listening.socket.getblocking()
    listening.close()
    assert not (tmp_path / "s").exists()


def test_many_clients_may_queue_before_the_first_is_accepted(tmp_path: Path) -> None:
    listening = ListeningSocket.listen(tmp_path / "s")
    clients = [connect(tmp_path / "s") for _ in range(120)]
    for client in clients:
        client.close()
    listening.close()


def test_the_kernel_says_who_connected(tmp_path: Path) -> None:
    listening = ListeningSocket.listen(tmp_path / "s")
    with connect(tmp_path / "s"):
        accepted, _address = listening.socket.accept()
        with accepted:
            credentials = peer_credentials(accepted)
    assert credentials == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
    assert credentials.is_trusted()
    assert f"process {os.getpid()} (" in str(credentials)
    listening.close()


def test_only_root_and_the_daemons_own_user_are_trusted() -> None:
    assert PeerCredentials(1, 0, 0).is_trusted()
    assert PeerCredentials(1, os.geteuid(), 99).is_trusted()
    assert not PeerCredentials(1, os.geteuid() + 1000, 0).is_trusted()


def test_a_socket_left_behind_is_removed_with_a_note(tmp_path: Path) -> None:
    stale_socket(tmp_path / "s")
    listening = ListeningSocket.listen(tmp_path / "s")
    assert listening.note == f"the socket '{tmp_path}/s' was left behind, nobody answers there; removed"
    connect(tmp_path / "s").close()
    listening.close()


def test_a_daemon_that_answers_keeps_its_socket(tmp_path: Path) -> None:
    listening = ListeningSocket.listen(tmp_path / "s")
    with pytest.raises(HostError) as caught:
        ListeningSocket.listen(tmp_path / "s")
    assert f"process {os.getpid()} (" in str(caught.value)
    assert "answers there; a daemon is running already, stop it first" in str(caught.value)
    connect(tmp_path / "s").close()
    listening.close()


def test_a_daemon_that_is_too_busy_to_answer_keeps_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctdbpy.host.unix_socket.ANSWER_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        with connect(tmp_path / "s"), pytest.raises(HostError, match="does not answer"):
            ListeningSocket.listen(tmp_path / "s")
        assert (tmp_path / "s").exists()


def test_another_kind_of_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(HostError, match="is not a socket; move it away"):
        ListeningSocket.listen(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_a_datagram_socket_is_not_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        with pytest.raises(HostError, match="cannot be tried"):
            ListeningSocket.listen(tmp_path / "s")


def test_a_path_that_is_too_long_is_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / ("x" * PATH_BYTES_MAX)
    with pytest.raises(HostError, match=f"the kernel allows {PATH_BYTES_MAX}"):
        ListeningSocket.listen(path)


def test_the_longest_path_works(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 1))
    listening = ListeningSocket.listen(path)
    connect(path).close()
    listening.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"the directory '{tmp_path}/run' does not exist"):
        ListeningSocket.listen(tmp_path / "run" / "s")


def test_a_successor_keeps_its_socket_when_we_close(tmp_path: Path) -> None:
    listening = ListeningSocket.listen(tmp_path / "s")
    (tmp_path / "s").unlink()
    successor = ListeningSocket.listen(tmp_path / "s")
    listening.close()
    connect(tmp_path / "s").close()
    successor.close()


def test_a_forked_child_does_not_remove_it(tmp_path: Path) -> None:
    listening = ListeningSocket.listen(tmp_path / "s")
    child = os.fork()
    if child == 0:
        listening.close()
        os._exit(0)
    os.waitpid(child, 0)
    connect(tmp_path / "s").close()
    listening.close()
