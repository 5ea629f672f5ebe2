# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes that take, hold and look at the cluster lock for the daemon.

For a file it is our own helper (`host.lock_helper`), started before it is needed, since a start costs more
than the lock. For `!PROGRAM ARGUMENTS` it is that program, run without a shell: it writes a character to its
output (0 held, 1 held elsewhere, 2 too late, 3 wrong) and holds the lock until it ends; SIGTERM asks it to,
as does the daemon's death. What it writes to standard error goes to the log.

Source: reference/ctdb.md 2, 7.11.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from ctdbpy.core.effects import TakeLock
from ctdbpy.core.inputs import Input, LockAnswered, LockLost, LockOutcome
from ctdbpy.daemon.processes import start_helper
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children, split_command
from ctdbpy.host.lock_helper import LINE_BYTES_MAX

#: A file system that has not answered for so long has taken the lock with it.
HANG_S: Final = 10.0
#: A daemon that has stood still for StallLimit counts as dead; so much later its lock is given back as well.
STALL_MARGIN_S: Final = 0.5
STALL_S_MIN: Final = 1.5
PING_INTERVAL_S: Final = 0.5
#: The next helper is started so long after one is used up: not while a cluster finds its leader.
START_DELAY_S: Final = 1.0
#: How long a program may take to give the lock back before it is killed.
GRACE_S: Final = 1.0
#: A helper that may still have the lock is waited for so long before the next attempt.
ENDING_S: Final = 2.0
#: Processes that hang in the kernel cannot be killed: no more are started beside so many.
HANGING_MAX: Final = 4
#: Lines of one program's standard error that are logged.
LINES_MAX: Final = 100

_OUTCOMES: Final = {
    "0": LockOutcome.HELD,
    "1": LockOutcome.CONTENDED,
    "2": LockOutcome.TIMEOUT,
    "3": LockOutcome.ERROR,
}


class _Helper:
    """A process that works on at most one attempt."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.wanted: TakeLock | None = None
        self.is_held = False
        self.is_ending = False
        #: Bytes of a line not complete yet.
        self.received = b""

    @property
    def may_hold(self) -> bool:
        """Whether the lock may be its own, or become it."""
        return self.wanted is not None and not self.wanted.only_look

    def close(self) -> None:
        """Hear no more of it."""
        raise NotImplementedError


class _FileHelper(_Helper):
    """Our own helper, and the socket to it."""

    def __init__(self, child: Child, connection: socket.socket) -> None:
        super().__init__(child)
        self.connection = connection

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.connection.fileno())
        self.connection.close()


class _Program(_Helper):
    """A program of the administrator's: descriptors of its output and its errors."""

    def __init__(self, child: Child, output: int, errors: int) -> None:
        super().__init__(child)
        self.output = output
        self.errors = errors
        self.lines = 0
        self.last_line = ""

    @property
    def may_hold(self) -> bool:
        # It cannot look without taking.
        return self.wanted is not None

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for fd in (self.output, self.errors):
            loop.remove_reader(fd)
            os.close(fd)


