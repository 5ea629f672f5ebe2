# SPDX-License-Identifier: GPL-3.0-or-later
"""Records bounce between three nodes: no change is lost, and nobody holds what another one holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster
from ctdbpy.wire.constants import RunState
from ctdbpy.wire.controls import Control
from tests.cluster.history import Change, Look, problems, stale_looks
from tests.cluster.run import Run

_ROOT = Path(__file__).resolve().parents[2]
_TUNABLES = {"RerecoveryTimeout": 1, "ElectionTimeout": 1}
# "debian" here shows that the checker has nothing to say about upstream's daemon either.
_FLAVOUR = os.environ.get("CTDBPY_INTEROP_FLAVOUR", "ctdbpy")
_NODES = 3


# --- the checker itself ------------------------------------------------------------------------------

_TRUE_STORY = [
    Change(100, 110, 0, 0, "n0"),
    Change(120, 130, 0, 1, "n1"),
    Change(105, 115, 1, 0, "n2"),
    Change(130, 140, 0, 2, "n0"),
]
_TRUE_END = {0: 3, 1: 1}


def _told(changes: list[Change], finals: dict[int, int]) -> list[str]:
    return list(problems(changes, finals))


def test_a_true_story_has_no_problems() -> None:
    assert _told(_TRUE_STORY, _TRUE_END) == []


def test_a_lost_change_is_found() -> None:
    lost = [*_TRUE_STORY[:3], replace(_TRUE_STORY[3], before=1)]
    assert _told(lost, {0: 2, 1: 1}) == ["record 0: n0 found 1 after n1 left 2"]
    assert _told(_TRUE_STORY, {0: 2, 1: 1}) == ["record 0: it says 2 after n0 left 3"]


def test_two_holders_at_a_time_are_found() -> None:
    overlapping = [*_TRUE_STORY[:3], replace(_TRUE_STORY[3], begin_ns=129)]
    assert _told(overlapping, _TRUE_END) == ["record 0: n0 held it 0.0 us before n1 was done"]


def test_a_change_from_nowhere_is_found() -> None:
    assert _told(_TRUE_STORY[:2], {0: 3}) == ["record 0: it says 3 after n1 left 2"]


def test_a_lost_record_is_found() -> None:
    assert _told(_TRUE_STORY, {0: 3}) == ["record 1: it is gone after 1 changes"]


def test_the_change_of_a_killed_client_may_have_happened_or_not() -> None:
    killed = Change(140, 0, 0, 3, "n1")
    assert _told([*_TRUE_STORY, killed], _TRUE_END) == []
    assert _told([*_TRUE_STORY, killed], {0: 4, 1: 1}) == []
    assert _told([*_TRUE_STORY, killed, Change(150, 160, 0, 3, "n2")], {0: 4, 1: 1}) == []
    assert _told([*_TRUE_STORY, killed, Change(150, 160, 0, 5, "n2")], {0: 6, 1: 1}) != []


def test_what_is_seen_is_what_the_record_says() -> None:
    good = [Look(90, 95, 0, 0, "n1"), Look(111, 119, 0, 1, "n2"), Look(125, 129, 0, 1, "n2")]
    assert list(stale_looks(_TRUE_STORY, good)) == []
    stale, early = Look(131, 135, 0, 1, "n2"), Look(90, 95, 0, 1, "n1")
    assert list(stale_looks(_TRUE_STORY, [stale, early])) == [
        "record 0: n2 saw 1 0.0 us after it had changed",
        "record 0: n1 saw 1 before it was made",
    ]


# --- real daemons ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes, healthy; tests use databases of their own."""
    with Lab(nodes=_NODES, clients=0) as lab:
        cluster = Cluster(lab, _FLAVOUR, tunables=_TUNABLES)
        cluster.configure()
        for host in lab.nodes:
            cluster.start(host)
        cluster.wait_healthy()
        yield cluster


def _moved(changes: list[Change]) -> int:
    """How often a record was changed on another node than the time before."""
    last: dict[int, str] = {}
    moves = 0
    for change in sorted(changes):
        host = change.client[:2]
        moves += last.get(change.key, host) != host
        last[change.key] = host
    return moves


