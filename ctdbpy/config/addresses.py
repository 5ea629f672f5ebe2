# SPDX-License-Identifier: GPL-3.0-or-later
"""Numeric IP addresses as CTDB's files write them: no names, no ports, no zones."""

from __future__ import annotations

import socket

_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"


def parse_address(text: str) -> str | None:
    """Return the address in canonical form, or None when it is not one.

    IPv6 may stand in brackets; an IPv4 address mapped into IPv6 counts as IPv4, as upstream has it.
    """
    if ":" not in text:
        return _canonical(socket.AF_INET, text)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAPPED_PREFIX):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _canonical(family: socket.AddressFamily, text: str) -> str | None:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        return None


def why_not_an_address(text: str) -> str:
    """Say what is wrong with a text that `parse_address` refused, and how to mend it."""
    if "#" in text:
        return "a comment cannot follow an address; put it on a line of its own in another file"
    if len(text.split()) > 1:
        return "only one address may stand on a line"
    if "%" in text:
        return "an address with a zone ('%') cannot be used; give a routable address"
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and parse_address(host) is not None:
        return (
            f"a port cannot be given here; write '{host}' and set the port by service 'ctdb' in /etc/services"
        )
    if "/" in text:
        return "a prefix length cannot be given here; write the address alone"
    if any(letter.isalpha() for letter in text) and ":" not in text:
        return "host names are not looked up; write the numeric address"
    return "it is not a numeric IPv4 or IPv6 address"
