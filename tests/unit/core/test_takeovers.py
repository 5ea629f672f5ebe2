# SPDX-License-Identifier: GPL-3.0-or-later
"""Takeover runs of several nodes: every address in one place, nowhere twice, and moved at once."""

from __future__ import annotations

import errno

import pytest

from ctdbpy.core.effects import Exit, Log, LogLevel, RemoveAddress, SendMessage
from ctdbpy.core.failover import slices
from ctdbpy.core.inputs import (
    HomeNodesRead,
    MessageArrived,
    NodeControlArrived,
    ShutdownAsked,
    TimeElapsed,
)
from ctdbpy.wire.codecs import I32, U32
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import (
    SRVID_DISABLE_IP_CHECK,
    SRVID_DISABLE_TAKEOVER_RUNS,
    SRVID_REBALANCE_NODE,
    SRVID_TAKEOVER_RUN,
    SRVID_TOOL_RANGE,
)
from ctdbpy.wire.structures import AddrInfo, DisableMessage, PublicIp, SockAddr, SrvidMessage
from ctdbpy.wire.tunables import Tunables
from tests.unit.core.addressed import ADDRESSES, Addressed, order
from tests.unit.core.fakes import of_kind


def test_addresses_are_spread_over_healthy_nodes() -> None:
    cluster = Addressed()
    cluster.check_hosted()
    assert cluster.counts() == [4, 4, 4]


def test_an_address_with_a_home_goes_there_by_the_deterministic_algorithm() -> None:
    cluster = Addressed(tunables=Tunables(ip_alloc_algorithm=0))
    leader = cluster.leader
    turn = cluster.holders()[ADDRESSES[0]][0]
    home = (turn + 1) % 3
    for harness in cluster.nodes:
        harness.homes_file = HomeNodesRead(0, ((ADDRESSES[0], home), ("203.0.113.1", 9)))
    wanted = SrvidMessage(0, 0).pack()
    cluster.message(SRVID_TAKEOVER_RUN, wanted)
    assert cluster.holders()[ADDRESSES[0]] == [home]
    assert cluster.nodes[turn].node.rooms.placed.why(ADDRESSES[0]).endswith(f"node {home} is its home")
    for broken in (HomeNodesRead(0, (), "line 1 is wrong"), None):
        # What was read last counts.
        cluster.nodes[leader].homes_file = broken
        cluster.message(SRVID_TAKEOVER_RUN, wanted)
        cluster.advance(2)
        assert cluster.holders()[ADDRESSES[0]] == [home]
        cluster.check_hosted()
    for harness in cluster.nodes:
        harness.homes_file = HomeNodesRead(0, ())
    cluster.message(SRVID_TAKEOVER_RUN, wanted)
    assert cluster.holders()[ADDRESSES[0]] == [turn]


def test_a_node_asks_for_a_run_once_and_not_with_each_address_that_it_takes() -> None:
    cluster = Addressed()
    for harness in cluster.nodes:
        asked = [each for each in of_kind(harness.effects, SendMessage) if each.srvid == SRVID_TAKEOVER_RUN]
        assert 1 <= len(asked) <= 2, asked


def test_a_dead_nodes_addresses_are_taken_with_the_recovery() -> None:
    cluster = Addressed()
    cluster.kill(2 if cluster.leader != 2 else 1)
    cluster.advance(0.6)
    cluster.check_hosted()


def test_a_dead_leaders_addresses_are_taken_with_the_recovery() -> None:
    cluster = Addressed()
    cluster.kill(cluster.leader)
    cluster.advance(1)
    cluster.check_hosted()
    assert sorted(cluster.counts()) == [0, 6, 6]


def test_survivors_keep_their_addresses_while_a_leader_is_looked_for() -> None:
    cluster = Addressed()
    survivors = [pnn for pnn in range(3) if pnn != cluster.leader]
    before = {pnn: set(cluster.nodes[pnn].host.carried) for pnn in survivors}
    for pnn in survivors:
        cluster.nodes[pnn].effects.clear()
    cluster.kill(cluster.leader)
    cluster.advance(2)
    for pnn in survivors:
        assert before[pnn] < set(cluster.nodes[pnn].host.carried)
        assert of_kind(cluster.nodes[pnn].effects, RemoveAddress) == []


