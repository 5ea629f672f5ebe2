# SPDX-License-Identifier: GPL-3.0-or-later
"""Cables cut, hosts that stand still, daemons killed at the worst moment: then there is one cluster again.

Clients change records on every node meanwhile. After each fault there is one generation and one leader, every
node sees every node well, no change is lost that a node which stayed had a copy of, and the logs tell what
happened.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from ctdbpy.client.connection import DEFAULT_SOCKET, Connection
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster
from ctdbpy.wire.constants import RecoveryMode
from ctdbpy.wire.controls import Control
from tests.cluster.history import Change, Loss, problems, survived
from tests.cluster.run import Run

_NODES = 3
_KEYS = 20
_CLIENTS = 2
_CHANGES = 1_000_000
# What clients need to have done before and after a fault, for it to have happened amid work.
_WORK = 1_000


# --- the rule about lost hosts ---------------------------------------------------------------------------

_STORY = [
    Change(100, 110, 0, 0, "n0-0"),
    Change(120, 130, 0, 1, "n2-0"),
    Change(140, 150, 0, 2, "n2-1"),
    Change(300, 310, 0, 1, "n0-0"),
]
_LOSS = Loss("n2", 135, 400)


def _told(changes: list[Change], finals: dict[int, int], losses: list[Loss]) -> list[str]:
    return list(problems(survived(changes, finals, losses), finals))


def test_what_only_a_lost_host_had_may_be_lost() -> None:
    assert _told(_STORY, {0: 2}, [_LOSS]) == []
    assert _told(_STORY[:3], {0: 1}, [_LOSS]) == []
    assert _told(_STORY, {0: 2}, []) == ["record 0: n0-0 found 1 after n2-1 left 3"]


def test_what_others_saw_of_a_lost_host_may_not_be_lost() -> None:
    seen = [*_STORY[:3], Change(160, 170, 0, 3, "n1-0"), _STORY[3]]
    assert _told(seen, {0: 2}, [_LOSS]) == ["record 0: n0-0 found 1 after n1-0 left 4"]


def test_what_a_host_did_that_stayed_or_came_back_may_not_be_lost() -> None:
    assert _told(_STORY, {0: 2}, [Loss("n1", 135, 400)]) == ["record 0: n0-0 found 1 after n2-1 left 3"]
    back = [*_STORY, Change(500, 510, 0, 2, "n2-0")]
    assert _told(back, {0: 3}, [_LOSS]) == []
    assert _told(back, {0: 2}, [_LOSS]) == ["record 0: it says 2 after n2-0 left 3"]


def test_a_host_that_is_cut_off_may_not_go_on_beside_the_others() -> None:
    beside = [*_STORY, Change(320, 330, 0, 3, "n2-0")]
    assert _told(beside, {0: 2}, [_LOSS]) != []
    assert _told(beside, {0: 2}, [Loss("n2", 135, 400, stale_until_ns=400)]) == []


# --- a cluster and its story -----------------------------------------------------------------------------


class Scene:
    """A cluster with clients at work, and the logs since the scene began."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self.cluster = cluster
        self.lab = cluster.lab
        self.run = Run(cluster, database, keys=_KEYS)
        self._losses: list[Loss] = []
        self._begins = {host: cluster.log(host).stat().st_size for host in self.lab.nodes}
        self.run.start_everywhere(_CLIENTS, _CHANGES)
        self.run.wait_for_changes(_WORK)

    def leader(self, asked: str = "n0") -> str:
        """Who leads, as n0, n1 ... as a node has it."""
        said = self.cluster.tool(asked, "leader").stdout.strip()
        assert said.isdigit(), f"the tool says: {said}"
        return f"n{said}"

    def others(self, *hosts: str) -> list[str]:
        """All nodes but these."""
        return [host for host in self.lab.nodes if host not in hosts]

    def lose(self, host: str, begin_ns: int, stale_until_ns: int = 0) -> None:
        """Note that the others went on without a host, from then until now."""
        self._losses.append(Loss(host, begin_ns, time.monotonic_ns(), stale_until_ns))

    def log(self, host: str) -> str:
        """What a node said since the scene began."""
        with self.cluster.log(host).open("rb") as file:
            file.seek(self._begins[host])
            return file.read().decode(errors="replace")

    def wait_for_line(self, host: str, pattern: str) -> None:
        """Wait until a node has said something."""
        wait_until(
            f"'{host}' says {pattern!r}", lambda: re.search(pattern, self.log(host)) is not None, timeout_s=30
        )

    def tells(self, host: str, *patterns: str) -> None:
        """A node's log has lines like these, in this order."""
        lines = iter(self.log(host).splitlines())
        for pattern in patterns:
            assert any(re.search(pattern, line) for line in lines), f"'{host}' does not say {pattern!r}"

    def check(self) -> None:
        """One cluster, in which clients work on all nodes; and no change lost that somebody had."""
        self.cluster.wait_healthy()
        wait_until("there is one cluster", self._is_one, timeout_s=30)
        self.run.wait_for_changes(_WORK)
        self.run.kill()
        changes, finals = self.run.changes(), self.run.finals()
        assert list(problems(survived(changes, finals, self._losses), finals)) == []

    def _is_one(self) -> bool:
        seen = set()
        for host in self.lab.nodes:
            with Connection(self.lab.path(host, DEFAULT_SOCKET)) as connection:
                flags = tuple(node.flags for node in connection.ask(Control.GET_NODEMAP).nodes)
                recmode = connection.control(Control.GET_RECMODE).status
                generation = connection.ask(Control.GETVNNMAP).generation
            seen.add((flags, recmode, generation, self.cluster.tool(host, "leader").stdout))
        return len(seen) == 1 and next(iter(seen))[:2] == ((0,) * _NODES, RecoveryMode.NORMAL)


