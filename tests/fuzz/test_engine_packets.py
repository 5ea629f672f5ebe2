# SPDX-License-Identifier: GPL-3.0-or-later
"""A million mutated and truncated packets, from clients and from node links, into one record engine.

They cause no crash, no memory that grows without bound and no reply with bytes that are nobody's business;
other clients are served all the while. CTDBPY_FUZZ_SEED repeats a run, CTDBPY_FUZZ_PACKETS sets its length.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.store import engine as upcalls
from ctdbpy.store.engine import Engine
from ctdbpy.store.tdb import Tdb
from ctdbpy.wire import packets
from ctdbpy.wire.constants import CallId, DbFlag
from ctdbpy.wire.packets import Packet, ReplyCall, ReplyDmaster, ReplyError, ReqCall, ReqDmaster, ReqMessage
from ctdbpy.wire.records import RecordHeader
from tests.fuzz.mutation import client_packets, mutated, node_packets

SEED = int(os.environ.get("CTDBPY_FUZZ_SEED", "1"))
PACKETS = int(os.environ.get("CTDBPY_FUZZ_PACKETS", "1000000"))
BATCH = 50
NODES = 3
DB, SECRET_DB = 0x2001, 0x7A5C93E1
GENERATION = 7
SECRET = b"nobody else may ever see this one"
#: Beyond what the engine's own limits allow for a moment: buffers, tables, one batch of answers.
GROWTH_MAX = 96 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        assert length >= 32 and length % 8 == 0 and at + length <= len(data)
        yield data[at : at + length]
        at += length


class Target:
    """Node 0 of three, with a well-behaved client, and a secret that some client reads."""

    def __init__(self) -> None:
        self.engine = Engine(0)
        self.now_s = 1.0
        self.generation = GENERATION
        self.engine.set_nodes((0,) * NODES)
        self.engine.set_map(GENERATION, tuple(range(NODES)))
        self.engine.attach_tdb(DB, 0, Tdb.in_memory())
        self.engine.set_flags(DB, DbFlag.READONLY | DbFlag.STICKY, Tdb.in_memory())
        self.engine.attach_tdb(SECRET_DB, 0, Tdb.in_memory())
        self.engine.set_map(GENERATION, (0, 1, 0))
        self.engine.tdb(SECRET_DB).store(b"secret", RecordHeader(5, 0, 0, 0).pack() + SECRET * 30)
        for peer in range(1, NODES):
            self.engine.add_link(100 + peer, peer, outgoing=True)
        self.engine.set_recovery(False)
        self.listener = self.engine.add_client()
        self.engine.register_srvid(self.listener, 0x1234)
        self.engine.register_tunnel(self.listener, 0x4321)
        self.engine.open_traverse(9, self.listener, 0x99, 1)
        self.reqid = 0
        self.seen: set[type[Packet]] = set()
        self.ended = 0

    def read_secret(self) -> None:
        """Fill a client's buffers with what others must not see in theirs."""
        client = self.engine.add_client()
        self.engine.feed_client(
            client, ReqCall(0, 0, 0, 1, 0, SECRET_DB, CallId.FETCH, 0, b"secret").encode()
        )
        assert SECRET in self.engine.take_client(client)
        self.engine.close_client(client, "done")

    def inspect(self, data: bytes) -> None:
        """Whatever leaves is a sound packet, padded with zeros, that says nothing of the secret."""
        assert SECRET[:8] not in data
        for frame in frames(data):
            packet = packets.decode(frame)
            self.seen.add(type(packet))
            if isinstance(packet, ReplyCall | ReplyDmaster | ReqDmaster | ReqMessage):
                assert packet.encode() == frame
            elif isinstance(packet, ReplyError):
                assert not any(frame[36:])

    def from_clients(self, sent: list[bytes]) -> None:
        """Each bad packet comes from a client of its own: it is likely to end it."""
        for packet in sent:
            client = self.engine.add_client()
            self.engine.feed_client(client, packet)
            self.inspect(self.engine.take_client(client))
            self.engine.close_client(client, "done")
        self.turn()

    def from_nodes(self, sent: list[bytes]) -> None:
        for number, packet in enumerate(sent):
            self.engine.add_link(1000 + number, 1 + number % (NODES - 1), outgoing=False)
            self.engine.feed_link(1000 + number, packet)
            self.engine.close_link(1000 + number, "done")
        self.turn()

    def turn(self) -> None:
        self.now_s += 0.001
        self.engine.run(self.now_s)
        for peer in range(1, NODES):
            self.inspect(self.engine.take_link(100 + peer))
        for kind, number, _, data in self.engine.take_upcalls():
            assert SECRET[:8] not in data
            self.ended += kind in (upcalls.CLIENT_CLOSED, upcalls.LINK_CLOSED) and data != b"done"
            if kind == upcalls.REVOKE:
                key, _, _ = upcalls.unpack_revoke(data)
                self.engine.revoked(number, key, True)

    def check_others(self) -> None:
        """The client that behaves is served, whatever the others do."""
        self.reqid += 1
        packet = ReqCall(0, 0, 0, self.reqid, 0, SECRET_DB, CallId.FETCH, 0, b"secret").encode()
        self.inspect(self.engine.take_client(self.listener))
        self.engine.feed_client(self.listener, packet)
        (answer,) = frames(self.engine.take_client(self.listener))
        reply = packets.decode(answer)
        assert isinstance(reply, ReplyCall) and reply.reqid == self.reqid and reply.data == SECRET * 30

    def recover(self) -> None:
        """What the complaints lead to: a new generation, in which nothing old is under way."""
        self.generation += 1
        self.engine.set_recovery(True)
        self.engine.tdb(DB).wipe_all()
        self.engine.set_map(self.generation, (0, 1, 0))
        for db_id in (DB, SECRET_DB):
            self.engine.set_db_generation(db_id, self.generation)
        self.engine.set_recovery(False)
        self.engine.take_deletions(DB, 1 << 20)


@pytest.mark.timeout(300)
def test_a_million_bad_packets_do_no_harm() -> None:
    chance = random.Random(SEED)
    target = Target()
    from_clients = client_packets(DB)
    fed = 0
    before = 0
    while fed < PACKETS:
        if fed % (BATCH * 200) == 0:
            target.recover()
            from_nodes = node_packets(target.generation, DB, NODES)
        target.read_secret()
        target.from_clients([mutated(chance, chance.choice(from_clients), False) for _ in range(BATCH // 2)])
        target.from_nodes([mutated(chance, chance.choice(from_nodes), True) for _ in range(BATCH // 2)])
        target.check_others()
        fed += BATCH
        if fed == 100_000:
            before = resident()
    if before:
        assert resident() - before < GROWTH_MAX
    assert {ReplyCall, ReqCall, ReqMessage, ReplyDmaster} <= target.seen
    assert target.ended > fed // 50
    counters = target.engine.counters_by_name()
    assert counters["client_packets_recv"] + counters["node_packets_recv"] > fed // 2
    target.recover()
    target.now_s += 60
    for _ in range(3):
        target.now_s += 1
        target.turn()
    assert not any(target.engine.queues(DB).values())
