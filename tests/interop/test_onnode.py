# SPDX-License-Identifier: GPL-3.0-or-later
"""Our program `onnode` carries commands to nodes as Debian's does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.daemon.conftest import LIMIT_S

_CARRIER = """#!/bin/sh
closed=
[ "$1" != -n ] || { shift; closed=' (closed)'; }
echo "to $1$closed: $2"
case $2 in *fail*) exit "${1##*.}" ;; esac
case $2 in *"ctdb pnn"*) [ "$1" = 192.0.2.1 ] || echo 2 ;; esac
"""
_STATUS = """#!/bin/sh
[ "$1 $2" = '-X status' ] || exit 1
echo '|Node|IP|Disconnected|Unknown|Banned|Disabled|Unhealthy|Stopped|Inactive|PartiallyOnline|ThisNode|'
echo '|0|192.0.2.1|0|0|0|0|1|0|0|0|Y|'
echo '|2|192.0.2.3|0|0|0|0|0|0|0|0|N|'
echo '|3|192.0.2.4|1|0|0|0|1|0|1|0|N|'
"""

LINES = [
    "all hostname",
    "-q all hostname",
    "0 echo one two",
    "-v 2 hostname",
    "0,2-3 hostname",
    "3,0 hostname",
    "ok hostname",
    "healthy,0 hostname",
    "con hostname",
    "any hostname",
    "-c 0 hostname",
    "-i 0,2 hostname",
    "-n 0,alpha hostname",
    "alpha hostname",
    "1 hostname",
    "9 hostname",
    "2-x hostname",
    "all fail",
    "0,2 fail",
    "-p all hostname",
    "-pq all fail",
    "-f other all hostname",
    "-f nothing all hostname",
    "all",
    "-z all hostname",
]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name, text in {"carrier": _CARRIER, "ctdb": _STATUS}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nodes").write_text("192.0.2.1\n#192.0.2.2\n192.0.2.3\n192.0.2.4 # the last\n")
    (tmp_path / "other").write_text("198.51.100.7\n198.51.100.8\n")
    (tmp_path / "onnode.conf").write_text('ONNODE_SSH="$CTDB_BASE/carrier"\n')
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "CTDB_BASE": str(tmp_path), "ONNODE_SSH": ""}


def _say(program: list[str], line: str, environ: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [*program, *line.split(" ", 3 if line.startswith("-") else 1)],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    # Usage is in other words, and what comes first of what runs at a time is chance.
    said = re.split(r"^(?:\S*: illegal|Usage:)", done.stdout, maxsplit=1, flags=re.MULTILINE)
    lines = "".join(said[0]).splitlines()
    return done.returncode, "\n".join(sorted(lines) if line.startswith("-p") else lines)


@pytest.mark.parametrize("line", LINES)
def test_it_does_the_same_as_debians(line: str, environ: dict[str, str]) -> None:
    ours = _say([sys.executable, "-m", "ctdbpy.cli.onnode"], line, environ)
    assert ours == _say(["/usr/bin/onnode"], line, environ)
