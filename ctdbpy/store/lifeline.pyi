# SPDX-License-Identifier: GPL-3.0-or-later
"""Types of lifeline.pyx; what the function does stands there."""

from __future__ import annotations

def die_with_parent(parent_pid: int) -> None: ...
