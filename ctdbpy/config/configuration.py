# SPDX-License-Identifier: GPL-3.0-or-later
"""All that an administrator has written for one node: what the daemon starts with."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ctdbpy.config.cluster_file import ClusterFile, ClusterNode, ScriptOption
from ctdbpy.config.cluster_reader import read_cluster
from ctdbpy.config.cluster_settings import own_node, public_addresses_for, settings_for, tunables_for
from ctdbpy.config.files import read_text
from ctdbpy.config.home_nodes import load_home_nodes
from ctdbpy.config.nodes import NodeAddress, address_not_listed, load_nodes, node_port
from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress, load_public_addresses
from ctdbpy.config.settings import Settings, load_ctdb_conf, place_of
from ctdbpy.config.tunables_file import load_tunables
from ctdbpy.config.values import Quorum
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import Tunables


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, nodes, public addresses and tunables of one node, and the paths they came from.

    `paths` already carries the directories that the settings name; `port` is that of the node links;
    `quorum` is decided (never AUTO); `warnings` are for the log, once it is open.
    cluster: the cluster file, if that is what counts. script_options: those it has; None with
    upstream's files, which scripts read themselves.
    """

    settings: Settings
    nodes: tuple[NodeAddress, ...]
    public_addresses: tuple[PublicAddress, ...]
    tunables: Tunables
    paths: Paths
    port: int
    quorum: Quorum
    warnings: tuple[str, ...]
    script_options: tuple[ScriptOption, ...] | None = None
    home_nodes: tuple[tuple[str, int], ...] = ()
    cluster: ClusterFile | None = field(default=None, compare=False)

    @property
    def public_addresses_source(self) -> str:
        """What the public addresses came from, as errors name it."""
        return self.cluster.source if self.cluster is not None else str(self.paths.public_addresses)


def load(paths: Paths, *, number: int | None = None) -> Configuration:
    """Read everything: the cluster file if it is there, upstream's files else.

    number: which node of the cluster file this host is, if that is known. In upstream's files wrong tunables
    are warnings. ConfigError lists all else that is wrong, at once.
    """
    text = read_text(paths.cluster)
    if text is None:
        return load_files(paths)
    return load_cluster(text, str(paths.cluster), paths, number=number)


def load_cluster(text: str, source: str, paths: Paths, *, number: int | None = None) -> Configuration:
    """Use the text of a cluster file, for the node of this number or the one that this host is."""
    file = read_cluster(text, source)
    node = own_node(file, paths.own_node) if number is None else file.node(number)
    if node is None:
        line = next((each.line for each in file.nodes if each.number == number), 0)
        raise ConfigError(
            f"cannot use '{source}:{line}': node {number}, this one, is deleted there; shut it down first"
            if line
            else f"cannot use '{source}:1': it has no node {number}, which is this one; list it under 'nodes'"
        )
    return configure(file, node, paths)


def configure(file: ClusterFile, node: ClusterNode, paths: Paths) -> Configuration:
    """What a cluster file means for one of its nodes. Raises ConfigError."""
    settings = settings_for(file, node, paths.etc)
    nodes = file.node_addresses()
    quorum = settings.quorum_for(sum(not each.deleted for each in nodes))
    if problem := _fence_problem(settings, nodes, quorum):
        given = (*node.settings, *file.settings)
        line = next((each.line for each in given if each.option == "fence command"), 1)
        raise ConfigError(f"cannot load the settings: {file.source}:{line}: {problem}")
    return Configuration(
        settings=settings,
        nodes=nodes,
        public_addresses=public_addresses_for(file, node.number),
        tunables=tunables_for(file, node),
        paths=paths.with_settings(settings),
        port=node_port(settings.port),
        quorum=quorum,
        warnings=(*_unread(paths), *_unprotected(nodes, quorum)),
        script_options=file.services,
        home_nodes=tuple((each.address, each.home) for each in file.addresses if each.home is not None),
        cluster=file,
    )


def load_cluster_nodes(paths: Paths) -> tuple[NodeAddress, ...]:
    """The nodes of the cluster file, whether or not this host is one. Raises ConfigError."""
    text = read_text(paths.cluster)
    if text is None:
        raise ConfigError(f"cannot read '{paths.cluster}': there is no such file")
    return read_cluster(text, str(paths.cluster)).node_addresses()


