# SPDX-License-Identifier: GPL-3.0-or-later
"""Real randomness for the core, which has none of its own."""

from __future__ import annotations

import secrets

from ctdbpy.wire.constants import INVALID_GENERATION


class SystemEntropy:
    """The operating system's random numbers."""

    def generation(self) -> int:
        """A generation that is neither 0 nor INVALID_GENERATION."""
        while (number := secrets.randbits(32)) in (0, INVALID_GENERATION):
            pass
        return number
