# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery: every active node agrees on one map, one generation and one copy of every record.

Source: reference/ctdb.md 7.10.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.fencing.fencing import Fencing
from ctdbpy.core.jobs import Jobs
from ctdbpy.core.leader.asking import Failed
from ctdbpy.core.leader.generations import following, latest
from ctdbpy.core.leader.rebuild import KINDS, Rebuild, Wanted
from ctdbpy.core.membership.bans import Bans
from ctdbpy.core.procedures import Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Freeze, Quorum, State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, INVALID_GENERATION, DbFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_RECONFIGURE
from ctdbpy.wire.structures import DbGenerations, DbIdMap, VnnMap


class Recovery:
    """The leader's recovery, one at a time."""

    def __init__(
        self, state: State, runner: Runner, routing: Routing, jobs: Jobs, bans: Bans, fencing: Fencing
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._jobs = jobs
        self._bans = bans
        self._fencing = fencing

    async def run(self, reason: str, lmasters: tuple[int, ...], seen: tuple[int, ...]) -> bool:
        """Recover; False if a step failed, and then everything stays in recovery mode.

        `seen` are the generations of the active nodes' maps.
        """
        state = self._state
        began_s = state.now_s
        state.log(LogLevel.NOTICE, f"recovery begins: {reason}")
        state.note("recovery", state.pnn, reason)
        state.recovery_wanted = ""
        nodes = state.active()
        copies = await self._generations(nodes)
        generation = self._next_generation(seen, copies)
        worth = self._worth(copies)
        rebuild = Rebuild(state, self._runner, self._routing, self._jobs, nodes, generation, worth)
        is_over = False
        try:
            await rebuild.all(nodes, Control.SET_RECMODE, U32.pack(RecoveryMode.ACTIVE))
            await rebuild.all(nodes, Control.START_RECOVERY)
            await rebuild.all(nodes, Control.SETVNNMAP, VnnMap(generation, lmasters).pack())
            if lost := self._fencing.lost(state.serving):
                # It was stopped or banned, and went before it said that it stands still.
                raise Failed(f"nodes {list(lost)} are lost since it began, and may still run")
            await self._databases(rebuild, nodes, generation)
            # Who refuses this wants another recovery, or has lost its lease: nobody is to blame for it.
            is_over = True
            await rebuild.all(nodes, Control.SET_RECMODE, U32.pack(RecoveryMode.NORMAL))
            is_over = False
            await rebuild.all(nodes, Control.END_RECOVERY)
        except Failed as failure:
            state.log(LogLevel.ERROR, f"recovery failed: {failure}")
            if failure.pnn is not None and (failure.is_late or not is_over):
                credits = self._bans.many if failure.is_late else 1
                self._bans.blame(failure.pnn, credits, f"a recovery failed: {failure}")
            return False
        self._bans.forgive()
        state.send_message(BROADCAST_CONNECTED, SRVID_RECONFIGURE, b"")
        state.log(
            LogLevel.NOTICE,
            f"recovery done in {state.now_s - began_s:.3f} s: generation {generation}, "
            f"{len(state.databases)} databases, lmasters {list(lmasters)}",
        )
        return True

    async def _generations(self, nodes: list[int]) -> dict[int, dict[int, int]]:
        """By node and database: the generation of its copy. A C daemon does not tell, and is left out."""
        timeout_s = self._state.tunables.recover_timeout
        answers = {
            pnn: self._routing.call(pnn, Control.GET_DB_GENERATIONS, timeout_s=timeout_s) for pnn in nodes
        }
        found: dict[int, dict[int, int]] = {}
        for pnn, answer in answers.items():
            reply = await answer
            if reply.is_good:
                try:
                    entries = DbGenerations.unpack(reply.data).entries
                except ProtocolError as reason:
                    self._state.log(LogLevel.WARNING, f"generations of node {pnn} dropped: {reason}")
                    continue
                found[pnn] = {entry.db_id: entry.generation for entry in entries}
        return found

    def _worth(self, copies: dict[int, dict[int, int]]) -> dict[int, dict[int, int]]:
        """The generations by which copies are to be compared; INVALID_GENERATION for what is worth least.

        A leader that has served all along knows that nobody else has: what is not in line with its own is
        stale, even if a clock that is wrong made it look later. Without quorum every copy that is of some
        generation counts, as upstream.
        """
        state = self._state
        if not state.lineage and state.quorum is not Quorum.NONE:
            return copies

        def worth(generation: int) -> int:
            if state.quorum is Quorum.NONE:
                return min(generation, INVALID_GENERATION + 1)
            return generation if generation in state.lineage else INVALID_GENERATION

        return {
            pnn: {db_id: worth(generation) for db_id, generation in found.items()}
            for pnn, found in copies.items()
        }

    def _next_generation(self, seen: tuple[int, ...], copies: Mapping[int, Mapping[int, int]]) -> int:
        state = self._state
        of_copies = (each for found in copies.values() for each in found.values())
        # A node that was stopped has forgotten its map, but must not begin an earlier one.
        known = (*seen, state.generation, state.last_generation, *of_copies)
        wall_s = state.now_s + state.config.wall_offset_s
        return following(latest(known), wall_s, state.pnn, len(state.nodes))

    async def _databases(self, rebuild: Rebuild, nodes: list[int], generation: int) -> None:
        """Bring every database to the new generation."""
        state = self._state
        if nodes == [state.pnn] and not state.had_company:
            # Alone since the start, our copy is the only one and we own every record: nothing to merge.
            for database in list(state.databases.values()):
                state.set_db_generation(database, generation)
            frozen = [each.db_id for each in state.databases.values() if each.freeze is not Freeze.THAWED]
            for db_id in frozen:
                await rebuild.all(nodes, Control.DB_THAW, U32.pack(db_id))
            return
        wanted = _union(await rebuild.all(nodes, Control.GET_DBMAP))
        began_s = state.now_s
        counts = await self._runner.gather("rebuild", [rebuild.run(each) for each in wanted])
        state.log(
            LogLevel.INFO,
            f"{len(wanted)} databases rebuilt in {state.now_s - began_s:.3f} s, {sum(counts)} records",
        )


def _union(maps: Mapping[int, Reply]) -> list[Wanted]:
    """Every database that some node has; nodes must agree on its kind."""
    holders: dict[int, list[int]] = {}
    kinds: dict[int, DbFlag] = {}
    for pnn, reply in maps.items():
        try:
            entries = DbIdMap.unpack(reply.data).entries
        except ProtocolError as error:
            raise Failed(f"node {pnn} does not tell its databases: {error}") from error
        for entry in entries:
            kind = DbFlag(entry.flags) & KINDS
            if kinds.setdefault(entry.db_id, kind) != kind:
                raise Failed(
                    f"node {pnn} has database 0x{entry.db_id:08x} as {kind!r}, another node does not"
                )
            holders.setdefault(entry.db_id, []).append(pnn)
    return [Wanted(db_id, kinds[db_id], tuple(pnns)) for db_id, pnns in holders.items()]
