# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in the client host that say what they do in lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from ctdbpy.errors import LabError
from ctdbpy.lab.lab import HostProcess, Lab

_READ_BYTES: Final = 1 << 16


class Program:
    """One of them. `lines` is what it has said so far; its errors go to a file on the host's disk."""

    def __init__(self, lab: Lab, host: str, module: str, arguments: Sequence[str], name: str) -> None:
        stdin_read, stdin_write = os.pipe()
        lines_read, lines_write = os.pipe()
        self.name = name
        self._stdin: IO[bytes] = os.fdopen(stdin_write, "wb", buffering=0)
        self._said: IO[bytes] = os.fdopen(lines_read, "rb", buffering=0)
        os.set_blocking(lines_read, False)
        self._log = lab.path(host, f"/var/log/{name}.log")
        root = str(Path(__file__).resolve().parents[3])
        with (
            os.fdopen(stdin_read, "rb") as stdin,
            os.fdopen(lines_write, "wb") as out,
            self._log.open("wb") as errors,
        ):
            self._process: HostProcess = lab.connect(
                host,
                [sys.executable, "-m", module, *arguments],
                (stdin, out, errors),
                env={"PYTHONPATH": root},
            )
        self._rest = b""
        self.lines: list[dict[str, Any]] = []
        self.longest_us = 0
        self.is_done = False

    def look(self) -> list[dict[str, Any]]:
        """What it has said since; raises `LabError` when it has ended without being done."""
        fresh: list[dict[str, Any]] = []
        while data := self._read():
            *lines, self._rest = (self._rest + data).split(b"\n")
            fresh += [json.loads(line) for line in lines]
        for line in fresh:
            self.longest_us = max(self.longest_us, line["longest_us"])
            self.is_done = self.is_done or bool(line.get("done"))
        self.lines += fresh
        if data == b"" and not self.is_done:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip()
            raise LabError(
                f"cannot go on without '{self.name}': it has ended: {said[-600:] or 'without a word'}"
            )
        return fresh

    def _read(self) -> bytes | None:
        """None: nothing is there yet; no bytes: it has ended."""
        try:
            return os.read(self._said.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None

    def finish(self) -> None:
        """Ask it to end after what it is at."""
        if not self._stdin.closed:
            self._stdin.close()

    def close(self) -> None:
        """End it."""
        self.finish()
        self._said.close()
        self._process.close()