def load_files(paths: Paths) -> Configuration:
    """Read upstream's files."""
    settings, warnings = load_ctdb_conf(paths.conf)
    paths = paths.with_settings(settings)
    problems: list[str] = []
    nodes: tuple[NodeAddress, ...] = ()
    public_addresses: tuple[PublicAddress, ...] = ()
    try:
        nodes = load_nodes(paths.nodes)
        if settings.node_address is not None and all(settings.node_address != node.address for node in nodes):
            where = place_of(paths.conf, "cluster", "node address")
            problems.append(f"{where}: {address_not_listed(settings.node_address, nodes)}")
    except ConfigError as error:
        set_by = f"{place_of(paths.conf, 'cluster', 'nodes list')}: " if settings.nodes_list else ""
        problems.append(f"{set_by}{error}")
    try:
        public_addresses = load_public_addresses(paths.public_addresses)
    except ConfigError as error:
        problems.append(str(error))
    problems += private_problems(nodes, public_addresses, paths.public_addresses)
    if problems:
        raise ConfigError("\n".join(problems))
    tunables, tunable_errors = load_tunables(paths.tunables, paths.tunables_directory)
    quorum = settings.quorum_for(sum(not node.deleted for node in nodes))
    if problem := _fence_problem(settings, nodes, quorum):
        where = place_of(paths.conf, "cluster", "fence command")
        raise ConfigError(f"cannot load the settings: {where}: {problem}")
    homes: dict[str, int] = {}
    home_errors: tuple[str, ...] = ()
    try:
        homes = load_home_nodes(paths.home_nodes)
    except ConfigError as error:
        home_errors = tuple(f"{line}; the whole file is ignored" for line in str(error).split("\n"))
    return Configuration(
        settings=settings,
        nodes=nodes,
        public_addresses=public_addresses,
        tunables=tunables,
        paths=paths,
        port=node_port(settings.port),
        quorum=quorum,
        warnings=(*warnings, *tunable_errors, *home_errors, *_unprotected(nodes, quorum)),
        home_nodes=tuple(homes.items()),
    )


def host_problems(configuration: Configuration) -> tuple[str, ...]:
    """What does not fit this host: interfaces that it does not have."""
    known = {name for _index, name in socket.if_nameindex()}
    source = configuration.public_addresses_source
    return tuple(
        f"{source}:{each.line}: there is no interface '{name}' for '{each.address}' on this host; "
        f"it has {', '.join(sorted(known))}"
        for each in configuration.public_addresses
        for name in each.interfaces
        if name not in known
    )


def private_problems(
    nodes: tuple[NodeAddress, ...], public: tuple[PublicAddress, ...], source: Path
) -> list[str]:
    """An address that moves cannot also be the fixed one of a node: the node would lose its links with it."""
    private = {node.address: node.pnn for node in nodes if not node.deleted}
    return [
        f"{source}:{one.line}: cannot use public address '{one.address}': it is the private address of node "
        f"{private[one.address]}; take it out of the public_addresses file"
        for one in public
        if one.address in private
    ]


def _unread(paths: Paths) -> Iterator[str]:
    """Upstream's files beside the cluster file, which alone counts."""
    files = (paths.conf, Path(paths.nodes), paths.public_addresses, paths.home_nodes, paths.tunables)
    found = [str(path) for path in files if path.exists()]
    if found:
        yield f"'{paths.cluster}' counts; not read: {', '.join(found)}"
    if paths.script_options.exists():
        yield (
            f"event scripts read '{paths.script_options}' after the services of '{paths.cluster}': "
            "move it away once 'ctdbctl config import' has taken it over"
        )


def _fence_problem(settings: Settings, nodes: tuple[NodeAddress, ...], quorum: Quorum) -> str:
    """Without a quorum both sides of a split cluster would take each other's power."""
    if (
        settings.fence_command is None
        or quorum is not Quorum.NONE
        or sum(not each.deleted for each in nodes) < 2
    ):
        return ""
    return "it needs a quorum, or both sides of a split cluster run it; set 'cluster lock' or 'quorum' too"


def _unprotected(nodes: tuple[NodeAddress, ...], quorum: Quorum) -> list[str]:
    if quorum is not Quorum.NONE or sum(not node.deleted for node in nodes) < 2:
        return []
    return [
        (
            "nothing keeps both sides of a split cluster from serving: set '[cluster] cluster lock', or from "
            "three nodes up '[cluster] quorum = majority'"
        )
    ]
