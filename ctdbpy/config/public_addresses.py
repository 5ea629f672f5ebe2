# SPDX-License-Identifier: GPL-3.0-or-later
"""The public_addresses file: which public IPs this node may host, and on which interfaces.

Source: ctdb(7) "PUBLIC ADDRESSES". Whether the interfaces exist is for the host room to find out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ctdbpy.config.addresses import parse_address, why_not_an_address
from ctdbpy.config.files import read_text
from ctdbpy.errors import ConfigError

INTERFACE_NAME_MAX = 15
"""The kernel's limit, IFNAMSIZ less the closing zero byte."""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """One public IP with its prefix length and the interfaces that can carry it, in order of preference."""

    address: str
    prefix: int
    interfaces: tuple[str, ...]


def load_public_addresses(path: Path) -> tuple[PublicAddress, ...]:
    """Read the file; missing or empty means that this node hosts none. Raises ConfigError for wrong lines."""
    text = read_text(path)
    return parse_public_addresses(text, str(path)) if text is not None else ()


def parse_public_addresses(text: str, source: str) -> tuple[PublicAddress, ...]:
    """Read the file's text; `source` names it in errors. Raises ConfigError for wrong lines."""
    found: dict[str, PublicAddress] = {}
    problems: list[str] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        result = _parse_line(line)
        if isinstance(result, str):
            problems.append(f"{source}:{number}: '{line}' is not valid: {result}")
        elif result.address in found:
            problems.append(
                f"{source}:{number}: '{result.address}' is there already; each address has one line"
            )
        else:
            found[result.address] = result
    if problems:
        raise ConfigError("cannot load the public addresses: " + "\n".join(problems))
    return tuple(found.values())


def _parse_line(line: str) -> PublicAddress | str:
    """Return the value, or what is wrong with the line and how to mend it."""
    words = line.split()
    text, slash, bits = words[0].rpartition("/")
    if not slash:
        return "the prefix length is missing; write ADDRESS/BITS INTERFACE"
    address = parse_address(text)
    if address is None:
        return f"'{text}': {why_not_an_address(text)}"
    bits_max = 128 if ":" in address else 32
    if not re.fullmatch("[0-9]{1,3}", bits) or int(bits) > bits_max:
        return f"'{bits}' is not a prefix length from 0 to {bits_max}"
    match words[1:]:
        case []:
            return "the interface is missing; write ADDRESS/BITS INTERFACE[,INTERFACE...]"
        case [names]:
            interfaces = tuple(names.split(","))
        case _:
            return "nothing may follow the interfaces; divide them by commas without blanks"
    for name in interfaces:
        if not name or len(name) > INTERFACE_NAME_MAX or "/" in name:
            return f"'{name}' cannot be an interface name"
    if len(set(interfaces)) < len(interfaces):
        return "an interface is named twice"
    return PublicAddress(address, int(bits), interfaces)
