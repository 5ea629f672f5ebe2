# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that are there, gone, or on a file system that hangs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services import directories


def check(state: Path, *paths: Path | str, timeout_s: float = 30) -> None:
    directories.check("the share directory", [str(path) for path in paths], timeout_s=timeout_s, state=state)


def test_directories_that_are_there_are_well(tmp_path: Path) -> None:
    check(tmp_path, tmp_path, "/", tmp_path)
    check(tmp_path)


def test_the_first_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ServiceError) as raised:
        check(tmp_path, tmp_path, gone, tmp_path / "later")
    assert str(raised.value) == f"cannot reach the share directory '{gone}': No such file or directory"


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ServiceError, match="Not a directory"):
        check(tmp_path, file)


class Hanging:
    """os.stat for a file system that hangs in one directory until the process is let go on."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._stat = os.stat

    def __call__(self, path: str) -> os.stat_result:
        if path == f"{self._directory}/.":
            os.kill(os.getpid(), signal.SIGSTOP)
        return self._stat(path)


def test_one_that_hangs_is_named_and_asked_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SIGKILL ends a stopped process, but not one that waits for a disk: the kill is left out.
    killed: list[int] = []
    kill = os.kill
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", Hanging("/"))
        patch.setattr(
            os,
            "kill",
            lambda pid, number: killed.append(pid) if number == signal.SIGKILL else kill(pid, number),
        )
        with pytest.raises(ServiceError) as raised:
            check(tmp_path, "/", timeout_s=0.2)
        assert str(raised.value) == "cannot reach the share directory '/': no answer within 0.2 s"
        with pytest.raises(ServiceError, match=r"'/': its file system still hangs$"):
            check(tmp_path, "/", timeout_s=0.2)
    assert len(killed) == 1
    kill(killed[0], signal.SIGKILL)
    os.waitpid(killed[0], 0)
    check(tmp_path, "/")
    assert not (tmp_path / "hung-check").exists()


def test_a_child_that_is_killed_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path: os._exit(9))
        with pytest.raises(ServiceError, match="the process that looked at it was killed"):
            check(tmp_path, "/")
