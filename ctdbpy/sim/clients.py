# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated local programs: they change records exactly as smbd does, and say what they have done.

A client reads the record in its node's own TDB; if the node is dmaster it adds one to the counter in
it, else it asks the daemon for the record and tries again when the answer comes. It runs on its
machine: it goes on while the daemon stalls, and hangs in libtdb while a database is locked.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World
from ctdbpy.wire import packets
from ctdbpy.wire.codecs import Str0
from ctdbpy.wire.constants import CURRENT_NODE, CallFlag, CallId, RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader, db_id_of

THINK_S: Final = (0.0002, 0.01)
#: Who needs nobody else's record to go on would make most of all changes.
OWN_THINK_S: Final = (0.01, 0.05)
FROZEN_RETRY_S: Final = 0.002
COUNTER: Final = struct.Struct("=Q")

#: (node, db_id, key, header, counter): a client has changed a record.
OnChange = Callable[[SimNode, int, bytes, RecordHeader, int], None]


class Program(ABC):
    """A local program that is connected to its node's daemon and has one database attached."""

    def __init__(self, world: World, node: SimNode, name: str, attach: Control) -> None:
        self.world = world
        self.node = node
        self.db_id = db_id_of(name)
        self.reqid = 0
        #: Since when an answer is waited for.
        self.asked_s: float | None = None
        self.is_stopped = False
        self.is_dead = False
        self._life = node.life
        self._received = b""
        self._client_id = node.records.add_client()
        node.on_client[self._client_id] = self._receive
        node.step(inputs.ClientConnected(self._client_id, 1000 + self._client_id, 0))
        self.control(attach, Str0.pack(name))

    @property
    def lives(self) -> bool:
        """False once its node or its connection is gone."""
        return (
            not self.is_dead
            and self.node.is_up
            and self.node.life == self._life
            and self._client_id in self.node.on_client
        )

    @property
    def is_locked_out(self) -> bool:
        """The chain is locked: the program hangs in libtdb until the thaw."""
        return self.node.workers.is_locked(self.db_id)

    def control(self, opcode: Control, data: bytes, srvid: int = 0) -> None:
        """Ask the daemon; `answered` gets the reply."""
        self.reqid += 1
        self.send(packets.ReqControl(0, CURRENT_NODE, 0, self.reqid, opcode, srvid, 0, 0, data))

    def send(self, packet: packets.Packet) -> None:
        """Write to the socket; the daemon reads when it can."""
        self.asked_s = self.world.now_s
        self.node.records.feed_client(self._client_id, packet.encode(padded=False))
        self.node.later(0.0, self.node.work)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Go on after so long."""
        self.node.host_later(seconds, act)

    def _receive(self, data: bytes) -> None:
        self._received += data
        while (length := packets.peek_length(self._received)) is not None and len(self._received) >= length:
            packet = packets.decode(self._received[:length])
            self._received = self._received[length:]
            # A program wakes up a moment later; the record may be gone again by then.
            self.later(self.world.random.expovariate(20000), partial(self._take, packet))

    def _take(self, packet: packets.Packet) -> None:
        if not self.lives:
            return
        match packet:
            case packets.ReplyControl() | packets.ReplyCall() if packet.reqid == self.reqid:
                self.asked_s = None
                self.answered(packet)
            case _:
                pass

    @abstractmethod
    def answered(self, packet: packets.ReplyControl | packets.ReplyCall) -> None:
        """The answer to what was asked last."""


class Client(Program):
    """Adds to counters in the records of a volatile database."""

    def __init__(
        self,
        world: World,
        node: SimNode,
        name: str,
        keys: list[bytes],
        on_change: OnChange,
        think_s: tuple[float, float] = THINK_S,
    ) -> None:
        self._keys = keys
        self._think_s = think_s
        self._key = b""
        self._on_change = on_change
        super().__init__(world, node, name, Control.DB_ATTACH)

    def answered(self, packet: packets.ReplyControl | packets.ReplyCall) -> None:
        """Attached, or the record is here (and may be gone again)."""
        if isinstance(packet, packets.ReplyCall):
            self._try()
        elif packet.status != 0:
            # The node has left the cluster meanwhile.
            self.is_dead = True
        else:
            self._next()

    def _next(self) -> None:
        if self.is_stopped:
            return
        self._key = self.world.random.choice(self._keys)
        self.later(self.world.random.uniform(*self._think_s), self._try)

    def _try(self) -> None:
        if not self.lives:
            return
        if self.is_locked_out:
            self.later(FROZEN_RETRY_S, self._try)
            return
        tdb = self.node.records.tdb(self.db_id)
        record = tdb.fetch(self._key)
        if record is not None and len(record) >= RecordHeader.SIZE:
            header = RecordHeader.unpack(record)
            if header.dmaster == self.node.pnn and not header.flags & RecordFlag.RO_HAVE_DELEGATIONS:
                value = record[RecordHeader.SIZE :]
                counter = (COUNTER.unpack(value)[0] if value else 0) + 1
                tdb.store(self._key, record[: RecordHeader.SIZE] + COUNTER.pack(counter))
                self._on_change(self.node, self.db_id, self._key, header, counter)
                self._next()
                return
        self.reqid += 1
        flags = CallFlag.IMMEDIATE_MIGRATION
        self.send(packets.ReqCall(0, 0, 0, self.reqid, flags, self.db_id, CallId.NULL, 0, self._key, b""))
