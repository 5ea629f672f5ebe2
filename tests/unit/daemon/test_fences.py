# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence command: how it is run, and what counts as certain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ctdbpy.core.effects import Fence
from ctdbpy.core.inputs import Fenced, Input
from ctdbpy.daemon.fences import Fences
from ctdbpy.daemon.tasks import Tasks
from ctdbpy.host.children import Children
from tests.unit.daemon.conftest import is_alive, wait_until

LIMIT_S = 30.0


def fence(
    command: str,
    *,
    timeout_s: float = LIMIT_S,
    may_serve: bool = True,
    clock: Callable[[], float] = lambda: 0.0,
    meanwhile: Callable[[Fences], Awaitable[None]] | None = None,
) -> Fenced:
    """Have a node fenced, do something meanwhile, and wait for the word."""

    async def run() -> Input:
        said: asyncio.Queue[Input] = asyncio.Queue()
        crashes: list[BaseException] = []
        children = Children()
        tasks = Tasks(lambda _name, error: crashes.append(error))
        fences = Fences(
            command,
            timeout_s,
            children,
            said.put_nowait,
            tasks.spawn,
            may_serve=lambda: may_serve,
            clock=clock,
        )
        fences.fence(Fence(2, "10.0.0.3"))
        async with asyncio.timeout(LIMIT_S):
            if meanwhile is not None:
                await meanwhile(fences)
            heard = await said.get()
        # Too late, and harmless.
        fences.stop(2)
        assert not crashes
        assert not children.running
        return heard

    heard = asyncio.run(run())
    assert isinstance(heard, Fenced)
    assert heard.pnn == 2
    return heard


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A fence command that notes its arguments and does what the file `deed` beside it says."""
    path = tmp_path / "fence"
    path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n. {tmp_path}/deed\n')
    path.chmod(0o755)
    return path


def test_it_is_told_whom_to_switch_off(script: Path) -> None:
    (script.parent / "deed").write_text("exit 0\n")
    assert fence(f"{script} --plug  'a;b'").error == ""
    assert (script.parent / "said").read_text() == "--plug 'a;b' off 2 10.0.0.3\n"


def test_whatever_is_not_status_0_is_not_certain(script: Path) -> None:
    (script.parent / "deed").write_text("echo working; echo the strip is dark >&2; exit 3\n")
    error = fence(str(script)).error
    assert "'fence' (process " in error
    assert error.endswith("ended with status 3: the strip is dark")


def test_one_that_hangs_is_ended_with_all_it_started(script: Path) -> None:
    (script.parent / "deed").write_text("sleep 1000 &\necho $! > $0.child\nwait\n")
    error = fence(str(script), timeout_s=0.5).error
    assert "SIGTERM after its time was up" in error
    child = int((script.parent / "fence.child").read_text())
    wait_until(lambda: not is_alive(child), "the end of what it started")


def test_one_that_is_not_there_says_so() -> None:
    assert "there is no such program" in fence("/etc/nosuch/fence").error


def test_a_host_that_stood_still_meanwhile_fences_nobody(script: Path) -> None:
    (script.parent / "deed").write_text("exit 0\n")
    assert "lease has run out" in fence(str(script), may_serve=False).error
    assert not (script.parent / "said").exists()


def test_nor_does_one_that_has_no_lease_that_could_run_out(script: Path) -> None:
    (script.parent / "deed").write_text("exit 0\n")
    moments = iter([1000.0, 1001.5])
    assert "stood still for 1.50 s" in fence(str(script), clock=lambda: next(moments)).error
    assert not (script.parent / "said").exists()


def stopped(command: str, *, once: Path | None) -> Fenced:
    """Have a node fenced, end that at once or when a file is there, and wait for the word."""

    async def stop(fences: Fences) -> None:
        if once is not None:
            await asyncio.to_thread(wait_until, once.exists, "the beginning of the command")
        fences.stop(2)

    return fence(command, meanwhile=stop)


def test_one_that_is_not_wanted_any_more_is_ended_with_all_it_started(script: Path) -> None:
    child = script.parent / "fence.child"
    (script.parent / "deed").write_text("sleep 1000 &\necho $! > $0.new\nmv $0.new $0.child\nwait\n")
    assert "SIGTERM" in stopped(str(script), once=child).error
    wait_until(lambda: not is_alive(int(child.read_text())), "the end of what it started")


def test_one_that_has_not_begun_yet_is_not_started(script: Path) -> None:
    (script.parent / "deed").write_text("exit 0\n")
    assert "not started" in stopped(str(script), once=None).error
    assert not (script.parent / "said").exists()
