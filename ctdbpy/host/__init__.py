# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon asks of its machine: proof that it alone runs, priority, children, the log. All I/O."""

from __future__ import annotations
