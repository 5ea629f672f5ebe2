# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways in: `./dev`, entry points, links between documents, example configuration."""

from __future__ import annotations

import configparser
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import leftovers
from tests.tidy import tree


def _dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree.ROOT / "dev", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_dev_help_offers_only_what_is_there() -> None:
    answer = _dev("help")
    assert answer.returncode == 0
    offered = set(re.findall(r"\./dev (\w+)", answer.stdout))
    optional = {"lab": "ctdbpy/lab/__main__.py", "demo": "ctdbpy/lab/demo/__main__.py"}
    absent = {command for command, file in optional.items() if not (tree.ROOT / file).exists()}
    assert {"help", "setup", "check", "test"} <= offered
    assert not offered & absent


def test_dev_refuses_an_unknown_command_and_says_what_there_is() -> None:
    answer = _dev("frobnicate")
    assert answer.returncode == 2
    assert "cannot run 'frobnicate'" in answer.stderr
    assert "./dev test" in answer.stderr


def test_dev_refuses_an_unknown_section_and_says_what_there_is() -> None:
    answer = _dev("test", "frobnicate")
    assert answer.returncode == 1
    assert "cannot run section 'frobnicate'" in answer.stderr
    assert "choose from: tidy" in answer.stderr


def test_every_entry_point_leads_to_a_function() -> None:
    project = tomllib.loads(tree.text(Path("pyproject.toml")))["project"]
    for name, target in project.get("scripts", {}).items():
        module, _, function = target.partition(":")
        path = Path(*module.split(".")).with_suffix(".py")
        assert path in tree.files(), f"{name}: no {path}"
        assert re.search(rf"^def {function}\(", tree.text(path), re.MULTILINE), f"{name}: no {target}"


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path}: {target}"
        for path in tree.files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", tree.text(path))
        if not re.match(r"\w+:", target) and not (tree.ROOT / path.parent / target).exists()
    ]
    assert not broken


def _unit(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(tree.text(Path("etc") / name))
    return unit


def test_the_unit_is_there_for_who_waits_for_the_other_daemon_and_waits_for_ours() -> None:
    unit = _unit("ctdbpyd.service")
    assert unit["Install"]["Alias"] == "ctdb.service"
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["RuntimeDirectory"] == "ctdb"
    assert unit["Service"]["LimitMEMLOCK"] == "infinity"


def test_the_unit_lets_those_finish_who_clean_up_after_a_killed_daemon() -> None:
    unit = _unit("ctdbpyd.service")
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["Restart"] == "on-failure"
    assert float(unit["Service"]["WatchdogSec"]) > 0


def test_event_scripts_mount_for_the_host_and_not_for_the_unit() -> None:
    # Each of these gives a service a mount namespace of its own.
    own_mounts = re.compile(
        r"Protect|Private|ReadOnly|ReadWrite|Inaccessible|TemporaryFileSystem|Bind|Root|Dynamic"
    )
    assert not [name for name in _unit("ctdbpyd.service")["Service"] if own_mounts.match(name)]


def _pytest_below(folder: Path, test: str) -> subprocess.Popen[str]:
    """A test run of its own, with this tree's conftest and a mark of its own."""
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {**os.environ, leftovers.MARK_VARIABLE: f"below-{folder}", "PYTHONPATH": str(tree.ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*command, "test_it.py"],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_a_run_that_leaves_a_process_behind_fails_and_ends_it(tmp_path: Path) -> None:
    run = _pytest_below(
        tmp_path,
        "import subprocess\n"
        "def test_it():\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL)\n",
    )
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "left processes behind" in output
    assert "sleep 600" in output
    assert leftovers.find(f"below-{tmp_path}") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_end_cleans_up_first(tmp_path: Path, number: signal.Signals) -> None:
    run = _pytest_below(
        tmp_path,
        "import pytest, signal\n"
        "@pytest.fixture\n"
        "def thing():\n"
        "    yield\n"
        "    print('fixture torn down', flush=True)\n"
        "def test_it(thing):\n"
        "    print('test is running', flush=True)\n"
        "    signal.sigtimedwait([signal.SIGUSR1], 60)\n",
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "test is running" in line:
            break
    run.send_signal(number)
    output, _ = run.communicate(timeout=60)
    assert "fixture torn down" in output
    assert run.returncode == 2
