# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients' connections to public addresses: who knows them, and who wakes them."""

from __future__ import annotations

from typing import Any

import pytest

from ctdbpy.core.effects import AnnounceAddress, Effect, SendControl
from ctdbpy.core.failover import connections
from ctdbpy.core.inputs import LinkDown, LinkUp, NodeControlArrived, PublicAddress
from ctdbpy.wire.constants import ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.structures import Connection, PublicIp, SockAddr, TickleList
from tests.unit.core.fakes import Harness, of_kind, several_nodes

ONE, TWO = "192.0.2.1", "192.0.2.2"
MAPPED = Connection(SockAddr("::ffff:198.51.100.7", 50000), SockAddr("::ffff:192.0.2.1", 445))


def tcp(client_port: int = 50000, port: int = 445, address: str = ONE) -> Connection:
    return Connection(SockAddr("198.51.100.7", client_port), SockAddr(address, port))


def member() -> Harness:
    """A running node of three, with one address here and one on node 1."""
    lines = tuple(PublicAddress(each, 24, ("eth0",)) for each in (ONE, TWO))
    harness = Harness(several_nodes(3, public_addresses=lines))
    for pnn in (1, 2):
        harness.give(LinkUp(pnn))
    harness.running_with_all()
    assert harness.ask(Control.TAKEOVER_IP, PublicIp(0, SockAddr(ONE)).pack()).status == 0
    assert harness.ask(Control.RELEASE_IP, PublicIp(1, SockAddr(TWO)).pack()).status == 0
    harness.effects.clear()
    return harness


def tickles(harness: Harness, address: str = ONE, port: int = 0) -> list[Connection]:
    reply = harness.ask(Control.GET_TCP_TICKLE_LIST, SockAddr(address, port).pack())
    return list(TickleList.unpack(reply.data).connections)


def told(effects: list[Effect], opcode: Control) -> list[Any]:
    """(node, data) of what other nodes were told."""
    sent = of_kind(effects, SendControl)
    return [(each.pnn, each.data) for each in sent if each.opcode == opcode]


def from_node(harness: Harness, opcode: Control, data: bytes, pnn: int = 1) -> list[Effect]:
    control = ReqControl(
        generation=0,
        destnode=0,
        srcnode=pnn,
        reqid=5,
        opcode=opcode,
        srvid=0,
        client_id=0,
        flags=int(ControlFlag.NOREPLY),
        data=data,
    )
    return harness.give(NodeControlArrived(pnn, control))


def test_all_nodes_hear_of_a_connection_at_once() -> None:
    harness = member()
    assert harness.ask(Control.TCP_CLIENT, MAPPED.pack()).status == 0
    assert told(harness.effects, Control.TCP_ADD) == [(1, tcp().pack()), (2, tcp().pack())]
    assert tickles(harness) == [tcp()]
    assert tickles(harness, port=445) == [tcp()]
    assert tickles(harness, port=139) == []


def test_a_connection_to_an_address_that_is_elsewhere_has_to_end() -> None:
    harness = member()
    assert harness.ask(Control.TCP_CLIENT, tcp(address=TWO).pack()).status == -1
    assert harness.ask(Control.TCP_CLIENT, tcp(address="203.0.113.1").pack()).status == 0
    assert told(harness.effects, Control.TCP_ADD) == []


@pytest.mark.parametrize(
    ("how", "stays"), [("closed", False), ("gone", False), ("passed", True), ("passed and gone", True)]
)
def test_a_connection_is_forgotten_when_it_has_ended(how: str, stays: bool) -> None:
    harness = member()
    client = harness.connect(9)
    harness.ask(Control.TCP_CLIENT, tcp().pack(), client_id=client)
    if how == "closed":
        assert harness.ask(Control.TCP_CLIENT_DISCONNECTED, tcp().pack(), client_id=client).status == 0
        assert harness.ask(Control.TCP_CLIENT_DISCONNECTED, tcp().pack(), client_id=client).status == -1
    if "passed" in how:
        assert harness.ask(Control.TCP_CLIENT_PASSED, tcp().pack(), client_id=client).status == 0
    if "gone" in how:
        harness.hang_up(client)
    assert tickles(harness) == ([tcp()] if stays else [])


def test_connections_of_programs_that_end_with_the_release_are_the_next_nodes_to_wake() -> None:
    harness = member()
    client = harness.connect(9)
    harness.ask(Control.TCP_CLIENT, tcp().pack(), client_id=client)
    harness.host.is_held = True
    harness.send(client, Control.RELEASE_IP, PublicIp(1, SockAddr(ONE)).pack())
    harness.hang_up(client)
    harness.release_deeds()
    assert tickles(harness) == [tcp()]


