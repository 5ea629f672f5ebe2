# SPDX-License-Identifier: GPL-3.0-or-later
"""What a leader learns by looking is old when the last answer comes: what happened meanwhile counts."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import Effect, SendControl
from ctdbpy.core.inputs import LinkDown, LinkUp, NodeAddress, NodeControlArrived, NodesRead, ReplyArrived
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import Capability, NodeFlag, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReplyControl, ReqControl
from ctdbpy.wire.structures import NodeEntry, NodeFlagChange, NodeMap, SockAddr, VnnMap
from tests.unit.core.fakes import Harness, of_kind, several_nodes

WELL = NodeFlag(0)


class Looking:
    """A leader of three nodes that has asked the others, and gets answers only when it is told so."""

    def __init__(self) -> None:
        self.harness = Harness(several_nodes(3))
        self.harness.give(LinkUp(1))
        self.harness.give(LinkUp(2))
        state = self.harness.running_with_all()
        state.capabilities = Capability.DEFAULT
        self.effects: list[Effect] = self.harness.advance(15)
        assert state.is_leader

    def asked(self, pnn: int) -> dict[int, int]:
        """By opcode: request id of what a node was asked last."""
        sent = [each for each in of_kind(self.effects, SendControl) if each.pnn == pnn and each.reqid]
        return {each.opcode: each.reqid for each in sent}

    def answer(self, pnn: int) -> None:
        """A node says that all are well."""
        state = self.harness.node.state
        nodes = NodeMap(tuple(NodeEntry(node.pnn, 0, SockAddr(node.address)) for node in state.nodes))
        answers = {
            Control.GET_NODEMAP: (0, nodes.pack()),
            Control.GET_RECMODE: (int(RecoveryMode.NORMAL), b""),
            Control.GETVNNMAP: (0, VnnMap(state.generation, state.lmasters).pack()),
            Control.GET_CAPABILITIES: (0, U32.pack(Capability.DEFAULT)),
        }
        asked = self.asked(pnn)
        for opcode, (status, data) in answers.items():
            reply = ReplyControl(0, 0, pnn, asked[opcode], status, data, "")
            self.effects += self.harness.give(ReplyArrived(pnn, reply))

    def told(self) -> list[NodeFlagChange]:
        """Flags that others were told."""
        sent = [each for each in of_kind(self.effects, SendControl) if each.opcode == Control.MODIFY_FLAGS]
        return [NodeFlagChange.unpack(each.data) for each in sent]


@pytest.fixture
def looking() -> Looking:
    found = Looking()
    assert Control.GET_NODEMAP in found.asked(1)
    return found


def flags(looking: Looking, pnn: int) -> NodeFlag:
    return looking.harness.node.state.nodes[pnn].flags


def test_a_link_that_broke_meanwhile_stays_broken(looking: Looking) -> None:
    looking.answer(1)
    looking.harness.give(LinkDown(1, "reset"))
    looking.answer(2)
    assert flags(looking, 1) & NodeFlag.DISCONNECTED


def test_what_a_node_says_of_itself_meanwhile_counts(looking: Looking) -> None:
    looking.answer(1)
    change = NodeFlagChange(1, int(NodeFlag.BANNED), 0).pack()
    control = ReqControl(0, 0, 1, 1, Control.MODIFY_FLAGS, 0, 0, 1, change)
    looking.harness.give(NodeControlArrived(1, control))
    looking.answer(2)
    assert flags(looking, 1) == NodeFlag.BANNED


def test_own_flags_that_changed_meanwhile_are_not_told_as_they_were(looking: Looking) -> None:
    looking.answer(1)
    before = len(looking.told())
    client_id = looking.harness.connect()
    looking.effects += looking.harness.send(client_id, Control.DISABLE_NODE)[1]
    looking.answer(2)
    told = [each.new_flags for each in looking.told()[before:] if each.pnn == 0]
    assert told
    assert set(told) == {int(NodeFlag.PERMANENTLY_DISABLED)}


def test_a_nodes_file_that_lost_a_node_meanwhile_is_looked_at_again(looking: Looking) -> None:
    state = looking.harness.node.state
    state.set_map(state.generation, (0, 1))
    looking.answer(2)
    looking.harness.nodes_file = NodesRead(0, (NodeAddress(0, "10.0.0.1"), NodeAddress(1, "10.0.0.2")))
    assert looking.harness.ask(Control.RELOAD_NODES_FILE).status == 0
    first = looking.asked(1)[Control.GET_NODEMAP]
    looking.answer(1)
    looking.effects += looking.harness.advance(2)
    assert looking.asked(1)[Control.GET_NODEMAP] != first
    assert len(state.nodes) == 2
