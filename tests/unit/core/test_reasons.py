# SPDX-License-Identifier: GPL-3.0-or-later
"""Every node can say why any node wears its flags, who ordered it, and what came before."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import SendMessage
from ctdbpy.core.inputs import LinkDown, LinkUp, MessageArrived
from ctdbpy.core.story import EVENTS_MAX
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.own import REASON_TEXT_MAX
from ctdbpy.wire.srvids import SRVID_ACCOUNT, SRVID_ORDER
from ctdbpy.wire.structures import BanState, NodeFlagChange, Reason, ReasonReport, Reasons, reason_text
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness, of_kind, several_nodes


def running(count: int) -> Cluster:
    cluster = Cluster(count)
    cluster.advance(5)
    assert all(not harness.node.state.own.flags for harness in cluster.nodes)
    return cluster


def why(cluster: Cluster, asked: int, about: int) -> list[tuple[NodeFlag, int, str]]:
    """What stands about a node, as another one tells it: flag, who says so, text."""
    status, data = cluster.ask(asked, Control.GET_REASONS, U32.pack(about))
    assert status == 0
    standing = ReasonReport.unpack(data).standing.entries
    assert all(each.pnn == about for each in standing)
    return [(NodeFlag(each.flags), each.source, each.text) for each in standing]


def events(harness: Harness, pnn: int) -> list[Reason]:
    reply = harness.ask(Control.GET_REASONS, U32.pack(pnn))
    assert reply.status == 0
    return list(ReasonReport.unpack(reply.data).events.entries)


def order(cluster: Cluster, asked: int, about: int, control: Control, data: bytes = b"") -> None:
    """A client of one node orders another to do something."""
    assert cluster.ask(asked, control, data, dest=about)[0] == 0


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_every_node_knows_who_banned_a_node_and_for_how_long(asked: int) -> None:
    cluster = running(3)
    order(cluster, 0, 2, Control.SET_BAN_STATE, BanState(2, 60).pack())
    text = "banned for 60 s: asked for by process 4711 (uid 0) on node 0"
    assert why(cluster, asked, 2) == [(NodeFlag.BANNED, 2, text)]
    assert why(cluster, asked, 1) == [
        (NodeFlag(0), 1, "no event script says otherwise"),
    ]


def test_a_change_of_flags_is_one_event_elsewhere() -> None:
    cluster = running(2)
    before = len(events(cluster.nodes[1], 0))
    order(cluster, 0, 0, Control.DISABLE_NODE)
    (event,) = events(cluster.nodes[1], 0)[before:]
    assert event.text == "disabled: asked for by process 4711 (uid 0) on this node"


@pytest.mark.parametrize(
    ("control", "flag", "text"),
    [
        (Control.STOP_NODE, NodeFlag.STOPPED, "stopped"),
        (Control.DISABLE_NODE, NodeFlag.PERMANENTLY_DISABLED, "disabled"),
    ],
)
def test_orders_carry_who_asked(control: Control, flag: NodeFlag, text: str) -> None:
    cluster = running(2)
    order(cluster, 1, 0, control)
    assert why(cluster, 1, 0) == [(flag, 0, f"{text}: asked for by process 4711 (uid 0) on node 1")]
    order(cluster, 0, 0, Control.CONTINUE_NODE if flag is NodeFlag.STOPPED else Control.ENABLE_NODE)
    ((none, source, reason),) = why(cluster, 1, 0)
    assert (none, source) == (NodeFlag(0), 0)
    assert reason.endswith("asked for by process 4711 (uid 0) on this node")


def test_each_flag_keeps_its_own_reason() -> None:
    harness = Harness()
    harness.ask(Control.DISABLE_NODE)
    harness.ask(Control.SET_BAN_STATE, BanState(0, 60).pack())
    harness.ask(Control.SET_BAN_STATE, BanState(0, 90).pack())
    reply = harness.ask(Control.GET_REASONS, U32.pack(0))
    who = "asked for by process 4711 (uid 0) on this node"
    standing = ReasonReport.unpack(reply.data).standing.entries
    assert {NodeFlag(each.flags): each.text for each in standing} == {
        NodeFlag.PERMANENTLY_DISABLED: f"disabled: {who}",
        NodeFlag.BANNED: f"banned for 90 s: {who}",
    }


def test_a_node_that_comes_later_is_told_and_a_lost_one_is_known_by_its_link() -> None:
    cluster = running(3)
    cluster.cut(0, 1)
    order(cluster, 2, 1, Control.STOP_NODE)
    assert [flag for flag, _, _ in why(cluster, 0, 1)] == [NodeFlag.DISCONNECTED, NodeFlag.UNHEALTHY]
    assert {text for _, _, text in why(cluster, 0, 1)} == {"cut"}
    cluster.link(0, 1)
    cluster.advance(3)
    assert (
        NodeFlag.STOPPED,
        1,
        "stopped: asked for by process 4711 (uid 0) on node 2",
    ) in why(cluster, 0, 1)


def test_a_node_that_stands_still_says_why() -> None:
    cluster = running(2)
    cluster.nodes[1].node.state.suspended = "only 1 of 2 nodes hears it"
    cluster.advance(2)
    assert why(cluster, 0, 1)[-1] == (NodeFlag(0), 1, "only 1 of 2 nodes hears it")
    cluster.nodes[1].node.state.suspended = ""
    cluster.advance(2)
    assert all(text != "only 1 of 2 nodes hears it" for _, _, text in why(cluster, 0, 1))


def test_what_upstreams_nodes_are_is_known_from_the_leader() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.running_with_all()
    harness.ask(Control.MODIFY_FLAGS, NodeFlagChange(1, int(NodeFlag.BANNED), 0).pack())
    assert [(each.source, each.text) for each in events(harness, 1)][-1] == (0, "node 0 says so")


def test_all_nodes_can_be_asked_about_at_once_and_unknown_ones_not() -> None:
    cluster = running(2)
    status, data = cluster.ask(0, Control.GET_REASONS, U32.pack(UNKNOWN_PNN))
    assert status == 0
    assert [each.pnn for each in ReasonReport.unpack(data).standing.entries] == [0, 1]
    assert cluster.ask(0, Control.GET_REASONS, U32.pack(2))[0] == -1


def test_the_newest_events_are_kept_and_no_more() -> None:
    harness = Harness()
    for number in range(EVENTS_MAX + 10):
        harness.node.state.note("test", 0, f"event {number}")
    kept = events(harness, 0)
    assert len(kept) == EVENTS_MAX
    assert kept[-1].text == f"event {EVENTS_MAX + 9}"
    assert kept[-1].wall_us == round((harness.now_s + harness.config.wall_offset_s) * 1e6)


def test_an_order_that_is_not_followed_by_a_control_explains_nothing_later() -> None:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    reason = Reason(0, 0, 1, 0, "order", "an old one")
    harness.give(MessageArrived(1, SRVID_ORDER, Reasons((reason,)).pack()))
    harness.advance(11)
    harness.ask(Control.STOP_NODE)
    assert "an old one" not in events(harness, 0)[-1].text


_GOOD = Reason(1, 1, 1, int(NodeFlag.BANNED), "flags", "because")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\x7f" + bytes(64),
        Reasons((_GOOD,)).pack()[:-1],
        Reasons((_GOOD,) * 17).pack(),
        Reasons((Reason(1, 0, 1, 8, "flags", "of somebody else"),)).pack(),
        Reasons((Reason(1, 1, 0, 8, "flags", "by somebody else"),)).pack(),
    ],
)
def test_a_bad_account_is_dropped(data: bytes) -> None:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    before = events(harness, 1)
    harness.give(MessageArrived(1, SRVID_ACCOUNT, data))
    harness.give(MessageArrived(1, SRVID_ORDER, data))
    harness.give(MessageArrived(9, SRVID_ACCOUNT, Reasons((_GOOD,)).pack()))
    harness.give(MessageArrived(0, SRVID_ACCOUNT, Reasons((_GOOD,)).pack()))
    assert events(harness, 1) == before


def test_what_others_say_is_one_printable_line() -> None:
    harness = Harness(several_nodes(2))
    harness.give(LinkUp(1))
    said = Reason(1, 1, 1, int(NodeFlag.UNHEALTHY), "flags", "red \x1b[31m\nline \udcff")
    harness.give(MessageArrived(1, SRVID_ACCOUNT, Reasons((said,)).pack()))
    assert events(harness, 1)[-1].text == "red ?[31m?line ?"


def test_a_long_text_is_cut_between_characters() -> None:
    text = reason_text("é" * REASON_TEXT_MAX)
    assert text.endswith("é…")
    assert REASON_TEXT_MAX - 4 < len(text.encode()) <= REASON_TEXT_MAX


def test_an_account_is_sent_once_and_again_when_it_changes() -> None:
    harness = Harness(several_nodes(3))
    harness.give(LinkUp(1))
    harness.give(LinkUp(2))

    def told() -> list[int]:
        sent = [
            each.destnode for each in of_kind(harness.effects, SendMessage) if each.srvid == SRVID_ACCOUNT
        ]
        harness.effects.clear()
        return sent

    assert told() == [1, 2]
    harness.advance(30)
    told()
    harness.advance(30)
    assert told() == []
    harness.give(LinkDown(1, "reset"))
    harness.give(LinkUp(1))
    assert told() == [1]
    harness.ask(Control.DISABLE_NODE)
    assert told() == [1, 2]
