# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery: every active node agrees on one map, one generation and one copy of every record.

Source: reference/ctdb.md 7.10.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.procedures import Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Freeze, State
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_RECONFIGURE
from ctdbpy.wire.structures import VnnMap


class Failed(Exception):
    """A step of a recovery did not work; the recovery is repeated."""


class Recovery:
    """The leader's recovery, one at a time."""

    def __init__(self, state: State, runner: Runner, routing: Routing) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing

    async def run(self, reason: str, lmasters: tuple[int, ...]) -> bool:
        """Recover; False if a step failed, and then everything stays in recovery mode."""
        state = self._state
        began_s = state.now_s
        generation = state.entropy.generation()
        state.log(LogLevel.NOTICE, f"recovery begins: {reason}")
        state.recovery_wanted = ""
        nodes = state.active()
        try:
            await self._all(nodes, Control.SET_RECMODE, U32.pack(RecoveryMode.ACTIVE))
            await self._all(nodes, Control.START_RECOVERY)
            await self._all(nodes, Control.SETVNNMAP, VnnMap(generation, lmasters).pack())
            await self._databases(nodes, generation)
            await self._all(nodes, Control.SET_RECMODE, U32.pack(RecoveryMode.NORMAL))
            await self._all(nodes, Control.END_RECOVERY)
        except Failed as failure:
            state.log(LogLevel.ERROR, f"recovery failed: {failure}")
            return False
        state.send_message(BROADCAST_CONNECTED, SRVID_RECONFIGURE, b"")
        state.log(
            LogLevel.NOTICE,
            f"recovery done in {state.now_s - began_s:.3f} s: generation {generation}, "
            f"{len(state.databases)} databases, lmasters {list(lmasters)}",
        )
        return True

    async def _databases(self, nodes: list[int], generation: int) -> None:
        """Bring every database to the new generation."""
        state = self._state
        if nodes != [state.pnn]:
            raise Failed(f"nodes {[pnn for pnn in nodes if pnn != state.pnn]} are active, too")
        for database in list(state.databases.values()):
            # Alone, our copy is the only one: there is nothing to merge, records stay as they are.
            state.set_db_generation(database, generation)
        frozen = [each.db_id for each in state.databases.values() if each.freeze is not Freeze.THAWED]
        for db_id in frozen:
            await self._all(nodes, Control.DB_THAW, U32.pack(db_id))

    async def _all(self, nodes: list[int], opcode: Control, data: bytes = b"") -> Mapping[int, Reply]:
        """Ask every node the same; all must say yes."""
        timeout_s = self._state.tunables.recover_timeout
        answers = {pnn: self._routing.call(pnn, opcode, data, timeout_s=timeout_s) for pnn in nodes}
        replies: dict[int, Reply] = {}
        for pnn, answer in answers.items():
            replies[pnn] = await answer
        for pnn, reply in replies.items():
            if not reply.is_good:
                raise Failed(f"{opcode.name} on node {pnn}: {reply.error or f'status {reply.status}'}")
        return replies
