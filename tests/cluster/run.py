# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of `history` at work on the nodes of a lab, and what they noted."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ctdbpy.client.connection import Connection
from ctdbpy.lab import HostProcess, wait_until
from ctdbpy.lab.services import Cluster
from tests.cluster.history import HEADER, Change, Look, count_notes, name_of, read_notes

_ROOT = Path(__file__).resolve().parents[2]


class Run:
    """Clients at work on all nodes, on one database."""

    def __init__(self, cluster: Cluster, database: str, *, keys: int) -> None:
        self.cluster = cluster
        self.database = database
        self._keys = keys
        self._clients: dict[str, HostProcess] = {}
        self._folder = cluster.lab.path(cluster.lab.nodes[0], f"/cluster/{database}")
        self._folder.mkdir()

    def start(self, host: str, changes: int, *options: str) -> HostProcess:
        """One more client."""
        name = f"{host}-{len(self._clients)}"
        argv = [sys.executable, "-m", "tests.cluster.history", self.database]
        argv += [
            f"/cluster/{self.database}/{name}.notes",
            "--changes",
            str(changes),
            "--keys",
            str(self._keys),
        ]
        argv += ["--seed", str(len(self._clients)), *options]
        environment = {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{_ROOT}".lstrip(":")}
        client = self.cluster.lab.spawn(host, argv, self._folder / f"{name}.log", env=environment)
        self._clients[name] = client
        return client

    def start_everywhere(self, clients: int, changes: int, *options: str) -> None:
        """So many clients on each node."""
        for host in self.cluster.lab.nodes * clients:
            self.start(host, changes, *options)

    def kill(self) -> None:
        """SIGKILL every client, wherever it is."""
        for client in self._clients.values():
            client.kill()

    def wait_for_changes(self, count: int, *hosts: str) -> None:
        """Until so many more changes are made, by all clients or by those on some hosts."""
        wanted = self.count(*hosts) + count
        wait_until(f"{count} more changes", lambda: self.count(*hosts) >= wanted, timeout_s=60)

    def count(self, *hosts: str) -> int:
        """How many changes were made, or looks taken, by all clients or by those on some hosts."""
        names = [f"{host}-*.notes" for host in hosts] or ["*.notes"]
        return sum(count_notes(path) for name in names for path in self._folder.glob(name))

    def wait(self, *, timeout_s: float) -> None:
        """Until every client that was not killed has made its changes."""
        deadline_s = time.monotonic() + timeout_s
        for name, client in self._clients.items():
            code = client.wait(timeout_s=max(0.0, deadline_s - time.monotonic()))
            assert code in (0, -signal.SIGKILL), f"{name}: {(self._folder / f'{name}.log').read_text()}"

    def said(self, word: str) -> bool:
        """Whether a client printed this."""
        return any(word in log.read_text() for log in self._folder.glob("*.log"))

    def notes(self) -> Iterator[Change | Look]:
        """What the clients noted."""
        for path in self._folder.glob("*.notes"):
            yield from read_notes(path)

    def changes(self) -> list[Change]:
        """The changes among the notes."""
        return [note for note in self.notes() if isinstance(note, Change)]

    def finals(self) -> dict[int, int]:
        """The counters, as the cluster has them now."""
        found = {}
        socket = self.cluster.lab.path(self.cluster.lab.nodes[0], "/run/ctdb/ctdbd.socket")
        with Connection(socket) as connection:
            db_id, _path, _flags = connection.attach(self.database)
            for record in connection.traverse(db_id):
                found[record.key] = int.from_bytes(record.data[HEADER.size :], "little")
        return {key: found[name_of(key)] for key in range(self._keys) if name_of(key) in found}
