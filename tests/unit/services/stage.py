# SPDX-License-Identifier: GPL-3.0-or-later
"""A stage for event scripts: the real script runs on it, with stub programs first in its PATH."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.tidy.tree import ROOT


class Stage:
    """A directory with /etc/ctdb, script state and stub programs of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.base = home / "etc"
        self.state = home / "state"
        self._tools = home / "bin"
        self._asked = home / "asked"
        for directory in (self.base, self.state, self._tools):
            directory.mkdir()
        (self.base / "functions").symlink_to(ROOT / "eventscripts" / "functions")

    def stub(self, name: str, body: str = "exit 0") -> None:
        """A program that notes how it was called, and then does `body` (sh)."""
        program = self._tools / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{self._asked}\n{body}\n', encoding="utf-8")
        program.chmod(0o755)

    def run(self, script: str, event: str, *arguments: str, **options: str) -> tuple[int, str]:
        """Run a script for an event with these options; its exit status and what it said."""
        lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in options.items())
        (self.base / "script.options").write_text(lines, encoding="utf-8")
        self._asked.unlink(missing_ok=True)
        done = subprocess.run(
            [ROOT / "eventscripts" / f"{script}.script", event, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            env={
                "PATH": f"{self._tools}:{os.environ['PATH']}",
                "CTDB_BASE": str(self.base),
                "CTDB_SCRIPT_VARDIR": str(self.state),
                "CTDBPY_PYTHON": sys.executable,
                "PYTHONPATH": str(ROOT),
            },
        )
        return done.returncode, done.stdout

    def asked(self) -> list[str]:
        """How stubs were called in the last run, in order."""
        return self._asked.read_text(encoding="utf-8").splitlines() if self._asked.exists() else []
