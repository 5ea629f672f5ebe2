# SPDX-License-Identifier: GPL-3.0-or-later
"""The program as a process, and daemons for it to ask."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.daemon import conftest as daemons

Run = Callable[..., subprocess.CompletedProcess[str]]

make = daemons.make
daemon = daemons.daemon


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ctdbctl; without `socket` where a daemon of no test is."""

    def run(*arguments: str, socket: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        where = {"CTDB_SOCKET": str(socket or tmp_path / "nothing")}
        return subprocess.run(
            [sys.executable, "-m", "ctdbpy.cli", *arguments],
            env={**os.environ, "TZ": "UTC", **where, **environ},
            capture_output=True,
            text=True,
            timeout=daemons.LIMIT_S,
            check=False,
        )

    return run
