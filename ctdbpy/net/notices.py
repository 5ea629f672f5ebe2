# SPDX-License-Identifier: GPL-3.0-or-later
"""What heartbeats notice, as 64 bytes each: the guard fills them without Python, the daemon reads them."""

from __future__ import annotations

import struct
from typing import Final, Literal

Event = (
    tuple[Literal["seen"], int, str, str]
    | tuple[Literal["lease_lost"], str]
    | tuple[Literal["lease_held"]]
    | tuple[Literal["paused"], float]
)

NOTICE: Final = struct.Struct("<BBBBIqq10I")

#: By the number in a notice; the names are the values of `core.inputs.Sight`.
SIGHTS: Final = ("unknown", "live", "still", "stalled", "gone", "silent")

_SEEN, _LEASE_LOST, _LEASE_HELD, _PAUSED = 1, 2, 3, 4
_HEARD, _UNHEARD, _NEW_LINK, _ONE_WAY = range(4)
_TOO_FEW, _LEADER, _STALLED, _GONE = range(4)
_NEVER_MS = 0xFFFFFFFF


def decode(notice: bytes) -> Event:
    """("seen", pnn, sight, text), ("lease_lost", text), ("lease_held",) or ("paused", seconds)."""
    kind, sight, reason, count, pnn, first, second, *more = NOTICE.unpack(notice)
    if kind == _SEEN:
        return "seen", pnn, SIGHTS[sight], _sight_text(SIGHTS[sight], reason, first, second, more)
    if kind == _LEASE_LOST:
        named = [(more[2 * i], more[2 * i + 1]) for i in range(count)]
        return "lease_lost", _lost_text(reason, pnn, first, second, named)
    if kind == _LEASE_HELD:
        return ("lease_held",)
    assert kind == _PAUSED, f"unknown notice {kind}"
    return "paused", first / 1e6


def _sight_text(sight: str, reason: int, heard_us: int, progress_us: int, more: list[int]) -> str:
    limit = f"limit {more[0]} x {more[1] / 1000:g} ms"
    match sight:
        case "unknown" if reason == _NEW_LINK:
            return "its link stands anew, no heartbeat on it yet"
        case "unknown" if reason == _ONE_WAY:
            return (
                f"no heartbeat for {_s(heard_us)} ({limit}), and it has not heard ours: "
                "keepalives alone watch it"
            )
        case "unknown":
            return (
                f"no heartbeat in the {more[2] / 1000:.2f} s that its link has stood: it has no guard, or "
                "UDP is blocked; keepalives alone watch it"
            )
        case "silent":
            return (
                f"no heartbeat for {_s(heard_us)} ({limit}); its daemon's last progress {_s(progress_us)} ago"
            )
        case "stalled":
            return f"its guard lives, its daemon has stalled (last progress seen {_s(progress_us)} ago)"
        case "gone":
            return "its guard says that its daemon has ended"
        case "still":
            return "its heartbeats come, its databases are frozen"
        case _:
            return "its heartbeats come"


def _lost_text(reason: int, leader: int, first: int, second: int, named: list[tuple[int, int]]) -> str:
    if reason == _GONE:
        return "the daemon has ended"
    if reason == _STALLED:
        return f"the daemon made no progress for {_s(first)}"
    who = ", ".join(f"node {pnn} {_confirmed(ms)}" for pnn, ms in named) or "nobody is missing"
    if reason == _LEADER:
        return f"its leader, node {leader}, does not confirm that it hears this node: {who}"
    return f"{second} of the {first} nodes needed confirm that they hear this one: {who}"


def _confirmed(ms: int) -> str:
    return "never did" if ms == _NEVER_MS else f"last confirmed what was sent {ms / 1000:.2f} s ago"


def _s(us: int) -> str:
    return f"{us / 1e6:.2f} s"
