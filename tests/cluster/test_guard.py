# SPDX-License-Identifier: GPL-3.0-or-later
"""Heartbeats between three hosts: who is missed, for what reason, and who stops serving for it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from datetime import datetime

import pytest

from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster

LIMIT_S = 30.0

_NO_HEARTBEATS = """
table inet quiet {
    chain in {
        type filter hook input priority 0;
        udp dport 4379 drop;
    }
    chain out {
        type filter hook output priority 0;
        udp dport 4379 drop;
    }
}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes that need a majority to serve."""
    with Lab(nodes=3, clients=0) as lab:
        cluster = Cluster(lab, "ctdbpy", tunables={"StallLimit": 1000}, log_level="INFO")
        cluster.configure()
        # It is what the tests below strike: a leader may hold the cluster lock, which on the one kernel of a
        # lab a frozen process never loses.
        with lab.path("n2", "/etc/ctdb/ctdb.conf").open("a", encoding="ascii") as conf:
            conf.write("\n[cluster]\nleader capability = false\n")
        for host in lab.nodes:
            cluster.start(host)
        cluster.wait_healthy()
        yield cluster


@pytest.fixture(autouse=True)
def healthy(cluster: Cluster) -> Iterator[None]:
    """Each test begins and ends with a whole cluster."""
    cluster.wait_healthy()
    yield
    cluster.wait_healthy()


class Log:
    """What a node logs from now on."""

    def __init__(self, cluster: Cluster, host: str) -> None:
        self.host = host
        self._path = cluster.log(host)
        self._from = len(self._path.read_text())

    @property
    def text(self) -> str:
        return self._path.read_text()[self._from :]

    def wait(self, pattern: str) -> datetime:
        """When the first line that matches was written."""
        found: list[str] = []

        def look() -> bool:
            found.extend(line for line in self.text.splitlines() if re.search(pattern, line))
            return bool(found)

        try:
            wait_until(f"'{self.host}' logs '{pattern}'", look, timeout_s=LIMIT_S)
        except Exception:
            print(self.text)
            raise
        return datetime.fromisoformat(found[0].split()[0])

    def has(self, pattern: str) -> bool:
        """Whether a line matches already."""
        return re.search(pattern, self.text) is not None


def guard_of(cluster: Cluster, host: str) -> int:
    """Process id of a node's guard, as the host sees it."""
    found = cluster.lab.run(host, ["pgrep", "-f", "ctdbpy[.]guard"], timeout_s=10, check=False)
    return int(found.stdout.split()[0]) if found.returncode == 0 else 0


def send(cluster: Cluster, host: str, pid: int, number: signal.Signals) -> None:
    """A signal to one process of a host."""
    cluster.lab.run(host, ["kill", f"-{number.name.removeprefix('SIG')}", str(pid)], timeout_s=10)


def test_a_host_that_stands_still_is_missed_and_stops_before_it_serves_again(cluster: Cluster) -> None:
    others = [Log(cluster, host) for host in ("n0", "n1")]
    sleeper = Log(cluster, "n2")
    cluster.lab.freeze("n2")
    try:
        missed = [
            log.wait(r"node 2 is silent: no heartbeat for 0\.\d+ s \(limit 5 x 100 ms\)") for log in others
        ]
        for log, moment in zip(others, missed, strict=True):
            assert moment <= log.wait(r"node 2 flags .*-> .*DISCONNECTED.*: it is silent")
            log.wait("recovery mode NORMAL")
    finally:
        cluster.lab.thaw("n2")
    stopped = sleeper.wait("stands still, databases are frozen until the next recovery: ")
    resumed = sleeper.wait("serves again; it stood still: ")
    assert max(missed) < stopped < resumed


def test_a_guard_that_is_killed_is_started_again_and_nobody_is_missed(cluster: Cluster) -> None:
    own, *others = (Log(cluster, host) for host in ("n1", "n0", "n2"))
    guard = guard_of(cluster, "n1")
    assert guard
    send(cluster, "n1", guard, signal.SIGKILL)
    own.wait(r"the guard has ended \(its process is gone\): nobody hears this node; started again")
    wait_until("there is a guard again", lambda: guard_of(cluster, "n1") not in (0, guard), timeout_s=LIMIT_S)
    cluster.wait_healthy()
    assert not any(log.has("node 1 is gone") for log in others)


def test_a_daemon_that_hangs_is_missed_though_its_guard_lives(cluster: Cluster) -> None:
    others = [Log(cluster, host) for host in ("n0", "n1")]
    sleeper = Log(cluster, "n2")
    daemon = cluster.pid("n2")
    send(cluster, "n2", daemon, signal.SIGSTOP)
    try:
        for log in others:
            stalled = log.wait("node 2 is stalled: its guard lives, its daemon has stalled")
            assert stalled <= log.wait("node 2 flags .*-> .*DISCONNECTED.*: it is stalled")
            assert not log.has("node 2 is silent")
    finally:
        send(cluster, "n2", daemon, signal.SIGCONT)
    sleeper.wait("stands still, databases are frozen until the next recovery: ")
    sleeper.wait("serves again; it stood still: ")


def test_a_daemon_that_is_killed_is_missed_by_its_guards_word(cluster: Cluster) -> None:
    log = Log(cluster, "n0")
    cluster.kill("n2")
    log.wait("node 2 is gone: its guard says that its daemon has ended")
    wait_until("its guard has ended", lambda: guard_of(cluster, "n2") == 0, timeout_s=LIMIT_S)
    cluster.start("n2")


def test_a_blocked_port_is_no_death(cluster: Cluster) -> None:
    """A packet filter that was there before the node: it counts on links, and keepalives alone watch it."""
    cluster.stop("n2")
    logs = {host: Log(cluster, host) for host in cluster.lab.nodes}
    cluster.lab.run("n2", ["nft", "-f", "-"], input=_NO_HEARTBEATS, timeout_s=10)
    try:
        cluster.start("n2")
        cluster.wait_healthy()
        logs["n2"].wait(r"WARNING: node 0: no heartbeat in .* keepalives alone watch it")
        logs["n0"].wait(r"WARNING: node 2: no heartbeat in .* keepalives alone watch it")
        assert not any(log.has("node [012] is silent") for log in logs.values())
    finally:
        cluster.lab.run("n2", ["nft", "delete", "table", "inet", "quiet"], timeout_s=10)
    logs["n0"].wait("node 2 is live")


def test_a_node_cut_off_from_the_majority_executes_no_call(cluster: Cluster) -> None:
    log = Log(cluster, "n2")
    others = [Log(cluster, host) for host in ("n0", "n1")]
    cluster.lab.cut("n2", "private", manner="silent")
    try:
        stopped = log.wait("stands still, databases are frozen until the next recovery: no lease")
        missed = [other.wait("node 2 is silent") for other in others]
        # One clock for all hosts here: who is declared silent has stopped before.
        assert all(stopped < moment for moment in missed)
        for other in others:
            other.wait("recovery mode NORMAL")
    finally:
        cluster.lab.mend("n2")
    log.wait("serves again; it stood still: no lease")
