# SPDX-License-Identifier: GPL-3.0-or-later
"""The real event scripts with stub programs around them: nothing of this machine is looked at or changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
LIMIT_S: Final = 60.0

#: What a test has not given a stub for is a mistake of the script, or of the test.
_DANGEROUS: Final = (
    "ip",
    "nft",
    "iptables",
    "ip6tables",
    "sysctl",
    "ipvsadm",
    "service",
    "systemctl",
    "ss",
    "ctdb",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script ended, and all that it said."""

    status: int
    said: str


class Stand:
    """An /etc/ctdb, a directory for state, and a PATH whose first directory holds stubs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = directory / "etc"
        self.state = directory / "var" / "scripts"
        self._programs = directory / "bin"
        self._calls = directory / "calls"
        for each in (self.base / "events/legacy", self.state, self._programs):
            each.mkdir(parents=True)
        shutil.copy(ROOT / "eventscripts" / "functions", self.base)
        self._hook()
        for name in _DANGEROUS:
            self.program(name, "")

    def program(self, name: str, body: str) -> None:
        """A stub: what it is called with is kept, then the body is run by sh."""
        path = self._programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._calls}"\n{body}\n')
        path.chmod(0o755)

    def calls(self, name: str = "") -> list[str]:
        """What stubs (of this name) were called with, oldest first; then they are forgotten."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return [line for line in lines if line.partition(" ")[0] == name or not name]

    def run(self, script: str, *arguments: str, **options: str) -> Ended:
        """Run an event script ("05.system") with these options in its script.options."""
        path = self.base / "events" / "legacy" / f"{script}.script"
        shutil.copy(ROOT / "eventscripts" / f"{script}.script", path)
        self.set_options(**options)
        return self._run([str(path), *arguments])

    def helper(self, name: str, *arguments: str, **options: str) -> Ended:
        """Run a helper program of the tool."""
        self.set_options(**options)
        return self._run([str(ROOT / "eventscripts" / "helpers" / name), *arguments])

    def set_options(self, **options: str) -> None:
        """Write script.options."""
        text = "".join(f"{name}='{value}'\n" for name, value in options.items())
        (self.base / "script.options").write_text(text)

    def shell(self, text: str) -> Ended:
        """Run a script of an administrator, which has read the functions."""
        path = self.directory / "own.script"
        path.write_text(f'#!/bin/sh\n. "$CTDB_BASE/functions"\n{text}\n')
        path.chmod(0o755)
        return self._run([str(path)])

    def _run(self, argv: list[str]) -> Ended:
        environ = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CTDBPY_PYTHON": sys.executable,
            "CTDB_BASE": str(self.base),
            "CTDB_VARDIR": str(self.directory / "var"),
            "CTDB_SCRIPT_VARDIR": str(self.state),
            "CTDB_SYS_ETCDIR": str(self.directory / "sys"),
            "CTDB_LOGGING": f"file:{self.directory / 'log'}",
            "CTDB_INIT_STYLE": "debian",
        }
        done = subprocess.run(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        return Ended(done.returncode, done.stdout)

    def _hook(self) -> None:
        """An administrator's own additions, which keep the script's hands off this machine."""
        hook = self.base / "rc.local"
        hook.write_text(
            f'set_proc() {{ echo "set_proc $*" >>"{self._calls}"; }}\n'
            'set_proc_maybe() { set_proc "$@"; }\n'
            '_service() { shift; service_stub "$@"; }\n'
        )
        hook.chmod(0o755)
        self.program("service_stub", "")
