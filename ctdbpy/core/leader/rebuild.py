# SPDX-License-Identifier: GPL-3.0-or-later
"""One database's recovery: freeze it everywhere, merge every node's copy, store the result everywhere, thaw.

Reads top to bottom; every step must succeed on every node, or the whole recovery is repeated.
Until COMMIT each node still has its old records, so a node that dies midway loses nothing. Of a volatile
database only the copies of the latest generation count: a node that the others went on without brings
nothing stale back, and after a failed recovery the nodes that have the result already are right.

Source: reference/ctdb.md 7.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.jobs import Jobs
from ctdbpy.core.leader.asking import Asking, Failed, Step, told
from ctdbpy.core.leader.generations import is_later, latest
from ctdbpy.core.leader.transfers import Pull, Table
from ctdbpy.core.procedures import Runner
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import State
from ctdbpy.wire.codecs import U32, U64, Str0
from ctdbpy.wire.constants import LMASTER_ANY, ControlFlag, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import PullDbExt, TransDb

_ATTACH = {
    DbFlag(0): Control.DB_ATTACH,
    DbFlag.PERSISTENT: Control.DB_ATTACH_PERSISTENT,
    DbFlag.REPLICATED: Control.DB_ATTACH_REPLICATED,
}
KINDS = DbFlag.PERSISTENT | DbFlag.REPLICATED

_NO_GENERATIONS: Final[Mapping[int, Mapping[int, int]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A database to rebuild: its kind, and which nodes have it attached already."""

    db_id: int
    flags: DbFlag
    holders: tuple[int, ...]

    @property
    def is_volatile(self) -> bool:
        return not self.flags & KINDS


