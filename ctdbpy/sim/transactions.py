# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated programs that commit transactions to a persistent database, one at a time in the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ctdbpy.sim.clients import COUNTER, FROZEN_RETRY_S, Program
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World
from ctdbpy.wire import packets
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import SEQNUM_KEY, RecBuffer, RecData, RecordHeader

#: Holds the number of the last transaction.
TXN_KEY: Final = b"transaction"
THINK_S: Final = (0.02, 0.3)


class Turn:
    """Whose turn it is: what g_lock does with a record in a volatile database.

    Its holder's end frees it, and so does the cluster when it goes on without the holder's node.
    """

    def __init__(self, is_excluded: Callable[[SimNode], bool]) -> None:
        self._is_excluded = is_excluded
        self._holder: Transactor | None = None

    def take(self, program: Transactor) -> bool:
        """True if it is this program's turn now."""
        holder = self._holder
        if self._is_excluded(program.node):
            return False
        if holder is not None and holder.lives and not self._is_excluded(holder.node):
            return holder is program
        self._holder = program
        return True

    def end(self, program: Transactor) -> None:
        """Let others have it."""
        if self._holder is program:
            self._holder = None


class Transactor(Program):
    """Adds one to a number on every node, as dbwrap's transactions do."""

    def __init__(
        self,
        world: World,
        node: SimNode,
        name: str,
        turn: Turn,
        on_commit: Callable[[SimNode, int], None],
    ) -> None:
        self._turn = turn
        self._on_commit = on_commit
        self._value = 0
        self._is_attached = False
        super().__init__(world, node, name, Control.DB_ATTACH_PERSISTENT)

    def answered(self, packet: packets.ReplyControl | packets.ReplyCall) -> None:
        """Attached, or the commit is done, or it is not: then the number is read again."""
        assert isinstance(packet, packets.ReplyControl)
        if not self._is_attached:
            self._is_attached = packet.status == 0
            self.is_dead = not self._is_attached
        else:
            if packet.status == 0:
                self._on_commit(self.node, self._value)
            self._turn.end(self)
        self._next()

    def _next(self) -> None:
        if not self.is_stopped and not self.is_dead:
            self.later(self.world.random.uniform(*THINK_S), self._try)

    def _try(self) -> None:
        if not self.lives:
            return
        if self.is_stopped:
            self._turn.end(self)
            return
        if self.is_locked_out or not self._turn.take(self):
            self.later(FROZEN_RETRY_S * 5, self._try)
            return
        header, last = self._read(TXN_KEY)
        seqnum_header, seqnum = self._read(SEQNUM_KEY)
        self._value = last + 1
        records = (
            RecData.of(TXN_KEY, header, COUNTER.pack(last + 1)),
            RecData.of(SEQNUM_KEY, seqnum_header, COUNTER.pack(seqnum + 1)),
        )
        self.control(Control.TRANS3_COMMIT, RecBuffer(self.db_id, records).pack(), srvid=self.db_id)

    def _read(self, key: bytes) -> tuple[RecordHeader, int]:
        """The header to store a record with, and the number in it."""
        record = self.node.records.tdb(self.db_id).fetch(key)
        if record is None or len(record) < RecordHeader.SIZE:
            return RecordHeader(1, self.node.pnn), 0
        header = RecordHeader.unpack(record)
        value = record[RecordHeader.SIZE :]
        number = int(COUNTER.unpack(value)[0]) if len(value) == COUNTER.size else 0
        return RecordHeader(header.rsn + 1, self.node.pnn), number
