# SPDX-License-Identifier: GPL-3.0-or-later
"""Record engines joined by wires that deliver in random order between pairs, from one seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ctdbpy.store import engine as upcalls
from ctdbpy.store.engine import Engine
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire import packets
from ctdbpy.wire.constants import CallFlag, CallId, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import Packet, ReqCall
from ctdbpy.wire.records import RecBuffer, RecordHeader

DB = 0x1001
GENERATION = 7
MAGIC = 0x43544442

HAVE_DELEGATIONS = 0x01000000
HAVE_READONLY = 0x02000000


def frames(data: bytes) -> Iterator[bytes]:
    """The packets in bytes from an engine; every one whole, padded to 8, with the right magic."""
    at = 0
    while at < len(data):
        length, magic, version = struct.unpack_from("=III", data, at)
        assert length >= 32 and length % 8 == 0 and at + length <= len(data)
        assert magic == MAGIC and version == 1
        yield data[at : at + length]
        at += length


def decoded(data: bytes) -> list[Packet]:
    """The same, understood."""
    return [packets.decode(frame) for frame in frames(data)]


def record(rsn: int, dmaster: int, data: bytes = b"", flags: int = 0) -> bytes:
    """A record as it is stored."""
    return RecordHeader(rsn, dmaster, 0, flags).pack() + data


def call(
    key: bytes,
    callid: CallId = CallId.NULL,
    *,
    flags: int = 0,
    reqid: int = 1,
    db_id: int = DB,
    padded: bool = False,
) -> bytes:
    """A call as Samba sends it."""
    return ReqCall(0, 0, 0, reqid, flags, db_id, callid, 0, key).encode(padded=padded)


def single(tdb: Tdb | None = None, *, nodes: int = 1, pnn: int = 0) -> Engine:
    """An engine that serves one database, alone or with others that are not there."""
    engine = Engine(pnn)
    engine.set_nodes((0,) * nodes)
    engine.set_map(GENERATION, tuple(range(nodes)))
    engine.attach_tdb(DB, 0, tdb or Tdb.in_memory())
    engine.set_recovery(False)
    engine.run(1.0)
    return engine


@dataclass(slots=True)
class Revoke:
    """A revocation that this node's core has under way."""

    key: bytes
    left: set[int]
    good: bool = True


@dataclass(slots=True)
class Node:
    """An engine, its one database, and the part of the core that revoking needs."""

    pnn: int
    engine: Engine
    tdb: Tdb
    controls: dict[int, Revoke] = field(default_factory=dict)
    next_reqid: int = 1
    complaints: list[str] = field(default_factory=list)

    def header(self, key: bytes) -> RecordHeader | None:
        """The header of a record as stored here."""
        stored = self.tdb.fetch(key)
        return RecordHeader.unpack(stored) if stored is not None and len(stored) >= 24 else None


