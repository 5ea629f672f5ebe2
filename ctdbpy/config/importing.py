# SPDX-License-Identifier: GPL-3.0-or-later
"""From upstream's files of one node, or of several, to one cluster file that means the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from ctdbpy.config.cluster_file import (
    EVERY_SCRIPT,
    ClusterAddress,
    ClusterFile,
    ClusterNode,
    Given,
    ScriptOption,
)
from ctdbpy.config.cluster_reader import AT_THE_TOP, ELSEWHERE
from ctdbpy.config.configuration import Configuration, load_files
from ctdbpy.config.facts import setting_text
from ctdbpy.config.files import read_text
from ctdbpy.config.paths import Paths
from ctdbpy.config.script_options import parse_script_options
from ctdbpy.config.settings import Settings
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.values import Quorum
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import OWN_TUNABLES, TUNABLES, Tunables

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

#: As file names of scripts are only looked for there.
_SCRIPTS: Final = ("lock_debug_script", "event_debug_script")


@dataclass(frozen=True, slots=True)
class Imported:
    """The cluster file, and what an administrator should know about how it came to be."""

    file: ClusterFile
    notes: tuple[str, ...]


def import_files(paths: Paths, source: str) -> Imported:
    """Take over the files of this node, for every node. Raises ConfigError for what cannot be taken over."""
    return import_nodes({None: paths}, source)


def import_nodes(directories: Mapping[int | None, Paths], source: str) -> Imported:
    """Take over the files of nodes by number; under None stand those of a node that speaks for all.

    Raises ConfigError: what is wrong in them or cannot be taken over, or nodes that do not belong together.
    """
    read = {number: load_files(paths) for number, paths in directories.items()}
    first = next(iter(read.values()))
    listed = first.nodes
    for number, each in read.items():
        if each.nodes != listed:
            raise ConfigError(
                f"cannot take over the nodes: those of node {number} are not those of the others"
            )
    live = {node.pnn for node in listed if not node.deleted}
    if None not in read and live != read.keys():
        given = ", ".join(map(str, sorted(number for number in read if number is not None)))
        raise ConfigError(
            f"cannot take over nodes {given}: the nodes files list {', '.join(map(str, sorted(live)))}; "
            "give the directory of each"
        )
    settings, own_settings = _in_common({number: dict(_settings(each)) for number, each in read.items()})
    for number, own in own_settings.items():
        for (section, option), value in own.items():
            if option in AT_THE_TOP:
                raise ConfigError(
                    f"cannot take over '[{section}] {option}': it is '{value}' on node {number} and not on "
                    "others; make it the same on all nodes first"
                )
    tunables, own_tunables = _in_common({number: dict(_tunables(each)) for number, each in read.items()})
    services, own_services = _in_common(
        {number: dict(_services(paths)) for number, paths in directories.items()}
    )
    different = next((number for number, options in own_services.items() if options), None)
    if different is not None:
        script, name = next(iter(own_services[different]))
        raise ConfigError(
            f"cannot take over the script options: '{name}' of '{script}' differs on node {different}; "
            "script options are the same on all nodes"
        )
    file = ClusterFile(
        source=source,
        nodes=tuple(
            ClusterNode(
                node.pnn,
                node.address,
                deleted=node.deleted,
                settings=_given(own_settings.get(node.pnn, {})),
                tunables=tuple(own_tunables.get(node.pnn, {}).items()),
            )
            for node in listed
        ),
        addresses=tuple(_addresses(read, live)),
        settings=_given(settings),
        tunables=tuple(tunables.items()),
        services=tuple(ScriptOption(script, name, value) for (script, name), value in services.items()),
    )
    return Imported(file, tuple(_notes(read, directories)))


def _in_common(
    by_node: Mapping[int | None, Mapping[_Key, _Value]],
) -> tuple[dict[_Key, _Value], dict[int | None, dict[_Key, _Value]]]:
    """What is the same on all nodes, and what each has of its own."""
    first = next(iter(by_node.values()))
    common = {
        key: value
        for key, value in first.items()
        if all(key in each and each[key] == value for each in by_node.values())
    }
    own = {
        number: {key: value for key, value in each.items() if key not in common}
        for number, each in by_node.items()
    }
    return common, own


def _settings(configuration: Configuration) -> Iterator[tuple[tuple[str, str], str]]:
    """What is not the default."""
    settings, default = configuration.settings, Settings()
    if settings.lock is not None:
        yield ("cluster", "cluster lock"), settings.lock
    if settings.quorum is not Quorum.AUTO:
        yield ("cluster", "quorum"), settings.quorum.value
    for row in SETTINGS:
        value = getattr(settings, row.field)
        if row.option in ELSEWHERE or value == getattr(default, row.field):
            continue
        text = value.name if row.field in _SCRIPTS else setting_text(settings, row.field)
        yield (row.section, row.option), text


def _given(settings: Mapping[tuple[str, str], str]) -> tuple[Given, ...]:
    return tuple(Given(section, option, text) for (section, option), text in settings.items())


def _tunables(configuration: Configuration) -> Iterator[tuple[str, int]]:
    default = Tunables()
    for spec in (*TUNABLES, *OWN_TUNABLES):
        number = configuration.tunables.get(spec.name)
        if not spec.obsolete and number != default.get(spec.name):
            yield spec.name, number


def _addresses(read: Mapping[int | None, Configuration], live: set[int]) -> Iterator[ClusterAddress]:
    hosts: dict[tuple[str, int, tuple[str, ...]], set[int]] = {}
    for number, each in read.items():
        for one in each.public_addresses:
            numbers = hosts.setdefault((one.address, one.prefix, one.interfaces), set())
            numbers |= live if number is None else {number}
    homes = {address: pnn for each in read.values() for address, pnn in each.home_nodes}
    for (address, prefix, interfaces), numbers in hosts.items():
        nodes = None if numbers == live else frozenset(numbers)
        home = homes.get(address)
        yield ClusterAddress(address, prefix, interfaces, nodes, home if home in numbers else None)


def _services(paths: Paths) -> Iterator[tuple[tuple[str, str], str]]:
    base = str(paths.etc)
    files = [(EVERY_SCRIPT, paths.script_options)]
    files += [(path.stem, path) for path in sorted(paths.event_scripts.glob("[0-9][0-9].*.options"))]
    for script, path in files:
        text = read_text(path)
        for _line, name, value in parse_script_options(text, str(path), base) if text is not None else ():
            yield (script, name), value


def _notes(
    read: Mapping[int | None, Configuration], directories: Mapping[int | None, Paths]
) -> Iterator[str]:
    yield from dict.fromkeys(warning for each in read.values() for warning in each.warnings)
    for number, each in read.items():
        settings = each.settings
        if settings.nodes_list is not None:
            yield (
                f"the nodes are those that '{settings.nodes_list}' gives now; "
                "from now on the cluster file says which there are"
            )
        if settings.node_address is not None:
            pnn = next(node.pnn for node in each.nodes if node.address == settings.node_address)
            node_file = directories[number].own_node
            yield (
                f"'node address' made this node number {pnn}; if the host has another node's address too, "
                f"write '{pnn}' into '{node_file}'"
            )
    if None in read and read[None].public_addresses and len(read[None].nodes) > 1:
        yield (
            "the public addresses of this node are taken for every node; "
            "where they differ, name the nodes of each, or give every node's directory"
        )


def export_file(configuration: Configuration, paths: Paths) -> ClusterFile:
    """What counts on this node as a cluster file, wherever it came from."""
    if configuration.cluster is not None:
        return configuration.cluster
    return import_files(paths, str(paths.cluster)).file
