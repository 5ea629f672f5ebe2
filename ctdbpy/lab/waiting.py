# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounded waiting for things outside this program, which send no event when they come true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ctdbpy.errors import LabError

_T = TypeVar("_T")


def wait_until(claim: str, probe: Callable[[], _T], *, timeout_s: float, pause_s: float = 0.05) -> _T:
    """Probe until the answer is true and return it; raises `LabError` with the claim and the last answer."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= deadline_s:
            raise LabError(
                f"cannot wait longer until {claim}: not so within {timeout_s:g} s (last seen: {answer!r})"
            )
        time.sleep(pause_s)