@pytest.mark.parametrize("enable_bans", [0, 1])
def test_a_node_that_only_the_leader_cannot_reach_has_no_address_twice(enable_bans: int) -> None:
    cluster = Addressed(tunables=Tunables(enable_bans=enable_bans))
    node = (cluster.leader + 1) % 3
    leader = cluster.leader
    cluster.cut(leader, node)
    cluster.advance(5)
    assert sorted(cluster.holders()) == sorted(ADDRESSES)
    cluster.link(leader, node)
    cluster.advance(5)
    cluster.check_hosted()
    assert cluster.counts() == [4, 4, 4]


def test_who_is_never_in_a_map_drops_its_addresses_with_the_leaders_lease() -> None:
    cluster = Addressed()
    leader = cluster.leader
    node = (leader + 1) % 3
    cluster.ask(node, Control.SET_LMASTERROLE, U32.pack(0))
    cluster.advance(3)
    assert cluster.counts()[node] == 4
    cluster.cut(leader, node)
    assert cluster.counts()[node] == 0
    cluster.advance(5)
    assert sorted(cluster.holders()) == sorted(ADDRESSES)


@pytest.mark.parametrize(
    ("leave", "back"),
    [
        (Control.DISABLE_NODE, Control.ENABLE_NODE),
        (Control.STOP_NODE, Control.CONTINUE_NODE),
    ],
)
def test_addresses_leave_a_node_at_once_and_come_back(leave: Control, back: Control) -> None:
    cluster = Addressed()
    node = (cluster.leader + 1) % 3
    assert cluster.ask(node, leave)[0] == 0
    cluster.advance(0.1)
    assert cluster.counts()[node] == 0
    cluster.check_hosted()
    assert cluster.ask(node, back)[0] == 0
    cluster.advance(2)
    assert cluster.counts() == [4, 4, 4]


def test_an_unhealthy_node_keeps_no_address_and_an_alone_healthy_one_has_all() -> None:
    cluster = Addressed()
    for pnn in (0, 1):
        cluster.nodes[pnn].verdicts["monitor"] = (errno.ENOEXEC, "50.samba failed")
    cluster.advance(20)
    assert cluster.counts() == [0, 0, 12]


def test_a_run_is_answered_once_scripts_have_heard_of_it() -> None:
    cluster = Addressed()
    leader = cluster.leader
    answers: list[bytes] = []
    cluster.nodes[leader].node.state.listen(0xAE05, lambda _pnn, data: answers.append(data))
    cluster.nodes[leader].listening.add(0xAE05)
    for harness in cluster.nodes:
        harness.events.clear()
    cluster.message(SRVID_TAKEOVER_RUN, SrvidMessage(leader, 0xAE05).pack())
    assert [I32.unpack(data) for data in answers] == [leader]
    for harness in cluster.nodes:
        assert [event.name for event in harness.events] == ["ipreallocated"]


def test_a_run_asked_for_between_two_leaders_is_made_and_answered_by_the_next() -> None:
    cluster = Addressed()
    leader = cluster.leader
    asking = (leader + 1) % 3
    answers: list[bytes] = []
    cluster.nodes[asking].node.state.listen(0xAE05, lambda _pnn, data: answers.append(data))
    cluster.nodes[asking].listening.add(0xAE05)
    # Those that could lead next still follow the one that does no more.
    stopped = cluster.nodes[leader]
    effects = stopped.give(NodeControlArrived(asking, order(Control.STOP_NODE, leader)))
    cluster.message(SRVID_TAKEOVER_RUN, SrvidMessage(asking, 0xAE05).pack())
    assert not answers
    cluster.tell(stopped, effects)
    cluster.advance(2.5)
    assert [I32.unpack(data) for data in answers] == [cluster.leader]
    assert cluster.leader != leader


def test_scripts_that_hang_hold_no_failover_up() -> None:
    cluster = Addressed()
    node = (cluster.leader + 1) % 3
    other = 3 - node - cluster.leader
    cluster.nodes[other].hold_events = True
    cluster.ask(node, Control.DISABLE_NODE)
    assert cluster.counts()[node] == 0
    cluster.kill(node)
    cluster.advance(1)
    cluster.check_hosted()
    assert cluster.counts()[node] == 0


def test_who_spoils_runs_gets_ban_credits() -> None:
    cluster = Addressed()
    leader = cluster.leader
    node = (leader + 1) % 3
    cluster.nodes[node].verdicts["ipreallocated"] = (errno.ENOEXEC, "91.lvs failed")
    cluster.message(SRVID_TAKEOVER_RUN, SrvidMessage(0, 0).pack())
    assert cluster.nodes[leader].node.rooms.bans.credits_of(node) == 3
    cluster.advance(1.1)
    flags = cluster.nodes[leader].node.state.nodes[node].flags
    assert flags & NodeFlag.BANNED
    cluster.advance(0.1)
    assert cluster.counts()[node] == 0
    cluster.check_hosted()


