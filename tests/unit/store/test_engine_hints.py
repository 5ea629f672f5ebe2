# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a node asks for a record: whoever it gave it to, or the lmaster where that has often been in vain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ctdbpy.store.engine import Engine
from ctdbpy.store.tdb import Tdb, jenkins_hash
from ctdbpy.wire.constants import CallFlag, CallId, DbFlag
from ctdbpy.wire.packets import Packet, ReplyDmaster, ReqCall, ReqDmaster
from tests.unit.store.network import DB, GENERATION, Network, call, decoded, frames, record, single

OUT, IN = 100, 200
#: So often the record must not have been where it was supposed to be.
DOUBTED = 6


def key_of(lmaster: int, nodes: int = 3) -> bytes:
    return next(b"k%d" % n for n in range(1000) if jenkins_hash(b"k%d" % n) % nodes == lmaster)


KEY = key_of(1)


def third() -> Engine:
    """Node 0 of three, linked to nodes 1 and 2 that are played by the test."""
    engine = single(nodes=3)
    for peer in (1, 2):
        engine.add_link(OUT + peer, peer, outgoing=True)
        engine.add_link(IN + peer, peer, outgoing=False)
    engine.set_tunables((("RecordHoldUs", 0),))
    return engine


def said(engine: Engine) -> dict[int, list[Packet]]:
    return {peer: packets for peer in (1, 2) if (packets := decoded(engine.take_link(OUT + peer)))}


def asks(engine: Engine, former: int, flags: int = 0) -> int:
    """Which node is asked for a record given to node 2; its lmaster then says that `former` had it."""
    engine.tdb(DB).store(KEY, record(3, 2))
    client = engine.add_client()
    engine.feed_client(client, call(KEY, flags=CallFlag.IMMEDIATE_MIGRATION | flags))
    ((asked, (packet,)),) = said(engine).items()
    assert isinstance(packet, ReqCall) and (packet.destnode, packet.hopcount) == (asked, 0)
    reply = ReplyDmaster(GENERATION, 0, 1, packet.reqid, DB, 4, KEY, b"", 0, former)
    engine.feed_link(IN + 1, reply.encode())
    assert len(decoded(engine.take_client(client))) == 1
    engine.close_client(client, "done")
    engine.run(1.0)
    return asked


def test_the_lmaster_is_asked_once_others_have_been_asked_in_vain_often() -> None:
    engine = third()
    assert [asks(engine, former=2) for _ in range(DOUBTED + 2)] == [2] * DOUBTED + [1, 1]


def test_whoever_was_given_the_record_is_asked_again_once_it_would_have_been_there() -> None:
    engine = third()
    for _ in range(DOUBTED + 20):
        asks(engine, former=2)
    assert [asks(engine, former=3) for _ in range(4)] == [1, 1, 2, 2]


@pytest.mark.parametrize("former", [0, 1, 4, 99, 0xFFFFFFFF])
def test_what_names_no_other_node_says_nothing(former: int) -> None:
    engine = third()
    assert [asks(engine, former) for _ in range(DOUBTED + 2)] == [2] * (DOUBTED + 2)


def test_an_lmaster_without_a_link_is_not_asked_first() -> None:
    engine = third()
    for _ in range(DOUBTED):
        asks(engine, former=2)
    engine.close_link(OUT + 1, "cut")
    engine.run(1.0)
    assert asks(engine, former=2) == 2


def test_who_only_wants_to_read_asks_whom_the_copy_is_of() -> None:
    engine = third()
    engine.set_flags(DB, DbFlag.READONLY, Tdb.in_memory())
    for _ in range(DOUBTED):
        asks(engine, former=2)
    assert asks(engine, former=2, flags=CallFlag.WANT_READONLY) == 2
    assert asks(engine, former=2) == 1


def test_the_lmaster_tells_who_had_the_record() -> None:
    engine, key = third(), key_of(0)
    engine.tdb(DB).store(key, record(3, 1, b"old"))
    engine.feed_link(IN + 1, ReqDmaster(GENERATION, 0, 1, 8, DB, 4, 2, key, b"new").encode())
    assert said(engine) == {2: [ReplyDmaster(GENERATION, 2, 0, 8, DB, 4, key, b"new", 0, former=2)]}
    engine.tdb(DB).store(key, record(5, 0, b"own"))
    engine.feed_link(IN + 2, ReqCall(GENERATION, 0, 2, 9, 1, DB, CallId.NULL, 0, key).encode())
    assert said(engine) == {2: [ReplyDmaster(GENERATION, 2, 0, 9, DB, 5, key, b"own", 0x10000, former=1)]}


class Counted(Network):
    """Wires that count what they carry."""

    packets = 0

    def carry(self, data: bytes) -> bytes:
        self.packets += sum(1 for _ in frames(data))
        return data


@pytest.mark.parametrize(
    ("path", "packets"),
    [
        # Two to the lmaster's node, two from there on, four past it.
        pytest.param((0, 1, 2), 8, id="round"),
        pytest.param((2, 1, 0), 8, id="round the other way"),
        # The one who had it is asked, and what it gives goes by way of the lmaster.
        pytest.param((0, 2), 6, id="to and fro past the lmaster"),
        pytest.param((0, 1), 4, id="to and fro between the lmaster and another"),
    ],
)
def test_a_record_that_goes_always_the_same_way_takes_as_few_packets_as_it_can(
    path: Sequence[int], packets: int
) -> None:
    network = Counted(1, hold_us=0)
    # Of an empty record nobody keeps a copy that says where it went.
    network.nodes[1].tdb.store(KEY, record(1, 1, b"data"))
    clients = [node.engine.add_client() for node in network.nodes]

    def go_round() -> int:
        before = network.packets
        for pnn in path:
            node = network.nodes[pnn]
            node.engine.feed_client(clients[pnn], call(KEY, flags=CallFlag.IMMEDIATE_MIGRATION))
            network.settle()
            assert len(decoded(node.engine.take_client(clients[pnn]))) == 1
            header = node.header(KEY)
            assert header is not None and header.dmaster == pnn
        return network.packets - before

    rounds = [go_round() for _ in range(20)]
    assert rounds[10:] == [packets] * 10, rounds
