# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened to the nodes as this one knows it, and why each wears the flags it wears.

Bounded: the newest events, and for each node one reason for each flag.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.structures import Reason, reason_text

EVENTS_MAX: Final = 256

#: Kind of a reason for a flag, and of the one for standing still.
FLAGS: Final = "flags"
SUSPENDED: Final = "suspended"

#: Why a node's flags change before it has said why: its account follows.
SAYS_SO: Final = "it says so itself"


class Story:
    """The events, oldest first, and the reasons that still stand."""

    def __init__(self, pnn: int) -> None:
        self._pnn = pnn
        self.events: deque[Reason] = deque(maxlen=EVENTS_MAX)
        self._standing: dict[int, dict[NodeFlag, Reason]] = {}

    def note(self, wall_us: int, kind: str, pnn: int, flags: NodeFlag, text: str) -> Reason:
        """Something happened to a node."""
        event = Reason(wall_us, pnn, self._pnn, int(flags), kind, reason_text(text))
        self.events.append(event)
        return event

    def flags_changed(self, wall_us: int, pnn: int, old: NodeFlag, new: NodeFlag, text: str) -> None:
        """A node's flags changed; what it got stands until it loses it."""
        event = self.note(wall_us, FLAGS, pnn, new, text)
        standing = self._standing.setdefault(pnn, {})
        for flag in NodeFlag:
            if not new & flag:
                standing.pop(flag, None)
            elif not old & flag:
                standing[flag] = replace(event, flags=int(flag))
        standing.pop(NodeFlag(0), None)
        if not new:
            standing[NodeFlag(0)] = event

    def renew(self, wall_us: int, kind: str, pnn: int, flag: NodeFlag, flags: NodeFlag, text: str) -> None:
        """A node that wears a flag already has got another reason for it."""
        event = self.note(wall_us, kind, pnn, flags, text)
        self._standing.setdefault(pnn, {})[flag] = replace(event, kind=FLAGS, flags=int(flag))

    def standing(self, pnn: int) -> dict[NodeFlag, Reason]:
        """Why a node wears each of its flags, as far as this one knows; flag 0: why it wears none."""
        return self._standing.get(pnn, {})