class Network:
    """Nodes on virtual time; `step` does one random thing, `settle` everything that is left to do."""

    def __init__(self, seed: int, count: int = 3, *, readonly: bool = False, hold_us: int = 500) -> None:
        self.random = random.Random(seed)
        self.now_s = 1.0
        self.generation = GENERATION
        self.wires: dict[tuple[int, int], bytearray] = {}
        self.refuse_updates = False
        self.nodes = [self._node(pnn, count, readonly, hold_us) for pnn in range(count)]

    def _node(self, pnn: int, count: int, readonly: bool, hold_us: int) -> Node:
        engine, tdb = Engine(pnn), Tdb.in_memory()
        engine.set_nodes((0,) * count)
        engine.set_tunables((("RecordHoldUs", hold_us),))
        engine.set_map(self.generation, tuple(range(count)))
        engine.attach_tdb(DB, 0, tdb)
        if readonly:
            engine.set_flags(DB, DbFlag.READONLY, Tdb.in_memory())
        for peer in range(count):
            if peer != pnn:
                engine.add_link(100 + peer, peer, outgoing=True)
                engine.add_link(200 + peer, peer, outgoing=False)
                self.wires[pnn, peer] = bytearray()
        engine.set_recovery(False)
        return Node(pnn, engine, tdb)

    # -- moving bytes ------------------------------------------------------------------

    def run(self, node: Node) -> None:
        """One turn of a node: due work, output to the wires, upcalls to what stands for the core."""
        node.engine.run(self.now_s)
        for kind, number, second, data in node.engine.take_upcalls():
            self._upcall(node, kind, number, second, data)
        for peer in range(len(self.nodes)):
            if peer != node.pnn:
                self.wires[node.pnn, peer] += self.carry(node.engine.take_link(100 + peer))

    def carry(self, data: bytes) -> bytes:
        """What of this the wire takes; a faithful one takes everything."""
        return data

    def deliver(self, source: int, target: int, size: int | None = None) -> None:
        """Let some bytes arrive."""
        wire = self.wires[source, target]
        part = bytes(wire[: size if size is not None else len(wire)])
        del wire[: len(part)]
        node = self.nodes[target]
        node.engine.run(self.now_s)
        node.engine.feed_link(200 + source, part)
        self.run(node)

    @property
    def filled(self) -> list[tuple[int, int]]:
        """The wires with something on them."""
        return [ends for ends, wire in self.wires.items() if wire]

    def step(self) -> bool:
        """Let something arrive, or time pass; False when nothing is left that would happen by itself."""
        self.now_s += self.random.choice((0.0, 0.000005, 0.00002, 0.0001))
        filled = self.filled
        if filled:
            source, target = self.random.choice(filled)
            whole = len(self.wires[source, target])
            self.deliver(source, target, self.random.choice((whole, self.random.randint(1, whole))))
            return True
        deadlines = [d for node in self.nodes if (d := node.engine.deadline_s) is not None]
        if not deadlines:
            return False
        self.now_s = max(self.now_s, min(deadlines))
        for node in self.nodes:
            self.run(node)
        return True

    def settle(self, limit: int = 100_000) -> None:
        """Go on until nothing moves any more."""
        for node in self.nodes:
            self.run(node)
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError("the engines do not come to rest")

    def renew_generation(self) -> None:
        """What a recovery does to the engines: stop, merge (highest rsn wins), a new map, go on."""
        for node in self.nodes:
            node.engine.set_recovery(True)
            node.engine.set_frozen(DB, True)
        best: dict[bytes, bytes] = {}
        for node in self.nodes:
            for key, stored in node.tdb.traverse():
                if key not in best or RecordHeader.unpack(best[key]).rsn < RecordHeader.unpack(stored).rsn:
                    best[key] = stored
        leader = self.random.randrange(len(self.nodes))
        self.generation += 1
        for node in self.nodes:
            node.tdb.wipe_all()
            for key, stored in best.items():
                header = RecordHeader.unpack(stored)
                flags = header.flags & ~0x0F000000 | 0x00010000
                # The store rule: the next recovery knows the owner's version from the others.
                rsn = header.rsn + (node.pnn == leader)
                node.tdb.store(key, RecordHeader(rsn, leader, 0, flags).pack() + stored[24:])
            node.controls.clear()
        order = list(self.nodes)
        self.random.shuffle(order)
        for node in order:
            node.engine.set_map(self.generation, tuple(range(len(self.nodes))))
            node.engine.set_db_generation(DB, self.generation)
            node.engine.set_frozen(DB, False)
            node.engine.set_recovery(False)
            self.run(node)

    # -- what stands for the core ------------------------------------------------------------

    def _upcall(self, node: Node, kind: int, number: int, second: int, data: bytes) -> None:
        if kind == upcalls.REVOKE:
            assert second == self.generation
            key, pnns, buffer = upcalls.unpack_revoke(data)
            reqid, node.next_reqid = node.next_reqid, node.next_reqid + 1
            node.controls[reqid] = Revoke(key, set(pnns))
            for pnn in pnns:
                node.engine.send_control(pnn, reqid, Control.UPDATE_RECORD, 0, 0, 0, buffer)
        elif kind == upcalls.NODE_CONTROL:
            control = packets.decode(data)
            assert isinstance(control, packets.ReqControl) and control.opcode == Control.UPDATE_RECORD
            status = -1 if self.refuse_updates else self.update(node, control.data)
            node.engine.reply_node(number, control.reqid, status)
        elif kind == upcalls.NODE_REPLY:
            reply = packets.decode(data)
            assert isinstance(reply, packets.ReplyControl)
            revoke = node.controls.get(reply.reqid)
            if revoke is None:
                return
            revoke.left.discard(number)
            revoke.good = revoke.good and reply.status == 0
            if not revoke.left:
                del node.controls[reply.reqid]
                node.engine.revoked(DB, revoke.key, revoke.good)
        elif kind == upcalls.COMPLAINT:
            node.complaints.append(data.decode())

    def update(self, node: Node, data: bytes) -> int:
        """UPDATE_RECORD of a volatile database: only what exists, and never an older version."""
        for update in RecBuffer.unpack(data).records:
            stored = node.tdb.fetch(update.key)
            if stored is None:
                continue
            old, new = RecordHeader.unpack(stored), update.header
            if old.rsn >= new.rsn:
                # Sent before a recovery it may arrive after it, and must not replace what is newer.
                if stored[24:] != update.value:
                    return -1
                continue
            node.tdb.store(update.key, update.data)
        return 0


