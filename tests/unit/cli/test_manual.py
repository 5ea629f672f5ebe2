# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual pages are those of the commands as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ctdbpy.cli.manual import PAGES

_MAN = Path(__file__).resolve().parents[3] / "docs" / "man"
_FILES = {"ctdbctl": "ctdbctl.8", "ctdb": "ctdb.1"}


@pytest.mark.parametrize("program", PAGES)
def test_the_page_is_up_to_date(program: str) -> None:
    file = _FILES[program]
    assert (_MAN / file).read_text() == PAGES[program](), (
        f"make it anew: python -m ctdbpy.cli.manual {program} >docs/man/{file}"
    )


@pytest.mark.parametrize("program", PAGES)
def test_no_line_is_taken_for_an_order_to_troff(program: str) -> None:
    orders = {".TH", ".SH", ".SS", ".TP", ".B", ".BR", ".IP", ".PP", ".RS", ".RE", ".nf", ".fi", '.\\"'}
    for line in PAGES[program]().splitlines():
        assert not line.startswith((".", "'")) or line.split()[0] in orders, line


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("file", _FILES.values())
def test_man_shows_it_without_a_complaint(file: str) -> None:
    shown = subprocess.run(
        ["man", "--warnings", "-P", "cat", "-l", str(_MAN / file)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert shown.stderr == b""
    assert b"ENVIRONMENT" in shown.stdout
