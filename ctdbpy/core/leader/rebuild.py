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

from ctdbpy.core.effects import LogLevel, Unlisten
from ctdbpy.core.leader.generations import is_later, latest
from ctdbpy.core.ports import Merge
from ctdbpy.core.procedures import Promise, Runner
from ctdbpy.core.requests import Reply
from ctdbpy.core.routing import DISCONNECTED, NOT_CONNECTED, TIMED_OUT, Routing
from ctdbpy.core.state import State
from ctdbpy.errors import ProtocolError
from ctdbpy.wire.codecs import U32, U64, Codec, Str0
from ctdbpy.wire.constants import LMASTER_ANY, ControlFlag, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import srvid_of_recovery
from ctdbpy.wire.structures import PullDbExt, TransDb

_ATTACH = {
    DbFlag(0): Control.DB_ATTACH,
    DbFlag.PERSISTENT: Control.DB_ATTACH_PERSISTENT,
    DbFlag.REPLICATED: Control.DB_ATTACH_REPLICATED,
}
KINDS = DbFlag.PERSISTENT | DbFlag.REPLICATED

_NO_GENERATIONS: Final[Mapping[int, Mapping[int, int]]] = MappingProxyType({})

#: Buffers sent to a node before it must have taken them in.
BUFFERS_IN_FLIGHT = 8


