# SPDX-License-Identifier: GPL-3.0-or-later
"""What scripts have to say while a node comes up, runs and ends."""

from __future__ import annotations

import errno
import itertools

import pytest

from ctdbpy.core.effects import Announce, Exit, RunEvent, SendMessage, StopEvent, TellAdministrator
from ctdbpy.core.inputs import EventEnded, ShutdownAsked
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import NodeFlag, RecoveryMode, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_IPREALLOCATED, SRVID_START_IPREALLOCATE, SRVID_TAKEOVER_RUN
from tests.unit.core.clusters import Cluster
from tests.unit.core.fakes import Harness, of_kind

BAD = (errno.ENOEXEC, "event 'monitor': 50.samba failed with status 1: 'port 445'")
SLOW = (errno.ETIMEDOUT, "event 'monitor': 50.samba hung")


def names(harness: Harness) -> list[str]:
    return [event.name for event in harness.events]


def words(harness: Harness) -> list[str]:
    return [each.word for each in of_kind(harness.effects, TellAdministrator)]


def monitors(harness: Harness, seconds: float) -> list[float]:
    """How long after one another monitor events run in so many seconds."""
    begun = harness.now_s
    moments = [begun]
    while harness.now_s < begun + seconds:
        before = len(harness.events)
        harness.advance(0.25)
        moments += [harness.now_s] * names(harness)[before:].count("monitor")
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def test_events_run_in_order_while_a_node_comes_up() -> None:
    harness = Harness()
    assert names(harness) == [
        "init",
        "setup",
        "startrecovery",
        "recovered",
        "startup",
        "ipreallocated",
        "monitor",
        *["ipreallocated"] * (names(harness).count("ipreallocated") - 1),
    ]
    assert words(harness) == ["init", "setup", "startup", "healthy"]
    assert harness.node.state.own.flags == NodeFlag(0)


@pytest.mark.parametrize("event", ["init", "setup"])
def test_a_node_whose_scripts_refuse_to_start_ends_before_others_hear_of_it(event: str) -> None:
    harness = Harness(start=False)
    harness.verdicts[event] = (errno.ENOEXEC, f"event '{event}': 00.ctdb failed with status 1")
    harness.begin()
    assert of_kind(harness.effects, Exit) == [
        Exit(1, f"cannot start: event '{event}': 00.ctdb failed with status 1")
    ]
    assert of_kind(harness.effects, Announce) == []
    assert names(harness)[-1] == event


def test_a_node_whose_init_event_lasts_answers_and_does_no_more() -> None:
    harness = Harness(start=False)
    harness.hold_events = True
    harness.begin()
    assert harness.ask(Control.GET_RUNSTATE).data == U32.pack(RunState.INIT)
    harness.advance(60)
    assert names(harness) == ["init"]
    harness.give(EventEnded(1, 0))
    assert harness.ask(Control.GET_RUNSTATE).data == U32.pack(RunState.SETUP)
    harness.give(EventEnded(2, 0))
    assert harness.ask(Control.GET_RUNSTATE).data == U32.pack(RunState.FIRST_RECOVERY)


def test_startup_runs_until_it_succeeds() -> None:
    harness = Harness(start=False)
    harness.verdicts["startup"] = (errno.ENOEXEC, "event 'startup': 50.samba failed with status 1")
    harness.begin()
    state = harness.node.state
    assert (state.runstate, state.recmode) == (RunState.STARTUP, RecoveryMode.NORMAL)
    assert "50.samba" in state.story.standing(0)[NodeFlag.UNHEALTHY].text
    harness.attach()
    harness.advance(14.9)
    assert names(harness).count("startup") == 3
    assert "monitor" not in names(harness)
    del harness.verdicts["startup"]
    harness.advance(0.2)
    assert (state.runstate, state.own.flags) == (RunState.RUNNING, NodeFlag(0))


def test_a_node_monitors_more_and_more_seldom_while_nothing_changes() -> None:
    harness = Harness()
    assert monitors(harness, 90) == [5, 10, 15, 15, 15, 15, 15]


def test_scripts_make_a_node_unhealthy_and_healthy_again() -> None:
    harness = Harness()
    state = harness.node.state
    harness.advance(40)
    harness.effects.clear()
    harness.verdicts["monitor"] = BAD
    harness.advance(15)
    assert state.own.flags == NodeFlag.UNHEALTHY
    assert state.story.standing(0)[NodeFlag.UNHEALTHY].text == BAD[1]
    assert words(harness) == ["unhealthy"]
    assert [each for each in of_kind(harness.effects, SendMessage) if each.srvid == SRVID_TAKEOVER_RUN]
    harness.verdicts["monitor"] = (BAD[0], "event 'monitor': 60.nfs failed with status 2")
    harness.advance(6)
    assert "60.nfs" in state.story.standing(0)[NodeFlag.UNHEALTHY].text
    assert words(harness) == ["unhealthy"]
    harness.verdicts.clear()
    harness.advance(15)
    assert state.own.flags == NodeFlag(0)
    assert words(harness) == ["unhealthy", "healthy"]
    assert monitors(harness, 14) != []


def test_scripts_that_hang_make_a_node_unhealthy_only_after_many_times() -> None:
    harness = Harness()
    state = harness.node.state
    state.set_tunables(state.tunables.replaced("MonitorTimeoutCount", 3))
    harness.verdicts["monitor"] = SLOW
    harness.advance(20)
    assert names(harness).count("monitor") == 3
    assert state.own.flags == NodeFlag(0)
    harness.advance(15)
    assert state.own.flags == NodeFlag.UNHEALTHY


