# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cluster file means for one node, and which of its nodes this host is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from ctdbpy.config.cluster_file import ClusterFile, ClusterNode, Given
from ctdbpy.config.files import read_text
from ctdbpy.config.public_addresses import PublicAddress
from ctdbpy.config.settings import Settings
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.values import (
    Context,
    Invalid,
    Quorum,
    Value,
    read_command,
    read_directory,
    read_log_location,
    read_script,
)
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import Tunables

_BY_NAME: Final = {(row.section, row.option): row for row in SETTINGS}
#: What these say only the host itself can judge.
_OF_THE_HOST: Final = (read_command, read_directory, read_script, read_log_location)


def settings_for(file: ClusterFile, node: ClusterNode, etc: Path) -> Settings:
    """The settings of the node that this host is. Raises ConfigError for every value that is wrong."""
    problems = [
        problem
        for other in file.nodes
        if other.number != node.number and not other.deleted
        for problem in _read(file.source, (*file.settings, *other.settings), etc, is_here=False)[1]
    ]
    values, own_problems = _read(file.source, (*file.settings, *node.settings), etc, is_here=True)
    problems = list(dict.fromkeys((*own_problems, *problems)))
    settings = replace(Settings(), **values, node_address=node.address)  # type: ignore[arg-type]
    if settings.quorum is Quorum.LOCK and settings.lock is None:
        line = next((each.line for each in file.settings if each.option == "quorum"), 1)
        problems.append(f"{file.source}:{line}: quorum: 'lock' needs a lock; set 'cluster lock' too")
    if problems:
        raise ConfigError("cannot load the settings: " + "\n".join(problems))
    return settings


def tunables_for(file: ClusterFile, node: ClusterNode) -> Tunables:
    """The tunables that the node starts with."""
    tunables = Tunables()
    for name, number in (*file.tunables, *node.tunables):
        tunables = tunables.replaced(name, number)
    return tunables


def public_addresses_for(file: ClusterFile, number: int) -> tuple[PublicAddress, ...]:
    """The public addresses that the node may host."""
    return tuple(
        PublicAddress(each.address, each.prefix, each.interfaces, each.line)
        for each in file.addresses
        if each.is_for(number)
    )


def own_node(file: ClusterFile, own: Path, is_ours: Callable[[str], bool] | None = None) -> ClusterNode:
    """Which node this host is: the one that the file `own` names, else the first whose address it has.

    Raises ConfigError: the file names none that there is, or the host has none of the addresses.
    """
    nodes = [node for node in file.nodes if not node.deleted]
    named = read_text(own)
    if named is not None:
        for node in nodes:
            if named.strip() in (str(node.number), node.name):
                return node
        known = ", ".join(node.name or str(node.number) for node in nodes)
        raise ConfigError(
            f"cannot use '{own}:1': '{named.strip()}' is no node of '{file.source}'; write one of {known}"
        )
    for node in nodes:
        if (is_ours or host_has)(node.address):
            return node
    addresses = ", ".join(f"{node.address} (line {node.line})" for node in nodes)
    raise ConfigError(
        f"cannot find this node in '{file.source}': the host has none of the addresses {addresses}; "
        "is the private network up, is it the file of this cluster?"
    )


def host_has(address: str) -> bool:
    """Whether this host has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _read(
    source: str, given: Iterable[Given], etc: Path, *, is_here: bool
) -> tuple[dict[str, Value], list[str]]:
    """The values by field of `Settings`, later ones first, and what is wrong with them."""
    values: dict[str, Value] = {}
    problems: list[str] = []
    for each in _last(given):
        row = _BY_NAME[each.section, each.option]
        if not is_here and row.read in _OF_THE_HOST:
            continue
        where = f"{source}:{each.line}: [{row.section}] {row.option}"
        notes: list[str] = []
        try:
            values[row.field] = row.read(each.text, Context(etc, notes.append))
        except Invalid as error:
            notes.append(f"'{each.text}' is not valid: {error}")
        problems += [f"{where}: {note}" for note in notes]
    return values, problems


def _last(given: Iterable[Given]) -> Iterator[Given]:
    """Of each setting the one that counts: a node's own comes last."""
    return iter({(each.section, each.option): each for each in given}.values())
