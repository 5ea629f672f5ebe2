# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls of our own: what a leader and our tools ask, which upstream's daemons refuse."""

from __future__ import annotations

from ctdbpy.core.effects import LookAtConfiguration
from ctdbpy.core.inputs import (
    ClientGone,
    ConfigurationSeen,
    LinkUp,
    NodeAddress,
    NodeSeen,
    PublicAddress,
    Sight,
    TimeElapsed,
)
from ctdbpy.core.procedures import Promise
from ctdbpy.core.requests import Reply
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import INVALID_GENERATION, UNKNOWN_PNN, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import (
    ConfigurationAction,
    ConfigurationRequest,
    Connection,
    DbGeneration,
    DbGenerations,
    ServedConnections,
    SockAddr,
)
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness


def generations(harness: Harness) -> dict[int, int]:
    reply = harness.ask(Control.GET_DB_GENERATIONS)
    assert reply.status == 0
    return {each.db_id: each.generation for each in DbGenerations.unpack(reply.data).entries}


def test_a_node_tells_the_generation_of_each_database() -> None:
    harness = Harness()
    assert generations(harness) == {}
    volatile = harness.attach("locking.tdb")
    persistent = harness.attach("secrets.tdb", Control.DB_ATTACH_PERSISTENT)
    current = harness.node.state.generation
    assert current != INVALID_GENERATION
    assert generations(harness) == {volatile: current, persistent: current}


def test_a_node_that_left_has_no_generation_that_counts() -> None:
    harness = Harness()
    volatile = harness.attach("locking.tdb")
    harness.ask(Control.STOP_NODE)
    assert generations(harness) == {volatile: INVALID_GENERATION}


def test_another_node_may_ask() -> None:
    cluster = Cluster(2)
    cluster.advance(5)
    status, data = cluster.ask(0, Control.DB_ATTACH, b"locking.tdb\0")
    assert status == 0
    db_id = U32.unpack(data)
    routing = cluster.nodes[1].node.rooms.routing
    answer = routing.call(0, Control.GET_DB_GENERATIONS)
    cluster.advance(1)
    current = cluster.nodes[0].node.state.generation
    assert DbGenerations.unpack(answer.result().data).entries == (DbGeneration(db_id, current),)


def test_the_number_of_served_connections_is_told_when_it_is_another_one() -> None:
    cluster = Cluster(2, public_addresses=(PublicAddress("192.0.2.1", 24, ("eth0",)),))
    for harness in cluster.nodes:
        harness.give(harness.host.seen())
    cluster.advance(10)
    state = cluster.nodes[0].node.state
    serving = next(pnn for pnn in range(2) if cluster.nodes[pnn].host.carried)
    asking = cluster.nodes[1 - serving].node.rooms.routing
    assert state.runstate is RunState.RUNNING

    def ask(known: int) -> Promise[Reply]:
        answer = asking.call(serving, Control.GET_CONNECTIONS, U32.pack(known))
        cluster.give(1 - serving, TimeElapsed())
        return answer

    def count(answer: Promise[Reply]) -> int:
        return ServedConnections.unpack(answer.result().data).count

    assert count(ask(7)) == 0
    answer = ask(0)
    assert not answer.done
    ends = Connection(SockAddr("192.0.2.99", 40000), SockAddr("192.0.2.1", 445))
    assert cluster.ask(serving, Control.TCP_CLIENT, ends.pack())[0] == 0
    assert count(answer) == 1
    answer = ask(1)
    cluster.advance(0.9)
    assert not answer.done
    cluster.advance(0.2)
    assert count(answer) == 1
    answer = ask(1)
    (client_id,) = cluster.nodes[serving].node.state.clients
    cluster.give(serving, ClientGone(client_id, "it ends"))
    assert count(answer) == 0


def test_every_node_tells_who_leads_and_that_nobody_does() -> None:
    cluster = Cluster(3)
    leaders = {cluster.ask(pnn, Control.GET_LEADER) for pnn in range(3)}
    assert leaders == {(0, U32.pack(UNKNOWN_PNN))}
    cluster.advance(5)
    leaders = {cluster.ask(pnn, Control.GET_LEADER) for pnn in range(3)}
    ((status, data),) = leaders
    assert status == 0
    assert {each.node.state.leader for each in cluster.nodes} == {U32.unpack(data)} <= {0, 1, 2}


def test_a_configuration_is_looked_at_beside_what_runs() -> None:
    harness = Harness(public_addresses=(PublicAddress("10.1.0.1", 24, ("eth0",)),))
    asked = ConfigurationRequest(ConfigurationAction.CHECK, "nodes: []").pack()
    reqid, effects = harness.send(harness.connect(), Control.CONFIGURE, asked)
    (look,) = (each for each in effects if isinstance(each, LookAtConfiguration))
    assert (look.action, look.text) == (ConfigurationAction.CHECK, "nodes: []")
    assert look.nodes == (NodeAddress(0, "10.0.0.1"),)
    assert look.public_addresses == (PublicAddress("10.1.0.1", 24, ("eth0",)),)
    assert look.tunables == harness.node.state.tunables
    assert harness.replies(effects, reqid) == []
    (reply,) = harness.replies(harness.give(ConfigurationSeen(look.look_id, b"report")), reqid)
    assert (reply.status, reply.data) == (0, b"report")


def test_nodes_whose_heartbeats_do_not_come_are_named() -> None:
    harness = Harness(nodes=tuple(NodeAddress(pnn, f"10.0.0.{pnn + 1}") for pnn in range(3)))
    for pnn in (1, 2):
        harness.give(LinkUp(pnn))
    harness.give(NodeSeen(1, Sight.LIVE, "a heartbeat came"))
    _reqid, effects = harness.send(harness.connect(), Control.CONFIGURE, ConfigurationRequest(0).pack())
    (look,) = (each for each in effects if isinstance(each, LookAtConfiguration))
    assert look.unheard == (2,)


def test_an_action_that_does_not_exist_is_refused() -> None:
    harness = Harness()
    reply = harness.ask(Control.CONFIGURE, ConfigurationRequest(3).pack())
    assert (reply.status, reply.error) == (-1, "there is no action 3 on a configuration")
    assert not any(isinstance(each, LookAtConfiguration) for each in harness.effects)
