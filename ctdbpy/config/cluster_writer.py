# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a cluster file says to its text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from ctdbpy.config.cluster_file import ClusterAddress, ClusterFile, ClusterNode, Given, ScriptOption
from ctdbpy.config.cluster_reader import AT_THE_TOP

_PLAIN: Final = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_/.+@%-]*(?: [A-Za-z0-9_/.+@%-]+)*")
#: What YAML would take for something else than a text.
_NOTHING: Final = frozenset({"null", "Null", "NULL"})

HEADING: Final = (
    "# The whole cluster, the same file on every node. Look it over with `ctdbctl config check`,",
    "# bring it to all nodes with `ctdbctl config apply`. What it may say: docs/configuration.md.",
)


def cluster_text(file: ClusterFile) -> str:
    """The text that reads back as `file`."""
    return "\n".join((*HEADING, *_lines(file))) + "\n"


def _lines(file: ClusterFile) -> Iterator[str]:
    yield "nodes:"
    for node in file.nodes:
        yield from _node(node)
    top = {(section, option): name for name, (section, option) in AT_THE_TOP.items()}
    at_top = [given for given in file.settings if (given.section, given.option) in top]
    if at_top:
        yield ""
        yield from (f"{top[each.section, each.option]}: {_quoted(each.text)}" for each in at_top)
    if file.addresses:
        yield from ("", "addresses:")
        for address in file.addresses:
            yield from _address(address)
    settings = [given for given in file.settings if (given.section, given.option) not in top]
    if settings:
        yield from ("", "settings:", *_settings(settings, "  "))
    if file.tunables:
        yield from ("", "tunables:", *_tunables(file.tunables, "  "))
    if file.services:
        yield from ("", "services:", *_services(file.services))


def _node(node: ClusterNode) -> Iterator[str]:
    yield f"  - number: {node.number}"
    if node.name:
        yield f"    name: {_quoted(node.name)}"
    yield "    deleted: true" if node.deleted else f"    address: {_quoted(node.address)}"
    if node.settings:
        yield from ("    settings:", *_settings(node.settings, "      "))
    if node.tunables:
        yield from ("    tunables:", *_tunables(node.tunables, "      "))


def _address(address: ClusterAddress) -> Iterator[str]:
    yield f"  - address: {_quoted(f'{address.address}/{address.prefix}')}"
    yield f"    interfaces: [{', '.join(map(_quoted, address.interfaces))}]"
    if address.nodes is not None:
        yield f"    nodes: [{', '.join(map(str, sorted(address.nodes)))}]"
    if address.home is not None:
        yield f"    home: {address.home}"


def _settings(settings: Iterable[Given], indent: str) -> Iterator[str]:
    by_section = sorted(settings, key=lambda each: each.section)
    for section, rows in groupby(by_section, key=lambda each: each.section):
        yield f"{indent}{section}:"
        yield from (f"{indent}  {each.option}: {_quoted(each.text)}" for each in rows)


def _tunables(tunables: Iterable[tuple[str, int]], indent: str) -> Iterator[str]:
    yield from (f"{indent}{name}: {number}" for name, number in tunables)


def _services(options: Iterable[ScriptOption]) -> Iterator[str]:
    by_script: dict[str, list[ScriptOption]] = {}
    for option in options:
        by_script.setdefault(option.script, []).append(option)
    for script, of_script in by_script.items():
        yield f"  {script}:"
        # Always in quotes: to any other reader of YAML a plain `yes` is not a text.
        yield from (f"    {each.name}: {json.dumps(each.value, ensure_ascii=False)}" for each in of_script)


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text not in _NOTHING:
        return text
    return json.dumps(text, ensure_ascii=False)
