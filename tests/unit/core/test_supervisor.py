# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a cluster: every reason to recover, and none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ctdbpy.core.leader.supervisor import NodeView, lmasters_of, reason_to_recover
from ctdbpy.wire.constants import Capability, NodeFlag, RecoveryMode

NODES = ((0, "10.0.0.1"), (1, "10.0.0.2"))


def view(pnn: int, **changes: Any) -> NodeView:
    plain = NodeView(
        pnn, NodeFlag(0), RecoveryMode.NORMAL, 9, (0, 1), Capability.DEFAULT, NODES, frozenset({0, 1})
    )
    return replace(plain, **changes)


def test_a_consistent_cluster_needs_nothing() -> None:
    assert reason_to_recover(0, (view(0), view(1)), "", may_compare=True) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recmode": RecoveryMode.ACTIVE}, "recovery mode"),
        ({"generation": 8}, "another map"),
        ({"lmasters": (1,)}, "another map"),
        ({"capabilities": Capability.RECMASTER}, "lmasters"),
        ({"flags": NodeFlag.STOPPED}, "lmasters"),
        ({"nodes": NODES[:1]}, "nodes file"),
    ],
)
def test_what_differs_on_another_node_is_a_reason(changes: dict[str, Any], words: str) -> None:
    assert words in reason_to_recover(0, (view(0), view(1, **changes)), "", may_compare=True)


def test_a_reason_known_already_counts_in_any_case() -> None:
    assert reason_to_recover(0, (view(0), view(1)), "because", may_compare=False) == "because"


def test_disabled_recoveries_finish_one_but_begin_none() -> None:
    other_map = (view(0), view(1, generation=8))
    assert reason_to_recover(0, other_map, "", may_compare=False) == ""
    active = (view(0), view(1, recmode=RecoveryMode.ACTIVE))
    assert reason_to_recover(0, active, "", may_compare=False)


def test_an_inactive_node_does_not_count() -> None:
    stopped = view(1, flags=NodeFlag.STOPPED, generation=1, recmode=RecoveryMode.ACTIVE)
    assert reason_to_recover(0, (view(0, lmasters=(0,)), stopped), "", may_compare=True) == ""


def test_without_any_lmaster_the_leader_is_it() -> None:
    nobody = tuple(view(pnn, capabilities=Capability.RECMASTER, lmasters=(0,)) for pnn in (0, 1))
    assert lmasters_of(nobody, 0) == (0,)
    assert reason_to_recover(0, nobody, "", may_compare=True) == ""
