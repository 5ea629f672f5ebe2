# SPDX-License-Identifier: GPL-3.0-or-later
"""One public address with its targets: while it is wanted here there is a tgtd, otherwise there is none."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ctdbpy.errors import HostError, ServiceError
from ctdbpy.host.children import Child, Children
from ctdbpy.services.iscsi import launch, stgt
from ctdbpy.services.iscsi.declaration import Target

#: A tgtd listens after a tenth of a second, and does each thing it is told in some milliseconds.
START_LIMIT_S: Final = 10.0
ADM_LIMIT_S: Final = 5.0
PING_PAUSE_S: Final = 0.01
#: After the first failure another try is made at once, after each further one in a row later.
RETRY_S: Final = 0.2
RETRY_S_MAX: Final = 10.0
#: A tgtd that has served so long does not count as a failure in a row with earlier ones.
LONG_S: Final = 60.0

_REPORT_BYTES: Final = 4096


class Phase(enum.StrEnum):
    """STARTING: a tgtd is being set up. WAITING: another process, perhaps elsewhere, has its files locked."""

    IDLE = "idle"
    STARTING = "starting"
    WAITING = "waiting"
    SERVING = "serving"
    FAILED = "failed"


class Post:
    """`want` says whether the address is here. `run` is to be a task as long as the post is kept."""

    def __init__(
        self,
        directory: Path,
        address: str,
        targets: tuple[Target, ...],
        children: Children,
        log: Callable[[str], None],
    ) -> None:
        self.address = address
        self.targets = targets
        self.phase = Phase.IDLE
        self.reason = ""
        self._failures = 0
        self._served_s = 0.0
        self.note = directory / f"{address}.note"
        self._socket = directory / address
        self._children = children
        self._log = log
        self._child: Child | None = None
        self._is_dropped = False
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def is_wanted(self) -> bool:
        """Whether the address is to be served here."""
        return self._wanted.is_set()

    @property
    def failures(self) -> int:
        """How many tgtds in a row have ended by themselves, or did not get as far as serving."""
        is_well = self.phase is Phase.SERVING and time.monotonic() - self._served_s > LONG_S
        return 0 if is_well else self._failures

    @property
    def pid(self) -> int:
        """The process that serves, or is about to; 0 if there is none."""
        return self._child.pid if self._child is not None else 0

    def want(self, is_wanted: bool) -> None:
        """Serve the address, or not any more: then its tgtd is killed at once, whatever it is doing."""
        if is_wanted == self.is_wanted:
            return
        if is_wanted:
            self._failures = 0
            self._wanted.set()
        else:
            self._wanted.clear()
            self._is_dropped = True
            if self._child is not None:
                self._child.kill()
        self._changed.set()

    async def ended(self) -> None:
        """Wait until there is no tgtd of this post."""
        while self._child is not None:
            await self._change()

    async def run(self) -> None:
        """Serve whenever it is wanted."""
        while True:
            await self._wanted.wait()
            if not self.is_wanted:
                continue  # It was, and was not any more before this task had its turn.
            self._is_dropped = False
            try:
                await self._serve()
            except (ServiceError, HostError) as error:
                if self._is_dropped:
                    # That one ended which was killed on purpose is not worth a word; that it did not is.
                    if isinstance(error, HostError):
                        self._log(str(error))
                else:
                    self._failures += 1
                    self._enter(Phase.FAILED, str(error))
                    await self._pause(_retry_s(self._failures))
            if self._is_dropped:
                self._enter(Phase.IDLE)

    # -- one tgtd ----------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """From the locks to the end of the process. Raises ServiceError or HostError."""
        self._enter(Phase.STARTING)
        child, report = self._launch()
        self._child = child
        try:
            await self._locks(report)
            await self._until_it_listens(child)
            for argv in stgt.configure(self.address, self.targets):
                await self._tell(argv)
            self._enter(Phase.SERVING)
            self._served_s = time.monotonic()
            await child.wait()
            self._failures = self.failures
            raise ServiceError(
                f"cannot serve '{self.address}' without a break: its tgtd ended{_last_words(child)}"
            )
        finally:
            child.kill()
            try:
                # Raises if it hangs in the kernel; its locks stay with it, and keep everybody else out.
                await child.end(grace_s=0.0)
            finally:
                self._child = None
                self._changed.set()

    def _launch(self) -> tuple[Child, int]:
        reading, writing = os.pipe()
        request = {
            "note": str(self.note),
            "report": writing,
            "files": [lun.file for target in self.targets for lun in target.luns],
            "argv": stgt.DAEMON,
        }
        argv = (sys.executable, "-I", "-S", launch.__file__, json.dumps(request))
        try:
            environ = {**os.environ, stgt.SOCKET_VARIABLE: str(self._socket)}
            child = self._children.spawn(argv, environ=environ, collect_output=True, pass_fds=(writing,))
        except HostError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return child, reading

    async def _locks(self, report: int) -> None:
        """Hear how the locking goes until all is locked."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(report, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while line := (await reader.readline()).decode(errors="replace").rstrip("\n"):
                word, _, rest = line.partition(" ")
                match word:
                    case "waiting":
                        self._enter(
                            Phase.WAITING,
                            f"'{self.address}' waits for '{rest}': who served it before still has it locked",
                        )
                    case "locked":
                        self._enter(Phase.STARTING)
                        return
                    case _:
                        raise ServiceError(rest)
        finally:
            transport.close()
        raise ServiceError(
            f"cannot start the tgtd of '{self.address}': it ended before it had its files locked"
        )

    async def _until_it_listens(self, child: Child) -> None:
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while child.is_running:
                    # It says to nobody when it is ready.
                    if (await self._run(stgt.ping())) == "":
                        return
                    await asyncio.sleep(PING_PAUSE_S)
        except TimeoutError:
            raise ServiceError(
                f"cannot start the tgtd of '{self.address}': it does not listen after {START_LIMIT_S:g} s"
            ) from None
        raise ServiceError(f"cannot start the tgtd of '{self.address}': it ended at once{_last_words(child)}")

    async def _tell(self, argv: list[str]) -> None:
        problem = await self._run(argv)
        if problem:
            raise ServiceError(f"cannot set up the tgtd of '{self.address}': {problem}")

    async def _run(self, argv: list[str]) -> str:
        """What went wrong with a command for the tgtd; not its values, there may be a password among them."""
        environ = {**os.environ, stgt.SOCKET_VARIABLE: str(self._socket)}
        done = await self._children.run(argv, timeout_s=ADM_LIMIT_S, environ=environ)
        if done.is_success:
            return ""
        said = done.output.decode(errors="replace").strip().splitlines()
        deed = " ".join(argv[3:7])
        if done.timed_out:
            return f"'{argv[0]} {deed}' had no answer within {ADM_LIMIT_S:g} s"
        return f"'{argv[0]} {deed}' failed" + (f": {said[-1]}" if said else "")

    # -- state -------------------------------------------------------------------------------------

    def _enter(self, phase: Phase, reason: str = "") -> None:
        if (phase, reason) == (self.phase, self.reason):
            return
        self.phase = phase
        self.reason = reason
        self._log(reason or f"'{self.address}' is {phase}")
        self._changed.set()

    async def _pause(self, limit_s: float) -> None:
        """Wait so long, or until it is wanted otherwise."""
        try:
            async with asyncio.timeout(limit_s):
                while self.is_wanted:
                    await self._change()
        except TimeoutError:
            pass

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _retry_s(failures: int) -> float:
    return 0.0 if failures == 1 else min(RETRY_S * 2 ** min(failures - 2, 10), RETRY_S_MAX)


def _last_words(child: Child) -> str:
    lines = child.output.decode(errors="replace").strip().splitlines()
    return f"; it said '{lines[-1].strip()}'" if lines else ""
