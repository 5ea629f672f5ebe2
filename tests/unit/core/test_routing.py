# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls for other nodes: passed on, answered, late, or for a node that cannot be reached."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import ReplyToNode, SendControl
from ctdbpy.core.inputs import LinkDown, LinkUp, NodeControlArrived, ReplyArrived
from ctdbpy.wire.constants import BROADCAST_ACTIVE, BROADCAST_ALL, BROADCAST_CONNECTED, ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReplyControl, ReqControl
from tests.unit.core.fakes import NOREPLY, Harness, of_kind, several_nodes


def connected() -> Harness:
    """Node 0 of three; node 1 is linked, node 2 is not."""
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.running_with_all()
    harness.connect()
    return harness


def reply(sent: SendControl, status: int = 0, data: bytes = b"", error: str = "") -> ReplyArrived:
    packet = ReplyControl(
        generation=0, destnode=0, srcnode=sent.pnn, reqid=sent.reqid, status=status, data=data, error=error
    )
    return ReplyArrived(sent.pnn, packet)


def test_a_control_for_another_node_is_passed_on_and_its_answer_back() -> None:
    harness = connected()
    reqid, effects = harness.send(7, Control.GETDBPATH, b"data", dest=1, srvid=5, flags=0x10000)
    (sent,) = of_kind(effects, SendControl)
    assert (sent.pnn, sent.opcode, sent.srvid, sent.client_id) == (1, Control.GETDBPATH, 5, 7)
    assert (sent.flags, sent.data) == (0x10000, b"data")
    assert sent.reqid != reqid
    (answer,) = harness.replies(harness.give(reply(sent, 3, b"path", "why")), reqid)
    assert (answer.status, answer.data, answer.error) == (3, b"path", "why")


@pytest.mark.parametrize("dest", [2, 3, 0xF0000005, 0xFFFFFFFF])
def test_a_node_that_cannot_be_reached_is_refused_at_once(dest: int) -> None:
    answer = connected().ask(Control.GET_PNN, dest=dest)
    assert (answer.status, answer.error) == (-1, "ctdb_control to disconnected node")


def test_a_node_that_dies_fails_what_it_was_asked() -> None:
    harness = connected()
    reqid, _ = harness.send(7, Control.GET_PNN, dest=1)
    (answer,) = harness.replies(harness.give(LinkDown(1, "reset")), reqid)
    assert (answer.status, answer.error) == (-1, "node is disconnected")


def test_an_answer_that_is_late_is_dropped() -> None:
    harness = connected()
    reqid, effects = harness.send(7, Control.GET_PNN, dest=1)
    (sent,) = [each for each in of_kind(effects, SendControl) if each.opcode == Control.GET_PNN]
    (answer,) = harness.replies(harness.advance(61), reqid)
    assert (answer.status, answer.error) == (-1, "ctdb_control timed out")
    assert not harness.replies(harness.give(reply(sent)), reqid)
    assert harness.node.rooms.routing.timeouts >= 1


def test_an_answer_of_another_node_is_dropped() -> None:
    harness = connected()
    reqid, effects = harness.send(7, Control.GET_PNN, dest=1)
    (sent,) = of_kind(effects, SendControl)
    assert not harness.replies(harness.give(ReplyArrived(2, reply(sent).reply)), reqid)
    assert harness.replies(harness.give(reply(sent)), reqid)


def test_an_answer_for_a_client_that_has_gone_goes_nowhere() -> None:
    harness = connected()
    reqid, effects = harness.send(7, Control.GET_PNN, dest=1)
    (sent,) = of_kind(effects, SendControl)
    harness.hang_up(7)
    assert not harness.replies(harness.give(reply(sent)), reqid)


@pytest.mark.parametrize(
    ("dest", "expected"),
    [(BROADCAST_ALL, [1, 2]), (BROADCAST_ACTIVE, [1]), (BROADCAST_CONNECTED, [1]), (1, [1]), (2, [])],
)
def test_a_control_without_reply_may_be_broadcast(dest: int, expected: list[int]) -> None:
    harness = connected()
    reqid, effects = harness.send(7, Control.STARTUP, dest=dest, flags=NOREPLY)
    reached = [1] if dest == BROADCAST_ALL else expected
    assert [each.pnn for each in of_kind(effects, SendControl)] == reached
    assert not harness.replies(effects, reqid)


def test_a_broadcast_that_wants_replies_is_refused() -> None:
    answer = connected().ask(Control.STARTUP, dest=BROADCAST_CONNECTED)
    assert answer.status == -1
    assert "broadcast" in answer.error


@pytest.mark.parametrize(("flags", "count"), [(0, 1), (int(ControlFlag.NOREPLY), 0)])
def test_another_nodes_control_is_answered_if_it_wants(flags: int, count: int) -> None:
    control = ReqControl(
        generation=0,
        destnode=0,
        srcnode=1,
        reqid=99,
        opcode=Control.GET_PNN,
        srvid=0,
        client_id=7,
        flags=flags,
        data=b"",
    )
    effects = connected().give(NodeControlArrived(1, control))
    assert of_kind(effects, ReplyToNode) == [ReplyToNode(1, 99, 0)] * count
