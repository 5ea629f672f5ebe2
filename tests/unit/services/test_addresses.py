# SPDX-License-Identifier: GPL-3.0-or-later
"""Which public addresses a node has, from the kernel's files."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ctdbpy.services import addresses
from ctdbpy.services.event import Event

FIB_TRIE = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 192.0.2.0/24 2 0 1
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.7
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
"""
IF_INET6 = "20010db8000000000000000000000009 02 40 00 80     pub0\n"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    return tmp_path


def event(base: Path) -> Event:
    return Event("monitor", (), base, base, {})


def test_only_public_addresses_that_are_here_are_hosted(net: Path) -> None:
    lines = (
        "# 192.0.2.255/24 pub0\n192.0.2.8/24 pub0\n\n 192.0.2.7/24 pub0\n2001:DB8:0::9/64 pub0\nnonsense\n"
    )
    (net / "public_addresses").write_text(lines)
    assert addresses.public(event(net)) == ["192.0.2.8", "192.0.2.7", "2001:db8::9"]
    assert addresses.hosted(event(net), net) == ["192.0.2.7", "2001:db8::9"]


def test_a_node_without_the_file_hosts_none(net: Path) -> None:
    assert addresses.hosted(event(net), net) == []


def test_a_network_or_broadcast_address_is_nobody_s_own(net: Path) -> None:
    assert addresses.local(net) == {"127.0.0.1", "192.0.2.7", "2001:db8::9"}


def test_this_machine_has_its_loopback_address() -> None:
    assert "127.0.0.1" in addresses.local()


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")],
)
def test_who_listens_is_seen(family: socket.AddressFamily, address: str) -> None:
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    port = listener.getsockname()[1]
    assert addresses.listeners(port) == [address]
    listener.close()
    assert addresses.listeners(port) == []
