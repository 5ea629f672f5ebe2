# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node of a group has the duty, and which can serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services.groups import Member, choose_gateway, read_members, usable
from ctdbpy.services.tool import NodeStatus

MEMBERS = [Member("10.0.0.1", True), Member("10.0.0.2", True), Member("10.0.0.3", False)]


def nodes(*flags: str) -> list[NodeStatus]:
    return [NodeStatus(pnn, f"10.0.0.{pnn + 1}", frozenset(words.split())) for pnn, words in enumerate(flags)]


@pytest.mark.parametrize(
    ("flags", "leader", "serving"),
    [
        (["", "", ""], 0, [0, 1, 2]),
        (["Unhealthy", "", ""], 1, [1, 2]),
        (["Unhealthy", "Disabled", ""], 0, [2]),
        (["Unhealthy", "Unhealthy", "Unhealthy"], 0, [0, 1, 2]),
        (["Disabled", "Unhealthy", "Unhealthy"], 1, [1, 2]),
        (["Stopped Inactive", "Banned Inactive", "Unhealthy"], 1, [2]),
        (["Disconnected Unhealthy Inactive", "Stopped Inactive", ""], 1, [2]),
        (["Disconnected Unhealthy Inactive", "Disabled", "Disabled"], None, []),
        (["Unknown", "", "Unknown"], 1, [1]),
        # A fourth node is none of the group.
        (["Unhealthy", "Unhealthy", "Unhealthy", ""], 0, [0, 1, 2]),
    ],
)
def test_the_duty_goes_to_the_first_that_is_well_enough(
    flags: list[str], leader: int | None, serving: list[int]
) -> None:
    there = nodes(*flags)
    chosen = choose_gateway(MEMBERS, there)
    assert (chosen.pnn if chosen else None) == leader
    assert [node.pnn for node in usable(MEMBERS, there)] == serving


def test_the_file_lists_members(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    path.write_text("# ours\n10.0.0.1\n\n 10.0.0.2\t\n10.0.0.3 follower-only\n#10.0.0.4\n")
    assert read_members(path, "OPTION") == MEMBERS


def test_a_wrong_line_and_a_missing_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    with pytest.raises(ServiceError, match=f"^cannot read OPTION='{path}': No such file or directory$"):
        read_members(path, "OPTION")
    path.write_text("10.0.0.1\n10.0.0.2 follower\n")
    with pytest.raises(ServiceError, match=f"^cannot use line 2 of OPTION='{path}': .*'follower-only'$"):
        read_members(path, "OPTION")
