# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands that event scripts run: each has a time limit that holds even if the command cannot be killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import ServiceError

#: How long a killed command may take to go. One that waits for a hung file system does not go at all.
_KILL_LIMIT_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. status: as subprocess has it. output, complaints: its stdout and stderr."""

    status: int
    output: str
    complaints: str

    @property
    def last_words(self) -> str:
        """The last line that it said, for an error's one line."""
        lines = (self.complaints.strip() or self.output.strip()).splitlines()
        return lines[-1].strip() if lines else ""


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    check: bool = True,
    input: str = "",
    environ: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end. `environ` is added to the script's own environment.

    A daemon that it leaves behind is not waited for, even one that keeps its output open. Raises ServiceError
    when it is not there, takes longer than `timeout_s` (it is killed then, and left alone if it does not die)
    or, with `check`, fails.
    """
    # Files, not pipes: those end only when the last process that holds them does.
    given, output, complaints = (os.memfd_create(name) for name in ("given", "output", "complaints"))
    try:
        os.pwrite(given, input.encode(), 0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=output,
                stderr=complaints,
                env=None if environ is None else {**os.environ, **environ},
            )
        except OSError as error:
            raise ServiceError(f"cannot run '{argv[0]}': {error.strerror}") from None
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise ServiceError(f"cannot wait for '{' '.join(argv)}': no end within {timeout_s:g} s") from None
        finished = Finished(status, _text(output), _text(complaints))
    finally:
        for file in (given, output, complaints):
            os.close(file)
    if check and status != 0:
        end = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
        said = f": {finished.last_words}" if finished.last_words else ""
        raise ServiceError(f"cannot run '{' '.join(argv)}': {end}{said}")
    return finished


def leave_running(argv: Sequence[str]) -> None:
    """Start a command that goes on when the event is over; whoever starts it bounds its time."""
    try:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The event's process group is killed when the event takes too long or gives way.
            start_new_session=True,
        ).returncode = 0  # not ours to wait for: without it the interpreter warns at exit
    except OSError as error:
        raise ServiceError(f"cannot run '{argv[0]}': {error.strerror}") from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    try:
        process.wait(_KILL_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.returncode = -9  # not to be waited for: it dies when what it waits for comes back


def _text(file: int) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0).decode(errors="replace")
