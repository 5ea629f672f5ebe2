# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation made from the tables is the one that is committed, and man can show it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctdbpy.config.reference import DOCUMENTS, SECTIONS
from ctdbpy.config.table import SETTINGS
from ctdbpy.wire.tunables import OWN_TUNABLES, TUNABLES

DOCS = Path(__file__).resolve().parents[3] / "docs"
PLACES = {"settings.md": DOCS / "settings.md", "ctdbpy.conf.5": DOCS / "man" / "ctdbpy.conf.5"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_document_is_current(name: str) -> None:
    assert PLACES[name].read_text() == DOCUMENTS[name](), f"run: python -m ctdbpy.config.reference {name}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_and_tunable_is_in_it(name: str) -> None:
    text = DOCUMENTS[name]()
    for row in SETTINGS:
        assert row.option in text
    for spec in (*TUNABLES, *OWN_TUNABLES):
        assert spec.obsolete or spec.name in text


def test_every_section_is_introduced() -> None:
    assert {row.section for row in SETTINGS} == SECTIONS.keys()


def test_the_program_prints_the_document_it_is_asked_for() -> None:
    for name, arguments in (("settings.md", []), ("ctdbpy.conf.5", ["ctdbpy.conf.5"])):
        argv = [sys.executable, "-m", "ctdbpy.config.reference", *arguments]
        assert (
            subprocess.run(argv, capture_output=True, timeout=60, check=True).stdout.decode()
            == DOCUMENTS[name]()
        )
    done = subprocess.run([*argv[:3], "x"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"there is only settings.md and ctdbpy.conf.5" in done.stderr


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("page", ["ctdbpy.conf.5", "ctdbpyd.8", "ctdbctl.8"])
def test_man_shows_the_page_without_a_complaint(page: str) -> None:
    shown = subprocess.run(
        ["man", "--warnings", "-P", "cat", "-l", str(DOCS / "man" / page)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert shown.stderr == b""
    assert b"NAME" in shown.stdout
