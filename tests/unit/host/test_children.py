# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children, Exit

T = TypeVar("T")


def with_children(body: Callable[[Children], Awaitable[T]], timeout_s: float = 30.0) -> T:
    """Run `body` in a loop, within bounds, and see to it that no child stays."""

    async def bounded() -> T:
        children = Children()
        try:
            async with asyncio.timeout(timeout_s):
                return await body(children)
        finally:
            assert await children.end_all(grace_s=0) == ()
            assert children.running == ()

    return asyncio.run(bounded())


def run(*argv: str, timeout_s: float = 30.0, **named: int) -> Exit:
    return with_children(lambda children: children.run(argv, timeout_s=timeout_s, **named))  # type: ignore[arg-type]


def has_ended(pid: int) -> bool:
    """Whether the process is gone or only waits for its parent's notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_ended(pid: int) -> None:
    """Wait by the kernel's own notice; a process gone already has none to give."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(pidfd, "rb"):
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000), f"process {pid} still runs"


def wait_until_stopped(pid: int) -> None:
    """A stop that is still on its way would be overtaken by a signal of a lower number."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def test_output_and_status_are_returned() -> None:
    result = run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert result.output == b"out\nerr\n"
    assert (result.status, result.signal, result.timed_out, result.is_output_cut) == (3, None, False, False)
    assert not result.is_success
    assert str(result) == f"'sh' (process {result.pid}) ended with status 3"


def test_arguments_reach_the_program_as_they_are() -> None:
    assert run("printf", "%s|", "a b", "$HOME", "*", "--").output == b"a b|$HOME|*|--|"
    assert run("true").is_success


def test_a_signal_is_told_from_a_status() -> None:
    result = run("sh", "-c", "kill -USR1 $$")
    assert (result.status, result.signal) == (None, signal.SIGUSR1)
    assert str(result).endswith("was ended by SIGUSR1")


def test_more_output_than_the_limit_is_read_and_dropped() -> None:
    result = run("sh", "-c", "yes | head -c 1000000; exit 7", output_bytes_max=1000)
    assert result.output == b"y\n" * 500
    assert result.is_output_cut
    assert result.status == 7


def test_a_whole_pipe_of_output_at_the_very_end_is_kept() -> None:
    assert run("sh", "-c", "head -c 60000 /dev/zero").output == bytes(60000)


def test_only_the_given_environment_is_passed() -> None:
    async def body(children: Children) -> Exit:
        return await children.run(["env"], timeout_s=30, environ={"CTDB_BASE": "/etc/ctdb"})

    assert with_children(body).output == b"CTDB_BASE=/etc/ctdb\n"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for name in ("nosuch-program", str(tmp_path / "plain"), str(tmp_path)):
        with pytest.raises(HostError, match=f"cannot start '{name}': there is no such program"):
            run(name)


def test_a_file_that_is_no_program_ends_with_a_status_that_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nosuch/interpreter\n")
    script.chmod(0o755)
    assert run(str(script)).status == 127


def test_the_group_is_ended_when_the_time_is_up() -> None:
    result = run("sh", "-c", "sleep 60 & echo $!; wait", timeout_s=3)
    assert result.timed_out
    assert result.signal == signal.SIGTERM
    assert str(result).endswith("was ended by SIGTERM after its time was up")
    wait_until_ended(int(result.output))


async def spawn_and_hear(children: Children, script: str) -> tuple[Child, int]:
    """Start a shell script and return it with the number it prints once it is ready."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as output:
        child = children.spawn(["sh", "-c", script], stdout=theirs)
        os.close(theirs)
        return child, int(await asyncio.to_thread(output.readline))


def test_a_child_deaf_to_sigterm_is_killed_with_its_group() -> None:
    async def body(children: Children) -> tuple[Exit, int]:
        script = "trap '' TERM; sleep 60 & echo $!; wait; sleep 60"
        child, grandchild = await spawn_and_hear(children, script)
        return await child.end(grace_s=0.1), grandchild

    result, grandchild = with_children(body)
    assert result.signal == signal.SIGKILL
    wait_until_ended(grandchild)


def test_what_a_child_leaves_in_its_group_is_killed_when_it_obeys() -> None:
    async def body(children: Children) -> tuple[Exit, int]:
        script = "trap 'exit 0' TERM; (trap '' TERM; exec sleep 60) & echo $!; wait"
        child, grandchild = await spawn_and_hear(children, script)
        return await child.end(grace_s=10), grandchild

    result, grandchild = with_children(body)
    assert result.status == 0
    wait_until_ended(grandchild)


