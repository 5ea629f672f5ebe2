# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes: started without a shell in a group of their own, reaped by events, ended as a group.

Waiters, workers and event scripts all run through `Children`. Nothing here blocks the event loop longer
than a fork takes, and everything is awaited with a bound.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctdbpy.errors import HostError

OUTPUT_BYTES_MAX = 64 * 1024
READ_BYTES = 16 * 1024
DEATH_TIMEOUT_S = 5.0
"""How long a process may take to vanish after SIGKILL; longer means that it hangs in the kernel."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended. `status` is the exit status, or None when a signal ended it."""

    pid: int
    argv: tuple[str, ...]
    status: int | None
    signal: int | None
    timed_out: bool
    output: bytes
    """Standard output and error together, up to the child's limit; empty unless it was collected."""
    is_output_cut: bool

    @property
    def is_success(self) -> bool:
        """Whether it ended by itself with status 0, in time."""
        return self.status == 0 and not self.timed_out

    def __str__(self) -> str:
        name = os.path.basename(self.argv[0])
        how = f"ended with status {self.status}"
        if self.signal is not None:
            how = f"was ended by {signal.Signals(self.signal).name}"
        return f"'{name}' (process {self.pid}) {how}" + (" after its time was up" if self.timed_out else "")


class Child:
    """A running child. Made by `Children.spawn`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        argv: tuple[str, ...],
        output_bytes_max: int,
        *,
        leaves_none: bool,
    ) -> None:
        self.pid = process.pid
        self.argv = argv
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._is_ending = False
        self._leaves_none = leaves_none
        self._timed_out = False
        self._output = bytearray()
        self._output_bytes_max = output_bytes_max
        self._is_output_cut = False
        self._output_fd = -1
        if process.stdout is not None:
            self._output_fd = process.stdout.fileno()
            os.set_blocking(self._output_fd, False)
            self._loop.add_reader(self._output_fd, self._on_output)
        # A pidfd becomes readable when the process ends: no SIGCHLD handler, no thread for each child.
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @property
    def is_running(self) -> bool:
        """Whether it has not been reaped yet."""
        return not self._exit.done()

    @property
    def output(self) -> bytes:
        """What it has printed so far, up to its limit."""
        return bytes(self._output)

    async def wait(self) -> Exit:
        """Wait for the end, without a bound of its own; cancelling the wait leaves the child alone."""
        return await asyncio.shield(self._exit)

    async def finish(self, timeout_s: float, *, grace_s: float = 1.0) -> Exit:
        """Wait for the end at most `timeout_s`, then end the group. Cancelling kills the group at once."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        except TimeoutError:
            self._timed_out = True
            return await self.end(grace_s=grace_s)
        except asyncio.CancelledError:
            self.kill()
            raise

    async def end(self, *, grace_s: float = 1.0) -> Exit:
        """SIGTERM to the whole group, SIGKILL after `grace_s` or when the child itself has ended.

        Raises HostError when the child outlives SIGKILL (it hangs in the kernel, on a dead file system
        perhaps).
        """
        self._is_ending = True
        if self.is_running:
            self._signal_group(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    return await self.wait()
            except TimeoutError:
                self.kill()
        try:
            async with asyncio.timeout(DEATH_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            raise HostError(
                f"cannot end '{self.argv[0]}' (process {self.pid}): it did not die of SIGKILL within "
                f"{DEATH_TIMEOUT_S:g} s; it hangs in the kernel, see /proc/{self.pid}/stack"
            ) from None

    def kill(self) -> None:
        """SIGKILL to the whole group, now; the reaping follows by itself."""
        self._is_ending = True
        if self.is_running:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        # Safe only before the child is reaped: until then the kernel gives its group's number to nobody else.
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def _on_output(self) -> None:
        try:
            data = os.read(self._output_fd, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close_output()
            return
        room = self._output_bytes_max - len(self._output)
        self._output += data[:room]
        self._is_output_cut |= len(data) > room

    def _close_output(self) -> None:
        if self._output_fd >= 0:
            self._loop.remove_reader(self._output_fd)
            self._output_fd = -1
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._is_ending or self._leaves_none:
            # What it started and left in its group goes with it.
            self._signal_group(signal.SIGKILL)
        code = self._process.wait()
        # What the pipe still holds is the child's; a grandchild that keeps the pipe open is not waited for.
        limit = self._output_bytes_max // READ_BYTES + 2
        while self._output_fd >= 0 and limit > 0 and _is_readable(self._output_fd):
            self._on_output()
            limit -= 1
        self._close_output()
        ended = Exit(
            pid=self.pid,
            argv=self.argv,
            status=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            timed_out=self._timed_out,
            output=bytes(self._output),
            is_output_cut=self._is_output_cut,
        )
        if not self._exit.done():
            self._exit.set_result(ended)


class Children:
    """All children of the daemon, so that none outlives it by accident. Use from one event loop."""

    def __init__(self) -> None:
        self._running: dict[int, Child] = {}

    @property
    def running(self) -> tuple[Child, ...]:
        """Those not reaped yet, oldest first."""
        return tuple(self._running.values())

    def spawn(
        self,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = subprocess.DEVNULL,
        stderr: int | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        leaves_none: bool = False,
        collect_output: bool = False,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        pass_fds: Sequence[int] = (),
        cwd: str = "/",
    ) -> Child:
        """Start a program in a group of its own; it gets `death_signal` when the daemon's thread dies.

        `stdout` None leaves output and errors on the daemon's own; `stderr` None puts errors where output
        goes. With `leaves_none` what is left of its group is killed when it ends by itself, too. Of a
        set-user-id program the kernel drops the signal on death. Raises HostError when there is no such
        program or it cannot be started.
        """
        program = shutil.which(argv[0])
        if program is None:
            raise HostError(f"cannot start '{argv[0]}': there is no such program, or it is not executable")
        out = subprocess.PIPE if collect_output else stdout
        try:
            process = subprocess.Popen(
                [*_dies_with_parent(death_signal), program, *argv[1:]],
                stdin=stdin,
                stdout=out,
                stderr=subprocess.STDOUT if stderr is None and out is not None else stderr,
                env=environ,
                cwd=cwd,
                pass_fds=pass_fds,
                process_group=0,
            )
        except OSError as error:
            raise HostError(f"cannot start '{argv[0]}': {error.strerror}") from error
        child = Child(process, tuple(argv), output_bytes_max, leaves_none=leaves_none)
        self._running[child.pid] = child
        child._exit.add_done_callback(lambda _exit: self._running.pop(child.pid, None))
        return child

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        environ: Mapping[str, str] | None = None,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
    ) -> Exit:
        """Run a program to its end and collect what it prints. Raises HostError when it cannot be started."""
        child = self.spawn(argv, environ=environ, collect_output=True, output_bytes_max=output_bytes_max)
        return await child.finish(timeout_s)

    async def end_all(self, *, grace_s: float = 1.0) -> tuple[HostError, ...]:
        """End every child at the same time; return the errors of those that could not be ended."""
        results = await asyncio.gather(
            *(child.end(grace_s=grace_s) for child in self.running), return_exceptions=True
        )
        errors: list[HostError] = []
        for result in results:
            if isinstance(result, HostError):
                errors.append(result)
            elif isinstance(result, BaseException):
                raise result
        return tuple(errors)


def split_command(text: str) -> list[str]:
    """A configured command as program and arguments: cut at blanks, as upstream does it, without quoting."""
    return [word for word in re.split(r"[ \t]+", text) if word]


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _dies_with_parent(number: signal.Signals) -> tuple[str, ...]:
    """Return what to put in front of argv so that the child gets PR_SET_PDEATHSIG.

    A program does it rather than a function between fork and exec: with that, Python could not vfork, and a
    fork of a daemon with much locked memory is slow.
    """
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    return (setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--") if setpriv else ()