def test_what_goes_wrong_in_two_runs_at_once_counts_once() -> None:
    cluster = Addressed()
    leader = cluster.leader
    node = (leader + 1) % 3
    cluster.nodes[node].verdicts["ipreallocated"] = (errno.ENOEXEC, "91.lvs failed")
    for _ in range(3):
        cluster.message(SRVID_TAKEOVER_RUN, SrvidMessage(0, 0).pack())
    assert cluster.nodes[leader].node.rooms.bans.credits_of(node) == 3


def test_who_asks_while_nodes_are_asked_is_served_with_them() -> None:
    cluster = Addressed()
    for harness in cluster.nodes:
        harness.events.clear()
    wanted = MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 0).pack())
    cluster.give_all(cluster.leader, [wanted, wanted, wanted])
    for harness in cluster.nodes:
        assert [event.name for event in harness.events] == ["ipreallocated"]


@pytest.mark.parametrize("answers", range(4))
def test_who_can_serve_again_after_it_was_asked_is_asked_anew(answers: int) -> None:
    cluster = Addressed()
    node = min(pnn for pnn in range(3) if pnn != cluster.leader)
    cluster.ask(node, Control.DISABLE_NODE)
    cluster.advance(2)
    assert cluster.counts()[node] == 0
    cluster.answering, cluster.interrupted_after = node, answers
    cluster.interrupt = lambda: cluster.send(node, Control.ENABLE_NODE)
    cluster.give(cluster.leader, MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 0).pack()))
    if not answers:
        cluster.interrupt()
    cluster.advance(2)
    assert cluster.counts() == [4, 4, 4]


def test_a_long_plan_leaves_the_loop_to_others_and_is_made_anew_if_they_change_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Addressed()
    node, other = (pnn for pnn in range(3) if pnn != cluster.leader)
    monkeypatch.setattr(slices, "SLICE", 1)
    leader = cluster.nodes[cluster.leader]
    effects = leader.give(MessageArrived(0, SRVID_TAKEOVER_RUN, SrvidMessage(0, 0).pack()))
    cluster.tell(leader, effects)
    for _ in range(20):
        # It is in the middle of the plan.
        assert leader.node.deadline_s is not None and leader.node.deadline_s <= leader.now_s
        cluster.give(cluster.leader, TimeElapsed())
    cluster.ask(node, Control.DISABLE_NODE)
    cluster.advance(1)
    assert cluster.counts()[node] == 0
    assert cluster.counts()[other] == 6
    cluster.check_hosted()


def test_an_address_that_cannot_be_released_stays_and_holds_no_other_up() -> None:
    cluster = Addressed(tunables=Tunables(takeover_timeout=1))
    node = (cluster.leader + 1) % 3
    stuck = sorted(cluster.nodes[node].host.carried)[0]
    host = cluster.nodes[node].host
    host.stuck.add(stuck)
    cluster.ask(node, Control.DISABLE_NODE)
    assert list(host.carried) == [stuck]
    assert sorted(cluster.holders()) == sorted(ADDRESSES)
    host.stuck.clear()
    cluster.advance(3)
    cluster.check_hosted()
    assert cluster.counts()[node] == 0


def test_nothing_moves_while_runs_are_disabled() -> None:
    cluster = Addressed()
    node = (cluster.leader + 1) % 3
    cluster.message(SRVID_DISABLE_TAKEOVER_RUNS, DisableMessage(0, 0, 5).pack())
    cluster.ask(node, Control.DISABLE_NODE)
    cluster.advance(4)
    assert cluster.counts() == [4, 4, 4]
    cluster.advance(2)
    assert cluster.counts()[node] == 0


@pytest.mark.parametrize("later_s", [0.1, 4])
def test_an_interface_that_fails_soon_after_moveip_does_not_keep_its_addresses(later_s: float) -> None:
    cluster = Addressed()
    node = (cluster.leader + 1) % 3
    cluster.message(SRVID_DISABLE_IP_CHECK, U32.pack(20))
    cluster.advance(later_s)
    host = cluster.nodes[node].host
    host.links = dict.fromkeys(host.links, False)
    cluster.give(node, host.seen())
    cluster.advance(1.1)
    assert cluster.counts()[node] == 0
    cluster.check_hosted()


