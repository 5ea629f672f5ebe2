# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated local programs: they change records exactly as smbd does, and count what they have done.

A client reads the record in its node's own TDB; if the node is dmaster it adds one to the counter in
it, else it asks the daemon for the record and tries again when the answer comes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import partial

from ctdbpy.core import inputs
from ctdbpy.core.state import Freeze
from ctdbpy.sim.node import SimNode
from ctdbpy.sim.world import World
from ctdbpy.wire import packets
from ctdbpy.wire.codecs import Str0
from ctdbpy.wire.constants import CURRENT_NODE, CallFlag, CallId, RecordFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.records import RecordHeader, db_id_of

THINK_S = (0.0002, 0.01)
FROZEN_RETRY_S = 0.002
COUNTER = struct.Struct("=Q")


@dataclass(slots=True)
class Ledger:
    """What clients have been told is done: for each key the least and the most its counter may be.

    The two part when a node dies: what only it had is gone, what it had sent may still arrive.
    """

    least: dict[bytes, int] = field(default_factory=dict)
    most: dict[bytes, int] = field(default_factory=dict)
    rsn: dict[bytes, int] = field(default_factory=dict)
    changes: int = 0

    def changed(self, key: bytes, counter: int) -> None:
        """A client has added one; the counter is now this."""
        self.least[key] = self.least.get(key, 0) + 1
        self.most[key] = self.most.get(key, 0) + 1
        self.changes += 1
        if not self.least[key] <= counter <= self.most[key]:
            raise AssertionError(
                f"counter of {key!r} is {counter}, {self.least[key]} to {self.most[key]} changes were made"
            )

    def node_died(self, survivors: dict[bytes, int]) -> None:
        """Only what other nodes hold is certain to come back."""
        for key in self.least:
            self.least[key] = min(self.least[key], survivors.get(key, 0))


class Client:
    """One local program on one node."""

    def __init__(self, world: World, node: SimNode, name: str, keys: list[bytes], ledger: Ledger) -> None:
        self._world = world
        self.node = node
        self._keys = keys
        self._ledger = ledger
        self._name = name
        self._db_id = db_id_of(name)
        self._life = node.life
        self._reqid = 0
        self._received = b""
        self._key = b""
        self.is_stopped = False
        self.is_dead = False
        self.client_id = node.records.add_client()
        node.on_client[self.client_id] = self._receive
        node.step(inputs.ClientConnected(self.client_id, 1000 + self.client_id, 0))
        self._control(Control.DB_ATTACH, Str0.pack(name))

    @property
    def lives(self) -> bool:
        """False once its node or its connection is gone."""
        return (
            not self.is_dead
            and self.node.is_up
            and self.node.life == self._life
            and self.client_id in self.node.on_client
        )

    # -- packets ---------------------------------------------------------------------------

    def _control(self, opcode: Control, data: bytes) -> None:
        self._reqid += 1
        self._send(packets.ReqControl(0, CURRENT_NODE, 0, self._reqid, opcode, 0, 0, 0, data))

    def _send(self, packet: packets.Packet) -> None:
        self.node.records.feed_client(self.client_id, packet.encode(padded=False))
        self.node.later(0.0, self.node.work)

    def _receive(self, data: bytes) -> None:
        self._received += data
        while (length := packets.peek_length(self._received)) is not None and len(self._received) >= length:
            packet = packets.decode(self._received[:length])
            self._received = self._received[length:]
            # A program wakes up a moment later; the record may be gone again by then.
            self.node.later(self._world.random.expovariate(20000), partial(self._take, packet))

    def _take(self, packet: packets.Packet) -> None:
        if not self.lives:
            return
        match packet:
            case packets.ReplyControl():
                if packet.status != 0:
                    # The node has left the cluster meanwhile.
                    self.is_dead = True
                    return
                self._next()
            case packets.ReplyCall() if packet.reqid == self._reqid:
                self._try()
            case _:
                pass

    # -- work --------------------------------------------------------------------------------

    def _next(self) -> None:
        if self.is_stopped:
            return
        self._key = self._world.random.choice(self._keys)
        self.node.later(self._world.random.uniform(*THINK_S), self._try)

    def _try(self) -> None:
        if not self.lives:
            return
        database = self.node.node.state.databases[self._db_id]
        if database.freeze is not Freeze.THAWED:
            # The chain is locked: the program hangs in libtdb until the thaw.
            self.node.later(FROZEN_RETRY_S, self._try)
            return
        tdb = self.node.records.tdb(self._db_id)
        record = tdb.fetch(self._key)
        if record is not None and len(record) >= RecordHeader.SIZE:
            header = RecordHeader.unpack(record)
            if header.dmaster == self.node.pnn and not header.flags & RecordFlag.RO_HAVE_DELEGATIONS:
                value = record[RecordHeader.SIZE :]
                counter = (COUNTER.unpack(value)[0] if value else 0) + 1
                tdb.store(self._key, record[: RecordHeader.SIZE] + COUNTER.pack(counter))
                self._ledger.changed(self._key, counter)
                self._next()
                return
        self._reqid += 1
        flags = CallFlag.IMMEDIATE_MIGRATION
        self._send(packets.ReqCall(0, 0, 0, self._reqid, flags, self._db_id, CallId.NULL, 0, self._key, b""))