def test_a_service_that_a_script_starts_outlives_it() -> None:
    result = run("sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
    service = int(result.output)
    try:
        assert result.is_success
        assert not has_ended(service)
    finally:
        os.kill(service, signal.SIGKILL)


def test_a_grandchild_that_keeps_the_output_open_is_not_waited_for() -> None:
    result = run("sh", "-c", "sleep 60 & echo $!", timeout_s=20)
    try:
        assert result.is_success
    finally:
        os.kill(int(result.output), signal.SIGKILL)


def test_a_stopped_child_is_ended_too() -> None:
    async def body(children: Children) -> Exit:
        child = children.spawn(["sleep", "60"])
        os.kill(child.pid, signal.SIGSTOP)
        wait_until_stopped(child.pid)
        return await child.end(grace_s=0.05)

    assert with_children(body).signal == signal.SIGKILL


def test_cancelling_a_run_kills_the_group_and_reaps_it() -> None:
    async def body(children: Children) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await children.run(["sleep", "60"], timeout_s=60)
        (child,) = children.running
        assert (await child.wait()).signal == signal.SIGKILL

    with_children(body)


def test_cancelling_a_wait_leaves_the_child_alone() -> None:
    async def body(children: Children) -> None:
        child = children.spawn(["sleep", "60"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await child.wait()
        assert child.is_running

    with_children(body)


def test_each_child_is_in_a_group_of_its_own() -> None:
    async def body(children: Children) -> None:
        child = children.spawn(["sleep", "60"])
        assert os.getpgid(child.pid) == child.pid != os.getpgrp()

    with_children(body)


def test_all_are_ended_at_the_same_time() -> None:
    async def body(children: Children) -> float:
        for _ in range(8):
            children.spawn(["sh", "-c", "trap '' TERM; while :; do sleep 60; done"])
        started = time.monotonic()
        assert await children.end_all(grace_s=1) == ()
        return time.monotonic() - started

    assert with_children(body) < 6


def test_a_worker_talks_over_a_socket_passed_to_it() -> None:
    async def body(children: Children) -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            program = (
                f"import socket; s = socket.socket(fileno={theirs.fileno()}); s.sendall(s.recv(9)[::-1])"
            )
            child = children.spawn([sys.executable, "-c", program], pass_fds=[theirs.fileno()])
            theirs.close()
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(ours, b"abc")
            answer = await loop.sock_recv(ours, 9)
            assert (await child.wait()).is_success
            return answer

    assert with_children(body) == b"cba"


ORPHAN = """
import asyncio, os, signal
from ctdbpy.host.children import Children
async def main():
    ours, theirs = os.pipe()
    child = Children().spawn(["sh", "-c", "echo up; exec sleep 60"], stdout=theirs)
    assert os.read(ours, 3) == b"up\\n"
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_a_child_dies_with_a_daemon_that_is_killed() -> None:
    daemon = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, timeout=30, check=False)
    assert daemon.returncode == -signal.SIGKILL, daemon.stderr.decode()
    wait_until_ended(int(daemon.stdout))


ORPHAN_TOLD = """
import asyncio, os, signal, sys
from ctdbpy.host.children import Children
async def main():
    ours, theirs = os.pipe()
    script = f"trap 'echo told > {sys.argv[1]}; exit' TERM; echo up; while :; do sleep 0.02; done"
    child = Children().spawn(["sh", "-c", script], stdout=theirs, death_signal=signal.SIGTERM)
    assert os.read(ours, 3) == b"up\\n"
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_a_child_can_be_told_of_the_daemons_death(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", ORPHAN_TOLD, str(tmp_path / "told")]
    daemon = subprocess.run(argv, capture_output=True, timeout=30, check=False)
    assert daemon.returncode == -signal.SIGKILL, daemon.stderr.decode()
    wait_until_ended(int(daemon.stdout))
    assert (tmp_path / "told").read_text() == "told\n"


def test_errors_can_go_another_way_than_output() -> None:
    async def body(children: Children) -> tuple[bytes, bytes]:
        ours, theirs = os.pipe()
        argv = ["sh", "-c", "echo out; echo err >&2"]
        child = children.spawn(argv, collect_output=True, stderr=theirs)
        os.close(theirs)
        ended = await child.finish(30)
        with os.fdopen(ours, "rb") as errors:
            return ended.output, errors.read()

    assert with_children(body) == (b"out\n", b"err\n")


def test_the_loop_is_not_held_up_while_children_run() -> None:
    async def body(children: Children) -> int:
        ticks = 0
        child = children.spawn(["sleep", "0.5"])
        while child.is_running:
            ticks += 1
            try:
                async with asyncio.timeout(0.01):
                    await child.wait()
            except TimeoutError:
                continue
        return ticks

    assert with_children(body) > 3
