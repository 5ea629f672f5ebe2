# SPDX-License-Identifier: GPL-3.0-or-later
"""Real randomness for the core, which has none of its own."""

from __future__ import annotations

import secrets


class SystemEntropy:
    """The operating system's random numbers."""

    def number(self) -> int:
        """32 bits by chance."""
        return secrets.randbits(32)
