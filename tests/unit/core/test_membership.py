# SPDX-License-Identifier: GPL-3.0-or-later
"""Links, keepalives, flags of other nodes, and a nodes file that changes."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import Connect, Disconnect, Exit, SendControl, SendKeepalive
from ctdbpy.core.inputs import KeepaliveArrived, LinkDown, LinkUp, NodeAddress, NodesRead
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import NodeFlagChange
from tests.unit.core.fakes import Harness, of_kind, several_nodes

HEALTHY = NodeFlag(0)


def flags(harness: Harness, pnn: int) -> NodeFlag:
    return harness.node.state.nodes[pnn].flags


def linked() -> Harness:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.give(LinkUp(2))
    harness.running_with_all()
    return harness


def test_every_other_node_is_connected_to() -> None:
    harness = Harness(several_nodes(3, pnn=1))
    assert of_kind(harness.effects, Connect) == [Connect(0, "10.0.0.1"), Connect(2, "10.0.0.3")]


def test_a_link_changes_the_nodes_flags() -> None:
    harness = Harness(several_nodes(2))
    assert flags(harness, 1) == NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY
    harness.give(LinkUp(1))
    assert flags(harness, 1) == NodeFlag.UNHEALTHY
    harness.give(LinkUp(9))
    harness.give(LinkDown(1, "reset"))
    harness.give(LinkDown(1, "reset again"))
    assert flags(harness, 1) == NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY
    assert harness.records.flags == (NodeFlag.UNHEALTHY, NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY)


def test_keepalives_go_to_linked_nodes_each_interval() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.records.packets[1] = 1
    assert of_kind(harness.advance(11), SendKeepalive) == [SendKeepalive(1, 5), SendKeepalive(1, 10)]


def test_a_silent_node_is_given_up_and_a_talking_one_is_not() -> None:
    harness = linked()
    given_up: list[Disconnect] = []
    for number in range(6):
        harness.records.packets[2] = number
        given_up += of_kind(harness.advance(5.0), Disconnect)
    assert [each.pnn for each in given_up] == [1]


@pytest.mark.parametrize(
    ("version", "uptime_s", "ends"),
    [
        ((4 << 16) | 17, 100, False),
        ((4 << 16) | 18, 100, True),
        ((4 << 16) | 18, 1, False),
        ((4 << 16) | 18, 10, True),
        ((4 << 16) | 16, 10, False),
        (0, 0, True),
    ],
)
def test_of_two_versions_the_one_that_ran_longer_stays(version: int, uptime_s: int, ends: bool) -> None:
    harness = linked()
    harness.advance(10)
    assert bool(of_kind(harness.give(KeepaliveArrived(1, version, uptime_s)), Exit)) == ends


def test_mixed_versions_may_be_allowed() -> None:
    harness = linked()
    harness.node.state.tunables = harness.node.state.tunables.replaced("AllowMixedVersions", 1)
    assert not of_kind(harness.give(KeepaliveArrived(1, 0, 1000)), Exit)


def test_the_leader_changes_others_flags_but_not_ours() -> None:
    harness = linked()
    for pnn in (0, 1):
        harness.ask(Control.MODIFY_FLAGS, NodeFlagChange(pnn, int(NodeFlag.STOPPED), 0).pack())
    assert (flags(harness, 0), flags(harness, 1)) == (HEALTHY, NodeFlag.STOPPED)
    harness.give(LinkDown(2, "reset"))
    harness.ask(Control.MODIFY_FLAGS, NodeFlagChange(2, 0, 0).pack())
    assert flags(harness, 2) == NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY
    harness.ask(Control.MODIFY_FLAGS, NodeFlagChange(1, 0xFFFFFFC1, 0).pack())
    assert flags(harness, 1) == HEALTHY


def test_a_peer_that_becomes_healthy_while_we_start_means_recovery() -> None:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    harness.ask(Control.MODIFY_FLAGS, NodeFlagChange(1, 0, 2).pack())
    assert "became healthy" in harness.node.state.recovery_wanted


def test_own_flags_are_told_at_once() -> None:
    harness = linked()
    client_id = harness.connect()
    _, effects = harness.send(client_id, Control.DISABLE_NODE)
    told = [each for each in of_kind(effects, SendControl) if each.opcode == Control.MODIFY_FLAGS]
    change = NodeFlagChange(0, int(NodeFlag.PERMANENTLY_DISABLED), 0).pack()
    assert [(each.pnn, each.data) for each in told] == [(1, change), (2, change)]


def test_a_new_nodes_file_connects_and_lets_go() -> None:
    harness = linked()
    before = len(harness.effects)
    nodes = (
        NodeAddress(0, "10.0.0.1"),
        NodeAddress(1, "10.0.0.2", deleted=True),
        NodeAddress(2, "10.0.0.3"),
        NodeAddress(3, "10.0.0.4"),
    )
    harness.nodes_file = NodesRead(0, nodes)
    assert harness.ask(Control.RELOAD_NODES_FILE).status == 0
    effects = harness.effects[before:]
    assert of_kind(effects, Connect) == [Connect(3, "10.0.0.4")]
    assert [(each.pnn, each.forget) for each in of_kind(effects, Disconnect)] == [(1, True)]
    assert flags(harness, 1) == NodeFlag.DISCONNECTED | NodeFlag.DELETED
    assert flags(harness, 2) == HEALTHY
    assert flags(harness, 3) == NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY


@pytest.mark.parametrize(
    "nodes",
    [
        (),
        (NodeAddress(0, "10.0.0.9"),),
        (NodeAddress(0, "10.0.0.1", deleted=True),),
        (NodeAddress(0, "10.0.0.1"), NodeAddress(2, "10.0.0.3")),
    ],
)
def test_a_nodes_file_without_us_is_refused(nodes: tuple[NodeAddress, ...]) -> None:
    harness = linked()
    harness.nodes_file = NodesRead(0, nodes)
    assert harness.ask(Control.RELOAD_NODES_FILE).status == -1
    assert len(harness.node.state.nodes) == 3