def test_a_good_event_forgives_those_that_hung() -> None:
    harness = Harness()
    state = harness.node.state
    state.set_tunables(state.tunables.replaced("MonitorTimeoutCount", 2))
    harness.verdicts["monitor"] = SLOW
    harness.advance(6)
    harness.verdicts.clear()
    harness.advance(10)
    harness.verdicts["monitor"] = SLOW
    harness.advance(15)
    assert names(harness).count("monitor") == 4
    assert state.own.flags == NodeFlag(0)


def test_an_event_that_gave_way_says_nothing_and_soon_runs_again() -> None:
    harness = Harness()
    harness.verdicts["monitor"] = (errno.ECANCELED, "event 'takeip' is to run")
    assert monitors(harness, 8) == [5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert harness.node.state.own.flags == NodeFlag(0)
    harness.verdicts.clear()
    assert monitors(harness, 40) == [0.5, 10, 15]


def test_a_recovery_that_begins_just_before_an_event_is_no_illness() -> None:
    harness = Harness()
    health = harness.node.rooms.health
    assert health.deadline_s is not None
    harness.now_s = health.deadline_s
    health.wake(harness.now_s)
    harness.pause_recoveries()
    assert names(harness).count("monitor") == 1
    assert harness.node.state.own.flags == NodeFlag(0)
    harness.resume_recoveries()
    harness.advance(0.6)
    assert names(harness).count("monitor") == 2


@pytest.mark.parametrize("order", [Control.STOP_NODE, Control.DB_FREEZE])
def test_a_node_that_stands_still_is_not_monitored(order: Control) -> None:
    harness = Harness()
    if order is Control.DB_FREEZE:
        assert harness.ask(order, U32.pack(harness.attach())).status == 0
    else:
        assert harness.ask(order).status == 0
    before = names(harness).count("monitor")
    harness.advance(100)
    assert names(harness).count("monitor") == before


@pytest.mark.parametrize(("event", "control"), [("startrecovery", 0), ("recovered", 1)])
def test_a_recovery_fails_if_scripts_say_so(event: str, control: int) -> None:
    cluster = Cluster(2)
    cluster.advance(20)
    harness = cluster.nodes[1]
    harness.verdicts[event] = (errno.ENOEXEC, f"event '{event}': 10.x failed with status 1")
    opcode = (Control.START_RECOVERY, Control.END_RECOVERY)[control]
    client = harness.connect()
    reqid, effects = harness.send(client, opcode)
    (reply,) = harness.replies(effects, reqid)
    assert reply.status != 0
    assert "10.x" in reply.error


def test_a_recovery_does_not_wait_for_scripts_that_are_slow() -> None:
    harness = Harness()
    harness.hold_events = True
    reqid, effects = harness.send(harness.connect(), Control.START_RECOVERY)
    assert harness.replies(effects, reqid) == []
    (reply,) = harness.replies(harness.advance(0.11), reqid)
    assert reply.status == 0
    slow = harness.events[-1]
    assert slow.name == "startrecovery"
    harness.give(EventEnded(slow.event_id, errno.ENOEXEC, "10.x failed"))


@pytest.mark.parametrize(
    ("control", "event", "srvid"),
    [
        (Control.IPREALLOCATED, "ipreallocated", SRVID_IPREALLOCATED),
        (Control.START_IPREALLOCATE, "startipreallocate", SRVID_START_IPREALLOCATE),
    ],
)
def test_programs_hear_of_addresses_once_scripts_have(control: Control, event: str, srvid: int) -> None:
    harness = Harness(scripts_first=True)
    harness.effects.clear()
    harness.verdicts[event] = (errno.ETIMEDOUT, "10.x hung")
    assert harness.ask(control).status != 0
    assert [each for each in of_kind(harness.effects, SendMessage) if each.srvid == srvid] == []
    harness.verdicts.clear()
    assert harness.ask(control).status == 0
    assert [each for each in of_kind(harness.effects, SendMessage) if each.srvid == srvid]


def test_a_node_ends_when_its_shutdown_scripts_have() -> None:
    harness = Harness()
    harness.hold_events = True
    effects = harness.give(ShutdownAsked("signal SIGTERM"))
    assert of_kind(effects, Exit) == []
    (event,) = of_kind(effects, RunEvent)
    assert event.name == "shutdown"
    assert harness.give(ShutdownAsked("signal SIGTERM")) == []
    effects = harness.give(EventEnded(event.event_id, errno.ETIMEDOUT, "50.samba hung"))
    assert of_kind(effects, Exit) == [Exit(0, "signal SIGTERM")]


@pytest.mark.parametrize("event", ["init", "setup", "startup"])
def test_a_node_that_comes_up_is_stopped_without_waiting_for_what_brings_it_up(event: str) -> None:
    harness = Harness(start=False)
    harness.hold_events = True
    harness.begin()
    while event not in names(harness):
        harness.give(EventEnded(harness.events[-1].event_id, 0))
    held = harness.events[names(harness).index(event)]
    assert StopEvent(held.event_id) in harness.give(ShutdownAsked("signal SIGTERM"))
    harness.give(EventEnded(held.event_id, errno.ECANCELED, "it was stopped"))
    assert names(harness)[-1] == "shutdown"
    harness.give(EventEnded(harness.events[-1].event_id, 0))
    assert of_kind(harness.effects, Exit) == [Exit(0, "signal SIGTERM")]