class Rebuild(Asking):
    """Brings databases to a new generation on a set of nodes, this one among them.

    `generations` says by node and database which generation the copy there is of. A node that is not in it
    (a C daemon does not tell), or a database that is not, counts. A node that is in it is one of ours: what
    builds on each other it can be asked at once.
    """

    def __init__(
        self,
        state: State,
        runner: Runner,
        routing: Routing,
        jobs: Jobs,
        nodes: list[int],
        generation: int,
        generations: Mapping[int, Mapping[int, int]] = _NO_GENERATIONS,
    ) -> None:
        super().__init__(state, runner, routing, generation)
        self._jobs = jobs
        self._nodes = nodes
        self._others = [pnn for pnn in nodes if pnn != state.pnn]
        self._generation = generation
        self._generations = generations
        self._told_stale: set[int] = set()

    async def run(self, wanted: Wanted) -> int:
        """Rebuild one database; returns its number of records. Raises Failed."""
        number = U32.pack(wanted.db_id)
        transaction = TransDb(wanted.db_id, self._generation).pack()
        await self._attach(wanted)
        await self.all(self._nodes, Control.DB_FREEZE, number)
        if not wanted.is_volatile:
            # Inside a transaction only do they tell their sequence numbers.
            await self.all(self._nodes, Control.DB_TRANSACTION_START, transaction)
        sources = await self._sources(wanted)
        table, srvid = self._table(wanted, sources), self.new_srvid()
        prepared = [self._prepare(pnn, wanted, table, pnn in sources, srvid) for pnn in self._nodes]
        await self.runner.gather("prepare", [table.begun(), *prepared])
        count = await table.spread(self._others, srvid)
        await self._confirm(wanted, count)
        last = [(Control.DB_TRANSACTION_COMMIT, transaction), (Control.DB_THAW, number)]
        ended = [self.in_order(pnn, last, at_once=self._is_ours(pnn)) for pnn in self._nodes]
        await self.runner.gather("commit", ended)
        return count

    async def _attach(self, wanted: Wanted) -> None:
        """Have every node open the database."""
        lacking = [pnn for pnn in self._nodes if pnn not in wanted.holders]
        if not lacking:
            return
        holder = wanted.holders[0]
        reply = (await self.all([holder], Control.GET_DBNAME, U32.pack(wanted.db_id)))[holder]
        name = told(Str0, reply, f"the name of database {wanted.db_id:#010x}", holder)
        opcode = _ATTACH[wanted.flags & KINDS]
        await self.all(lacking, opcode, Str0.pack(name), flags=ControlFlag.ATTACH_RECOVERY)

    async def _sources(self, wanted: Wanted) -> list[int]:
        """Whose copies count: all of the latest generation; with transactions the furthest one alone."""
        if wanted.is_volatile:
            return self._fresh(wanted.db_id)
        replies = await self.all(self._nodes, Control.GET_DB_SEQNUM, U64.pack(wanted.db_id))
        seqnums = {pnn: told(U64, reply, "its sequence number", pnn) for pnn, reply in replies.items()}
        return [max(self._nodes, key=lambda pnn: (seqnums[pnn], -pnn))]

    def _fresh(self, db_id: int) -> list[int]:
        """Nodes whose copy of a volatile database is not older than another one's."""
        known = {pnn: found[db_id] for pnn, found in self._generations.items() if db_id in found}
        last = latest(known[pnn] for pnn in self._nodes if pnn in known)
        stale = [pnn for pnn in self._nodes if pnn in known and is_later(last, known[pnn])]
        for pnn in stale:
            if pnn not in self._told_stale:
                self._told_stale.add(pnn)
                text = f"node {pnn} brings stale copies, of database {db_id:#010x} for one"
                self.state.log(LogLevel.NOTICE, f"{text}: others have gone on without it; they do not count")
        return [pnn for pnn in self._nodes if pnn not in stale]

    def _table(self, wanted: Wanted, sources: list[int]) -> Table:
        """Where copies come together, begun with this node's own if it counts."""
        database = self.state.databases.get(wanted.db_id)
        if database is None or not database.is_frozen:
            raise Failed(f"database {wanted.db_id:#010x} is not frozen here any more", self.state.pnn)
        with_own = self.state.pnn in sources and not database.is_invalid
        return Table(self, self._jobs, database, with_own=with_own)

    async def _prepare(self, pnn: int, wanted: Wanted, table: Table, counts: bool, srvid: int) -> None:
        """Have a node's copy in the table, if it counts, and the node ready for the result."""
        transaction = TransDb(wanted.db_id, self._generation).pack()
        steps: list[Step] = [(Control.WIPE_DATABASE, transaction)]
        if wanted.is_volatile:
            steps.insert(0, (Control.DB_TRANSACTION_START, transaction))
        if pnn == self.state.pnn:
            await self.in_order(pnn, steps, at_once=True)
            return
        steps.append((Control.DB_PUSH_START, PullDbExt(wanted.db_id, LMASTER_ANY, srvid).pack()))
        if not counts:
            await self.in_order(pnn, steps, at_once=self._is_ours(pnn))
            return
        pull = Pull(self, table, wanted.db_id, pnn)
        try:
            # Through a transaction libtdb reads more slowly; a C daemon is asked as by its own leaders.
            place = 0 if self._is_ours(pnn) else len(steps) - 2
            steps.insert(place, (Control.DB_PULL, pull.request))
            replies = await self.in_order(pnn, steps, at_once=self._is_ours(pnn))
            await pull.complete(replies[place])
        finally:
            pull.end()

    async def _confirm(self, wanted: Wanted, count: int) -> None:
        """Every node has stored what it was sent."""
        replies = await self.all(self._others, Control.DB_PUSH_CONFIRM, U32.pack(wanted.db_id))
        for pnn, reply in replies.items():
            stored = told(U32, reply, "its number of records", pnn)
            if stored != count:
                text = f"DB_PUSH_CONFIRM of {wanted.db_id:#010x} on node {pnn}: {stored} of {count} records"
                raise Failed(text, pnn)

    def _is_ours(self, pnn: int) -> bool:
        return pnn == self.state.pnn or pnn in self._generations
