# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the cluster, as its leader sees it: one pure function.

Source: reference/ctdb.md 7.9, steps 15 to 22.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctdbpy.wire.constants import Capability, NodeFlag, RecoveryMode


@dataclass(frozen=True, slots=True)
class NodeView:
    """One connected node as it describes itself; `flags` are its own of itself."""

    pnn: int
    flags: NodeFlag
    recmode: RecoveryMode
    generation: int
    lmasters: tuple[int, ...]
    capabilities: Capability
    #: (pnn, address) of every node it knows.
    nodes: tuple[tuple[int, str], ...]
    #: Nodes whose link to it stands, itself included.
    reaches: frozenset[int]

    @property
    def is_active(self) -> bool:
        return not self.flags & NodeFlag.INACTIVE


def lmasters_of(views: tuple[NodeView, ...], leader: int) -> tuple[int, ...]:
    """Who should be in the map: every active node that is willing, or the leader if none is."""
    willing = tuple(view.pnn for view in views if view.is_active and view.capabilities & Capability.LMASTER)
    return tuple(sorted(willing)) or (leader,)


def reason_to_recover(leader: int, views: tuple[NodeView, ...], wanted: str, *, may_compare: bool) -> str:
    """Why the cluster has to be recovered, "" if it has not.

    `views` are all connected nodes, the leader's own among them; `wanted` is a reason known already.
    With `may_compare` False (recoveries are disabled) only a recovery under way is finished.
    """
    if wanted:
        return wanted
    active = [view for view in views if view.is_active]
    for view in active:
        if view.recmode is RecoveryMode.ACTIVE:
            return f"node {view.pnn} is in recovery mode"
    if not may_compare:
        return ""
    own = next((view for view in views if view.pnn == leader), None)
    if own is None:
        return ""
    for view in active:
        if view.nodes != own.nodes:
            return f"node {view.pnn} has another nodes file"
    expected = lmasters_of(views, leader)
    if tuple(sorted(own.lmasters)) != expected:
        return f"the map has lmasters {list(own.lmasters)}, it should have {list(expected)}"
    for view in active:
        if (view.generation, view.lmasters) != (own.generation, own.lmasters):
            return f"node {view.pnn} has another map (generation {view.generation})"
    return ""
