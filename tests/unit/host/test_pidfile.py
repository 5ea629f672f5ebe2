# SPDX-License-Identifier: GPL-3.0-or-later
"""The pid file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ctdbpy.errors import HostError
from ctdbpy.host.pidfile import PidFile

HOLD = """
import sys
from pathlib import Path
from ctdbpy.host.pidfile import PidFile
held = PidFile.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
held.release()
"""


@contextmanager
def another_holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def gone_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait(timeout=30)
    return process.pid


def test_it_holds_our_pid_on_one_line_until_released(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    held = PidFile.acquire(path)
    assert held.note is None
    assert path.read_text() == f"{os.getpid()}\n"
    held.release()
    assert not path.exists()
    held.release()


def test_a_second_daemon_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with another_holder(path) as process:
        with pytest.raises(HostError) as caught:
            PidFile.acquire(path)
        assert path.read_text() == f"{process.pid}\n"
    assert f"cannot lock the pid file '{path}': process {process.pid} ('{sys.executable} -c" in str(
        caught.value
    )
    assert "stop it first" in str(caught.value)


def test_a_killed_daemon_leaves_a_file_that_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with another_holder(path) as process:
        pass
    held = PidFile.acquire(path)
    assert held.note == f"the pid file '{path}' was left by process {process.pid}, which is gone; taken over"
    held.release()


def test_a_live_pid_without_the_lock_does_not_hold_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")
    held = PidFile.acquire(path)
    assert held.note is not None
    assert f"named process {os.getppid()} (" in held.note
    assert "does not hold it" in held.note
    assert path.read_text() == f"{os.getpid()}\n"
    held.release()


@pytest.mark.parametrize(
    ("text", "has_note"), [("", False), ("junk\n", True), ("123456789012345678901234567890123", True)]
)
def test_a_file_without_a_pid_is_taken_over(tmp_path: Path, text: str, has_note: bool) -> None:
    path = tmp_path / "pid"
    path.write_text(text)
    held = PidFile.acquire(path)
    assert (held.note is not None) == has_note
    assert path.read_text() == f"{os.getpid()}\n"
    held.release()


def test_a_file_that_is_no_longer_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    held = PidFile.acquire(path)
    path.unlink()
    path.write_text(f"{gone_pid()}\n")
    held.release()
    assert path.exists()


def test_a_forked_child_does_not_remove_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    held = PidFile.acquire(path)
    child = os.fork()
    if child == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    held.release()


def test_a_holder_that_removes_its_file_in_between_does_not_leave_us_an_unnamed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pid"
    real_open = os.open
    opened: list[int] = []

    def open_then_lose(*arguments: object, **_named: object) -> int:
        fd = real_open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        opened.append(fd)
        if len(opened) == 1:
            path.unlink()
        return fd

    monkeypatch.setattr(os, "open", open_then_lose)
    held = PidFile.acquire(path)
    assert len(opened) == 2
    assert path.read_text() == f"{os.getpid()}\n"
    held.release()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"the directory '{tmp_path}/run' does not exist"):
        PidFile.acquire(tmp_path / "run" / "pid")


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="symbolic link"):
        PidFile.acquire(tmp_path / "pid")
    assert not (tmp_path / "elsewhere").exists()
