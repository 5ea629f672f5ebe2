# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of event scripts: what they say, how they fail, and that no command holds an event up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands


def test_a_command_is_given_its_input_and_its_environment() -> None:
    done = commands.run(
        ["sh", "-c", 'cat; echo "$WORD" >&2'], timeout_s=30, input="in\n", environ={"WORD": "so"}
    )
    assert (done.status, done.output, done.complaints) == (0, "in\n", "so\n")


def test_a_failure_is_told_with_the_last_words() -> None:
    with pytest.raises(ServiceError, match=r"^cannot run 'sh -c .*': exit status 3: last$"):
        commands.run(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], timeout_s=30)


def test_an_end_by_a_signal_is_told() -> None:
    with pytest.raises(ServiceError, match=r"ended by signal 9$"):
        commands.run(["sh", "-c", "kill -9 $$"], timeout_s=30)


def test_a_failure_may_be_expected() -> None:
    assert commands.run(["false"], timeout_s=30, check=False).status == 1


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(ServiceError, match=r"^cannot run 'no-such-program': No such file or directory$"):
        commands.run(["no-such-program"], timeout_s=30)


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(ServiceError, match=r"^cannot wait for 'sleep 600': no end within 0.1 s$"):
        commands.run(["sleep", "600"], timeout_s=0.1)


def test_a_daemon_that_keeps_its_output_open_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "end")
    left_behind = f"(read line <{tmp_path}/end; echo late) & echo early"
    assert commands.run(["sh", "-c", left_behind], timeout_s=30).output == "early\n"
    (tmp_path / "end").write_text("now\n")


def test_what_is_left_running_has_a_session_of_its_own(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "said")
    commands.leave_running(["sh", "-c", f"cut -d' ' -f6 /proc/$$/stat >{tmp_path}/said"])
    assert int((tmp_path / "said").read_text()) not in (0, os.getsid(0))
