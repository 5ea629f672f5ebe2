# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory of event scripts: which there are, which are enabled, and running them one after the other.

Source: reference/ctdb.md 4.1; for results common/event_script.c, run_event.c and run_proc.c of 4.17.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children, Exit

SUFFIX: Final = ".script"
#: A whole directory of them is told in one packet of the event protocol, which may have 16 MiB.
SCRIPTS_MAX: Final = 200

#: Instead of a name: each of them.
EVERY_SCRIPT: Final = "all"

_NAME: Final = re.compile(r"[0-9][0-9]\..*\.script", re.DOTALL)
#: A shell's exit status from here on stands for an errno, as upstream's own child has it.
_FIRST_ERRNO: Final = 64
_LAST_ERRNO: Final = 254
_ANY_X: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Script:
    """A file whose name makes it an event script; `name` is without the suffix."""

    name: str
    path: Path
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How a script ended, in wall clock time.

    result: 0, its exit status from 1 to 63, or a negative errno: -ENOEXEC it is not enabled, -ETIMEDOUT time
    was up, -EINTR a signal ended it, others: it could not be run, or its exit status stood for one.
    """

    name: str
    begin_s: float
    end_s: float
    result: int
    output: bytes = b""

    @property
    def has_failed(self) -> bool:
        return self.result not in (0, -errno.ENOEXEC)

    def __str__(self) -> str:
        said = b" ".join(self.output.split())[-200:].decode(errors="replace")
        return f"{self.name} {self._how()}" + (f": '{said}'" if said else ", and printed nothing")

    def _how(self) -> str:
        match self.result:
            case 0:
                return "succeeded"
            case number if number == -errno.ENOEXEC:
                return "is not enabled"
            case number if number == -errno.ETIMEDOUT:
                return f"hung: it was given up after {self.end_s - self.begin_s:.1f} s"
            case number if number == -errno.EINTR:
                return "was ended by a signal"
            case number if number < 0:
                return f"could not be run, or ended with the status of an error: {os.strerror(-number)}"
            case number:
                return f"failed with status {number}"


def list_scripts(directory: Path) -> tuple[Script, ...]:
    """The scripts of a directory in the order in which they run.

    Raises OSError when the directory cannot be read.
    """
    names = sorted(filter(_NAME.fullmatch, os.listdir(directory)), key=os.fsencode)
    paths = [directory / name for name in names[:SCRIPTS_MAX]]
    return tuple(Script(path.name.removesuffix(SUFFIX), path, _is_enabled(path)) for path in paths)


def enable_script(directory: Path, name: str, *, is_enabled: bool) -> None:
    """Make a script executable, or not any more. A link is not followed: what it points to is another's.

    Raises OSError: ENOENT there is no such script, EINVAL not a script's name or not a plain file.
    """
    file = name if name.endswith(SUFFIX) and name != SUFFIX else name + SUFFIX
    path = directory / file
    if "/" in file or file not in os.listdir(directory):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not _NAME.fullmatch(file) or not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode | _ANY_X if is_enabled else mode & ~_ANY_X)


class ScriptsRun:
    """One run of scripts, in order, until one fails. Cancelling `run` kills the script under way.

    options: variables for a script by its name, or for EVERY_SCRIPT.
    ends: how those that have run ended. hung: those that time was up for; they still run, for whoever wants
    to look at them before they are ended.
    """

    def __init__(
        self,
        children: Children,
        environ: Mapping[str, str],
        options: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._children = children
        self._environ = environ
        self._options = options or {}
        self.ends: list[ScriptEnd] = []
        self.hung: list[Child] = []

    async def run(
        self,
        scripts: Sequence[Script],
        arguments: Sequence[str],
        *,
        timeout_s: float,
        goes_on: bool = False,
    ) -> int:
        """Run them with these arguments; time is for all together. Gives 0, or the result that failed it.

        With `goes_on` a script that fails does not keep the next from running.
        """
        until_s = asyncio.get_running_loop().time() + timeout_s
        summary = 0
        for script in scripts:
            begin_s = time.time()
            result, output = await self._run_one(script, arguments, until_s)
            end = ScriptEnd(script.name, begin_s, time.time(), result, output)
            self.ends.append(end)
            if end.has_failed:
                summary = result
                if not goes_on:
                    break
        return summary

    async def _run_one(self, script: Script, arguments: Sequence[str], until_s: float) -> tuple[int, bytes]:
        if not script.is_enabled:
            return _not_enabled(script.path), b""
        # Whoever gives no time gets the same answer whatever the script's luck.
        is_late = asyncio.get_running_loop().time() >= until_s
        try:
            child = self._children.spawn(
                [str(script.path), *arguments], environ=self._environ_of(script), collect_output=True
            )
        except HostError as error:
            return _not_started(script.path, error), b""
        try:
            async with asyncio.timeout_at(until_s):
                exit_ = await child.wait()
        except TimeoutError:
            if child.is_running:
                self.hung.append(child)
            if child.is_running or is_late:
                return -errno.ETIMEDOUT, child.output
            # It ended in time; this process was the one that stood still.
            exit_ = await child.wait()
        except asyncio.CancelledError:
            child.kill()
            raise
        return _result(exit_)

    def _environ_of(self, script: Script) -> Mapping[str, str]:
        return {**self._environ, **self._options.get(EVERY_SCRIPT, {}), **self._options.get(script.name, {})}


def _is_enabled(path: Path) -> bool:
    """Whether it may be run; a link to nowhere may not."""
    try:
        return bool(path.stat().st_mode & stat.S_IXUSR)
    except OSError:
        return False


def _not_started(path: Path, error: HostError) -> int:
    if isinstance(error.__cause__, OSError) and error.__cause__.errno:
        return -error.__cause__.errno
    return _not_enabled(path)


def _not_enabled(path: Path) -> int:
    """A file that may not be run is left out; one that is not there, or a link to nowhere, is a mistake."""
    return -errno.ENOEXEC if path.exists() else -errno.ENOENT


def _result(exit_: Exit) -> tuple[int, bytes]:
    """Upstream's result of a script that has ended, whatever its exit status was meant to say; its output."""
    if exit_.status is None:
        return -errno.EINTR, exit_.output
    if exit_.status in (126, 127) and exit_.output.startswith(b"setpriv: "):
        # What runs the script could not: the script names an interpreter that is not there, perhaps.
        return -errno.ENOENT if exit_.status == 127 else -errno.ENOEXEC, b""
    if not _FIRST_ERRNO <= exit_.status <= _LAST_ERRNO:
        return exit_.status, exit_.output
    number = exit_.status - _FIRST_ERRNO
    return -errno.ENOEXEC if number == errno.EACCES else -number, exit_.output
