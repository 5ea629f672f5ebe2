# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that wants records all the time and says how long it had to wait: a program in a host.

    python -m benchmarks.waiter liveness.tdb --keys 1000 --seed 1

It does what smbd does: lock the chain, read the record; if this node is its dmaster, change it and unlock,
else unlock, ask the daemon, and try again. Waiting for a chain's lock counts, since a daemon that recovers
holds them all. Several times a second it writes a line, a JSON object: `at_ns`, the monotonic clock;
`longest_us`, the longest wait since the line before; `changes`, all since it began. It ends when its stdin
does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import sys
import time

from benchmarks.worker import LTDB_HEADER
from ctdbpy.client.connection import Connection
from ctdbpy.store.tdb import Tdb

LINE_EVERY_NS = 100_000_000
_HAS_DELEGATIONS = 0x01000000
# An answer that takes longer than the slowest daemon's recovery is none.
_ANSWER_LIMIT_S = 300.0


class Waiter:
    """One client."""

    def __init__(self, database: str, keys: int, seed: int) -> None:
        self._connection = Connection(timeout_s=_ANSWER_LIMIT_S)
        self._db_id, path, flags = self._connection.attach(database)
        self._tdb = Tdb.open(path, flags=flags)
        self._keys = [b"waiter-record-%06d" % number for number in range(keys)]
        self._dice = random.Random(seed)
        self._changes = 0

    def run(self, pause_s: float) -> None:
        """Until stdin ends."""
        said_ns, longest_ns = 0, 0
        while not select.select([sys.stdin], [], [], pause_s)[0]:
            key = self._dice.choice(self._keys)
            begun_ns = time.monotonic_ns()
            while not self._change(key):
                self._connection.call(self._db_id, key)
            now_ns = time.monotonic_ns()
            longest_ns = max(longest_ns, now_ns - begun_ns)
            if now_ns - said_ns >= LINE_EVERY_NS:
                line = {"at_ns": now_ns, "longest_us": longest_ns // 1000, "changes": self._changes}
                print(json.dumps(line), flush=True)
                said_ns, longest_ns = now_ns, 0

    def _change(self, key: bytes) -> bool:
        self._tdb.chainlock(key)
        try:
            record = self._tdb.fetch(key)
            if record is None or len(record) < LTDB_HEADER.size:
                return False
            _rsn, dmaster, _reserved, flags, _pad = LTDB_HEADER.unpack_from(record)
            if dmaster != self._connection.pnn or flags & _HAS_DELEGATIONS:
                return False
            data = record[LTDB_HEADER.size :]
            counter = int.from_bytes(data, "little") + 1 if data else 1
            self._tdb.store(key, record[: LTDB_HEADER.size] + counter.to_bytes(100, "little"))
        finally:
            self._tdb.chainunlock(key)
        self._changes += 1
        return True


def main() -> None:
    """Be a client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--pause-ms", type=float, default=2.0)
    given = parser.parse_args()
    waiter = Waiter(given.database, given.keys, given.seed)
    waiter.run(given.pause_ms / 1000)
    # The daemon may be stuck: nothing to say good-bye for.
    os._exit(0)


if __name__ == "__main__":
    main()
