# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that is lost has no power any more when others go on, and nobody else loses it.

One cluster, whose fence command asks the lab's power switch. What a node is found to be is told by its
leader's log, and by the lab, which knows whether a host has power.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctdbpy.client.connection import DEFAULT_SOCKET, Connection
from ctdbpy.errors import LabError
from ctdbpy.lab import Lab, power, wait_until
from ctdbpy.lab.services import Cluster
from ctdbpy.wire.constants import RecoveryMode
from ctdbpy.wire.controls import Control

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(240),
]

LIMIT_S = 30.0
#: What a leader says of a node before it has it fenced.
_FENCES = "is lost, and may still run"
#: Writes what it is told to write, as an smbd does, whenever it gets to it.
_WRITER = """
import os, sys
requests, path = sys.argv[1:]
file = os.open(path, os.O_RDWR | os.O_CREAT)
with open(requests) as told:
    print("open", flush=True)
    for line in told:
        os.pwrite(file, line.encode(), 0)
        print(line, end="", flush=True)
"""
_ROOT = str(Path(__file__).resolve().parents[2])


class Scene:
    """The cluster, and what its nodes have said since the scene began."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.lab = cluster.lab
        self._begins = {host: cluster.log(host).stat().st_size for host in self.lab.nodes}

    def leader(self) -> str:
        said = self.cluster.tool("n0", "leader").stdout.strip()
        assert said.isdigit(), f"the tool says: {said}"
        return f"n{said}"

    def others(self, *hosts: str) -> list[str]:
        """All nodes but these."""
        return [host for host in self.lab.nodes if host not in hosts]

    def log(self, host: str) -> str:
        """What a node has said since the scene began."""
        with self.cluster.log(host).open("rb") as file:
            file.seek(self._begins[host])
            return file.read().decode(errors="replace")

    def wait_said(self, pattern: str, *hosts: str) -> str:
        """Wait until one of these nodes has said something; which."""

        def who() -> str | None:
            return next((host for host in hosts if re.search(pattern, self.log(host))), None)

        return wait_until(f"one of {hosts} says {pattern!r}", who, timeout_s=LIMIT_S) or ""

    def tells(self, host: str, *patterns: str) -> None:
        """A node's log has lines like these, in this order."""
        lines = iter(self.log(host).splitlines())
        for pattern in patterns:
            assert any(re.search(pattern, line) for line in lines), f"'{host}' does not say {pattern!r}"

    def nobody_is_fenced(self) -> None:
        """No node has said that another one has to be."""
        for host in self.lab.nodes:
            assert _FENCES not in self.log(host), f"'{host}' fences"

    def generation(self, host: str) -> int:
        with Connection(self.lab.path(host, DEFAULT_SOCKET)) as connection:
            return int(connection.ask(Control.GETVNNMAP).generation)

    def recovers(self, host: str) -> bool:
        with Connection(self.lab.path(host, DEFAULT_SOCKET)) as connection:
            return connection.control(Control.GET_RECMODE).status != RecoveryMode.NORMAL

    def serves(self, *hosts: str) -> None:
        """Each of these nodes changes a record of a database that they all have."""
        self.cluster.wait_healthy(hosts)
        for host in hosts:
            self.cluster.tool(host, "attach", "kept.tdb", "persistent")
            self.cluster.tool(host, "pstore", "kept.tdb", "who", host)
        for host in hosts:
            assert self.cluster.tool(host, "pfetch", "kept.tdb", "who").stdout == f"{hosts[-1]}\n"

    def ctdbctl(self, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "ctdbpy.cli", *arguments]
        return self.lab.run(host, argv, timeout_s=LIMIT_S, check=False, env={"PYTHONPATH": _ROOT})

    def put_right(self, host: str) -> None:
        """The host has power and cables again, and its daemon runs."""
        self.lab.mend(host)
        match self.lab.power(host):
            case "off":
                self.lab.power_on(host)
            case "frozen":
                self.lab.thaw(host)
        if not self.cluster.runs(host):
            self.cluster.start(host)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes; a majority is enough to go on. The daemon of the last one does not run yet."""
    with Lab(nodes=3, clients=0) as lab:
        # A machine that is too busy for half a second must not cost a node its power.
        patient = {"HeartbeatLimit": 15}
        cluster = Cluster(lab, "ctdbpy", cluster_lock=False, fencing=True, tunables=patient)
        cluster.configure()
        for host in lab.nodes[:2]:
            cluster.start(host)
        cluster.wait_healthy(lab.nodes[:2])
        cluster.log(lab.nodes[2]).touch()
        yield cluster


@pytest.fixture
def scene(cluster: Cluster) -> Iterator[Scene]:
    """A scene with all nodes well. If its test fails, what they said is shown; then all is put right."""
    before = Scene(cluster)
    for host in cluster.lab.nodes:
        before.put_right(host)
    cluster.wait_healthy()
    scene = Scene(cluster)
    yield scene
    for host in cluster.lab.nodes:
        print(f"--- {host} said:\n{scene.log(host)}")


def test_debians_daemon_cannot_be_told_to_fence() -> None:
    with pytest.raises(LabError, match="Debian's ctdbd has no fence command"):
        Cluster(Lab(nodes=2), "debian", fencing=True)


def test_a_cluster_that_starts_with_one_node_missing_fences_nobody(cluster: Cluster) -> None:
    running, missing = cluster.lab.nodes[:2], cluster.lab.nodes[2]
    scene = Scene(cluster)
    cluster.tool(running[0], "recover")
    scene.serves(*running)
    told = "".join(cluster.log(host).read_text() for host in running)
    assert re.search(r"recovery done in .* lmasters \[0, 1\]", told)
    assert _FENCES not in told
    assert cluster.lab.power(missing) == "on"
    cluster.start(missing)
    cluster.wait_healthy()
    scene.nobody_is_fenced()


_LOSSES: dict[str, Callable[[Lab, str], None]] = {
    "frozen": Lab.freeze,
    "cut off": lambda lab, host: lab.cut(host, "private", manner="silent"),
}


@pytest.mark.parametrize("is_leader", [True, False], ids=["leader", "other"])
@pytest.mark.parametrize("loss", _LOSSES)
def test_a_lost_node_has_no_power_when_others_go_on(scene: Scene, loss: str, is_leader: bool) -> None:
    lab, led = scene.lab, scene.leader()
    victim = led if is_leader else scene.others(led)[0]
    stay = scene.others(victim)
    running = lab.spawn(victim, ["sleep", "1000"], lab.path(victim, "/var/log/x"))
    _LOSSES[loss](lab, victim)
    leads = scene.wait_said(f"(?s)node {victim[1:]} is silent.*recovery begins", *stay)
    assert lab.power(victim) == "off", "its power was taken before"
    assert running.wait(timeout_s=LIMIT_S) == -signal.SIGKILL
    with pytest.raises(LabError, match="it has no power"):
        lab.thaw(victim)
    scene.wait_said("recovery done", leads)
    scene.tells(
        leads,
        f"node {victim[1:]} is silent",
        f"node {victim[1:]} {_FENCES}: it is fenced before others go on",
        f"node {victim[1:]} is fenced: the fence command says that it is off",
        "recovery begins",
        "recovery done in .* lmasters ",
    )
    (other,) = scene.others(victim, leads)
    assert _FENCES not in scene.log(other), "the leader alone fences"
    scene.serves(*stay)
    scene.put_right(victim)
    scene.serves(*lab.nodes)
    assert scene.log(leads).count(_FENCES) == 1


def test_a_node_whose_daemon_was_killed_keeps_its_power(scene: Scene) -> None:
    victim = scene.others(scene.leader())[0]
    stay = scene.others(victim)
    scene.cluster.kill(victim)
    scene.wait_said("recovery done", *stay)
    scene.serves(*stay)
    assert scene.lab.power(victim) == "on"
    scene.put_right(victim)
    scene.cluster.wait_healthy()
    scene.nobody_is_fenced()


def test_while_the_fence_command_fails_all_wait_until_somebody_says_that_the_node_is_off(
    scene: Scene,
) -> None:
    lab, leader = scene.lab, scene.leader()
    victim, stays = scene.others(leader)
    number = victim[1:]
    before = scene.generation(leader)
    hidden = os.path.dirname(power.SOCKET)
    for host in (leader, stays):
        lab.run(host, ["mount", "-t", "tmpfs", "none", hidden], timeout_s=LIMIT_S)
    try:
        lab.freeze(victim)
        failed = f"cannot fence node {number}: .*its power switch does not answer"
        wait_until(
            "it was tried twice",
            lambda: len(re.findall(failed, scene.log(leader))) >= 2,
            timeout_s=LIMIT_S,
        )
        for host in (leader, stays):
            assert scene.recovers(host) and scene.generation(host) == before
        assert lab.power(victim) == "frozen"
        for question in ("why recovery", "events"):
            told = scene.ctdbctl(leader, *question.split()).stdout
            assert f"cannot fence node {number}: " in told, told
            assert f"ctdbctl node confirm-off {number}" in told, told
        wrong = scene.ctdbctl(stays, "node", "confirm-off", stays[1:], "--yes")
        assert wrong.returncode == 1 and "it runs" in wrong.stderr
        lab.power_off(victim)
        said = scene.ctdbctl(stays, "node", "confirm-off", number, "--yes")
        assert said.returncode == 0, said.stderr
        scene.wait_said("recovery done", leader)
    finally:
        for host in (leader, stays):
            lab.run(host, ["umount", hidden], timeout_s=LIMIT_S)
    scene.tells(leader, f"node {number} is taken for fenced", "recovery begins", "recovery done")
    scene.serves(leader, stays)
    scene.put_right(victim)
    scene.serves(*lab.nodes)


def test_a_request_that_a_frozen_program_has_in_hand_is_never_carried_out(scene: Scene) -> None:
    lab, cluster = scene.lab, scene.cluster
    victim = scene.others(scene.leader())[0]
    stay = scene.others(victim)
    requests, said = lab.path(victim, "/tmp/requests"), lab.path(victim, "/tmp/said")
    os.mkfifo(requests)
    shared = lab.path(stay[0], "/cluster/document")
    argv = [sys.executable, "-c", _WRITER, "/tmp/requests", "/cluster/document"]
    writer = lab.spawn(victim, argv, said)
    # Read and write: opening waits for nobody.
    with requests.open("r+b", buffering=0) as client:
        wait_until("the file is open", lambda: "open" in said.read_text(), timeout_s=LIMIT_S)
        client.write(b"first\n")
        wait_until("it writes", lambda: shared.read_text() == "first\n", timeout_s=LIMIT_S)
        lab.freeze(victim)
        # The kernel of the frozen host takes it, as it takes what comes by TCP.
        client.write(b"stale\n")
        leads = scene.wait_said(f"(?s)node {victim[1:]} is silent.*recovery done", *stay)
        # The client has got no answer; it asks another node, is answered, and goes on.
        program = "open('/cluster/document', 'r+').write('newer\\n')"
        lab.run(leads, [sys.executable, "-c", program], timeout_s=LIMIT_S)
        if lab.power(victim) == "frozen":
            lab.thaw(victim)
            wait_until("it has written", lambda: "stale" in said.read_text(), timeout_s=LIMIT_S)
        assert shared.read_text() == "newer\n"
        assert writer.wait(timeout_s=LIMIT_S) == -signal.SIGKILL
    scene.put_right(victim)
    cluster.wait_healthy()
    assert shared.read_text() == "newer\n"
