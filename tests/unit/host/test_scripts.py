# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of event scripts: real scripts, run and looked at."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from ctdbpy.host.children import Children
from ctdbpy.host.scripts import ScriptEnd, ScriptsRun, enable_script, list_scripts
from ctdbpy.host.stacks import describe_group

LIMIT_S = 30.0


def script(directory: Path, name: str, body: str, *, mode: int = 0o755, shell: str = "#!/bin/sh\n") -> Path:
    """A script in the directory."""
    path = directory / name
    path.write_text(shell + body)
    path.chmod(mode)
    return path


def run(
    directory: Path,
    *arguments: str,
    timeout_s: float = LIMIT_S,
    goes_on: bool = False,
) -> tuple[int, list[ScriptEnd]]:
    """Run a directory's scripts; what failed it, and how each ended. Scripts that hang are killed."""

    async def body() -> tuple[int, list[ScriptEnd]]:
        children = Children()
        scripts_run = ScriptsRun(children, {**os.environ, "CTDB_BASE": "/etc/ctdb"})
        try:
            scripts = list_scripts(directory)
            summary = await scripts_run.run(scripts, arguments, timeout_s=timeout_s, goes_on=goes_on)
            assert [child.is_running for child in scripts_run.hung] == [True] * len(scripts_run.hung)
        finally:
            assert await children.end_all(grace_s=0) == ()
        return summary, scripts_run.ends

    return asyncio.run(body())


def results(ends: Sequence[ScriptEnd]) -> list[tuple[str, int]]:
    return [(end.name, end.result) for end in ends]


def test_scripts_are_those_with_two_digits_and_the_suffix_in_order_of_bytes(tmp_path: Path) -> None:
    names = ["50.b.script", "50.a-x.script", "50.a.script", "05.é.script", "00..script"]
    for name in names:
        script(tmp_path, name, "")
    for name in ("5.a.script", "50.a.script.bak", "50a.script", "00.script", "README", ".50.a.script"):
        script(tmp_path, name, "")
    found = [each.name for each in list_scripts(tmp_path)]
    assert found == ["00.", "05.é", "50.a-x", "50.a", "50.b"]


def test_a_script_is_enabled_if_its_owner_may_run_it(tmp_path: Path) -> None:
    script(tmp_path, "10.yes.script", "", mode=0o700)
    script(tmp_path, "20.no.script", "", mode=0o677)
    (tmp_path / "30.dangling.script").symlink_to(tmp_path / "nowhere")
    (tmp_path / "40.link.script").symlink_to(tmp_path / "10.yes.script")
    assert [each.is_enabled for each in list_scripts(tmp_path)] == [True, False, False, True]


def test_scripts_run_in_order_with_event_and_arguments(tmp_path: Path) -> None:
    for name in ("20.b.script", "10.a.script"):
        script(tmp_path, name, f'echo "{name}: $* $CTDB_BASE"; echo error >&2; cat')
    summary, ends = run(tmp_path, "takeip", "eth0", "10.0.0.1", "24")
    assert summary == 0
    said = b"takeip eth0 10.0.0.1 24 /etc/ctdb\nerror\n"
    assert [end.output for end in ends] == [b"10.a.script: " + said, b"20.b.script: " + said]
    assert ends[0].begin_s <= ends[0].end_s <= ends[1].begin_s <= ends[1].end_s


def test_the_first_script_that_fails_is_the_last_that_runs(tmp_path: Path) -> None:
    script(tmp_path, "10.good.script", "")
    script(tmp_path, "20.off.script", "exit 1", mode=0o644)
    script(tmp_path, "30.bad.script", "echo 'share /x is gone'; exit 7")
    script(tmp_path, "40.never.script", "")
    summary, ends = run(tmp_path, "monitor")
    assert summary == 7
    assert results(ends) == [("10.good", 0), ("20.off", -errno.ENOEXEC), ("30.bad", 7)]
    assert str(ends[2]) == "30.bad failed with status 7: 'share /x is gone'"


def test_asked_to_go_on_every_script_runs(tmp_path: Path) -> None:
    script(tmp_path, "10.bad.script", "exit 1")
    script(tmp_path, "20.good.script", "")
    script(tmp_path, "30.bad.script", "exit 3")
    summary, ends = run(tmp_path, "monitor", goes_on=True)
    assert summary == 3
    assert results(ends) == [("10.bad", 1), ("20.good", 0), ("30.bad", 3)]


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("exit 0", 0),
        ("exit 63", 63),
        ("exit 64", 0),
        ("exit 66", -errno.ENOENT),
        (f"exit {64 + errno.EACCES}", -errno.ENOEXEC),
        ("exit 254", -190),
        ("exit 255", 255),
        ("kill -TERM $$", -errno.EINTR),
        ("no-such-command-anywhere", -63),
    ],
)
def test_the_result_is_what_upstream_makes_of_the_exit_status(tmp_path: Path, body: str, result: int) -> None:
    script(tmp_path, "10.a.script", body)
    summary, ends = run(tmp_path, "monitor")
    assert ends[0].result == result
    assert summary == (0 if result == -errno.ENOEXEC else result)


