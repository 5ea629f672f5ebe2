# SPDX-License-Identifier: GPL-3.0-or-later
"""All of an administrator's files together: what the daemon starts with."""

from __future__ import annotations

from dataclasses import dataclass

from ctdbpy.config.nodes import NodeAddress, address_not_listed, load_nodes, node_port
from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress, load_public_addresses
from ctdbpy.config.settings import Settings, load_ctdb_conf
from ctdbpy.config.tunables_file import load_tunables
from ctdbpy.config.values import Quorum
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import Tunables


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, nodes, public addresses and tunables of one node, and the paths they came from.

    `paths` already carries the directories that the settings name; `port` is that of the node links;
    `quorum` is decided (never AUTO); `warnings` are for the log, once it is open.
    """

    settings: Settings
    nodes: tuple[NodeAddress, ...]
    public_addresses: tuple[PublicAddress, ...]
    tunables: Tunables
    paths: Paths
    port: int
    quorum: Quorum
    warnings: tuple[str, ...]


def load(paths: Paths) -> Configuration:
    """Read everything. Wrong tunables are warnings; ConfigError lists all else that is wrong, at once."""
    settings, warnings = load_ctdb_conf(paths.conf)
    paths = paths.with_settings(settings)
    problems: list[str] = []
    nodes: tuple[NodeAddress, ...] = ()
    public_addresses: tuple[PublicAddress, ...] = ()
    try:
        nodes = load_nodes(paths.nodes)
        if settings.node_address is not None and all(settings.node_address != node.address for node in nodes):
            problems.append(address_not_listed(settings.node_address, nodes))
    except ConfigError as error:
        problems.append(str(error))
    try:
        public_addresses = load_public_addresses(paths.public_addresses)
    except ConfigError as error:
        problems.append(str(error))
    problems += _private_and_public(nodes, public_addresses)
    if problems:
        raise ConfigError("\n".join(problems))
    tunables, tunable_errors = load_tunables(paths.tunables, paths.tunables_directory)
    quorum = settings.quorum_for(sum(not node.deleted for node in nodes))
    return Configuration(
        settings=settings,
        nodes=nodes,
        public_addresses=public_addresses,
        tunables=tunables,
        paths=paths,
        port=node_port(settings.port),
        quorum=quorum,
        warnings=(*warnings, *tunable_errors, *_unprotected(nodes, quorum)),
    )


def _private_and_public(nodes: tuple[NodeAddress, ...], public: tuple[PublicAddress, ...]) -> list[str]:
    """An address that moves cannot also be the fixed one of a node: the node would lose its links with it."""
    private = {node.address: node.pnn for node in nodes if not node.deleted}
    return [
        f"cannot use public address '{one.address}': it is the private address of node "
        f"{private[one.address]}; take it out of the public_addresses file"
        for one in public
        if one.address in private
    ]


def _unprotected(nodes: tuple[NodeAddress, ...], quorum: Quorum) -> list[str]:
    if quorum is not Quorum.NONE or sum(not node.deleted for node in nodes) < 2:
        return []
    return [
        (
            "nothing keeps both sides of a split cluster from serving: set '[cluster] cluster lock', or from "
            "three nodes up '[cluster] quorum = majority'"
        )
    ]