Begin = Callable[[str], Scene]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes, healthy. Without a cluster lock: a majority is enough, and is what is tested here."""
    with Lab(nodes=_NODES, clients=0) as lab:
        cluster = Cluster(lab, "ctdbpy", cluster_lock=False)
        cluster.configure()
        for host in lab.nodes:
            cluster.start(host)
        cluster.wait_healthy()
        yield cluster


@pytest.fixture
def begin(cluster: Cluster) -> Iterator[Begin]:
    """Begins a scene. What its nodes said is shown if the test fails, and the next one finds all well."""
    scenes: list[Scene] = []

    def of(database: str) -> Scene:
        scenes.append(Scene(cluster, database))
        return scenes[-1]

    yield of
    for scene in scenes:
        scene.run.kill()
        for host in cluster.lab.nodes:
            print(f"--- {host} said:\n{scene.log(host)}")
    for row in cluster.lab.status():
        host = row["name"]
        cluster.lab.mend(host)
        if row["power"] == "frozen":
            cluster.lab.thaw(host)
        if not cluster.runs(host):
            cluster.start(host)
    cluster.wait_healthy()


# --- faults ------------------------------------------------------------------------------------------------


def test_a_leader_cut_off_from_two_stops_and_comes_back(begin: Begin) -> None:
    scene = begin("cut.tdb")
    lost = scene.leader()
    stay = scene.others(lost)
    began_ns = time.monotonic_ns()
    scene.lab.cut(lost, "all", manner="silent")
    scene.wait_for_line(lost, "stands still")
    stopped = scene.run.count(lost)
    scene.run.wait_for_changes(_WORK, *stay)
    assert scene.run.count(lost) == stopped, "a node alone serves nobody"
    scene.lab.mend(lost)
    scene.lose(lost, began_ns)
    scene.check()
    scene.tells(
        lost,
        "stands still, databases are frozen until the next recovery: no lease",
        "this node leads no more",
        "leader is node",
        "serves again; it stood still: no lease",
    )
    scene.tells(
        scene.leader(),
        f"node {lost[1:]} is silent: no heartbeat",
        "this node leads$",
        "recovery begins: ",
        "recovery done in .* lmasters ",
        f"node {lost[1:]} .* its link stands",
        f"node {lost[1:]} brings stale copies.*do not count",
        r"recovery done in .* lmasters \[0, 1, 2\]",
    )


def test_a_private_link_pulled_with_the_public_one_up_is_as_good_as_cut_off(begin: Begin) -> None:
    scene = begin("pulled.tdb")
    lost = scene.others(scene.leader())[0]
    stay = scene.others(lost)
    began_ns = time.monotonic_ns()
    scene.lab.cut(lost, "private", manner="pulled")
    scene.wait_for_line(lost, "stands still")
    stopped = scene.run.count(lost)
    scene.run.wait_for_changes(_WORK, *stay)
    assert scene.run.count(lost) == stopped, "a node alone serves nobody"
    assert scene.lab.run(stay[0], ["ping", "-c1", f"{lost}-pub"], timeout_s=10).returncode == 0
    scene.lab.mend(lost)
    scene.lose(lost, began_ns)
    scene.check()
    scene.tells(lost, "stands still, .*: no lease", "serves again; it stood still")
    _tells_of_a_loss(scene, lost)


@pytest.mark.parametrize("manner", ["mute", "deaf"])
def test_a_leader_heard_or_hearing_one_way_goes_on_without_that_node(begin: Begin, manner: str) -> None:
    scene = begin(f"{manner}.tdb")
    leader = scene.leader()
    lost, stays = scene.others(leader)
    began_ns = time.monotonic_ns()
    mute, deaf = (leader, lost) if manner == "mute" else (lost, leader)
    scene.lab.silence(mute, deaf, "private")
    scene.wait_for_line(lost, "stands still")
    stopped = scene.run.count(lost)
    scene.run.wait_for_changes(_WORK, leader, stays)
    assert scene.run.count(lost) == stopped, "whom the leader does not hear serves nobody"
    assert scene.leader(stays) == leader
    scene.lab.mend(mute)
    scene.lose(lost, began_ns)
    scene.check()
    scene.tells(
        lost,
        "stands still, .*: no lease",
        "serves again; it stood still",
    )
    _tells_of_a_loss(scene, lost)


def test_of_two_nodes_that_lose_each_other_one_way_the_leader_bans_one(begin: Begin) -> None:
    scene = begin("mesh.tdb")
    leader = scene.leader()
    mute, deaf = scene.others(leader)
    began_ns = time.monotonic_ns()
    scene.lab.silence(mute, deaf, "private")
    scene.wait_for_line(leader, "is banned")
    lost = mute if f"node {mute[1:]} is banned" in scene.log(leader) else deaf
    scene.run.wait_for_changes(_WORK, *scene.others(lost))
    stopped = scene.run.count(lost)
    scene.run.wait_for_changes(_WORK, *scene.others(lost))
    assert scene.run.count(lost) == stopped, "a banned node serves nobody"
    scene.lab.mend(mute)
    scene.lose(lost, began_ns)
    scene.check()
    scene.tells(
        lost,
        "own flags OK -> BANNED: .* have not reached each other",
        "own flags BANNED -> OK: .* reach each other again",
    )
    scene.tells(
        leader, "is banned for .* have not reached each other", "is let in again", "recovery done in "
    )


def test_a_host_that_stood_still_for_five_seconds_comes_back(begin: Begin) -> None:
    scene = begin("paused.tdb")
    lost = scene.leader()
    stay = scene.others(lost)
    began_ns = time.monotonic_ns()
    scene.lab.freeze(lost)
    scene.run.wait_for_changes(_WORK, *stay)
    wait_until("five seconds have passed", lambda: time.monotonic_ns() - began_ns > 5e9, timeout_s=10)
    scene.lab.thaw(lost)
    thawed_ns = time.monotonic_ns()
    scene.cluster.wait_healthy()
    scene.lose(lost, began_ns, thawed_ns + 1_000_000_000)
    scene.check()
    scene.tells(lost, "stands still, .*: no lease", "this node leads no more", "serves again; it stood still")
    scene.tells(
        scene.leader(),
        f"node {lost[1:]} is silent: no heartbeat",
        "this node leads$",
        "recovery done in ",
        f"node {lost[1:]} brings stale copies",
    )


def test_a_daemon_killed_during_a_recovery_does_not_stop_it(begin: Begin) -> None:
    scene = begin("killed.tdb")
    leader = scene.leader()
    victim, stays = scene.others(leader)
    _kill_while_recovering(scene, victim, stays)
    assert scene.leader() == leader
    scene.tells(
        leader,
        "recovery begins: ",
        "recovery failed: ",
        f"recovery begins: .*node {victim[1:]}",
        "recovery done in ",
        f"node {victim[1:]} .* its link stands",
        r"recovery done in .* lmasters \[0, 1, 2\]",
    )


def test_a_leader_killed_while_it_recovers_is_followed_by_another(begin: Begin) -> None:
    scene = begin("leaderless.tdb")
    leader = scene.leader()
    _kill_while_recovering(scene, leader, scene.others(leader)[0])
    scene.tells(
        scene.leader(),
        f"leader {leader[1:]} (is gone|cannot be reached)",
        "this node leads$",
        "recovery begins: ",
        "recovery done in ",
        f"node {leader[1:]} .* its link stands",
        r"recovery done in .* lmasters \[0, 1, 2\]",
    )


def _kill_while_recovering(scene: Scene, victim: str, stays: str) -> None:
    """A record's holder keeps its chain locked, so that the recovery stands until it lets go."""
    holder = Run(scene.cluster, f"held-{scene.run.database}", keys=1)
    held = holder.start(stays, 10, "--freeze")
    wait_until("the record is held", lambda: holder.said("holds"), timeout_s=30)
    leader = scene.leader()
    scene.lab.spawn(stays, ["ctdb", "recover"], scene.lab.path(stays, "/var/log/recover"))
    scene.wait_for_line(leader, "recovery begins")
    assert "recovery done" not in scene.log(leader)
    began_ns = time.monotonic_ns()
    scene.cluster.kill(victim)
    scene.wait_for_line(stays, f"node {victim[1:]} .*DISCONNECTED")
    held.kill()
    scene.run.wait_for_changes(_WORK, *scene.others(victim))
    scene.lose(victim, began_ns)
    scene.cluster.start(victim)
    # Those of the victim ended with its daemon.
    scene.run.start(victim, _CHANGES)
    scene.check()


def _tells_of_a_loss(scene: Scene, lost: str) -> None:
    scene.tells(
        scene.leader(),
        f"node {lost[1:]} flags OK -> DISCONNECTED",
        "recovery begins: the link to node ",
        "recovery done in ",
        f"node {lost[1:]} .* its link stands",
        f"node {lost[1:]} brings stale copies",
        r"recovery done in .* lmasters \[0, 1, 2\]",
    )
