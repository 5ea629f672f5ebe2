# SPDX-License-Identifier: GPL-3.0-or-later
"""Types of loop.pyx; what the methods do stands there."""

from __future__ import annotations

from mmap import mmap
from typing import final

from ctdbpy.host.realtime import Outcome
from ctdbpy.net.heartbeats import Heartbeats

@final
class Loop:
    def __init__(
        self,
        heartbeats: Heartbeats,
        control_fd: int,
        datagrams_fd: int,
        page: mmap,
        port: int,
        wake_fd: int = -1,
    ) -> None: ...
    def run(self) -> None: ...

def survive_parent() -> None: ...
def write_back_free() -> Outcome: ...