def test_who_takes_an_address_wakes_its_clients_and_they_come_anew() -> None:
    harness = member()
    harness.node.rooms.connections.add(tcp(address=TWO), tell_later=False)
    harness.ask(Control.TAKEOVER_IP, PublicIp(0, SockAddr(TWO)).pack())
    assert of_kind(harness.effects, AnnounceAddress) == [AnnounceAddress(TWO, "eth0", (tcp(address=TWO),))]
    assert tickles(harness, TWO) == []


def test_a_client_that_comes_while_the_address_is_being_put_is_known() -> None:
    harness = member()
    harness.node.rooms.connections.add(tcp(1, address=TWO), tell_later=False)
    harness.host.is_held = True
    client = harness.connect(9)
    harness.send(client, Control.TAKEOVER_IP, PublicIp(0, SockAddr(TWO)).pack())
    assert harness.ask(Control.TCP_CLIENT, tcp(2, address=TWO).pack()).status == 0
    harness.release_deeds()
    woken = [each.connections for each in of_kind(harness.effects, AnnounceAddress)]
    assert woken == [(tcp(1, address=TWO),)], "it came to this node: nobody has to wake it"
    assert tickles(harness, TWO) == [tcp(2, address=TWO)]


def test_changed_lists_are_told_now_and_then_and_all_to_a_node_that_starts() -> None:
    harness = member()
    for port in (1, 2, 3):
        harness.ask(Control.TCP_ADD_DELAYED_UPDATE, tcp(port).pack())
    harness.ask(Control.TCP_REMOVE, tcp(2).pack())
    assert told(harness.effects, Control.SET_TCP_TICKLE_LIST) == []
    whole = TickleList(SockAddr(ONE), (tcp(1), tcp(3))).pack()
    effects = harness.advance(20.1)
    assert told(effects, Control.SET_TCP_TICKLE_LIST) == [(1, whole), (2, whole)]
    assert told(harness.advance(60), Control.SET_TCP_TICKLE_LIST) == []
    effects = from_node(harness, Control.STARTUP, b"")
    assert told(effects, Control.SET_TCP_TICKLE_LIST) == [(1, whole), (2, whole)]


def test_who_was_out_of_reach_is_told_of_connections_made_meanwhile() -> None:
    harness = member()
    harness.give(LinkDown(2, "cut"))
    harness.ask(Control.TCP_ADD, tcp(1).pack())
    effects = harness.give(LinkUp(2))
    whole = TickleList(SockAddr(ONE), (tcp(1),)).pack()
    assert told(effects, Control.SET_TCP_TICKLE_LIST) == [(2, whole)]


def test_a_list_from_elsewhere_replaces_what_is_known_of_an_address_that_is_not_here() -> None:
    harness = member()
    for address in (ONE, TWO):
        harness.ask(Control.TCP_ADD, tcp(1, address=address).pack())
        from_node(harness, Control.SET_TCP_TICKLE_LIST, TickleList(SockAddr(address), (MAPPED,)).pack())
    assert tickles(harness, ONE) == [tcp(1)]
    assert tickles(harness, TWO) == [tcp()]
    unknown = harness.ask(Control.SET_TCP_TICKLE_LIST, TickleList(SockAddr("203.0.113.1")).pack())
    assert unknown.status == 1
    assert harness.ask(Control.TCP_ADD, tcp(address="203.0.113.1").pack()).status == -1
    assert harness.ask(Control.TCP_REMOVE, tcp(address="203.0.113.1").pack()).status == 0


def test_tables_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ADDRESS_MAX", 3)
    monkeypatch.setattr(connections, "CLIENT_MAX", 2)
    harness = member()
    for port in range(2):
        assert harness.ask(Control.TCP_CLIENT, tcp(port).pack()).status == 0
    assert harness.ask(Control.TCP_CLIENT, tcp(9).pack()).status == -1
    assert harness.ask(Control.TCP_ADD, tcp(3).pack()).status == 0
    assert harness.ask(Control.TCP_ADD, tcp(3).pack()).status == 0
    assert harness.ask(Control.TCP_ADD, tcp(4).pack()).status == -1
    many = TickleList(SockAddr(TWO), tuple(tcp(port) for port in range(10)))
    from_node(harness, Control.SET_TCP_TICKLE_LIST, many.pack())
    assert len(tickles(harness, TWO)) == 3
