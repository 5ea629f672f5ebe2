# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses, routes and rules of this host, by the program `ip`; the kernel's network settings."""

from __future__ import annotations

import json
from typing import Any, Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands

_LIMIT_S: Final = 5.0


def ip(*arguments: str) -> None:
    """Have `ip` do something. Raises ServiceError."""
    commands.run(["ip", *arguments], timeout_s=_LIMIT_S)


def try_ip(*arguments: str) -> bool:
    """Have `ip` undo what may not be there; whether it was. Raises ServiceError if there is no `ip`."""
    return commands.run(["ip", *arguments], timeout_s=_LIMIT_S, check=False).status == 0


def ask_ip(*arguments: str) -> list[dict[str, Any]]:
    """What `ip -json` tells; nothing if it cannot. Raises ServiceError."""
    said = commands.run(["ip", "-json", *arguments], timeout_s=_LIMIT_S, check=False).output
    try:
        rows = json.loads(said or "[]")
    except ValueError:
        raise ServiceError(f"cannot understand what 'ip -json {' '.join(arguments)}' says") from None
    # Some versions have an empty object where there is nothing.
    return [row for row in rows if row]


def set_setting(name: str, value: str) -> None:
    """Write one of the settings below net/. Raises ServiceError."""
    commands.run(["sysctl", "-q", "-w", f"net/{name}={value}"], timeout_s=_LIMIT_S)


def require_link(interface: str) -> None:
    """See that an interface has a link: one that is down is brought up first. Raises ServiceError.

    VLANs and bonds have a link as long as the interfaces below them do.
    """
    if "UP" not in _flags(interface):
        ip("link", "set", interface, "up")
    if "LOWER_UP" not in _flags(interface):
        raise ServiceError(f"interface '{interface}' has no link")


def _flags(interface: str) -> frozenset[str]:
    links = ask_ip("link", "show", "dev", interface)
    if not links:
        raise ServiceError(f"interface '{interface}' does not exist")
    return frozenset(links[0].get("flags", ()))
