# SPDX-License-Identifier: GPL-3.0-or-later
"""The leader bans who spoils too much; a ban ends, and nothing ends with it."""

from __future__ import annotations

import pytest

from ctdbpy.core.effects import JobKind, Log
from ctdbpy.core.inputs import NodeControlArrived
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import BROADCAST_CONNECTED, NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.packets import ReqControl
from ctdbpy.wire.srvids import SRVID_BANNING
from ctdbpy.wire.structures import BanState, ReasonReport
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness, of_kind, several_nodes

BANNED = NodeFlag.BANNED


def running(count: int = 3) -> Cluster:
    cluster = Cluster(count)
    cluster.advance(5)
    assert settled(cluster) == [NodeFlag(0)] * count
    return cluster


def settled(cluster: Cluster) -> list[NodeFlag]:
    """Each node's own flags, all others' views being the same."""
    alive = [harness for pnn, harness in enumerate(cluster.nodes) if pnn not in cluster.dead]
    own = [harness.node.state.own.flags for harness in alive]
    for harness in alive:
        assert [harness.node.state.nodes[each.config.pnn].flags for each in alive] == own
    return own


def leader(cluster: Cluster) -> int:
    (found,) = {
        harness.node.state.leader for pnn, harness in enumerate(cluster.nodes) if pnn not in cluster.dead
    }
    return found


