# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo shows: steps, a line of progress on a terminal, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final

#: Without a terminal progress is told so often, in lines of its own.
_TELL_EVERY_S: Final = 5.0
_BAR: Final = 24


class Screen:
    """One run's output."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._began_s = time.monotonic()
        self._told_s = 0.0
        self._has_line = False

    def step(self, text: str) -> None:
        """A new part of the story."""
        self._end_line()
        print(f"\n== {text}", flush=True)
        self._told_s = time.monotonic()

    def say(self, text: str) -> None:
        """What has just happened."""
        self._end_line()
        print(f"   {time.monotonic() - self._began_s:6.1f} s  {text}", flush=True)

    def progress(self, part: float, text: str) -> None:
        """How far something long is: `part` from 0 to 1."""
        full = round(_BAR * min(1.0, part))
        line = f"[{'#' * full}{'.' * (_BAR - full)}] {text}"
        if self._is_live:
            print(f"\r             {line}\x1b[K", end="", flush=True)
            self._has_line = True
        elif time.monotonic() - self._told_s >= _TELL_EVERY_S:
            self._told_s = time.monotonic()
            self.say(line)

    def table(self, rows: Sequence[tuple[str, str, bool | None]]) -> None:
        """What came out: what, how much, and whether that is right (None: nothing to judge)."""
        self._end_line()
        width = max(len(what) for what, _, _ in rows)
        for what, found, is_right in rows:
            mark = {None: "  ", True: "ok", False: "NO"}[is_right]
            print(f"   {mark}  {what:<{width}}  {found}", flush=True)

    def _end_line(self) -> None:
        if self._has_line:
            print(flush=True)
            self._has_line = False
