# SPDX-License-Identifier: GPL-3.0-or-later
"""Types of load.pyx; what the functions do stands there."""

from __future__ import annotations

from typing import TypedDict, final

from ctdbpy.store.tdb import Tdb

class LoadResult(TypedDict):
    """What the clients of one node did; `waits` counts waits by bucket (see `bucket_us`)."""

    changes: int
    migrations: int
    wasted: int
    unanswered: int
    per_client: list[int]
    waits: dict[int, int]

class RingResult(LoadResult):
    """`passes`: messages sent on."""

    passes: int

@final
class Load:
    def __init__(
        self, fds: list[int], pnn: int, db_id: int, tdb: Tdb, keys: int, size: int, seed: int
    ) -> None: ...
    def run(self, duration_s: float) -> LoadResult: ...
    def walk(self, first: int, count: int, timeout_s: float) -> LoadResult: ...
    def ring(
        self, next_pnn: int, srvid: int, starts: bool, fetches: bool, duration_s: float
    ) -> RingResult: ...

def bucket_us(bucket: int) -> int: ...
def repeat_control(fd: int, packet: bytearray, counters: tuple[int, ...], duration_s: float) -> list[int]: ...
def count_messages(fd: int, timeout_s: float) -> tuple[int, int]: ...