def fail_recoveries(cluster: Cluster, culprit: int, seconds: float) -> None:
    """Recoveries are wanted, and one node's worker spoils each."""
    assert cluster.ask(0, Control.DB_ATTACH, b"locking.tdb\0")[0] == 0
    cluster.nodes[culprit].workers.failing.add(JobKind.COMMIT)
    cluster.send(0, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(seconds)


def why_banned(cluster: Cluster, asked: int, about: int) -> str:
    data = cluster.ask(asked, Control.GET_REASONS, U32.pack(about))[1]
    (text,) = [each.text for each in ReasonReport.unpack(data).standing.entries if each.flags == BANNED]
    return text


def test_who_spoils_recovery_after_recovery_is_banned_and_the_others_go_on() -> None:
    cluster = running()
    culprit = (leader(cluster) + 1) % 3
    fail_recoveries(cluster, culprit, 10)
    flags = [NodeFlag(0)] * 3
    flags[culprit] = BANNED
    assert settled(cluster) == flags
    others = [harness.node.state for pnn, harness in enumerate(cluster.nodes) if pnn != culprit]
    assert not any(state.is_recovering for state in others)
    for asked in range(3):
        text = why_banned(cluster, asked, culprit)
        assert text.startswith(f"banned for 300 s: asked for by node {leader(cluster)}: 6 ban credits")
        assert "DB_TRANSACTION_COMMIT on node" in text
    cluster.nodes[culprit].workers.failing.clear()
    cluster.advance(310)
    assert settled(cluster) == [NodeFlag(0)] * 3
    assert not any(harness.node.state.is_recovering for harness in cluster.nodes)


def test_a_leader_that_spoils_its_own_recoveries_resigns_and_is_out() -> None:
    cluster = running()
    first = leader(cluster)
    fail_recoveries(cluster, first, 15)
    assert leader(cluster) != first
    flags = [NodeFlag(0)] * 3
    flags[first] = BANNED
    assert settled(cluster) == flags


def test_who_does_not_answer_in_time_is_banned_after_two_recoveries() -> None:
    cluster = running()
    culprit = (leader(cluster) + 1) % 3
    assert cluster.ask(0, Control.DB_ATTACH, b"locking.tdb\0")[0] == 0
    cluster.nodes[culprit].hold_jobs = True
    cluster.send(0, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(2 * 30 + 10)
    assert cluster.nodes[culprit].node.state.own.flags == BANNED
    text = why_banned(cluster, leader(cluster), culprit)
    assert "6 ban credits" in text
    assert "timed out" in text


def test_a_recovery_that_works_forgives_everybody() -> None:
    cluster = running()
    bans = cluster.nodes[leader(cluster)].node.rooms.bans
    bans.blame(1, bans.limit - 1, "a test")
    cluster.send(0, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(3)
    assert bans.credits_of(1) == 0


def leading(count: int = 3) -> Harness:
    """A leader whose other nodes are configured, but not there."""
    harness = Harness(several_nodes(count))
    harness.advance(5)
    assert harness.node.state.is_leader
    return harness


def test_credits_are_forgotten_after_the_grace_period() -> None:
    harness = leading()
    bans = harness.node.rooms.bans
    bans.blame(1, 3, "a test")
    harness.advance(119)
    bans.blame(1, 1, "a test")
    assert bans.credits_of(1) == 4
    harness.advance(121)
    bans.blame(1, 1, "a test")
    assert bans.credits_of(1) == 1


def test_an_inactive_node_blames_nobody_and_nobody_blames_what_there_is_not() -> None:
    harness = leading()
    bans = harness.node.rooms.bans
    bans.blame(7, 100, "a test")
    assert bans.credits_of(7) == 0
    harness.ask(Control.STOP_NODE)
    bans.blame(1, 1, "a test")
    assert bans.credits_of(1) == 0


@pytest.mark.parametrize("times", [1, 2])
def test_two_banning_messages_are_a_ban(times: int) -> None:
    cluster = running()
    sender = cluster.nodes[leader(cluster)]
    culprit = (leader(cluster) + 1) % 3
    for _ in range(times):
        sender.node.state.send_message(BROADCAST_CONNECTED, SRVID_BANNING, U32.pack(culprit))
        cluster.advance(0.2)
    cluster.advance(1)
    assert cluster.nodes[culprit].node.state.own.flags == (BANNED if times == 2 else NodeFlag(0))


@pytest.mark.parametrize("data", [b"", b"\x01", U32.pack(0xFFFFFFFF), U32.pack(99)])
def test_a_bad_banning_message_is_dropped(data: bytes) -> None:
    cluster = running()
    for _ in range(4):
        cluster.nodes[0].node.state.send_message(BROADCAST_CONNECTED, SRVID_BANNING, data)
        cluster.advance(0.2)
    assert settled(cluster) == [NodeFlag(0)] * 3


def test_without_bans_the_leader_says_so_and_bans_nobody() -> None:
    cluster = running()
    for harness in cluster.nodes:
        harness.node.state.tunables = harness.node.state.tunables.replaced("EnableBans", 0)
    culprit = (leader(cluster) + 1) % 3
    fail_recoveries(cluster, culprit, 10)
    assert settled(cluster) == [NodeFlag(0)] * 3
    lines = [each.text for each in of_kind(cluster.nodes[leader(cluster)].effects, Log)]
    assert any(f"node {culprit} is not banned, as EnableBans is 0" in line for line in lines)


def by_daemon(harness: Harness, source: int, seconds: int, client_id: int = 0) -> None:
    """Another node's daemon (or a program there) orders a ban."""
    control = ReqControl(
        generation=0,
        destnode=harness.config.pnn,
        srcnode=source,
        reqid=1,
        opcode=Control.SET_BAN_STATE,
        srvid=0,
        client_id=client_id,
        flags=0,
        data=BanState(harness.config.pnn, seconds).pack(),
    )
    harness.give(NodeControlArrived(source, control))


def test_two_that_both_think_they_lead_do_not_ban_each_other() -> None:
    cluster = running()
    first, second = cluster.nodes[0], cluster.nodes[1]
    first.node.state.leader, second.node.state.leader = 0, 1
    by_daemon(first, 1, 300)
    by_daemon(second, 0, 300)
    assert not first.node.state.is_inactive
    assert not second.node.state.is_inactive
    cluster.advance(5)
    assert settled(cluster) == [NodeFlag(0)] * 3
    leader(cluster)


def test_a_program_on_any_node_may_ban() -> None:
    cluster = running()
    outsider = (leader(cluster) + 1) % 3
    target = (leader(cluster) + 2) % 3
    by_daemon(cluster.nodes[target], outsider, 300, client_id=9)
    assert cluster.nodes[target].node.state.own.flags == BANNED


def test_a_banned_leader_is_followed_by_another_one() -> None:
    cluster = running()
    first = leader(cluster)
    cluster.ask((first + 1) % 3, Control.SET_BAN_STATE, BanState(first, 60).pack(), dest=first)
    cluster.advance(5)
    assert leader(cluster) not in (first, 0xFFFFFFFF)
    cluster.advance(60)
    assert settled(cluster) == [NodeFlag(0)] * 3


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.1])
def test_a_ban_during_a_recovery_leaves_the_node_out_and_frozen(after_s: float) -> None:
    cluster = running()
    target = (leader(cluster) + 1) % 3
    assert cluster.ask(0, Control.DB_ATTACH, b"locking.tdb\0")[0] == 0
    cluster.nodes[target].hold_jobs = True
    cluster.send(0, Control.SET_RECMODE, U32.pack(1))
    cluster.advance(after_s)
    cluster.ask(target, Control.SET_BAN_STATE, BanState(target, 60).pack())
    cluster.release(target)
    cluster.advance(5)
    state = cluster.nodes[target].node.state
    assert state.is_recovering
    assert all(database.is_frozen for database in state.databases.values())
    others = [harness.node.state for pnn, harness in enumerate(cluster.nodes) if pnn != target]
    assert not any(each.is_recovering for each in others)
    assert all(target not in each.lmasters for each in others)
    cluster.advance(70)
    assert settled(cluster) == [NodeFlag(0)] * 3


def test_a_banned_node_does_not_end_a_recovery() -> None:
    harness = Harness()
    harness.attach("locking.tdb")
    harness.ask(Control.SET_BAN_STATE, BanState(0, 60).pack())
    by_daemon(harness, 0, 60)
    assert harness.ask(Control.SET_RECMODE, U32.pack(0)).status == -1
    state = harness.node.state
    assert state.is_recovering
    assert all(database.is_frozen for database in state.databases.values())


def test_a_ban_for_ever_lasts_until_it_is_lifted_and_no_ban_lifts_none() -> None:
    cluster = running()
    cluster.ask(0, Control.SET_BAN_STATE, BanState(1, 0).pack(), dest=1)
    assert settled(cluster) == [NodeFlag(0)] * 3
    cluster.ask(0, Control.SET_BAN_STATE, BanState(1, 0xFFFFFFFF).pack(), dest=1)
    cluster.advance(1000)
    assert settled(cluster) == [NodeFlag(0), BANNED, NodeFlag(0)]
    assert cluster.ask(0, Control.GET_BAN_STATE, dest=1) == (0, BanState(1, 0xFFFFFFFF).pack())
    cluster.ask(0, Control.SET_BAN_STATE, BanState(1, 0).pack(), dest=1)
    cluster.advance(5)
    assert settled(cluster) == [NodeFlag(0)] * 3


def test_a_later_ban_replaces_an_earlier_one() -> None:
    cluster = running()
    cluster.ask(0, Control.SET_BAN_STATE, BanState(1, 1000).pack(), dest=1)
    cluster.ask(0, Control.SET_BAN_STATE, BanState(1, 30).pack(), dest=1)
    assert "banned for 30 s" in why_banned(cluster, 0, 1)
    cluster.advance(40)
    assert settled(cluster) == [NodeFlag(0)] * 3


def test_a_banned_node_that_starts_anew_is_not_banned_any_more() -> None:
    cluster = running()
    cluster.ask(0, Control.SET_BAN_STATE, BanState(1, 1000).pack(), dest=1)
    cluster.advance(3)
    cluster.kill(1)
    cluster.advance(3)
    gone = NodeFlag.DISCONNECTED | NodeFlag.UNHEALTHY | BANNED
    assert cluster.nodes[0].node.state.nodes[1].flags == gone
    cluster.restart(1)
    cluster.advance(10)
    assert settled(cluster) == [NodeFlag(0)] * 3


def test_when_all_are_banned_all_come_back() -> None:
    cluster = running()
    for pnn in range(3):
        cluster.ask(pnn, Control.SET_BAN_STATE, BanState(pnn, 20).pack())
    cluster.advance(5)
    assert [harness.node.state.own.flags for harness in cluster.nodes] == [BANNED] * 3
    cluster.advance(40)
    assert settled(cluster) == [NodeFlag(0)] * 3
    leader(cluster)


@pytest.mark.parametrize("all_frozen", [True, False])
def test_a_ban_under_way_ends_although_bans_are_off_by_now(all_frozen: bool) -> None:
    harness = Harness()
    harness.attach("locking.tdb")
    harness.hold_jobs = not all_frozen
    harness.ask(Control.SET_BAN_STATE, BanState(0, 60).pack())
    state = harness.node.state
    state.tunables = state.tunables.replaced("EnableBans", 0)
    harness.ask(Control.SET_BAN_STATE, BanState(0, 1000).pack())
    assert harness.ask(Control.GET_BAN_STATE).data == BanState(0, 60).pack()
    harness.advance(61)
    assert bool(state.own.flags & BANNED) is not all_frozen
    harness.release_jobs()
    harness.advance(300)
    assert not state.own.flags


def test_a_refused_order_explains_no_later_one() -> None:
    cluster = running()
    target = cluster.nodes[(leader(cluster) + 1) % 3]
    outsider = cluster.nodes[(leader(cluster) + 2) % 3]
    outsider.node.rooms.bans.order(target.config.pnn, 60, "it thinks it leads")
    cluster.advance(0.1)
    assert not target.node.state.is_inactive
    by_daemon(target, outsider.config.pnn, 60, client_id=9)
    assert why_banned(cluster, 0, target.config.pnn).endswith(f"asked for by node {outsider.config.pnn}")
