# SPDX-License-Identifier: GPL-3.0-or-later
"""49.winbind and 48.netbios, the real scripts, with stubs for Samba's commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.services.stage import Stage

# Script, option for its name, what asks it, and the call of that.
WINBIND = ("49.winbind", "CTDB_SERVICE_WINBIND", "wbinfo", "wbinfo --ping")
NETBIOS = ("48.netbios", "CTDB_SERVICE_NMB", "smbcontrol", "smbcontrol -t 8 nmbd ping")
BOTH = pytest.mark.parametrize(("script", "option", "tool", "call"), [WINBIND, NETBIOS])


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    for name in ("systemctl", "wbinfo", "smbcontrol"):
        stage.stub(name)
    return stage


@BOTH
@pytest.mark.parametrize(
    ("event", "verbs"),
    [("startup", ["stop", "start"]), ("shutdown", ["stop"]), ("reload", ["reload"]), ("takeip", [])],
)
def test_systemd_is_asked(
    stage: Stage, script: str, option: str, tool: str, call: str, event: str, verbs: list[str]
) -> None:
    options = {"CTDB_SERVICE_MANAGER": "systemd", option: "mine"}
    assert stage.run(script, event, **options) == (0, "")
    assert stage.asked() == [f"systemctl {verb} mine" for verb in verbs]


@BOTH
def test_one_that_answers_is_well(stage: Stage, script: str, option: str, tool: str, call: str) -> None:
    assert stage.run(script, "monitor") == (0, "")
    assert stage.asked() == [call]


@BOTH
def test_one_that_does_not_answer_is_told(
    stage: Stage, script: str, option: str, tool: str, call: str
) -> None:
    stage.stub(tool, "echo 'could not ping it' >&2; exit 1")
    assert stage.run(script, "monitor") == (1, f"cannot run '{call}': exit status 1: could not ping it\n")


@BOTH
def test_a_start_that_fails_is_told(stage: Stage, script: str, option: str, tool: str, call: str) -> None:
    stage.stub("systemctl", '[ "$1" = stop ] || exit 5')
    options = {"CTDB_SERVICE_MANAGER": "systemd", option: "mine"}
    assert stage.run(script, "startup", **options) == (
        1,
        "cannot run 'systemctl start mine': exit status 5\n",
    )


@BOTH
def test_a_broken_option_gives_one_line(stage: Stage, script: str, option: str, tool: str, call: str) -> None:
    status, said = stage.run(script, "startup", CTDB_SERVICE_MANAGER="upstart")
    rule = "it must be 'systemd' or 'commands'"
    assert said == f"cannot use CTDB_SERVICE_MANAGER='upstart' of '{stage.base}/script.options': {rule}\n"
    assert status == 1
