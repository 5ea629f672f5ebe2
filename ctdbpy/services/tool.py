# SPDX-License-Identifier: GPL-3.0-or-later
"""What the `ctdb` tool says of the cluster: the same answers on whichever daemon the scripts run.

CTDB in the environment names another program than `ctdb`, as for upstream's scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands
from ctdbpy.services.event import Event

#: Less than an event may take: a daemon that does not answer is told by name.
_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as the daemon sees it. address: its private one. flags: what is wrong, in the tool's words."""

    pnn: int
    address: str
    flags: frozenset[str] = frozenset()
    is_here: bool = False

    def has(self, *flags: str) -> bool:
        """Whether any of these is so."""
        return not self.flags.isdisjoint(flags)


def run(event: Event, *arguments: str, input: str = "", timeout_s: float = _LIMIT_S) -> str:
    """What the tool prints. Raises ServiceError unless it ends well."""
    return commands.run([*_program(event), *arguments], timeout_s=timeout_s, input=input).output


def said(event: Event, *arguments: str) -> str:
    """What the tool prints, however it ends: some of its statuses say how nodes are. Raises ServiceError."""
    return commands.run([*_program(event), *arguments], timeout_s=_LIMIT_S, check=False).output


def node_statuses(event: Event) -> list[NodeStatus]:
    """Every node that is not deleted, in order. Raises ServiceError."""
    rows = _rows(said(event, "-X", "nodestatus", "all"))
    if not rows:
        raise ServiceError("cannot learn how the nodes are: 'ctdb -X nodestatus all' says nothing")
    try:
        return [
            NodeStatus(
                int(row.pop("Node")),
                row.pop("IP"),
                frozenset(name for name, value in row.items() if value == "1"),
                row.get("ThisNode") == "Y",
            )
            for row in rows
        ]
    except (KeyError, ValueError) as error:
        raise ServiceError(f"cannot learn how the nodes are: no sense in {error} of its answer") from None


def hosted_addresses(event: Event) -> dict[str, str]:
    """The public addresses on this node, each with its interface. Raises ServiceError."""
    rows = _rows(run(event, "-v", "-X", "ip"))
    return {row["Public IP"]: row["ActiveInterfaces"] for row in rows if row.get("ActiveInterfaces")}


def tunable(event: Event, name: str) -> int:
    """A tunable's value. Raises ServiceError."""
    text = run(event, "getvar", name)
    value = text.partition("=")[2].strip()
    if not value.isdecimal():
        raise ServiceError(f"cannot learn {name}: the tool says '{text.strip()}'")
    return int(value)


def database_names(event: Event) -> list[str]:
    """The persistent databases. Raises ServiceError."""
    return [row["Name"] for row in _rows(run(event, "-X", "getdbmap")) if row.get("Persistent") == "1"]


def _program(event: Event) -> Sequence[str]:
    return event.words("CTDB", "ctdb")


def _rows(said: str) -> list[dict[str, str]]:
    """The tool's `|`-separated lines, by the names in the first of them."""
    lines = [line[1:].removesuffix("|").split("|") for line in said.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]
