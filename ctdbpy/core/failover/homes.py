# SPDX-License-Identifier: GPL-3.0-or-later
"""Where addresses belong, as the home_nodes file of the node that leads has it.

Only the deterministic allocation asks, with each run, as upstream's does: an administrator who has changed
the file on every node need tell nobody but `ctdb ipreallocate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ctdbpy.core.effects import LogLevel, ReadHomeNodes
from ctdbpy.core.failover.allocation import Algorithm
from ctdbpy.core.inputs import HomeNodesRead
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.state import State

#: A disk that hangs must not keep addresses from moving.
_LIMIT_S: Final = 1.0


class Homes:
    """What was read last: a file that cannot be read changes nothing."""

    def __init__(self, state: State, runner: Runner) -> None:
        self._state = state
        self._runner = runner
        self._known: Mapping[str, int] = {}
        self._reads: dict[int, Promise[HomeNodesRead]] = {}
        self._last_read = 0

    async def read(self) -> Mapping[str, int]:
        """The node by address."""
        state = self._state
        if Algorithm.of(state.tunables.ip_alloc_algorithm) is not Algorithm.DETERMINISTIC:
            return {}
        self._last_read += 1
        read_id = self._last_read
        promise: Promise[HomeNodesRead] = Promise()
        self._reads[read_id] = promise
        state.emit(ReadHomeNodes(read_id))
        late = HomeNodesRead(read_id, (), f"the file has not been read in {_LIMIT_S:g} s")
        read = await self._runner.limit(promise, _LIMIT_S, late)
        self._reads.pop(read_id, None)
        if read.error:
            state.log(LogLevel.ERROR, f"home nodes are as they were: {read.error}")
        else:
            self._known = dict(read.homes)
        return self._known

    def file_read(self, read: HomeNodesRead) -> None:
        """The file was read, or could not be."""
        promise = self._reads.pop(read.read_id, None)
        if promise is not None:
            promise.resolve(read)