class Failed(Exception):
    """A step of a recovery did not work; the recovery is repeated.

    `pnn` is the node that spoilt it, if one did: by no answer in time (`is_late`), or by a refusal.
    """

    def __init__(self, text: str, pnn: int | None = None, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.pnn = pnn
        self.is_late = is_late


@dataclass(frozen=True, slots=True)
class Wanted:
    """A database to rebuild: its kind, and which nodes have it attached already."""

    db_id: int
    flags: DbFlag
    holders: tuple[int, ...]


class Rebuild:
    """Brings databases to a new generation on a set of nodes.

    `generations` says by node and database which generation the copy there is of. A node that is not in it
    (a C daemon does not tell), or a database that is not, counts.
    """

    def __init__(
        self,
        state: State,
        runner: Runner,
        routing: Routing,
        nodes: list[int],
        generation: int,
        generations: Mapping[int, Mapping[int, int]] = _NO_GENERATIONS,
    ) -> None:
        self._state = state
        self._runner = runner
        self._routing = routing
        self._nodes = nodes
        self._generation = generation
        self._generations = generations
        self._told_stale: set[int] = set()
        # Each leader and each recovery has its own, so that late messages of another one find nobody.
        self._first_srvid = (state.pnn & 0xFF) << 24 | (generation & 0xFF) << 16
        self._last_srvid = 0

    async def run(self, wanted: Wanted) -> int:
        """Rebuild one database; returns its number of records. Raises Failed."""
        db_id = wanted.db_id
        number = U32.pack(db_id)
        transaction = TransDb(db_id, self._generation).pack()
        name = await self._attach(wanted)
        await self.all(self._nodes, Control.DB_FREEZE, number)
        await self.all(self._nodes, Control.DB_TRANSACTION_START, transaction)
        merge = self._state.records.new_merge(db_id, self._state.pnn, not wanted.flags & KINDS)
        for pnn in await self._sources(wanted):
            await self._pull(db_id, pnn, merge)
        await self.all(self._nodes, Control.WIPE_DATABASE, transaction)
        count = await self._push(db_id, name, merge)
        await self.all(self._nodes, Control.DB_TRANSACTION_COMMIT, transaction)
        await self.all(self._nodes, Control.DB_THAW, number)
        return count

    async def _attach(self, wanted: Wanted) -> str:
        """Have every node open the database; its name."""
        number = U32.pack(wanted.db_id)
        reply = (await self.all([wanted.holders[0]], Control.GET_DBNAME, number))[wanted.holders[0]]
        try:
            name = Str0.unpack(reply.data)
        except ProtocolError as error:
            raise Failed(f"database 0x{wanted.db_id:08x} has no name: {error}") from error
        lacking = [pnn for pnn in self._nodes if pnn not in wanted.holders]
        opcode = _ATTACH[wanted.flags & KINDS]
        await self.all(lacking, opcode, Str0.pack(name), flags=ControlFlag.ATTACH_RECOVERY)
        return name

    async def _sources(self, wanted: Wanted) -> list[int]:
        """Whose copies count: all of the latest generation; with transactions the furthest one alone."""
        if not wanted.flags & KINDS:
            return self._fresh(wanted.db_id)
        replies = await self.all(self._nodes, Control.GET_DB_SEQNUM, U64.pack(wanted.db_id))
        seqnums = {pnn: _number(U64, reply, "its sequence number") for pnn, reply in replies.items()}
        return [max(self._nodes, key=lambda pnn: (seqnums[pnn], -pnn))]

    def _fresh(self, db_id: int) -> list[int]:
        """Nodes whose copy of a volatile database is not older than another one's."""
        known = {pnn: found[db_id] for pnn, found in self._generations.items() if db_id in found}
        last = latest(known[pnn] for pnn in self._nodes if pnn in known)
        stale = [pnn for pnn in self._nodes if pnn in known and is_later(last, known[pnn])]
        for pnn in stale:
            if pnn not in self._told_stale:
                self._told_stale.add(pnn)
                text = f"node {pnn} brings stale copies: database {db_id:#010x} of generation {known[pnn]}"
                self._state.log(LogLevel.NOTICE, f"{text}, others have {last}; its records do not count")
        return [pnn for pnn in self._nodes if pnn not in stale]

    async def _pull(self, db_id: int, pnn: int, merge: Merge) -> None:
        srvid = self._new_srvid()
        received = 0
        problem = ""
        more: Promise[None] = Promise()

        def arrived(_pnn: int, data: bytes) -> None:
            nonlocal received, problem, more
            try:
                received += merge.add(data, pnn)
            except ProtocolError as error:
                problem = str(error)
            before, more = more, Promise()
            before.resolve(None)

        self._state.listen(srvid, arrived)
        try:
            request = PullDbExt(db_id, LMASTER_ANY, srvid).pack()
            reply = (await self.all([pnn], Control.DB_PULL, request))[pnn]
            expected = _number(U32, reply, "its number of records")
            # Our own records come by way of the loop, after the reply.
            while received < expected and not problem:
                before = received
                await self._runner.limit(more, self._timeout_s, None)
                if received == before:
                    break
        finally:
            self._end_srvid(srvid)
        if problem or received != expected:
            raise Failed(
                f"DB_PULL of 0x{db_id:08x} from node {pnn}: {received} of {expected} records {problem}", pnn
            )

    async def _push(self, db_id: int, name: str, merge: Merge) -> int:
        srvid = self._new_srvid()
        limit = self._state.tunables.rec_buffer_size_limit
        await self.all(self._nodes, Control.DB_PUSH_START, PullDbExt(db_id, LMASTER_ANY, srvid).pack())
        total = sent = 0
        while True:
            buffer, count = merge.take(limit)
            if not count:
                break
            total += count
            sent += 1
            for pnn in self._nodes:
                self._state.send_message(pnn, srvid, buffer)
            if sent % BUFFERS_IN_FLIGHT == 0:
                await self._settle_messages()
        await self._settle_messages()
        replies = await self.all(self._nodes, Control.DB_PUSH_CONFIRM, U32.pack(db_id))
        for pnn, reply in replies.items():
            stored = _number(U32, reply, "its number of records")
            if stored != total:
                raise Failed(f"DB_PUSH_CONFIRM of {name!r} on node {pnn}: {stored} of {total} records", pnn)
        return total

    async def _settle_messages(self) -> None:
        """Wait until every node, this one included, has taken in the messages sent so far, most stored."""
        srvid = self._new_srvid()
        here: Promise[bool] = Promise()
        self._state.listen(srvid, lambda _pnn, _data: here.resolve(True))
        try:
            self._state.send_message(self._state.pnn, srvid, b"")
            if not await self._runner.limit(here, self._timeout_s, False):
                raise Failed("messages to this node itself do not arrive")
            await self.all(self._nodes, Control.PING, is_count=True)
        finally:
            self._end_srvid(srvid)

    # -- asking ----------------------------------------------------------------------------------

    async def all(
        self, nodes: list[int], opcode: Control, data: bytes = b"", *, flags: int = 0, is_count: bool = False
    ) -> Mapping[int, Reply]:
        """Ask every node the same; all must say yes (`is_count`: a status that counts something)."""
        answers = {
            pnn: self._routing.call(pnn, opcode, data, flags=flags, timeout_s=self._timeout_s)
            for pnn in nodes
        }
        replies = {pnn: await answer for pnn, answer in answers.items()}
        for pnn, reply in replies.items():
            if not (reply.is_good or (is_count and reply.status >= 0)):
                text = f"{opcode.name} on node {pnn}: {reply.error or f'status {reply.status}'}"
                # Who is gone is left out next time.
                is_gone = reply.error in (DISCONNECTED, NOT_CONNECTED)
                raise Failed(text, None if is_gone else pnn, is_late=reply.error == TIMED_OUT)
        return replies

    @property
    def _timeout_s(self) -> float:
        return float(self._state.tunables.recover_timeout)

    def _new_srvid(self) -> int:
        self._last_srvid += 1
        return srvid_of_recovery(self._first_srvid + self._last_srvid)

    def _end_srvid(self, srvid: int) -> None:
        self._state.unlisten(srvid)
        self._state.emit(Unlisten(srvid))


def _number(codec: Codec[int], reply: Reply, what: str) -> int:
    try:
        return codec.unpack(reply.data)
    except ProtocolError as error:
        raise Failed(f"a node does not tell {what}: {error}") from error