class ClusterLocks:
    """Carries out TakeLock and DropLock; `step` gets what comes of it."""

    def __init__(
        self,
        lock: str,
        children: Children,
        step: Callable[[Input], None],
        log: Callable[[str], None],
        spawn: Callable[[str, Coroutine[Any, Any, None]], object],
        *,
        hang_s: float = HANG_S,
        stall_s: float = STALL_S_MIN,
    ) -> None:
        self._lock = lock
        self._children = children
        self._step = step
        self._log = log
        self._spawn = spawn
        self._limits = (hang_s, stall_s)
        self._working: dict[int, _Helper] = {}
        self._ending: set[_Helper] = set()
        self._idle: _FileHelper | None = None
        self._waiting: TakeLock | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_stopped = False

    def start(self) -> None:
        """Have a helper ready before a leader is needed."""
        if self._is_file:
            self._start_idle()

    def stop(self) -> None:
        """Give everything back; `Children.end_all` waits for it."""
        self._is_stopped = True
        for timer in self._timers.values():
            timer.cancel()
        for attempt in list(self._working):
            self.drop(attempt)
        idle, self._idle = self._idle, None
        if idle is not None:
            self._end(idle)

    def set_limits(self, tunables: Mapping[str, int]) -> None:
        """Take over how long a daemon may stand still; a lock that is held keeps what it began with."""
        stall_s = max(tunables["StallLimit"] / 1000 + STALL_MARGIN_S, STALL_S_MIN)
        self._limits = (self._limits[0], stall_s)

    def take(self, wanted: TakeLock) -> None:
        """Begin an attempt or a look; `LockAnswered` follows unless it is dropped before."""
        if self._is_stopped:
            return
        if any(helper.may_hold for helper in self._ending) and not wanted.only_look:
            # What we gave back ourselves must not be in our own way.
            self._waiting = wanted
            self._later("ending", ENDING_S, self._waited_enough)
            return
        try:
            helper = self._helper()
        except HostError as error:
            self._step(LockAnswered(wanted.attempt, LockOutcome.ERROR, str(error)))
            return
        helper.wanted = wanted
        self._working[wanted.attempt] = helper
        if isinstance(helper, _FileHelper):
            hang_s, stall_s = self._limits
            verb = "look" if wanted.only_look else f"take {hang_s:g} {stall_s:g}"
            self._send(helper, f"{verb} {self._lock}")

    def drop(self, attempt: int) -> None:
        """Give the lock back, or end an attempt; nothing more is heard of it."""
        if self._waiting is not None and self._waiting.attempt == attempt:
            self._waiting = None
        helper = self._working.pop(attempt, None)
        if helper is not None:
            self._end(helper)

    # -- which process ---------------------------------------------------------------------

    @property
    def _is_file(self) -> bool:
        return bool(self._lock) and not self._lock.startswith("!")

    def _helper(self) -> _Helper:
        if len(self._ending) >= HANGING_MAX:
            pids = ", ".join(str(helper.child.pid) for helper in self._ending)
            raise HostError(f"{len(self._ending)} helpers cannot be ended (processes {pids}): they hang")
        if not self._is_file:
            return self._start_program()
        helper, self._idle = self._idle or self._start_file_helper(), None
        return helper

    def _start_file_helper(self) -> _FileHelper:
        child, connection = start_helper(self._children, "ctdbpy.host.lock_helper")
        helper = _FileHelper(child, connection)
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read_socket, helper)
        return helper

    def _start_idle(self) -> None:
        if self._is_stopped or self._idle is not None or len(self._ending) >= HANGING_MAX:
            return
        try:
            self._idle = self._start_file_helper()
        except HostError as error:
            self._log(f"{error}; the cluster lock's helper is started when it is needed")

    def _start_program(self) -> _Program:
        argv = split_command(self._lock[1:])
        if not argv:
            raise HostError(f"cannot run cluster lock '{self._lock}': no program stands after the '!'")
        output, output_end = os.pipe()
        errors, errors_end = os.pipe()
        try:
            child = self._children.spawn(
                argv, stdout=output_end, stderr=errors_end, death_signal=signal.SIGTERM, leaves_none=True
            )
        except HostError:
            os.close(output)
            os.close(errors)
            raise
        finally:
            os.close(output_end)
            os.close(errors_end)
        helper = _Program(child, output, errors)
        loop = asyncio.get_running_loop()
        for fd, reader in ((output, self._read_output), (errors, self._read_errors)):
            os.set_blocking(fd, False)
            loop.add_reader(fd, reader, helper)
        self._spawn(f"watch lock helper {child.pid}", self._watch(helper))
        return helper

    # -- what they say ---------------------------------------------------------------------

    def _read_socket(self, helper: _FileHelper) -> None:
        try:
            data = helper.connection.recv(LINE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            # It ended before it had read all that was sent to it.
            data = b""
        except OSError as error:
            self._ended(helper, f"its helper cannot be heard: {error.strerror}")
            return
        if not data:
            self._ended(helper, f"its helper (process {helper.child.pid}) has ended")
            return
        *lines, helper.received = (helper.received + data).split(b"\n")
        for line in lines:
            word, _, text = line.decode(errors="replace").partition(" ")
            if word == "lost":
                self._ended(helper, text)
                return
            self._answered(helper, _OUTCOMES[word], text)

    def _read_output(self, helper: _Program) -> None:
        try:
            data = os.read(helper.output, LINE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return
        if helper.is_ending:
            if not data:
                asyncio.get_running_loop().remove_reader(helper.output)
        elif not data:
            self._program_ended(helper)
        elif not helper.is_held:
            answer = data[:1].decode(errors="replace")
            outcome = _OUTCOMES.get(answer, LockOutcome.ERROR)
            self._read_errors(helper)
            text = "" if answer in _OUTCOMES else f"'{helper.child.argv[0]}' answers '{answer}', not 0 to 3"
            self._answered(helper, outcome, text or helper.last_line)

    async def _watch(self, helper: _Program) -> None:
        """What it started may keep its output open after it."""
        await helper.child.wait()
        if not helper.is_ending:
            self._read_output(helper)
        if not helper.is_ending:
            self._program_ended(helper)

    def _program_ended(self, helper: _Program) -> None:
        self._read_errors(helper)
        name, pid = helper.child.argv[0], helper.child.pid
        self._ended(helper, f"'{name}' (process {pid}) has ended {helper.last_line}".rstrip())

    def _read_errors(self, helper: _Program) -> None:
        try:
            data = os.read(helper.errors, LINE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            asyncio.get_running_loop().remove_reader(helper.errors)
        *lines, helper.received = (helper.received + data).split(b"\n")
        if not data or len(helper.received) > LINE_BYTES_MAX:
            lines.append(helper.received)
            helper.received = b""
        for line in filter(None, lines):
            helper.last_line = line.decode(errors="replace")
            helper.lines += 1
            if helper.lines <= LINES_MAX:
                self._log(f"cluster lock: {helper.last_line}")

    def _answered(self, helper: _Helper, outcome: LockOutcome, text: str) -> None:
        wanted = helper.wanted
        if wanted is None:
            return
        if outcome is LockOutcome.HELD and not wanted.only_look:
            helper.is_held = True
            if isinstance(helper, _FileHelper):
                self._later("ping", PING_INTERVAL_S, self._ping)
                self._later("idle", START_DELAY_S, self._start_idle)
        else:
            del self._working[wanted.attempt]
            self._put_back(helper)
        self._step(LockAnswered(wanted.attempt, outcome, text))

    def _put_back(self, helper: _Helper) -> None:
        """It has nothing to do any more: ours waits for the next time."""
        if isinstance(helper, _FileHelper) and self._idle is None:
            helper.wanted = None
            self._idle = helper
        else:
            self._end(helper)

    def _ended(self, helper: _Helper, reason: str) -> None:
        """A process is gone, or holds the lock no more."""
        wanted = helper.wanted
        if helper is self._idle:
            self._idle = None
        self._end(helper)
        if wanted is None:
            self._log(
                f"cluster lock: {reason} while it waited for work; another is started when it is needed"
            )
            return
        del self._working[wanted.attempt]
        if helper.is_held:
            self._step(LockLost(wanted.attempt, reason))
        else:
            self._step(LockAnswered(wanted.attempt, LockOutcome.ERROR, reason))

    # -- keeping and ending --------------------------------------------------------------------

    def _ping(self) -> None:
        """Tell the holder that this loop turns."""
        for helper in list(self._working.values()):
            if isinstance(helper, _FileHelper) and helper.is_held:
                self._later("ping", PING_INTERVAL_S, self._ping)
                self._send(helper, "ping")

    def _send(self, helper: _FileHelper, line: str) -> None:
        try:
            # A line now and then: the socket's buffer has room, or the helper hangs.
            helper.connection.send(os.fsencode(f"{line}\n"))
        except OSError:
            # It has ended: what it said last, and that it did, is there to be read.
            pass

    def _end(self, helper: _Helper) -> None:
        helper.is_ending = True
        self._ending.add(helper)
        if isinstance(helper, _FileHelper):
            helper.close()
        self._spawn(f"end lock helper {helper.child.pid}", self._see_off(helper))

    async def _see_off(self, helper: _Helper) -> None:
        if isinstance(helper, _FileHelper):
            # It has nothing to tidy up: the kernel gives the lock back.
            helper.child.kill()
        try:
            await helper.child.end(grace_s=GRACE_S)
        except HostError as error:
            self._log(f"cluster lock: {error}")
            await helper.child.wait()
        finally:
            if isinstance(helper, _Program):
                # Not before: a word of farewell to a closed pipe would be its last.
                helper.close()
        self._ending.discard(helper)
        if self._waiting is not None and not any(each.may_hold for each in self._ending):
            wanted, self._waiting = self._waiting, None
            self.take(wanted)

    def _waited_enough(self) -> None:
        wanted, self._waiting = self._waiting, None
        if wanted is not None:
            pids = ", ".join(str(helper.child.pid) for helper in self._ending)
            text = f"the helper that had it before (process {pids}) does not end"
            self._step(LockAnswered(wanted.attempt, LockOutcome.ERROR, text))

    def _later(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        before = self._timers.get(name)
        if before is not None:
            before.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, act)
