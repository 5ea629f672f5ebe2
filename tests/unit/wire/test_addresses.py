# SPDX-License-Identifier: GPL-3.0-or-later
"""Socket addresses against the C library's own structures, and in canonical text."""

from __future__ import annotations

import ctypes
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.addresses import SockAddr

SIZE_OF_SOCKADDR = {socket.AF_INET: 16, socket.AF_INET6: 28}


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_is_what_the_kernel_takes_for_it(ip: object, port: int) -> None:
    libc = ctypes.CDLL(None)
    family = socket.AF_INET6 if ":" in str(ip) else socket.AF_INET
    packed = SockAddr(str(ip), port).pack()
    buffer = ctypes.create_string_buffer(64)
    host, service = ctypes.create_string_buffer(64), ctypes.create_string_buffer(8)
    buffer.raw = packed.ljust(64, b"\0")
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    error = libc.getnameinfo(buffer, SIZE_OF_SOCKADDR[family], host, 64, service, 8, numeric)
    assert error == 0
    text = host.value.decode().partition("%")[0]
    assert socket.inet_pton(family, text) == socket.inet_pton(family, str(ip))
    assert service.value == str(port).encode()


def test_an_ipv4_address_mapped_into_ipv6_is_canonically_ipv4() -> None:
    assert SockAddr("::ffff:10.1.2.3", 445).canonical() == SockAddr("10.1.2.3", 445)
    assert SockAddr.of("::FFFF:10.1.2.3", 445) == SockAddr("10.1.2.3", 445)
    assert SockAddr("fd00::1", 445).canonical() == SockAddr("fd00::1", 445)
    assert SockAddr("10.1.2.3").canonical() == SockAddr("10.1.2.3")


def test_canonical_text_is_short_and_lower_case() -> None:
    assert SockAddr.of("FD00:0:0::0001").host == "fd00::1"
    with pytest.raises(ProtocolError):
        SockAddr.of("node1")


def test_an_unset_address_is_zeros_and_back() -> None:
    assert SockAddr("").pack() == bytes(28)
    assert SockAddr.unpack(bytes(28)) == SockAddr("")


def test_an_address_without_its_port_is_the_same_host() -> None:
    assert SockAddr("10.1.2.3", 445).without_port() == SockAddr("10.1.2.3")
    assert str(SockAddr("10.1.2.3", 445)) == "10.1.2.3"


def test_another_family_is_refused() -> None:
    with pytest.raises(ProtocolError, match="family is 1"):
        SockAddr.unpack(b"\x01" + bytes(27))
