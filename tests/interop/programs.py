# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons of ours on loopback addresses, and the two programs called `ctdb` that they are asked with."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from ctdbpy.cli.ctdb.program import main
from tests.interop.masks import masked
from tests.unit.daemon.conftest import LIMIT_S, Daemon

_SHELL = re.compile(r"[|;<>&$*`]")


class Talk:
    """A cluster that is asked line by line; `program` says by whom: "debian" or "ours".

    A line is for the first node, or begins with another's name, as `n1: ctdb pnn`. {base} in a line is that
    node's folder, {tmp} a folder for whatever.
    """

    def __init__(self, daemons: Sequence[Daemon], program: str, tmp: Path) -> None:
        self.daemons = daemons
        self.program = program
        self.tmp = tmp
        self._net = (daemons[0].base / "nodes").read_text().splitlines()[0].rpartition(".")[0]
        bin_ = tmp / "bin"
        bin_.mkdir(parents=True)
        if program == "ours":
            wrapper = bin_ / "ctdb"
            wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ctdbpy.cli.ctdb "$@"\n')
            wrapper.chmod(0o755)
        self._path = f"{bin_}:{os.environ['PATH']}"

    def hold(self, lines: Sequence[str]) -> str:
        """The transcript, without what is chance: output, "! " errors, exit codes."""
        transcript: list[str] = []
        for line in lines:
            transcript.append(f"$ {line}")
            found = re.match(r"n(\d): ", line)
            daemon = self.daemons[int(found[1]) if found else 0]
            text = line[found.end() :] if found else line
            code, out, errors = self._run(text.format(base=daemon.base, tmp=self.tmp), daemon)
            transcript += out.splitlines()
            transcript += [f"! {error}" for error in errors.splitlines()]
            if code:
                transcript.append(f"exit {code}")
        return self._masked("\n".join(transcript))

    def _run(self, line: str, daemon: Daemon) -> tuple[int, str, str]:
        environ = {"CTDB_TEST_MODE": "1", "CTDB_BASE": str(daemon.base), "TZ": "UTC"}
        words = shlex.split(line)
        if self.program == "ours" and words[0] == "ctdb" and not _SHELL.search(line):
            return in_process(words[1:], environ)
        package = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            ["sh", "-c", line],
            env={**os.environ, **environ, "PATH": self._path, "PYTHONPATH": package},
            capture_output=True,
            timeout=2 * LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def _masked(self, text: str) -> str:
        net = self._net
        for daemon in self.daemons:
            text = text.replace(str(daemon.base), "<base>")
        text = text.replace(str(self.tmp), "<tmp>")
        # The table pads addresses to a width.
        text = re.sub(rf"{re.escape(net)}\.(\d) +", r"<net>.\1 ", text).replace(net, "<net>")
        # How a program explains its use is its own affair; that it does is not.
        text = re.sub(r"^Usage:.*?(?=^exit)", "<usage>\n", text, flags=re.MULTILINE | re.DOTALL)
        return masked(text)


def in_process(words: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, output and errors of our program, without the time that a process takes to begin."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    errors = io.StringIO()
    with (
        mock.patch.dict(os.environ, environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = main(words)
    out.seek(0)
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return code, buffer.getvalue().decode(errors="replace"), errors.getvalue()
