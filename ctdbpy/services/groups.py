# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of nodes that share one duty: the file that lists them, and which of them has the duty now.

The NAT gateway and LVS have one. Lines of the file are `ADDRESS [follower-only]`, with the private address of
a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import tool
from ctdbpy.services.event import Event
from ctdbpy.services.tool import NodeStatus

#: How long the node that has the duty has its address without a `monitor` event, at least.
LIFETIME_S: Final = 60

_FOLLOWER_ONLY: Final = "follower-only"
_WELL: Final = ("Unknown", "Disabled", "Unhealthy", "Inactive")


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the group, by its private address."""

    address: str
    may_lead: bool


def read_members(path: Path, option: str) -> list[Member]:
    """The nodes that the file lists; `option` names it. Raises ServiceError."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ServiceError(f"cannot read {option}='{path}': {error.strerror}") from None
    members = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[1:] not in ([], [_FOLLOWER_ONLY]):
            raise ServiceError(
                f"cannot use line {number} of {option}='{path}': "
                f"after the address comes nothing or '{_FOLLOWER_ONLY}'"
            )
        members.append(Member(words[0], len(words) == 1))
    return members


def here(nodes: Iterable[NodeStatus]) -> NodeStatus:
    """This node. Raises ServiceError."""
    for node in nodes:
        if node.is_here:
            return node
    raise ServiceError("cannot find this node among those that the daemon knows")


def is_follower_only(event: Event, members: Iterable[Member]) -> bool:
    """Whether this node is one that never has the duty. Raises ServiceError."""
    address = here(tool.node_statuses(event)).address
    return any(not member.may_lead for member in members if member.address == address)


def choose_gateway(members: Iterable[Member], nodes: Sequence[NodeStatus]) -> NodeStatus | None:
    """The node for a duty that somebody has to have: the first of those that are well, or as well as can be.

    Everybody can talk to a node that is unhealthy or stopped, so it is better than none; a disabled one is
    spared on purpose.
    """
    able = _of(nodes, (member for member in members if member.may_lead))
    for spared in (_WELL, ("Disconnected", "Disabled", "Stopped"), ("Disconnected", "Disabled")):
        for node in able:
            if not node.has(*spared):
                return node
    return None


def usable(members: Iterable[Member], nodes: Sequence[NodeStatus]) -> list[NodeStatus]:
    """The nodes that can serve: those that are well; while none is, all that are active and not disabled."""
    ours = _of(nodes, members)
    well = [node for node in ours if not node.has(*_WELL)]
    return well or [node for node in ours if not node.has("Disabled", "Inactive")]


def lifetime(event: Event) -> tuple[str, ...]:
    """Words for `ip` with which an address goes by itself unless it is put again by each `monitor` event.

    A node that is cut off from the others, or whose daemon was killed, runs none, and another has the duty by
    then. Raises ServiceError.
    """
    interval_s = tool.tunable(event, "MonitorInterval")
    # Two events may fail to come, and all scripts before this one may take their time.
    seconds = str(max(LIFETIME_S, 3 * interval_s + LIFETIME_S // 2))
    return ("valid_lft", seconds, "preferred_lft", seconds)


def show_status(event: Event, members: Iterable[Member]) -> None:
    """Answer what the tool's `nodestatus` says of the members."""
    addresses = {member.address for member in members}
    for line in tool.said(event, "nodestatus", "all").splitlines():
        words = line.split()
        if len(words) > 1 and words[1] in addresses:
            event.answers.append(line)


def _of(nodes: Sequence[NodeStatus], members: Iterable[Member]) -> list[NodeStatus]:
    addresses = {member.address for member in members}
    return [node for node in nodes if node.address in addresses]