@pytest.mark.timeout(400)
def test_a_million_changes_of_bouncing_records_are_all_there(cluster: Cluster) -> None:
    run = Run(cluster, "million.tdb", keys=30)
    run.start_everywhere(4, 84_000)
    run.wait(timeout_s=300)
    changes = run.changes()
    assert list(problems(changes, run.finals())) == []
    assert len(changes) > 1_000_000
    assert _moved(changes) > 50_000


@pytest.mark.timeout(300)
def test_recoveries_lose_no_change(cluster: Cluster) -> None:
    run = Run(cluster, "recovered.tdb", keys=20)
    run.start_everywhere(2, 1_000_000)
    for number in range(6):
        run.wait_for_changes(10_000)
        cluster.tool(cluster.lab.nodes[number % _NODES], "recover")
    run.wait_for_changes(10_000)
    run.kill()
    changes = run.changes()
    assert list(problems(changes, run.finals())) == []
    assert _moved(changes) > 10_000


@pytest.mark.timeout(300)
def test_clients_killed_at_work_hold_nobody_up(cluster: Cluster) -> None:
    run = Run(cluster, "killed.tdb", keys=20)
    run.start_everywhere(2, 40_000)
    for number in range(12):
        victim = run.start(cluster.lab.nodes[number % _NODES], 1_000_000)
        run.wait_for_changes(1_000)
        victim.kill()
    run.wait(timeout_s=120)
    changes = run.changes()
    assert list(problems(changes, run.finals())) == []
    assert len(changes) >= 2 * _NODES * 40_000


@pytest.mark.timeout(300)
def test_a_record_whose_holder_is_killed_moves_on(cluster: Cluster) -> None:
    """The only record there is stays locked until its holder dies; then all the others get it."""
    run = Run(cluster, "held.tdb", keys=1)
    holder = run.start(cluster.lab.nodes[0], 10, "--freeze")
    wait_until("the record is held", lambda: run.said("holds"), timeout_s=30)
    run.start_everywhere(2, 2_000)
    with Connection(cluster.lab.path(cluster.lab.nodes[0], "/run/ctdb/ctdbd.socket"), timeout_s=5) as other:
        assert other.control(Control.GET_RUNSTATE).status == 0
        assert other.ask(Control.GET_RUNSTATE) == RunState.RUNNING
    assert run.count() == 10, "nobody changed it meanwhile"
    holder.kill()
    run.wait(timeout_s=120)
    changes = run.changes()
    assert list(problems(changes, run.finals())) == []
    assert len(changes) == 10 + 2 * _NODES * 2_000


@pytest.mark.timeout(300)
def test_readers_of_copies_see_what_the_record_says(cluster: Cluster) -> None:
    run = Run(cluster, "copied.tdb", keys=200)
    for host in cluster.lab.nodes:
        cluster.tool(host, "attach", "copied.tdb")
        cluster.tool(host, "setdbreadonly", "copied.tdb")
    for host in cluster.lab.nodes:
        run.start(host, 1_000_000, "--reader")
    run.wait_for_changes(200 * _NODES)
    writers = [run.start(host, 10_000) for host in cluster.lab.nodes]
    assert [writer.wait(timeout_s=200) for writer in writers] == [0] * _NODES
    run.kill()
    changes, looks = run.changes(), [note for note in run.notes() if isinstance(note, Look)]
    assert list(problems(changes, run.finals())) == []
    assert list(stale_looks(changes, looks)) == []
    assert len(changes) == _NODES * 10_000
    seen = {(look.key, look.counter) for look in looks}
    assert len(seen) > 1_000, "copies were handed out and taken back while the records changed"


def test_clients_that_do_not_ask_whose_a_record_is_are_caught(cluster: Cluster) -> None:
    run = Run(cluster, "careless.tdb", keys=2)
    run.start_everywhere(1, 3_000, "--careless")
    run.wait(timeout_s=60)
    assert list(problems(run.changes(), run.finals())) != []
