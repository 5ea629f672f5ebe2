# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes' views of their cluster over time, as observers on every node report them."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ctdbpy.errors import LabError
from ctdbpy.lab import HostProcess, Lab
from ctdbpy.wire.constants import NodeFlag, RecoveryMode

_LINE_BYTES = 1 << 16
NOBODY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class View:
    """What one node's daemon said from `at_ns` on; without `up` it says nothing."""

    host: str
    at_ns: int
    up: bool = False
    recmode: int = RecoveryMode.ACTIVE
    generation: int = 0
    flags: tuple[int, ...] = ()
    leader: int = NOBODY
    peak_kib: int = 0
    #: How often it was seen to come back to normal mode since it was first observed.
    recoveries: int = 0

    @property
    def is_normal(self) -> bool:
        return self.up and self.recmode == RecoveryMode.NORMAL

    def is_healthy(self, nodes: int) -> bool:
        """Whether it sees that many nodes, all of them without any flag, in normal mode."""
        return self.is_normal and self.flags == (0,) * nodes

    def has_lost(self, pnn: int) -> bool:
        """Whether it takes that node for dead."""
        return self.up and len(self.flags) > pnn and bool(self.flags[pnn] & NodeFlag.DISCONNECTED)


class Pipe:
    """A program in a host that writes lines; its errors go to a file on the host's disk."""

    def __init__(self, lab: Lab, host: str, argv: Sequence[str], log: str) -> None:
        self.host = host
        stdin_read, stdin_write = os.pipe()
        lines_read, lines_write = os.pipe()
        self._stdin: IO[bytes] = os.fdopen(stdin_write, "wb", buffering=0)
        self._lines: IO[bytes] = os.fdopen(lines_read, "rb", buffering=0)
        self.log = lab.path(host, f"/var/log/{log}")
        root = str(Path(__file__).resolve().parents[1])
        with (
            os.fdopen(stdin_read, "rb") as stdin,
            os.fdopen(lines_write, "wb") as out,
            self.log.open("wb") as errors,
        ):
            self.process: HostProcess = lab.connect(
                host, [sys.executable, *argv], (stdin, out, errors), env={"PYTHONPATH": root}
            )
        self._rest = b""
        self.has_ended = False

    def fileno(self) -> int:
        return self._lines.fileno()

    def read(self) -> list[str]:
        """The lines that have come; called when there is something to read."""
        data = self._lines.read(_LINE_BYTES)
        if not data:
            self.has_ended = True
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode() for line in lines]

    def close(self) -> None:
        """Let the program end."""
        self._stdin.close()
        self._lines.close()
        self.process.close()


class Views:
    """Observers on nodes, and everything they have said."""

    def __init__(self, lab: Lab, *options: str) -> None:
        self._lab = lab
        self._options = options
        self._pipes: dict[str, Pipe] = {}
        self._history: list[View] = []
        self._latest: dict[str, View] = {}

    def start(self, host: str) -> None:
        """Observe a node from now on; one whose host has lost its power must be started again."""
        self.end(host)
        argv = ["-m", "benchmarks.observer", *self._options]
        self._pipes[host] = Pipe(self._lab, host, argv, "observer.log")

    def end(self, host: str) -> None:
        """Observe a node no longer."""
        pipe = self._pipes.pop(host, None)
        if pipe is not None:
            pipe.close()

    def close(self) -> None:
        """End all observers."""
        for host in list(self._pipes):
            self.end(host)

    def now(self, host: str) -> View:
        """The latest that was said of a node."""
        self._read(0.0)
        return self._at(time.monotonic_ns()).get(host, View(host, 0))

    def wait(
        self, claim: str, hosts: Iterable[str], holds: Callable[[View], bool], since_ns: int, timeout_s: float
    ) -> int:
        """Wait until `holds` of all these hosts' views at once; when that was, on the monotonic clock.

        Raises LabError with the last views when it does not come true in time.
        """
        wanted = list(hosts)
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = self._first(wanted, holds, since_ns)
            if found is not None:
                return found
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                latest = self._at(time.monotonic_ns())
                raise LabError(
                    f"cannot wait longer until {claim}: not so within {timeout_s:g} s; "
                    + "; ".join(str(latest.get(host)) for host in wanted)
                )
            self._read(min(left_s, 1.0))

    def first_ns(self, host: str, holds: Callable[[View], bool]) -> int:
        """When something first held of a node's views; raises LabError if it never did."""
        for view in self._history:
            if view.host == host and holds(view):
                return view.at_ns
        raise LabError(f"cannot tell since when it holds of '{host}': it was never seen so")

    def peak_kib(self, host: str, since_ns: int) -> int:
        """The most memory that a node's daemon had since then."""
        return max(
            (view.peak_kib for view in self._history if view.host == host and view.at_ns >= since_ns),
            default=0,
        )

    def history(self) -> list[View]:
        """All that was said since the last `forget`, in order."""
        return list(self._history)

    def forget(self) -> None:
        """Keep only the latest view of each node."""
        self._history = sorted(self._at(time.monotonic_ns()).values(), key=lambda view: view.at_ns)

    def _at(self, at_ns: int) -> dict[str, View]:
        latest: dict[str, View] = {}
        for view in self._history:
            if view.at_ns <= at_ns:
                latest[view.host] = view
        return latest

    def _first(self, hosts: list[str], holds: Callable[[View], bool], since_ns: int) -> int | None:
        latest = self._at(since_ns)
        if all(host in latest and holds(latest[host]) for host in hosts):
            return since_ns
        for view in self._history:
            if view.at_ns > since_ns:
                latest[view.host] = view
                if all(host in latest and holds(latest[host]) for host in hosts):
                    return view.at_ns
        return None

    def _read(self, timeout_s: float) -> None:
        ready = select.select(
            [pipe for pipe in self._pipes.values() if not pipe.has_ended], [], [], timeout_s
        )[0]
        for pipe in ready:
            for line in pipe.read():
                fields = json.loads(line)
                fields["flags"] = tuple(fields.get("flags", ()))
                view, before = View(pipe.host, **fields), self._latest.get(pipe.host)
                if before is not None:
                    has_come = view.is_normal and before.up and not before.is_normal
                    view = replace(view, recoveries=before.recoveries + has_come)
                self._latest[pipe.host] = view
                self._history.append(view)
        self._history.sort(key=lambda view: view.at_ns)
