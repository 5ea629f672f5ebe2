# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of a node: which may run when, and what comes back."""

from __future__ import annotations

import errno

import pytest

from ctdbpy.core.effects import RunEvent, StopEvent
from ctdbpy.core.events.events import EVENTS, Events
from ctdbpy.core.inputs import EventEnded
from ctdbpy.core.state import State
from ctdbpy.wire.constants import RecoveryMode
from tests.unit.core.fake_records import FakeRecords
from tests.unit.core.fakes import one_node


@pytest.fixture
def state() -> State:
    """A node's facts, out of recovery."""
    state = State(one_node(), FakeRecords())
    state.set_recmode(RecoveryMode.NORMAL, "test")
    state.effects.clear()
    return state


def test_an_event_runs_with_its_arguments_and_the_time_that_scripts_may_take(state: State) -> None:
    promise = Events(state).run("takeip", "eth0", "10.0.0.1", "24")
    assert not promise.done
    assert state.effects == [RunEvent(1, "takeip", ("eth0", "10.0.0.1", "24"), 30.0)]


def test_a_promise_is_kept_with_the_verdict_of_its_own_event(state: State) -> None:
    events = Events(state)
    first, second = events.run("monitor"), events.run("updateip", "eth0", "eth1", "10.0.0.1", "24")
    events.ended(EventEnded(2, errno.ENOEXEC, "10.interface failed"))
    assert second.result().text == "10.interface failed"
    assert not second.result().is_good
    assert not first.done
    events.ended(EventEnded(1, errno.ECANCELED, "gave way"))
    assert first.result().was_cancelled
    assert events.running == 0


@pytest.mark.parametrize("name", [name for name in EVENTS if name not in ("takeip", "releaseip", "updateip")])
def test_in_a_recovery_only_some_events_run(state: State, name: str) -> None:
    state.set_recmode(RecoveryMode.ACTIVE, "test")
    promise = Events(state).run(name)
    allowed = name in {"init", "setup", "startrecovery", "shutdown", "startipreallocate", "ipreallocated"}
    assert promise.done is not allowed
    if not allowed:
        assert "recovery" in promise.result().text


@pytest.mark.parametrize("name", ["startrecovery", "recovered", "monitor", "ipreallocated", "startup"])
def test_some_events_forgive_scripts_that_are_too_slow(state: State, name: str) -> None:
    events = Events(state)
    promise = events.run(name)
    events.ended(EventEnded(1, errno.ETIMEDOUT, "50.samba took too long"))
    assert promise.result().is_good is (name in ("startrecovery", "recovered"))
    assert promise.result().timed_out is (name not in ("startrecovery", "recovered"))


def test_every_run_of_an_event_is_stopped(state: State) -> None:
    events = Events(state)
    events.run("startup")
    events.run("monitor")
    events.run("startup")
    state.effects.clear()
    events.stop("startup")
    assert state.effects == [StopEvent(1), StopEvent(3)]
