# SPDX-License-Identifier: GPL-3.0-or-later
"""cluster.yaml: one file for the whole cluster, the same on every node.

Read here as it is written; what it means for one node is for `cluster_settings` to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ctdbpy.config.nodes import DELETED_ADDRESS, NodeAddress

#: A variable that every event script is given.
EVERY_SCRIPT: Final = "all"


@dataclass(frozen=True, slots=True)
class Given:
    """A setting as it is written; `line` is where."""

    section: str
    option: str
    text: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node; `settings` and `tunables` are its own and count more than those of all nodes."""

    number: int
    address: str
    name: str = ""
    deleted: bool = False
    settings: tuple[Given, ...] = ()
    tunables: tuple[tuple[str, int], ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def title(self) -> str:
        """The node as texts name it."""
        return f"node {self.number}" + (f" '{self.name}'" if self.name else "")


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A public address; `nodes` are the numbers of those that may host it, None all.

    home: where it belongs, for the deterministic allocation.
    """

    address: str
    prefix: int
    interfaces: tuple[str, ...]
    nodes: frozenset[int] | None = None
    home: int | None = None
    line: int = field(default=0, compare=False)

    def is_for(self, number: int) -> bool:
        """Whether this node may host it."""
        return self.nodes is None or number in self.nodes


@dataclass(frozen=True, slots=True)
class ScriptOption:
    """A variable for an event script, or for EVERY_SCRIPT."""

    script: str
    name: str
    value: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """What the file says. `source` is its name in errors, `digest` tells its text from any other."""

    source: str
    nodes: tuple[ClusterNode, ...]
    addresses: tuple[ClusterAddress, ...] = ()
    settings: tuple[Given, ...] = ()
    tunables: tuple[tuple[str, int], ...] = ()
    services: tuple[ScriptOption, ...] = ()
    digest: str = field(default="", compare=False)

    def node_addresses(self) -> tuple[NodeAddress, ...]:
        """The nodes by number, as a nodes file lists them: a number that is not there is a deleted node's."""
        by_number = {node.number: node for node in self.nodes}
        return tuple(_address(number, by_number.get(number)) for number in range(max(by_number) + 1))

    def node(self, number: int) -> ClusterNode | None:
        """The node of this number, unless it is deleted."""
        found = (node for node in self.nodes if node.number == number and not node.deleted)
        return next(found, None)


def _address(number: int, node: ClusterNode | None) -> NodeAddress:
    if node is None or node.deleted:
        return NodeAddress(number, DELETED_ADDRESS, deleted=True, line=node.line if node else 0)
    return NodeAddress(number, node.address, line=node.line, name=node.name)
