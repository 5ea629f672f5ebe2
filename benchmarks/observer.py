# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node's daemon says of the cluster, as it changes: a program in a host, one line a change.

    python -m benchmarks.observer [--every-ms 5] [--memory]

A line is a JSON object: when it was so (`at_ns`, the machine's monotonic clock, which all hosts share),
whether the daemon answers at all (`up`), `recmode`, `generation`, the nodes' `flags`, and who was last heard
to lead. With `--memory` there is also what the daemon and its children had to themselves at most while
recovery was active (`peak_kib`). It ends when its stdin does. `views` is the other end.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.worker import daemon_pids
from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_LEADER

_NOBODY = 0xFFFFFFFF
_ANSWER_LIMIT_S = 120.0
_MEMORY_EVERY_S = 0.02


class Observer:
    """Asks again and again, and says what has changed."""

    def __init__(self, every_s: float, *, memory: bool) -> None:
        self._every_s = every_s
        self._memory = memory
        self._measured_s = 0.0
        self._peak_kib = 0
        self._connection: Connection | None = None
        self._leader = _NOBODY
        self._said: dict[str, Any] = {}

    def run(self) -> None:
        """Until stdin ends."""
        while not select.select([sys.stdin], [], [], self._every_s)[0]:
            view = self._look()
            if view != self._said:
                if self._memory:
                    self._measure(view)
                self._said = view
                print(
                    json.dumps({"at_ns": time.monotonic_ns(), "peak_kib": self._peak_kib, **view}), flush=True
                )
            elif self._memory and view.get("recmode") == RecoveryMode.ACTIVE:
                self._measure(view)

    def _look(self) -> dict[str, Any]:
        try:
            if self._connection is None:
                self._connection = Connection(timeout_s=_ANSWER_LIMIT_S)
                self._connection.ask(Control.REGISTER_SRVID, srvid=SRVID_LEADER)
                self._leader = _NOBODY
            connection = self._connection
            recmode = connection.control(Control.GET_RECMODE).status
            flags = [node.flags for node in connection.ask(Control.GET_NODEMAP).nodes]
            generation = connection.ask(Control.GETVNNMAP).generation
        except (ClientError, OSError):
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return {"up": False}
        while connection.messages:
            message = connection.messages.popleft()
            if message.srvid == SRVID_LEADER and len(message.data) >= 4:
                leader = int.from_bytes(message.data[:4], sys.byteorder)
                # A loser's word that it leads no more may come after the winner's.
                self._leader = self._leader if leader == _NOBODY else leader
        return {
            "up": True,
            "recmode": recmode,
            "generation": generation,
            "flags": flags,
            "leader": self._leader,
        }

    def _measure(self, view: dict[str, Any]) -> None:
        """Sum up what the daemon and its children have to themselves; a new recovery counts anew."""
        now_s = time.monotonic()
        if view.get("recmode") == RecoveryMode.ACTIVE:
            if self._said.get("recmode") != RecoveryMode.ACTIVE:
                self._peak_kib = 0
            if now_s - self._measured_s >= _MEMORY_EVERY_S:
                self._measured_s = now_s
                self._peak_kib = max(self._peak_kib, _anonymous_kib())


def _anonymous_kib() -> int:
    total = 0
    try:
        for pid in daemon_pids():
            for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1])
    except (OSError, ValueError):
        pass  # A child has ended while we looked, or the daemon itself: the next look counts.
    return total


def main() -> None:
    """Observe until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every-ms", type=float, default=5.0)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    Observer(given.every_ms / 1000, memory=given.memory).run()


if __name__ == "__main__":
    main()
