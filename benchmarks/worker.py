# SPDX-License-Identifier: GPL-3.0-or-later
"""The load of one node, as a program in its host: one order a line on stdin, one answer a line on stdout.

    python -m benchmarks.worker

Orders and answers are JSON objects; `side.Node` is the other end.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctdbpy.client.connection import DEFAULT_SOCKET, Connection
from ctdbpy.lab.load import Load, count_messages, repeat_control
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire import controls, packets
from ctdbpy.wire.constants import CURRENT_NODE, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import DbVacuum, TraverseStartExt
from ctdbpy.wire.misc import TunableValue
from ctdbpy.wire.records import RecBuffer, RecData

PID_FILE = "/run/ctdb/ctdbd.pid"
LTDB_HEADER = struct.Struct("=QIIII")
SEQNUM_KEY = b"__db_sequence_number__\0"
TRAVERSE_LIMIT_S = 120.0
# More than the tunable VacuumMaxRunTime, after which a daemon gives up.
VACUUM_LIMIT_S = 200.0


class Worker:
    """What a node's programs do, as its orders say."""

    def __init__(self) -> None:
        self._control = Connection(DEFAULT_SOCKET)
        self._tdb: Tdb | None = None
        self._db_id = 0
        self._load: Load | None = None
        self._commit = bytearray()
        self._commit_fd = -1

    # -- records -----------------------------------------------------------------------

    def attach(self, name: str) -> dict[str, Any]:
        """Attach a volatile database and open its file as a client does."""
        self._load = None
        self._db_id, path, flags = self._control.attach(name)
        self._tdb = Tdb.open(path, flags=flags)
        return {"db_id": self._db_id}

    def connect(self, clients: int, keys: int, size: int, seed: int, srvid: int = 0) -> dict[str, Any]:
        """Connect clients for `run`, `walk` or `ring`."""
        assert self._tdb is not None, "attach comes first"
        fds = []
        for _ in range(clients):
            connection = Connection(DEFAULT_SOCKET)
            if srvid:
                connection.ask(Control.REGISTER_SRVID, srvid=srvid)
            fds.append(connection.detach_fd())
        self._load = Load(fds, self._control.pnn, self._db_id, self._tdb, keys, size, seed)
        return {}

    def disconnect(self) -> dict[str, Any]:
        """End the clients that `connect` has made."""
        self._load = None
        return {}

    def leave(self) -> dict[str, Any]:
        """Close the database's file."""
        self._load = self._tdb = None
        return {}

    def run(self, duration_s: float) -> dict[str, Any]:
        """Change random records."""
        assert self._load is not None, "connect comes first"
        return dict(self._load.run(duration_s))

    def walk(self, first: int, count: int, timeout_s: float) -> dict[str, Any]:
        """Change records one after another."""
        assert self._load is not None, "connect comes first"
        return dict(self._load.walk(first, count, timeout_s))

    def ring(
        self, next_pnn: int, srvid: int, starts: bool, fetches: bool, duration_s: float
    ) -> dict[str, Any]:
        """Take part in a ring."""
        assert self._load is not None, "connect comes first"
        return dict(self._load.ring(next_pnn, srvid, starts, fetches, duration_s))

    def owned(self) -> dict[str, Any]:
        """Records whose dmaster is this node, as its file has it: their numbers, and their counters' sum."""
        assert self._tdb is not None, "attach comes first"
        numbers, total = [], 0
        for key, value in self._tdb.traverse():
            if not key.startswith(b"load-record-") or len(value) < LTDB_HEADER.size:
                continue
            if LTDB_HEADER.unpack_from(value)[1] == self._control.pnn:
                numbers.append(int(key[12:20][::-1]))
                total += int.from_bytes(value[24:32], sys.byteorder)
        return {"numbers": numbers, "total": total}

    # -- transactions and traverses ------------------------------------------------------

    def prepare_commit(self, name: str, size: int) -> dict[str, Any]:
        """Attach a persistent database; make the packet that commits a record and the sequence number."""
        db_id, _path, _flags = self._control.attach(name, DbFlag.PERSISTENT)
        before = self._control.ask(Control.GET_DB_SEQNUM, db_id)
        assert before == 0, "a benchmark's database is new"
        header = LTDB_HEADER.pack(0, self._control.pnn, 0, 0, 0)
        records = (
            RecData(0, b"record", header + bytes(size)),
            RecData(0, SEQNUM_KEY, header + struct.pack("=Q", 0)),
        )
        data = controls.encode_request(Control.TRANS3_COMMIT, RecBuffer(db_id, records))
        packet = packets.ReqControl(0, CURRENT_NODE, 0, 1 << 20, Control.TRANS3_COMMIT, db_id, 0, 0, data)
        self._commit = bytearray(packet.encode(padded=False))
        self._commit_db = db_id
        self._commit_fd = Connection(DEFAULT_SOCKET).detach_fd()
        # What grows with each commit: both records' rsn, and the sequence number itself.
        first = self._commit.index(b"record") + len(b"record")
        second = self._commit.index(SEQNUM_KEY) + len(SEQNUM_KEY)
        self._commit_counters = (first, second, second + LTDB_HEADER.size)
        return {}

    def commit(self, duration_s: float) -> dict[str, Any]:
        """Commit again and again; every commit must be counted in the sequence number."""
        took = repeat_control(self._commit_fd, self._commit, self._commit_counters, duration_s)
        return {"took_us": [each // 1000 for each in took]}

    def committed(self) -> dict[str, Any]:
        """The sequence number of the database that `prepare_commit` attached."""
        return {"seqnum": self._control.ask(Control.GET_DB_SEQNUM, self._commit_db)}

    def traverse(self) -> dict[str, Any]:
        """Read the whole database in the cluster."""
        connection = Connection(DEFAULT_SOCKET)
        srvid = 0xBE << 56 | time.monotonic_ns() & 0xFFFFFFFF
        connection.ask(Control.REGISTER_SRVID, srvid=srvid)
        data = controls.encode_request(
            Control.TRAVERSE_START_EXT, TraverseStartExt(self._db_id, 1, srvid, False)
        )
        began_s = time.monotonic()
        connection.send(packets.ReqControl(0, CURRENT_NODE, 0, 99, Control.TRAVERSE_START_EXT, 0, 0, 0, data))
        fd = connection.detach_fd()
        try:
            records, _bytes = count_messages(fd, TRAVERSE_LIMIT_S)
        finally:
            os.close(fd)
        return {"records": records, "took_s": time.monotonic() - began_s}

    def vacuum(self) -> dict[str, Any]:
        """Vacuum the node's whole database; one cut short for taking too long has run, too."""
        with Connection(DEFAULT_SOCKET, timeout_s=VACUUM_LIMIT_S) as connection:
            connection.control(Control.DB_VACUUM, DbVacuum(self._db_id, True))
        return {"runs": 1}

    # -- the daemon -----------------------------------------------------------------------

    def set_tunable(self, name: str, value: int) -> dict[str, Any]:
        """Set a tunable; upstream's tool knows only its own."""
        self._control.ask(Control.SET_TUNABLE, TunableValue(name, value))
        return {}

    def memory(self) -> dict[str, Any]:
        """What the daemon and its children occupy, in KiB; shared pages are counted once."""
        sums = {"Pss": 0, "Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
        for pid in daemon_pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                name, _, rest = line.partition(":")
                if name in sums:
                    sums[name] += int(rest.split()[0])
        return sums

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order; the answer has the processor time that the daemon and we spent meanwhile."""
        name = order.pop("do")
        before_ns, own_ns = daemon_cpu_ns(), time.process_time_ns()
        answer: dict[str, Any] = getattr(self, name)(**order)
        answer["own_cpu_ns"] = time.process_time_ns() - own_ns
        answer["cpu_ns"] = daemon_cpu_ns() - before_ns
        return answer


def daemon_pids() -> Iterator[int]:
    """The daemon and all that descends from it."""
    root = int(Path(PID_FILE).read_text(encoding="ascii"))
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except OSError:
                continue
    for pid in sorted(parents):
        above = pid
        while above and above != root:
            above = parents.get(above, 0)
        if above == root:
            yield pid


def daemon_cpu_ns() -> int:
    """Processor time of the daemon, its children and those of them that have ended."""
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in daemon_pids():
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
            stat = _stat(pid)
            total += (int(stat[13]) + int(stat[14])) * tick_ns
        except OSError:
            continue
    return total


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name, the state first."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()


def main() -> None:
    """Take orders until stdin ends."""
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(worker.order(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
