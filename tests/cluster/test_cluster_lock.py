# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster lock of real daemons: its holder leads, and however it is lost, there is one cluster again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster

#: Far more than anything here takes on a loaded machine.
LIMIT_S = 60.0
UNKNOWN = "UNKNOWN"

pytestmark = pytest.mark.timeout(240)


class Stand:
    """A lab whose nodes run our daemon, with the lock on the file system they share."""

    def __init__(self, nodes: int) -> None:
        self.lab = Lab(nodes=nodes, clients=0)
        self.cluster = Cluster(self.lab, "ctdbpy", log_level="INFO")
        self.directory = Path()

    def begin(self) -> None:
        self.lab.up()
        self.cluster.configure()
        self.directory = self.lab.path("n0", "/cluster/.ctdb")
        for host in self.lab.nodes:
            self.cluster.start(host)
        self.cluster.wait_healthy()

    def holders(self) -> list[str]:
        """Nodes that hold the lock on the file as it is now; each sees its own processes' locks alone."""
        try:
            inode = (self.directory / "lock").stat().st_ino
        except FileNotFoundError:
            return []
        return [host for host in self.lab.nodes if self._holds(host, inode)]

    def _holds(self, host: str, inode: int) -> bool:
        locks = self.lab.run(host, ["cat", "/proc/locks"], timeout_s=LIMIT_S, check=False).stdout
        return bool(re.search(rf"WRITE (?!0 )\d+ \S+:{inode} 0 0$", locks, re.MULTILINE))

    def leader(self, host: str) -> str:
        """Who leads, as the `ctdb` tool says on a node."""
        said = self.cluster.tool(host, "leader", check=False).stdout.strip()
        return f"n{said}" if said.isdecimal() else said

    def wait_leader(self, host: str, leader: str) -> None:
        what = f"'{host}' says that the leader is {leader}"
        wait_until(what, lambda: self.leader(host) == leader, timeout_s=LIMIT_S)

    def wait_status(self, host: str, pattern: str) -> None:
        """Until `ctdb status` of a node says something."""

        def says() -> bool:
            return bool(re.search(pattern, self.cluster.tool(host, "status").stdout))

        wait_until(f"the status of '{host}' has '{pattern}'", says, timeout_s=LIMIT_S)

    def generation(self, host: str) -> str:
        found = re.search(r"^Generation:(\d+)", self.cluster.tool(host, "status").stdout, re.MULTILINE)
        return found[1] if found else ""

    def wait_one_cluster(self, hosts: list[str]) -> str:
        """Until these nodes are healthy, agree on who leads, and that one alone holds the lock; it."""
        self.cluster.wait_healthy(hosts)

        def is_one() -> bool:
            leaders = {self.leader(host) for host in hosts}
            return len(leaders) == 1 and self.holders() == list(leaders)

        wait_until("one node leads and holds the lock", is_one, timeout_s=LIMIT_S)
        return self.holders()[0]

    def wait_logged(self, host: str, pattern: str) -> None:
        log = self.cluster.log(host)
        wait_until(
            f"'{pattern}' in the log of '{host}'",
            lambda: re.search(pattern, log.read_text(errors="replace")),
            timeout_s=LIMIT_S,
        )

    def logs(self) -> str:
        return "\n".join(f"--- {host}\n{self.cluster.log_end(host, 60)}" for host in self.lab.nodes)


def built(nodes: int) -> Iterator[Stand]:
    stand = Stand(nodes)
    try:
        stand.begin()
        yield stand
    finally:
        print(stand.logs())
        stand.lab.down()


@pytest.fixture(scope="module")
def trio() -> Iterator[Stand]:
    """Three nodes: a majority serves, and the lock keeps leaders single."""
    yield from built(3)


@pytest.fixture
def pair() -> Iterator[Stand]:
    """Two nodes, neither of them a majority: whose leader holds the lock serves."""
    yield from built(2)


def others(stand: Stand, host: str) -> list[str]:
    return [each for each in stand.lab.nodes if each != host]


def test_the_leader_and_nobody_else_holds_the_lock(trio: Stand) -> None:
    leader = trio.wait_one_cluster(trio.lab.nodes)
    assert trio.cluster.tool(leader, "getreclock").stdout == "/cluster/.ctdb/lock\n"
    latency = trio.cluster.tool(leader, "statistics").stdout
    assert re.search(r"reclock_recd .* out of [1-9]", latency), latency