def test_a_script_without_its_interpreter_cannot_be_run(tmp_path: Path) -> None:
    script(tmp_path, "10.a.script", "", shell="#!/no/such/shell\n")
    summary, ends = run(tmp_path, "monitor")
    assert (summary, ends[0].result) == (-errno.ENOENT, -errno.ENOENT)
    assert "No such file" in str(ends[0])
    assert ends[0].output == b""


def test_a_link_to_nowhere_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "10.a.script").symlink_to(tmp_path / "nowhere")
    summary, ends = run(tmp_path, "monitor")
    assert (summary, results(ends)) == (-errno.ENOENT, [("10.a", -errno.ENOENT)])


def test_time_is_for_all_scripts_together_and_what_hung_still_runs(tmp_path: Path) -> None:
    script(tmp_path, "10.quick.script", "")
    script(tmp_path, "20.slow.script", "echo 'Sleeping...'; sleep 1000")
    script(tmp_path, "30.never.script", "")
    summary, ends = run(tmp_path, "monitor", timeout_s=3)
    assert summary == -errno.ETIMEDOUT
    assert results(ends) == [("10.quick", 0), ("20.slow", -errno.ETIMEDOUT)]
    assert ends[1].output == b"Sleeping...\n"
    assert "20.slow hung: it was given up after" in str(ends[1])


def test_a_script_without_any_time_is_late_however_fast_it_is(tmp_path: Path) -> None:
    script(tmp_path, "10.quick.script", "")
    for _ in range(20):
        summary, ends = run(tmp_path, "monitor", timeout_s=0)
        assert (summary, results(ends)) == (-errno.ETIMEDOUT, [("10.quick", -errno.ETIMEDOUT)])


def test_a_background_process_that_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script(tmp_path, "10.a.script", f"sleep 1000 & echo $! >{pid}; echo started")
    try:
        summary, ends = run(tmp_path, "startup", timeout_s=20)
        assert (summary, ends[0].output) == (0, b"started\n")
        os.kill(int(pid.read_text()), 0)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_cancelling_kills_the_script_under_way_with_its_group(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    script(tmp_path, "10.a.script", f"sleep 1000 & echo $! >{begun}; wait")

    async def body() -> int:
        children = Children()
        task = asyncio.ensure_future(
            ScriptsRun(children, os.environ).run(list_scripts(tmp_path), ("monitor",), timeout_s=LIMIT_S)
        )
        sleeper = int(await asyncio.to_thread(begun.read_text))
        pidfd = os.pidfd_open(sleeper)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        async with asyncio.timeout(LIMIT_S):
            await gone.wait()
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        assert await children.end_all(grace_s=0) == ()
        return sleeper

    assert asyncio.run(body()) > 0


def test_a_script_is_enabled_and_disabled_by_its_mode(tmp_path: Path) -> None:
    path = script(tmp_path, "10.a.script", "", mode=0o640)
    enable_script(tmp_path, "10.a", is_enabled=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o751
    enable_script(tmp_path, "10.a.script", is_enabled=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("99.none", errno.ENOENT),
        ("../10.a", errno.ENOENT),
        ("readme", errno.EINVAL),
        ("20.link", errno.EINVAL),
        (".script", errno.ENOENT),
    ],
)
def test_what_is_no_script_is_neither_enabled_nor_disabled(tmp_path: Path, name: str, number: int) -> None:
    path = script(tmp_path, "10.a.script", "", mode=0o640)
    script(tmp_path, "readme.script", "", mode=0o640)
    (tmp_path / "20.link.script").symlink_to(path)
    with pytest.raises(OSError, match=r".") as caught:
        enable_script(tmp_path, name, is_enabled=True)
    assert caught.value.errno == number
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_group_is_described_process_by_process(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    path = script(tmp_path, "10.a.script", f"sleep 1000 & echo $! >{begun}; wait")

    async def body() -> list[str]:
        children = Children()
        child = children.spawn([str(path)])
        await asyncio.to_thread(begun.read_text)
        lines = [*describe_group(child.pid)]
        assert await children.end_all(grace_s=0) == ()
        return lines

    lines = [line for line in asyncio.run(body()) if "process " in line]
    assert len(lines) == 2
    assert re.match(r"process \d+ \(10\.a\.script\), state \w", lines[0])
    # Forked and perhaps not yet the program it is going to be.
    assert re.match(r"  process \d+ \((10\.a\.script|sleep)\), state \w", lines[1])