@dataclass(slots=True)
class Client:
    """A program that increments counters as Samba would, or reads them, one call at a time."""

    network: Network
    node: Node
    id: int
    reqid: int = 0
    key: bytes | None = None
    reads: bool = False
    waits: bool = False
    oldest: int = 0
    done: int = 0


class Counting:
    """Clients on all nodes increment records; what they saw is held against what was done."""

    def __init__(self, network: Network, clients: int, keys: int, *, readers: int = 0) -> None:
        self.network = network
        self.keys = [b"key%d" % number for number in range(keys)]
        self.count = dict.fromkeys(self.keys, 0)
        self.rsn = dict.fromkeys(self.keys, 0)
        self.clients: list[Client] = []
        for node in network.nodes:
            for number in range(clients + readers):
                client_id = node.engine.add_client()
                self.clients.append(Client(network, node, client_id, reads=number >= clients))

    def work(self, operations: int) -> None:
        """Have this many operations done, then let everything come to rest."""
        random = self.network.random
        wanted = sum(client.done for client in self.clients) + operations
        for _ in range(operations * 200):
            begin = sum(client.done for client in self.clients) < wanted
            client = random.choice(self.clients)
            self.advance(client, begin)
            if random.random() < 0.7:
                self.network.step()
            if not begin and not any(client.key for client in self.clients):
                break
        else:
            stuck = [client for client in self.clients if client.key]
            raise AssertionError(f"{len(stuck)} clients wait for ever, first {stuck[0]}")
        self.network.settle()

    def advance(self, client: Client, begin: bool) -> None:
        """Go one step on with what a client does."""
        engine = client.node.engine
        for packet in decoded(engine.take_client(client.id)):
            assert isinstance(packet, packets.ReplyCall), packet
            assert packet.reqid == client.reqid and packet.status == 0 and client.waits
            client.waits = False
            if client.reads and client.key is not None:
                value = int.from_bytes(packet.data, "little")
                assert client.oldest <= value <= self.count[client.key], f"{client}: read {value}"
                client.key = None
                client.done += 1
        if client.waits:
            return
        if client.key is None:
            if not begin:
                return
            client.key = self.network.random.choice(self.keys)
        if client.reads:
            self._read(client, client.key)
        else:
            self._increment(client, client.key)

    def _increment(self, client: Client, key: bytes) -> None:
        header = client.node.header(key)
        if header is None or header.dmaster != client.node.pnn or header.flags & HAVE_DELEGATIONS:
            self._call(client, key, CallId.NULL, CallFlag.IMMEDIATE_MIGRATION)
            return
        stored = client.node.tdb.fetch(key)
        assert stored is not None
        value = int.from_bytes(stored[24:], "little")
        assert value == self.count[key], f"{key!r} on node {client.node.pnn}: {value}, not {self.count[key]}"
        assert header.rsn >= self.rsn[key], "rsn fell"
        self.rsn[key] = header.rsn
        self.count[key] = value + 1
        client.node.tdb.store(key, stored[:24] + (value + 1).to_bytes(8, "little"))
        client.key = None
        client.done += 1

    def _read(self, client: Client, key: bytes) -> None:
        header = client.node.header(key)
        if header is not None and (header.dmaster == client.node.pnn or header.flags & HAVE_READONLY):
            stored = client.node.tdb.fetch(key)
            assert stored is not None
            value = int.from_bytes(stored[24:], "little")
            assert value == self.count[key], f"stale copy of {key!r} on node {client.node.pnn}"
            client.key = None
            client.done += 1
            return
        client.oldest = self.count[key]
        flags = CallFlag.WANT_READONLY if header is not None else CallFlag(0)
        self._call(client, key, CallId.FETCH, flags)

    def _call(self, client: Client, key: bytes, callid: CallId, flags: CallFlag) -> None:
        client.reqid += 1
        client.waits = True
        client.node.engine.feed_client(client.id, call(key, callid, flags=flags, reqid=client.reqid))
        self.network.run(client.node)

    def check_rest(self) -> None:
        """After everything came to rest: one dmaster for each record, its data right, nothing waits."""
        for key in self.keys:
            owners = [
                node for node in self.network.nodes if (h := node.header(key)) and h.dmaster == node.pnn
            ]
            if self.count[key]:
                assert len(owners) == 1, (key, [node.header(key) for node in self.network.nodes])
            for node in owners:
                stored = node.tdb.fetch(key)
                assert stored is not None
                assert int.from_bytes(stored[24:], "little") == self.count[key]
        for node in self.network.nodes:
            assert not any(node.engine.queues(DB).values()), node.engine.queues(DB)
            counters = node.engine.counters_by_name()
            assert counters["pending_calls"] == 0
            assert counters["locks.num_pending"] == counters["locks.num_current"] == 0
