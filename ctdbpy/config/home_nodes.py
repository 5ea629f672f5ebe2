# SPDX-License-Identifier: GPL-3.0-or-later
"""The home_nodes file: where public IPs belong, for the deterministic algorithm of their allocation.

Source: reference/ctdb.md 3.4, 7.17 (Samba 4.20 and newer).
"""

from __future__ import annotations

from pathlib import Path

from ctdbpy.config.addresses import parse_address, why_not_an_address
from ctdbpy.config.files import read_text
from ctdbpy.errors import ConfigError

_PNN_MAX = 0xFFFFFFFE


def load_home_nodes(path: Path) -> dict[str, int]:
    """Read the file, node by address; missing or empty means that none has a home. Raises ConfigError."""
    text = read_text(path)
    return parse_home_nodes(text, str(path)) if text is not None else {}


def parse_home_nodes(text: str, source: str) -> dict[str, int]:
    """Read the file's text; `source` names it in errors. Raises ConfigError for wrong lines."""
    homes: dict[str, int] = {}
    problems: list[str] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        words = line.split()
        address = parse_address(words[0])
        problem = ""
        if address is None:
            problem = f"'{words[0]}': {why_not_an_address(words[0])}"
        elif len(words) != 2:
            problem = "write ADDRESS PNN"
        elif not (words[1].isascii() and words[1].isdecimal()) or int(words[1]) > _PNN_MAX:
            problem = f"'{words[1]}' is not the number of a node"
        elif address in homes:
            problem = f"'{address}' has a home already"
        else:
            homes[address] = int(words[1])
        if problem:
            problems.append(f"{source}:{number}: '{line}' is not valid: {problem}")
    if problems:
        raise ConfigError("cannot load the home nodes: " + "\n".join(problems))
    return homes
