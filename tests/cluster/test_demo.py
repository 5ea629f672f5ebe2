# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo, as a user runs it, with a small store; and its workload under faults for ten minutes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ctdbpy.lab import places

_TEN_MINUTES_S = 600


def _demo(*arguments: str, limit_s: float) -> str:
    name = f"demo-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "-m", "ctdbpy.lab.demo", "--name", name, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    assert places.find(name) is None, "it has taken everything down"
    # How long clients waited is for the demo on a machine of its own to judge, not for a busy one.
    wrong = [
        line for line in done.stdout.splitlines() if line.startswith("   NO") and "stood still" not in line
    ]
    assert not wrong
    assert "left behind" in done.stdout, "it has come to its end"
    return done.stdout


@pytest.mark.timeout(300)
def test_the_story_is_told_to_its_end() -> None:
    told = _demo("--mailboxes", "15", limit_s=280)
    assert "refused, then granted" in told
    assert "0 of 135" in told


@pytest.mark.long
@pytest.mark.timeout(_TEN_MINUTES_S + 300)
def test_nothing_is_lost_in_ten_minutes_of_faults() -> None:
    told = _demo("--minutes", str(_TEN_MINUTES_S / 60), limit_s=_TEN_MINUTES_S + 280)
    assert "0 lost or wrong" in told
