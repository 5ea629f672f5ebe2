# SPDX-License-Identifier: GPL-3.0-or-later
"""The real daemon as a process, on files of its own and loopback addresses of its own."""

from __future__ import annotations

import copy
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.wire.controls import Control

#: Longer than anything here takes on a loaded machine.
LIMIT_S = 30.0

_numbers = itertools.count()


def own_network() -> tuple[str, int]:
    """First three numbers of loopback addresses, and a port, that no other test uses at this time."""
    net = f"127.{os.getpid() % 250 + 1}.{next(_numbers) % 250 + 1}"
    with socket.socket() as probe:
        probe.bind((f"{net}.1", 0))
        return net, int(probe.getsockname()[1])


def wait_until(claim: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Ask again and again, for what only another process's state can tell."""
    until = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < until, f"{what}: not within {limit_s:g} s"
        select.select([], [], [], 0.01)


class Daemon:
    """One `ctdbpyd`: its files below `base`, its process once started, all it has logged."""

    def __init__(self, base: Path, addresses: Sequence[str], pnn: int, port: int, conf: str = "") -> None:
        self.base = base
        self.socket = base / "run" / "ctdbd.socket"
        self.pidfile = base / "run" / "ctdbd.pid"
        self.log_path = base / "log"
        self.pnn = pnn
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        base.mkdir()
        (base / "nodes").write_text("".join(f"{address}\n" for address in addresses))
        (base / "ctdb.conf").write_text(
            f"[logging]\nlocation = file:{self.log_path}\nlog level = DEBUG\n"
            f"[cluster]\nport = {port}\nnode address = {addresses[pnn]}\n{conf}"
        )

    def twin(self) -> Daemon:
        """Another daemon on the same files."""
        twin = copy.copy(self)
        twin.process = None
        return twin

    def start(self, **environ: str) -> Daemon:
        """Start it and wait until it serves."""
        self.spawn(**environ)
        self.wait_serving()
        return self

    def spawn(self, **environ: str) -> subprocess.Popen[bytes]:
        """Start the process."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ctdbpy.daemon"],
            env={**os.environ, "CTDB_TEST_MODE": "1", "CTDB_BASE": str(self.base), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return self.process

    def wait_serving(self) -> None:
        """Until clients may attach: the first recovery is over."""
        wait_until(self._serves, f"node {self.pnn} serves")

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.end_of_log()
        try:
            with self.connect() as connection:
                return connection.control(Control.GET_RECMODE).status == 0
        except ClientError:
            return False

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    def connect(self, timeout_s: float = LIMIT_S) -> Connection:
        """A client of it."""
        return Connection(self.socket, timeout_s=timeout_s)

    def raw(self) -> socket.socket:
        """A connection that speaks as it likes."""
        connection = socket.socket(socket.AF_UNIX)
        # Before it has a time limit: with Python's, a full backlog is an error and not a wait.
        connection.connect(str(self.socket))
        connection.settimeout(LIMIT_S)
        return connection

    def children(self, module: str = "") -> list[int]:
        """Pids of its child processes, those of one module if asked."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if module in command_of(int(pid))]

    def log(self) -> str:
        """All it has logged."""
        return self.log_path.read_text()

    def end_of_log(self) -> str:
        """What to show when a claim does not hold."""
        return self.log()[-4000:] if self.log_path.exists() else "(nothing was logged)"

    def wait_log(self, pattern: str, limit_s: float = LIMIT_S) -> re.Match[str]:
        """Until a line matches."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.search(pattern, self.log()) if self.log_path.exists() else None
            if match is not None:
                found.append(match)
            return match is not None

        wait_until(look, f"'{pattern}' in the log", limit_s)
        return found[0]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        status = self.process.wait(LIMIT_S)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def refusal(self) -> tuple[int, str]:
        """Exit status and words of a start that must fail."""
        process = self.spawn()
        _, errors = process.communicate(timeout=LIMIT_S)
        return process.returncode, errors.decode()


def command_of(pid: int) -> str:
    """A process's command line; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that is dead but not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def private_bytes(pid: int) -> int:
    """Memory a process has for itself; pages of database files are not counted."""
    match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) << 10


def cpu_s(pid: int) -> float:
    """Processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_standstill(daemon: Daemon) -> None:
    """Until its workers have had nothing to do for a while, or may do nothing."""
    used: list[float] = []

    def is_still() -> bool:
        used.append(sum(cpu_s(pid) for pid in daemon.children("ctdbpy.store.worker")))
        return len(used) > 30 and used[-1] == used[-30]

    wait_until(is_still, "the workers stand still")


Cluster = Callable[..., list[Daemon]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Cluster]:
    """Make daemons of one cluster, not started yet: make(2, conf="…")."""
    made: list[Daemon] = []

    def build(nodes: int = 1, conf: str = "") -> list[Daemon]:
        net, port = own_network()
        addresses = [f"{net}.{number + 1}" for number in range(nodes)]
        daemons = [Daemon(tmp_path / f"n{pnn}", addresses, pnn, port, conf) for pnn in range(nodes)]
        made.extend(daemons)
        return daemons

    yield build
    for daemon in made:
        if daemon.process is not None:
            daemon.process.kill()
            daemon.wait()


@pytest.fixture
def daemon(make: Cluster) -> Daemon:
    """One node's daemon, serving."""
    return make()[0].start()