def test_another_node_takes_the_lock_of_a_leader_that_is_killed(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    trio.cluster.kill(old)
    new = trio.wait_one_cluster(others(trio, old))
    assert new != old
    trio.cluster.start(old)
    assert trio.wait_one_cluster(trio.lab.nodes) == new


def test_a_leader_that_stops_hands_the_lock_over(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    trio.cluster.tool(old, "stop")
    wait_until(
        "another holds the lock",
        lambda: trio.holders() in ([each] for each in others(trio, old)),
        timeout_s=LIMIT_S,
    )
    trio.cluster.tool(old, "continue")
    assert trio.wait_one_cluster(trio.lab.nodes) != old


def test_after_the_lock_file_is_removed_there_is_one_cluster_again(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    before = trio.generation(old)
    (trio.directory / "lock").unlink()
    trio.wait_logged(old, r"cluster lock '/cluster/\.ctdb/lock' is lost: cannot open lock file")
    wait_until("a recovery", lambda: trio.generation(old) != before, timeout_s=LIMIT_S)
    trio.wait_one_cluster(trio.lab.nodes)


def test_after_the_lock_file_is_replaced_there_is_one_cluster_again(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    before = trio.generation(old)
    fresh = trio.directory / "fresh"
    fresh.touch()
    fresh.rename(trio.directory / "lock")
    trio.wait_logged(old, r"is lost: .* is another file now")
    wait_until("a recovery", lambda: trio.generation(old) != before, timeout_s=LIMIT_S)
    trio.wait_one_cluster(trio.lab.nodes)


def test_without_the_directory_of_the_lock_nobody_leads_until_it_is_back(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    before = trio.generation(old)
    away = trio.directory.with_name("away")
    trio.directory.rename(away)
    try:
        # The tool listens longer for a leader than a node without one waits until it tries to be it.
        for host in trio.lab.nodes:
            trio.wait_leader(host, UNKNOWN)
        assert trio.holders() == []
    finally:
        shutil.move(away, trio.directory)
    trio.wait_one_cluster(trio.lab.nodes)
    assert trio.generation(old) != before
    said = trio.cluster.log(old).read_text().count("mount the cluster file system, or make the directory")
    assert 0 < said < 10


def test_a_leader_without_its_cluster_file_system_makes_room_for_another(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    trio.lab.run(old, ["mount", "-t", "tmpfs", "none", "/cluster"], timeout_s=LIMIT_S)
    try:
        trio.wait_logged(old, r"is lost: cannot open lock file")
        assert trio.wait_one_cluster(trio.lab.nodes) != old
    finally:
        trio.lab.run(old, ["umount", "/cluster"], timeout_s=LIMIT_S)


def test_a_helper_that_dies_is_a_lost_lock(trio: Stand) -> None:
    old = trio.wait_one_cluster(trio.lab.nodes)
    before = trio.generation(old)
    inode = (trio.directory / "lock").stat().st_ino
    locks = trio.lab.run(old, ["cat", "/proc/locks"], timeout_s=LIMIT_S).stdout
    held = re.search(rf"WRITE (\d+) \S+:{inode} 0 0$", locks, re.MULTILINE)
    assert held is not None
    trio.lab.run(old, ["kill", "-KILL", held[1]], timeout_s=LIMIT_S)
    trio.wait_logged(old, rf"its helper \(process {held[1]}\) has ended")
    wait_until("a recovery", lambda: trio.generation(old) != before, timeout_s=LIMIT_S)
    trio.wait_one_cluster(trio.lab.nodes)


@pytest.mark.parametrize("which", ["trio", "pair"])
def test_a_leader_that_stands_still_gives_the_lock_up(which: str, request: pytest.FixtureRequest) -> None:
    stand: Stand = request.getfixturevalue(which)
    old = stand.wait_one_cluster(stand.lab.nodes)
    pid = str(stand.cluster.pid(old))
    stand.lab.run(old, ["kill", "-STOP", pid], timeout_s=LIMIT_S)
    try:
        new = stand.wait_one_cluster(others(stand, old))
    finally:
        stand.lab.run(old, ["kill", "-CONT", pid], timeout_s=LIMIT_S)
    # What it hears first: that the lock is lost, or that others have given it up.
    stand.wait_logged(old, r"cluster lock .* is (lost: the daemon has stood still for 2\.5 s|given back)")
    assert stand.wait_one_cluster(stand.lab.nodes) == new


def test_of_two_nodes_that_lose_each_other_the_one_with_the_lock_serves(pair: Stand) -> None:
    leader = pair.wait_one_cluster(pair.lab.nodes)
    (other,) = others(pair, leader)
    pair.cluster.tool(leader, "attach", "split.tdb")
    pair.lab.cut(other, "private", manner="silent")
    for host in pair.lab.nodes:
        pair.wait_status(host, r"DISCONNECTED")
    pair.wait_status(leader, r"Recovery mode:NORMAL")
    pair.cluster.tool(leader, "writekey", "split.tdb", "key", "kept")
    assert pair.holders() == [leader]
    assert "Recovery mode:RECOVERY" in pair.cluster.tool(other, "status").stdout
    pair.lab.mend(other)
    assert pair.wait_one_cluster(pair.lab.nodes) == leader
    said = pair.cluster.tool(other, "readkey", "split.tdb", "key").stdout
    assert said == "Data: size:4 ptr:[kept]\n"
