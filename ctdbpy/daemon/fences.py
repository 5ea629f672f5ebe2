# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the administrator's fence command, which takes the power from a node that was lost.

It is started without a shell as `COMMAND [ARGUMENTS] off PNN ADDRESS`. Status 0 means that the node is
certainly off, or has been since it was asked; anything else, or no end in time, that nobody knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ctdbpy.core.effects import Fence
from ctdbpy.core.inputs import Fenced, Input
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children, Exit, split_command

#: A command is not started later than this after it was decided: the host or the daemon stood still between.
LATE_S: Final = 0.4


class Fences:
    """Carries out `Fence`; `step` gets what comes of it."""

    def __init__(
        self,
        command: str,
        timeout_s: float,
        children: Children,
        step: Callable[[Input], None],
        spawn: Callable[[str, Coroutine[Any, Any, None]], object],
        *,
        may_serve: Callable[[], bool],
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._argv = split_command(command)
        self._timeout_s = timeout_s
        self._children = children
        self._step = step
        self._spawn = spawn
        self._may_serve = may_serve
        self._clock = clock
        self._wanted: set[int] = set()
        self._running: dict[int, Child] = {}

    def fence(self, wanted: Fence) -> None:
        """Take a node's power; `Fenced` follows."""
        self._wanted.add(wanted.pnn)
        self._spawn(f"fence node {wanted.pnn}", self._run(wanted, self._clock()))

    def stop(self, pnn: int) -> None:
        """End a node's command, with all that it started; what it has asked for already may still happen."""
        self._wanted.discard(pnn)
        child = self._running.get(pnn)
        if child is not None:
            self._spawn(f"end the fencing of node {pnn}", _end(child))

    async def _run(self, wanted: Fence, decided_s: float) -> None:
        self._step(Fenced(wanted.pnn, await self._problem(wanted, decided_s)))

    async def _problem(self, wanted: Fence, decided_s: float) -> str:
        # This host may have stood still since the core decided: others may lead by now, that node for one.
        if not self._may_serve():
            return "this node's lease has run out meanwhile"
        late_s = self._clock() - decided_s
        if late_s >= LATE_S:
            # With a cluster lock a leader has no lease that could run out.
            return f"this node stood still for {late_s:.2f} s meanwhile"
        if wanted.pnn not in self._wanted:
            return "it was not started"
        argv = [*self._argv, "off", str(wanted.pnn), wanted.address]
        try:
            child = self._running[wanted.pnn] = self._children.spawn(argv, collect_output=True)
            ended = await child.finish(self._timeout_s)
        except HostError as error:
            return str(error)
        finally:
            self._running.pop(wanted.pnn, None)
        return "" if ended.is_success else f"{ended}{_last_line(ended)}"


async def _end(child: Child) -> None:
    try:
        await child.end()
    except HostError:
        # Whoever waits for its end says that it cannot be ended.
        pass


def _last_line(ended: Exit) -> str:
    lines = [line.strip() for line in ended.output.decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
