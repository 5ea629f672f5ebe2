# SPDX-License-Identifier: GPL-3.0-or-later
"""The public_addresses file: which public IPs this node may host, and on which interfaces.

Source: ctdb(7) "PUBLIC ADDRESSES". Whether the interfaces exist is for the host room to find out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
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
    line: int = field(default=0, compare=False)
    """Where it stands in its file."""


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
            found[result.address] = replace(result, line=number)
    if problems:
        raise ConfigError("cannot load the public addresses: " + "\n".join(problems))
    return tuple(found.values())


def parse_address_with_prefix(text: str) -> tuple[str, int] | str:
    """Return address and prefix length of ADDRESS/BITS, or what is wrong with it and how to mend it."""
    host, slash, bits = text.rpartition("/")
    if not slash:
        return "the prefix length is missing; write ADDRESS/BITS"
    address = parse_address(host)
    if address is None:
        return f"'{host}': {why_not_an_address(host)}"
    bits_max = 128 if ":" in address else 32
    if not re.fullmatch("[0-9]{1,3}", bits) or int(bits) > bits_max:
        return f"'{bits}' is not a prefix length from 0 to {bits_max}"
    return address, int(bits)


def why_not_interfaces(names: tuple[str, ...]) -> str | None:
    """Say why these names cannot be those of an address's interfaces; None: they can."""
    for name in names:
        if not name or len(name) > INTERFACE_NAME_MAX or "/" in name or name.split() != [name]:
            return f"'{name}' cannot be an interface name"
    return "an interface is named twice" if len(set(names)) < len(names) else None


def _parse_line(line: str) -> PublicAddress | str:
    """Return the value, or what is wrong with the line and how to mend it."""
    words = line.split()
    parsed = parse_address_with_prefix(words[0])
    if isinstance(parsed, str):
        return f"{parsed} INTERFACE" if parsed.endswith("ADDRESS/BITS") else parsed
    match words[1:]:
        case []:
            return "the interface is missing; write ADDRESS/BITS INTERFACE[,INTERFACE...]"
        case [names]:
            interfaces = tuple(names.split(","))
        case _:
            return "nothing may follow the interfaces; divide them by commas without blanks"
    problem = why_not_interfaces(interfaces)
    return problem if problem is not None else PublicAddress(*parsed, interfaces)
