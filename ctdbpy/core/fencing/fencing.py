# SPDX-License-Identifier: GPL-3.0-or-later
"""The leader has lost nodes fenced before others go on without them.

A lease ends by itself, and a node without one serves nobody. But a host that stood still goes on where it
stopped: a program there may write to a file over what its client has written anew through another node. Where
the administrator has named a command that takes a node's power, the leader runs it, and goes on without that
node when it says that it is done.

Source: docs/decisions/010.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ctdbpy.core.effects import Fence, LogLevel
from ctdbpy.core.inputs import Fenced, Sight
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.state import State
from ctdbpy.wire.constants import NodeFlag

#: A command that failed is run again after so long.
RETRY_S: Final = 2.0
#: Whose guard says this has nothing running that could go on.
_HARMLESS: Final = (Sight.STILL, Sight.GONE)
_KIND: Final = "fence"


class Fencing:
    """Which lost nodes are fenced, and which have to be."""

    def __init__(self, state: State, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        #: By pnn: what `_loss` was when it was fenced. Who has been here since is not fenced any more.
        self._fenced: dict[int, float | None] = {}
        #: By pnn, while its command runs: the same of when it began.
        self._running: dict[int, float | None] = {}
        #: By pnn: when a command that failed is run again.
        self._again_s: dict[int, float] = {}
        self._change: Promise[None] = Promise()
        self._waited_for: tuple[int, ...] = ()

    def lost(self, serving: Iterable[int]) -> tuple[int, ...]:
        """Of the nodes that may serve those that have to be fenced before others go on without them."""
        if not self._state.config.fences:
            return ()
        return tuple(sorted(pnn for pnn in serving if self._is_lost(pnn)))

    async def fence(self, lost: tuple[int, ...]) -> None:
        """Have these nodes fenced; done when one of them is, or is there again, or may be tried again."""
        state = self._state
        for pnn in lost:
            if pnn not in self._running and self._again_s.get(pnn, 0.0) <= state.now_s:
                self._begin(pnn)
        self._waited_for = lost
        if self._change.done:
            self._change = Promise()
        try:
            await self._runner.limit(self._change, RETRY_S, None)
        finally:
            self._waited_for = ()

    def done(self, fenced: Fenced) -> None:
        """The command for a node has ended."""
        state, pnn = self._state, fenced.pnn
        if pnn not in self._running:
            return
        loss = self._running.pop(pnn)
        if fenced.error:
            self._again_s[pnn] = state.now_s + RETRY_S
            text = f"cannot fence node {pnn}: {fenced.error}"
            self._tell(
                LogLevel.ERROR,
                pnn,
                f"{text}; its records and addresses wait, and it is tried again. If the node is certainly "
                f"off: 'ctdbctl node confirm-off {pnn}'",
            )
        elif loss == self._loss(pnn) and not self._is_here(pnn):
            self._count(pnn, "fenced: the fence command says that it is off")
        self._change.resolve(None)

    def confirm(self, pnn: int, who: str) -> str:
        """An administrator says that a node is off; why that is not taken, "" if it is."""
        if self._is_here(pnn):
            return f"node {pnn} is connected: it runs"
        if pnn not in self._waited_for:
            return f"nothing waits for node {pnn} to be fenced"
        self._count(pnn, f"taken for fenced: {who}")
        self._change.resolve(None)
        return ""

    def settle(self) -> None:
        """Whoever is back need not be waited for."""
        if any(not self._is_lost(pnn) for pnn in self._waited_for):
            self._change.resolve(None)

    # -- in detail ----------------------------------------------------------------------------------

    def _is_lost(self, pnn: int) -> bool:
        state = self._state
        node = state.peer(pnn)
        if pnn == state.pnn or node is None or node.flags & NodeFlag.DELETED or self._is_here(pnn):
            return False
        if state.sights.get(pnn) in _HARMLESS:
            return False
        return pnn not in self._fenced or self._fenced[pnn] != self._loss(pnn)

    def _is_here(self, pnn: int) -> bool:
        # Stopped or banned, too: it is asked, and a map without it waits until it stands still.
        return self._state.nodes[pnn].is_connected

    def _loss(self, pnn: int) -> float | None:
        """When the node's link was lost last; another one after each time that it has been here."""
        return self._state.out_since_s.get(pnn)

    def _begin(self, pnn: int) -> None:
        state = self._state
        self._running[pnn] = self._loss(pnn)
        self._tell(LogLevel.NOTICE, pnn, "is lost, and may still run: it is fenced before others go on")
        state.emit(Fence(pnn, state.nodes[pnn].address))

    def _count(self, pnn: int, text: str) -> None:
        self._fenced[pnn] = self._loss(pnn)
        self._again_s.pop(pnn, None)
        self._tell(LogLevel.NOTICE, pnn, f"is {text}")

    def _tell(self, level: LogLevel, pnn: int, text: str) -> None:
        state = self._state
        state.log(level, text if text.startswith("cannot") else f"node {pnn} {text}")
        state.note(_KIND, pnn, text)