@pytest.mark.parametrize("what", ["dies", "is disabled", "ends"])
@pytest.mark.parametrize("leads", [True, False])
def test_what_happens_to_a_node_long_after_moveip_is_not_held_off(what: str, leads: bool) -> None:
    cluster = Addressed()
    node = cluster.leader if leads else (cluster.leader + 1) % 3
    cluster.message(SRVID_DISABLE_IP_CHECK, U32.pack(20))
    cluster.advance(4)
    match what:
        case "dies":
            cluster.kill(node)
        case "is disabled":
            cluster.ask(node, Control.DISABLE_NODE)
        case "ends":
            cluster.give(node, ShutdownAsked("a test"))
    cluster.advance(1)
    cluster.check_hosted()
    assert cluster.counts()[node] == 0


@pytest.mark.parametrize("what", ["dies", "is disabled", "ends"])
@pytest.mark.parametrize("leads", [True, False])
def test_moveip_holds_runs_off_for_a_moment_if_something_happens_to_a_node(what: str, leads: bool) -> None:
    cluster = Addressed()
    node = cluster.leader if leads else (cluster.leader + 1) % 3
    cluster.message(SRVID_DISABLE_IP_CHECK, U32.pack(20))
    cluster.advance(0.1)
    match what:
        case "dies":
            cluster.kill(node)
        case "is disabled":
            cluster.ask(node, Control.DISABLE_NODE)
        case "ends":
            cluster.give(node, ShutdownAsked("a test"))
    cluster.advance(0.5)
    assert len(cluster.holders()) == (12 if what == "is disabled" else 8)
    cluster.advance(1.5)
    cluster.check_hosted()
    assert cluster.counts()[node] == 0


def test_an_address_that_a_tool_has_left_nowhere_is_found_when_runs_are_allowed_again() -> None:
    cluster = Addressed()
    (holder,) = cluster.holders()[ADDRESSES[0]]
    cluster.message(SRVID_DISABLE_IP_CHECK, U32.pack(20))
    moved = PublicIp((holder + 1) % 3, SockAddr(ADDRESSES[0])).pack()
    for pnn in (holder, (holder + 2) % 3):
        # Some other node has not answered: `ctdb moveip` gives up before anybody has been told to take it.
        assert cluster.ask(pnn, Control.RELEASE_IP, moved)[0] == 0
    cluster.advance(19)
    assert ADDRESSES[0] not in cluster.holders()
    cluster.advance(2)
    cluster.check_hosted()


@pytest.mark.parametrize("algorithm", [0, 1, 2])
@pytest.mark.parametrize("ends_it", [True, False])
def test_what_a_tool_has_moved_well_stays_when_runs_are_allowed_again(algorithm: int, ends_it: bool) -> None:
    cluster = Addressed(tunables=Tunables(ip_alloc_algorithm=algorithm))
    (holder,) = cluster.holders()[ADDRESSES[0]]
    taker = (holder + 1) % 3
    cluster.message(SRVID_DISABLE_TAKEOVER_RUNS, DisableMessage(0, 0, 20).pack())
    moved = PublicIp(taker, SockAddr(ADDRESSES[0])).pack()
    for pnn in (holder, (holder + 2) % 3):
        assert cluster.ask(pnn, Control.RELEASE_IP, moved)[0] == 0
    assert cluster.ask(taker, Control.TAKEOVER_IP, moved)[0] == 0
    for harness in cluster.nodes:
        harness.events.clear()
    if ends_it:
        cluster.message(SRVID_DISABLE_TAKEOVER_RUNS, DisableMessage(0, 0, 0).pack())
    cluster.advance(25)
    assert cluster.holders()[ADDRESSES[0]] == [taker]
    cluster.check_hosted()
    for harness in cluster.nodes:
        assert "ipreallocated" not in [event.name for event in harness.events]


def test_moveip_holds_other_runs_off_for_as_long_as_it_said() -> None:
    cluster = Addressed()
    cluster.message(SRVID_DISABLE_IP_CHECK, U32.pack(20))
    cluster.nodes[0].events.clear()
    cluster.message(SRVID_TAKEOVER_RUN, SrvidMessage(0, SRVID_TOOL_RANGE | 1).pack())
    cluster.advance(19)
    assert "ipreallocated" not in [event.name for event in cluster.nodes[0].events]
    cluster.advance(2)
    assert "ipreallocated" in [event.name for event in cluster.nodes[0].events]


