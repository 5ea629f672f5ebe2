# SPDX-License-Identifier: GPL-3.0-or-later
"""Locked memory and real-time priority; each in a process of its own, which takes them with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.root

HEAD = """
import json, mmap, os, resource, subprocess, sys
from pathlib import Path
from ctdbpy.host.realtime import *
def locked_kib():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmLck:"))
    return int(line.split()[1])
"""

WITHOUT_RIGHTS = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]


def in_process(body: str, *prefix: str) -> Any:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", HEAD + body], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_memory_is_locked_and_a_later_map_from_its_first_touch_on() -> None:
    result = in_process("""
outcome = lock_memory()
before = locked_kib()
size = 64 << 20
later = mmap.mmap(-1, size)
resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
later[0:4096] = b"x" * 4096
print(json.dumps([outcome.done, outcome.text, before, resident_pages * 4]))
""")
    done, text, locked_kib, resident_kib = result
    assert (done, text) == (True, "memory locked")
    assert locked_kib > 1000
    assert resident_kib < 60 * 1024


def test_a_limit_without_the_right_to_pass_it_is_said_and_allocation_still_works() -> None:
    done, text, size = in_process(
        """
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
outcome = lock_memory()
print(json.dumps([outcome.done, outcome.text, len(bytearray(64 << 20))]))
""",
        *WITHOUT_RIGHTS,
    )
    assert not done
    assert text == (
        "cannot lock memory: RLIMIT_MEMLOCK is 8 MiB and CAP_IPC_LOCK is missing; "
        "set LimitMEMLOCK=infinity in the service or run as root"
    )
    assert size == 64 << 20


def test_priority_is_taken_and_not_handed_on_to_children() -> None:
    done, text, policy, child = in_process("""
outcome = raise_priority()
asks = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
child = subprocess.run(asks, capture_output=True)
print(json.dumps([outcome.done, outcome.text, os.sched_getscheduler(0), int(child.stdout)]))
""")
    if not done:
        # A control group without a real-time budget refuses even root; the reason must say so.
        assert "cpu.rt_runtime_us" in text or "RLIMIT_RTPRIO" in text
        return
    assert text == "real-time priority 1 taken (SCHED_FIFO)"
    assert policy == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    assert child == os.SCHED_OTHER


def test_without_the_right_to_priority_the_reason_says_what_to_set() -> None:
    done, text, policy = in_process(
        """
outcome = raise_priority()
print(json.dumps([outcome.done, outcome.text, os.sched_getscheduler(0)]))
""",
        *WITHOUT_RIGHTS,
    )
    assert not done
    assert text.startswith("cannot take real-time priority: Operation not permitted (RLIMIT_RTPRIO is 0;")
    assert policy == os.SCHED_OTHER
