# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service manager hears."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.host.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """An address as NOTIFY_SOCKET gives it, and the socket that hears what is sent there."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@ctdbpy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.settimeout(10)
        yield address, listener


def test_each_message_has_the_form_of_sd_notify(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    notifier = Notifier(address)
    assert notifier.ready("serving\nall") and notifier.status("recovering") and notifier.alive()
    assert notifier.extend_timeout(1.5) and notifier.stopping("asked to")
    assert [listener.recv(1024).decode() for _ in range(5)] == [
        f"READY=1\nSTATUS=serving all\nMAINPID={os.getpid()}",
        "STATUS=recovering",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1\nSTATUS=asked to",
    ]


def test_a_child_cannot_speak_for_the_daemon(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    environ = {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    notifier = Notifier.take(environ)
    assert environ == {"A": "b"}
    assert notifier.watchdog_s == 3.0
    assert notifier.alive()
    assert listener.recv(64) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_there_is_no_watchdog_unless_it_is_meant_for_us(environ: dict[str, str]) -> None:
    assert Notifier.take(environ).watchdog_s is None


@pytest.mark.parametrize("address", [None, "", "relative", "/nobody/listens", "/" + "x" * 200])
def test_without_a_manager_it_is_silent(address: str | None) -> None:
    assert not Notifier(address).ready("serving")


def test_a_manager_that_does_not_read_never_blocks_us(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier(manager[0])
    results = [notifier.status("x" * 1000) for _ in range(2000)]
    assert results[0]
    assert not results[-1]
