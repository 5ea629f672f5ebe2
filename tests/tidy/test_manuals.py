# SPDX-License-Identifier: GPL-3.0-or-later
"""Manual pages written by hand tell what their programs take; those that are made are compared elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.tidy import tree

MAN = Path("docs/man")
PAGES = sorted(path for path in tree.files() if path.parent == MAN)


def _text(page: str) -> str:
    """A page as a reader sees its words."""
    text = tree.text(MAN / page).replace("\\-", "-")
    return re.sub(r'^\.[A-Z]{1,2} |"|\\f.', "", text, flags=re.MULTILINE)


def test_every_program_has_a_page() -> None:
    scripts = tomllib.loads(tree.text(Path("pyproject.toml")))["project"]["scripts"]
    programs = {{"ctdbpy-ctdb": "ctdb", "ctdbpy-onnode": "onnode"}.get(name, name) for name in scripts}
    assert programs <= {page.stem for page in PAGES}


@pytest.mark.parametrize(
    ("page", "source"),
    [("ctdbpyd.8", "ctdbpy/daemon/start.py"), ("ctdbpy-exporter.8", "ctdbpy/api/exporter.py")],
)
def test_a_page_names_every_option_of_its_program(page: str, source: str) -> None:
    options = set(re.findall(r'add_argument\([^)]*?"(--[a-z-]+)"', tree.text(Path(source))))
    assert options
    assert not {option for option in options if option not in _text(page)}


def test_the_page_of_onnode_names_its_options() -> None:
    options = re.findall(r"^    (-\w)", tree.text(Path("ctdbpy/cli/onnode.py")), re.MULTILINE)
    assert options
    assert not [
        option for option in options if not re.search(rf"^{option}\b", _text("onnode.1"), re.MULTILINE)
    ]


def test_the_page_of_the_daemon_names_its_exit_codes() -> None:
    codes = {
        number
        for source in ("ctdbpy/daemon/start.py", "ctdbpy/core/membership/standing.py")
        for number in re.findall(r"^EXIT_\w+: Final = (\d+)", tree.text(Path(source)), re.MULTILINE)
    }
    assert codes >= {"1", "75"}
    status = _text("ctdbpyd.8").partition("\nEXIT STATUS\n")[2].partition("\nFILES\n")[0]
    assert not {code for code in codes if not re.search(rf"^{code}$", status, re.MULTILINE)}


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_shows_it_without_a_complaint(page: Path) -> None:
    shown = subprocess.run(
        ["man", "--warnings", "-P", "cat", "-l", str(tree.ROOT / page)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert shown.stderr == b""
    assert b"NAME" in shown.stdout