def test_new_addresses_of_a_node_are_put_to_use() -> None:
    cluster = Addressed(public_addresses=())
    for pnn in range(3):
        for address in ADDRESSES:
            wanted = AddrInfo(SockAddr(address), 24, "eth0")
            assert cluster.ask(pnn, Control.ADD_PUBLIC_IP, wanted.pack())[0] == 0
        cluster.message(SRVID_REBALANCE_NODE, U32.pack(pnn))
    cluster.advance(1)
    assert cluster.counts() == [4, 4, 4]


def test_an_address_deleted_everywhere_is_nowhere() -> None:
    cluster = Addressed()
    gone = AddrInfo(SockAddr(ADDRESSES[0])).pack()
    for pnn in range(3):
        assert cluster.ask(pnn, Control.DEL_PUBLIC_IP, gone)[0] == 0
    cluster.advance(1)
    assert ADDRESSES[0] not in cluster.holders()
    for harness in cluster.nodes:
        assert ADDRESSES[0] not in harness.node.rooms.addresses.table.entries


def test_a_node_that_ends_hands_its_addresses_over_first() -> None:
    cluster = Addressed()
    node = (cluster.leader + 1) % 3
    cluster.give(node, ShutdownAsked("a test"))
    assert cluster.counts()[node] == 0
    cluster.check_hosted()
    assert of_kind(cluster.nodes[node].effects, Exit)


def test_a_leader_that_ends_hands_its_addresses_over_too() -> None:
    cluster = Addressed()
    node = cluster.leader
    cluster.give(node, ShutdownAsked("a test"))
    assert cluster.counts()[node] == 0
    cluster.advance(2)
    cluster.check_hosted()
    assert of_kind(cluster.nodes[node].effects, Exit)


def test_the_log_and_the_plan_say_why_addresses_move() -> None:
    cluster = Addressed()
    leader, node = cluster.leader, (cluster.leader + 1) % 3
    moved = sorted(cluster.nodes[node].host.carried)[0]
    cluster.ask(node, Control.DISABLE_NODE)
    logged = of_kind(cluster.nodes[leader].effects, Log)
    lines = [each.text for each in logged if each.level is LogLevel.NOTICE]
    assert any(moved in line and f"node {node} is disabled" in line for line in lines)
    for each in cluster.nodes:
        assert f"node {node} is disabled" in each.node.rooms.placed.why(moved)
        assert each.node.rooms.placed.why("203.0.113.1") == ""


def test_with_failover_disabled_scripts_hear_and_nothing_moves() -> None:
    cluster = Addressed(moves_addresses=False)
    assert cluster.holders() == {}
    assert "ipreallocated" in [event.name for event in cluster.nodes[0].events]


def test_a_late_order_of_an_earlier_leader_is_refused() -> None:
    cluster = Addressed()
    leader = cluster.leader
    node, other = [pnn for pnn in range(3) if pnn != leader]
    address = next(iter(cluster.nodes[leader].host.carried))
    promise = cluster.nodes[other].node.rooms.routing.call(
        node, Control.TAKEOVER_IP, PublicIp(node, SockAddr(address)).pack()
    )
    cluster.give(other, TimeElapsed())
    assert "does not lead" in promise.result().error


def test_a_tool_moves_an_address() -> None:
    cluster = Addressed()
    source = 0
    address = next(iter(cluster.nodes[source].host.carried))
    cluster.message(SRVID_DISABLE_IP_CHECK, U32.pack(20))
    body = PublicIp(1, SockAddr(address)).pack()
    for pnn in (0, 2):
        assert cluster.ask(0, Control.RELEASE_IP, body, dest=pnn)[0] == 0
    assert cluster.ask(0, Control.TAKEOVER_IP, body, dest=1)[0] == 0
    assert cluster.holders()[address] == [1]
    cluster.check_hosted()


def test_a_node_cut_off_drops_its_addresses_before_others_take_them() -> None:
    cluster = Addressed()
    alone = (cluster.leader + 1) % 3
    for pnn in range(3):
        if pnn != alone:
            cluster.cut(alone, pnn)
    assert cluster.counts()[alone] == 0
    cluster.advance(1)
    cluster.check_hosted()
    for pnn in range(3):
        if pnn != alone:
            cluster.link(alone, pnn)
    cluster.advance(3)
    assert cluster.counts() == [4, 4, 4]
