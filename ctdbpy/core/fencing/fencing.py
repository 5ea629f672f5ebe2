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

from ctdbpy.core.effects import Fence, LogLevel, StopFence
from ctdbpy.core.inputs import Fenced, Sight
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.state import Quorum, State
from ctdbpy.wire.constants import NodeFlag

#: A command that failed is run again after so long.
RETRY_S: Final = 2.0
#: Whose guard says this has nothing running that could go on.
_HARMLESS: Final = (Sight.STILL, Sight.GONE)
_KIND: Final = "fence"

#: A loss of a node: in which lead of this node, and when its link broke; None if it had none since the start.
_Loss = tuple[int, float | None]


class Fencing:
    """Which lost nodes are fenced, and which have to be."""

    def __init__(self, state: State, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        #: By pnn: the loss after which it was fenced.
        self._fenced: dict[int, _Loss] = {}
        #: By pnn, while its command runs: the loss for which it was begun.
        self._running: dict[int, _Loss] = {}
        #: Nodes whose command is being ended: nobody wants it any more.
        self._stopped: set[int] = set()
        #: By pnn: the loss for which a command failed, and when it is run again.
        self._again: dict[int, tuple[_Loss, float]] = {}
        self._change: Promise[None] = Promise()
        self._waited_for: tuple[int, ...] = ()
        #: What was known of all nodes when the wait for those began.
        self._flags: tuple[NodeFlag, ...] = ()
        self._leads = 0

    def lost(self, serving: Iterable[int]) -> tuple[int, ...]:
        """Of the nodes that may serve those that have to be fenced before others go on without them."""
        state = self._state
        # A nodes file that has grown may have made a cluster of one where no quorum is asked for.
        if not state.config.fences or state.quorum is Quorum.NONE:
            return ()
        lost = tuple(sorted(pnn for pnn in serving if self._is_lost(pnn)))
        if not lost:
            self._waited_for = ()
        return lost

    async def fence(self, lost: tuple[int, ...]) -> None:
        """Have these nodes fenced; done when something has changed for one of them, or may be tried again."""
        for pnn in lost:
            if self._is_due(pnn):
                self._begin(pnn)
        # Until the next look finds others: an administrator may speak between two.
        self._waited_for = lost
        self._flags = self._flags_now()
        if self._change.done:
            self._change = Promise()
        await self._runner.limit(self._change, RETRY_S, None)

    def done(self, fenced: Fenced) -> None:
        """The command for a node has ended."""
        state, pnn = self._state, fenced.pnn
        loss = self._running.pop(pnn, None)
        is_stopped = pnn in self._stopped
        self._stopped.discard(pnn)
        if loss is None or state.peer(pnn) is None:
            # The nodes file does not have it any more.
            return
        if fenced.error and is_stopped:
            state.log(
                LogLevel.NOTICE, f"the fence command for node {pnn} was not wanted any more: {fenced.error}"
            )
        elif fenced.error:
            self._again[pnn] = (loss, state.now_s + RETRY_S)
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
        """Whoever is back need not be waited for; whoever else is gone has to be fenced, too."""
        if not (self._running or self._fenced or self._again or self._waited_for):
            return
        is_out = self._state.is_led or not self._state.can_lead()
        if is_out:
            self._forget()
        for pnn in self._running.keys() - self._stopped:
            # A command that takes long would switch off a node that serves again.
            if is_out or self._state.peer(pnn) is None or self._is_here(pnn):
                self._stopped.add(pnn)
                self._state.emit(StopFence(pnn))
        if self._waited_for:
            has_changed = self._flags_now() != self._flags
            if has_changed or any(not self._is_lost(pnn) for pnn in self._waited_for):
                self._change.resolve(None)

    # -- in detail ----------------------------------------------------------------------------------

    def _forget(self) -> None:
        # Others may take back whom this node had fenced, and it need not hear of that.
        self._leads += 1
        self._fenced.clear()
        self._again.clear()
        self._waited_for = ()

    def _is_lost(self, pnn: int) -> bool:
        state = self._state
        node = state.peer(pnn)
        if pnn == state.pnn or node is None or node.flags & NodeFlag.DELETED or self._is_here(pnn):
            return False
        if state.sights.get(pnn) in _HARMLESS:
            return False
        return self._fenced.get(pnn) != self._loss(pnn)

    def _is_due(self, pnn: int) -> bool:
        loss, again_s = self._again.get(pnn, (None, 0.0))
        return pnn not in self._running and (loss != self._loss(pnn) or again_s <= self._state.now_s)

    def _is_here(self, pnn: int) -> bool:
        # Stopped or banned, too: it is asked, and a map without it waits until it stands still.
        return self._state.nodes[pnn].is_connected

    def _loss(self, pnn: int) -> _Loss:
        """Another one after each time that the node has been here, or could have been elsewhere."""
        return self._leads, self._state.out_since_s.get(pnn)

    def _flags_now(self) -> tuple[NodeFlag, ...]:
        return tuple(node.flags for node in self._state.nodes)

    def _begin(self, pnn: int) -> None:
        state = self._state
        self._running[pnn] = self._loss(pnn)
        self._tell(LogLevel.NOTICE, pnn, "is lost, and may still run: it is fenced before others go on")
        state.emit(Fence(pnn, state.nodes[pnn].address))

    def _count(self, pnn: int, text: str) -> None:
        self._fenced[pnn] = self._loss(pnn)
        self._again.pop(pnn, None)
        self._tell(LogLevel.NOTICE, pnn, f"is {text}")

    def _tell(self, level: LogLevel, pnn: int, text: str) -> None:
        state = self._state
        state.log(level, text if text.startswith("cannot") else f"node {pnn} {text}")
        state.note(_KIND, pnn, text)
