# SPDX-License-Identifier: GPL-3.0-or-later
"""Every line of docs/coming-from-ctdb.md works, in either spelling, on a cluster of three nodes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from ctdbpy.cli.ctdb.table import COMMANDS
from ctdbpy.cli.ctdbctl import main
from tests.interop.programs import in_process
from tests.interop.test_program import start_nodes
from tests.unit.daemon.conftest import LIMIT_S, Daemon

_DOC = Path(__file__).resolve().parents[2] / "docs" / "coming-from-ctdb.md"
_ADDRESSES = "192.0.2.9/24 lo\n192.0.2.10/24 lo\n"
#: Newer than Debian's program.
_NEWER = {"pushrecord"}
#: Lines whose answer is no.
_NO = {"process-exists", "process"}


def _rows() -> list[tuple[str, str]]:
    row = r"^\| `((?:ctdb|onnode) [^`]+)` \| `(ctdbctl [^`]+)` \|$"
    return re.findall(row, _DOC.read_text(), re.MULTILINE)


def _own_rows() -> list[str]:
    return re.findall(r"^\| `(ctdbctl [^`]+)` \| [^`]", _DOC.read_text(), re.MULTILINE)


class Place:
    """A cluster, and a folder to be in when it is asked."""

    def __init__(self, daemons: list[Daemon], folder: Path) -> None:
        self.daemons = daemons
        self._folder = folder
        (folder / "records.txt").write_text('"first" "1"\n"second" "0x32"\n')
        # Commands on nodes are run here: the nodes are this machine.
        carrier = folder / "carrier"
        carrier.write_text('#!/bin/sh\nshift 2\nexec sh -c "$*"\n')
        carrier.chmod(0o755)
        self._environ = {
            "CTDB_TEST_MODE": "1",
            "CTDB_BASE": str(daemons[0].base),
            "CTDB_NATGW_HELPER": "/bin/true",
            "CTDB_LVS_HELPER": "/bin/true",
            "ONNODE_SSH": str(carrier),
        }

    def words(self, line: str) -> list[str]:
        return shlex.split(line.replace("/var/lib/ctdb", str(self.daemons[0].base / "var")))

    def run_upstreams(self, line: str) -> tuple[int, str]:
        words = self.words(line)
        if words[1] in _NEWER:
            code, out, errors = in_process(words[1:], self._environ)
            return code, out + errors
        done = subprocess.run(
            words,
            cwd=self._folder,
            env={**os.environ, **self._environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def run_ours(self, line: str) -> tuple[int, str]:
        out, errors = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self._folder),
            mock.patch.dict(os.environ, self._environ),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = main(self.words(line)[1:])
        return code, out.getvalue() + errors.getvalue()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Place]]:
    """One for upstream's spellings and one for ours."""
    base = tmp_path_factory.mktemp("places")
    started: list[Daemon] = []
    made = []
    try:
        for name in ("upstreams", "ours"):
            daemons = start_nodes(base / name, 3, _ADDRESSES)
            started += daemons
            script = daemons[0].base / "share" / "events" / "legacy" / "50.example.script"
            script.write_text("#!/bin/sh\n")
            script.chmod(0o755)
            folder = base / f"{name}.folder"
            folder.mkdir()
            made.append(Place(daemons, folder))
        for daemon in started:
            daemon.wait_serving()
            daemon.wait_log("own flags UNHEALTHY -> OK")
        yield made[0], made[1]
    finally:
        for daemon in started:
            assert daemon.process is not None
            daemon.process.kill()
            daemon.wait()


def test_every_command_of_upstreams_has_a_line() -> None:
    shown = {
        words[1] if words[1] not in ("-X",) else words[2] for words in (row[0].split() for row in _rows())
    }
    assert set(COMMANDS) - shown == set()


def test_what_is_new_works(places: tuple[Place, Place]) -> None:
    _upstreams, ours = places
    assert ours.run_ours("ctdbctl db attach g_lock.tdb")[0] == 0
    lines = _own_rows()
    assert len(lines) >= 15
    failed = [f"{line}: {said}" for line in lines for code, said in [ours.run_ours(line)] if code]
    assert failed == []


def test_both_spellings_work(places: tuple[Place, Place]) -> None:
    upstreams, ours = places
    for theirs, own in _rows():
        no = int(theirs.split()[1] in _NO)
        code, said = upstreams.run_upstreams(theirs)
        assert code == no, f"{theirs}: {said}"
        code, said = ours.run_ours(own)
        assert code == no, f"{own}: {said}"
        asks_nothing = own.split()[1] == "ip" and "gateway" in own
        assert said or asks_nothing or "exec" in own, f"{own} says nothing"
