# SPDX-License-Identifier: GPL-3.0-or-later
"""CTDB's log levels by name and by number, as `log level` and `ctdb setdebug` take them."""

from __future__ import annotations

LOG_LEVELS: dict[str, int] = {"ERROR": 0, "WARNING": 1, "NOTICE": 3, "INFO": 5, "DEBUG": 10}
"""The number each name stands for; the numbers between them are accepted too, as the named level below."""

LOG_LEVEL_MAX = 10

_NUMBERS = frozenset(str(level) for level in range(LOG_LEVEL_MAX + 1))


def parse_log_level(text: str) -> int | None:
    """Return the level 0-10 that a name, the start of a name (any case) or a number stands for, else None."""
    if text[:1].isdecimal():
        return int(text) if text in _NUMBERS else None
    for name, level in LOG_LEVELS.items():
        if text and name.startswith(text.upper()):
            return level
    return None
