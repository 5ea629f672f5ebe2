# SPDX-License-Identifier: GPL-3.0-or-later
"""What passes between the daemon and its address helper, and test mode, which has none."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from ctdbpy.core import effects
from ctdbpy.core.inputs import AddressDone, HostAddress, HostSeen, Input, LinkState
from ctdbpy.daemon.addresses import AddressHelper, PretendedAddresses, parse_seen
from ctdbpy.host.children import Children
from ctdbpy.wire.addresses import Connection, SockAddr
from tests.unit.daemon.conftest import LIMIT_S, Daemon


def test_interfaces_and_addresses_are_told_apart_whatever_their_names() -> None:
    assert parse_seen("lo=1 a=b=0 10.0.0.1/24/a=b fd00::1/64/lo") == HostSeen(
        (LinkState("lo", True), LinkState("a=b", False)),
        (HostAddress("10.0.0.1", 24, "a=b"), HostAddress("fd00::1", 64, "lo")),
    )
    assert parse_seen("") == HostSeen((), ())


def test_test_mode_pretends() -> None:
    happened: list[Input] = []

    async def run() -> None:
        addresses = PretendedAddresses(["eth1", "eth0", "eth1"], happened.append)
        addresses.start()
        addresses.want_lease(True, 1)
        addresses.carry_out(effects.PutAddress(1, "10.0.0.1", 24, "eth0"))
        addresses.carry_out(effects.AnnounceAddress("10.0.0.1", "eth0"))
        await asyncio.sleep(0)
        addresses.carry_out(effects.RemoveAddress(2, "10.0.0.1", 24, "eth1"))
        await asyncio.sleep(0)
        addresses.carry_out(effects.RemoveAddress(3, "10.0.0.1"))
        await asyncio.sleep(0)
        addresses.stop()

    asyncio.run(run())
    links = (LinkState("eth0", True), LinkState("eth1", True))
    standing = (HostAddress("10.0.0.1", 24, "eth0"),)
    assert [each for each in happened if isinstance(each, AddressDone)] == [
        AddressDone(1),
        AddressDone(2),
        AddressDone(3),
    ]
    seen = [each.addresses for each in happened if isinstance(each, HostSeen) and each.links == links]
    assert seen[-2:] == [standing, ()]


def test_deeds_that_the_kernel_leaves_undone_fail_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctdbpy.daemon.addresses.DEED_LIMIT_S", 0.05)

    async def run() -> list[Input]:
        happened: list[Input] = []
        failed = asyncio.Event()

        def take(event: Input) -> None:
            happened.append(event)
            failed.set()

        lease = os.memfd_create("lease")
        # Not started: the same as one whose every call hangs.
        addresses = AddressHelper(Children(), (lease, lease), take, realtime=False)
        for deed in (1, 2):
            addresses.carry_out(effects.RemoveAddress(deed, "10.0.0.1"))
            await asyncio.wait_for(failed.wait(), LIMIT_S)
            failed.clear()
        addresses.stop()
        os.close(lease)
        return happened

    happened = asyncio.run(run())
    assert [each.deed_id for each in happened if isinstance(each, AddressDone) and each.error] == [1, 2]


def test_what_was_asked_while_there_was_no_helper_is_asked_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()

    def start_helper(*_arguments: object, **_options: object) -> tuple[None, socket.socket]:
        return None, ours

    monkeypatch.setattr("ctdbpy.daemon.addresses.start_helper", start_helper)
    wake = Connection(SockAddr("10.0.0.9", 1234), SockAddr("10.0.0.1", 445))

    async def run() -> str:
        lease = os.memfd_create("lease")
        addresses = AddressHelper(Children(), (lease, lease), lambda _event: None, realtime=True)
        addresses.carry_out(effects.PutAddress(1, "10.0.0.1", 24, "eth0"))
        addresses.carry_out(effects.SendTickles((wake,)))
        addresses.want_lease(True, 5)
        addresses.start()
        addresses.carry_out(effects.AnnounceAddress("10.0.0.1", "eth0", (wake,)))
        addresses.carry_out(effects.RemoveAddress(2, "10.0.0.1"))
        addresses.carry_out(effects.StopAnnouncing("10.0.0.1"))
        addresses.carry_out(effects.KillConnections("10.0.0.1"))
        addresses.stop()
        os.close(lease)
        with theirs, theirs.makefile() as lines:
            return lines.read()

    assert asyncio.run(run()) == (
        "lease 5\npriority\nput 1 10.0.0.1 24 eth0\n"
        "announce 10.0.0.1 eth0 10.0.0.1 445 10.0.0.9 1234\nremove 2 10.0.0.1\nhush 10.0.0.1\nkill 10.0.0.1\n"
    )


@pytest.mark.root
def test_a_helper_that_may_not_announce_says_so_and_ends() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(LIMIT_S)
    # Still root, whose tree may be nobody else's to read.
    argv = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    with ours, theirs:
        done = subprocess.run(
            [*argv, sys.executable, "-m", "ctdbpy.host.address_helper", "0"],
            stdin=theirs.fileno(),
            stderr=subprocess.PIPE,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "raw sockets need CAP_NET_RAW" in ours.recv(4096).decode()


def test_a_daemon_in_test_mode_has_no_helper(daemon: Daemon) -> None:
    assert daemon.children("ctdbpy.host.address_helper") == []
