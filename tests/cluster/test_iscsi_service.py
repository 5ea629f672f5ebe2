# SPDX-License-Identifier: GPL-3.0-or-later
"""iSCSI through public addresses of a real cluster, as an initiator on the public network meets it."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.lab import HostProcess
from ctdbpy.lab.services import Cluster
from ctdbpy.services.iscsi import stgt
from ctdbpy.services.iscsi.declaration import parse

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(240),
]

_ROOT: Final = str(Path(__file__).resolve().parents[2])
ADDRESSES: Final = ["10.78.0.200", "10.78.0.201", "fd00:78::202"]
INITIATOR: Final = "iqn.2026-11.com.example:initiator"
DECLARATION: Final = f"""\
- name: {{name}}
  address: {{address}}
  initiators: [{INITIATOR}]
  luns:
  - number: 1
    file: {{file}}
"""
STATE: Final = "/var/lib/ctdb/scripts/lasting/iscsi"
LIMIT_S: Final = 45.0
DISK_BYTES: Final = 1 << 20


def target_of(address: str) -> str:
    return f"iqn.2026-11.com.example:disk{address[-3:]}"


class Initiator:
    """A program of tests.cluster.initiator on the client host."""

    def __init__(self, lab: Lab, address: str, name: str = INITIATOR) -> None:
        self.heard: list[str] = []
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(LIMIT_S)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with us
        argv = [sys.executable, "-P", "-m", "tests.cluster.initiator", address, target_of(address), name]
        with open(theirs.detach(), "r+b", buffering=0) as talking:
            self._process: HostProcess = lab.connect(
                "c0", argv, (talking, talking, self._errors), env={"PYTHONPATH": _ROOT}
            )
        self._lines = self._ours.makefile("r", encoding="utf-8")

    def close(self) -> None:
        self._lines.close()
        self._ours.close()
        self._process.close()
        self._errors.close()

    def say(self, line: str) -> None:
        self._ours.sendall(f"{line}\n".encode())

    def hear(self) -> str:
        """The next line."""
        try:
            line = self._lines.readline()
        except TimeoutError:
            line = ""
        if not line:
            self._errors.seek(0)
            raise AssertionError(
                f"{self._process} says nothing more; {self._errors.read().decode()} {self.heard}"
            )
        self.heard.append(line.rstrip("\n"))
        return self.heard[-1]

    def ask(self, line: str) -> str:
        """What it says to an order, but for what the disk says about its past."""
        self.say(line)
        while (answer := self.hear()).startswith("attention"):
            pass
        return answer

    def hear_writes(self, count: int) -> None:
        """Hear of at least so many more writes."""
        for _ in range(count // 10):
            self._hear_of("wrote")

    def hear_again(self) -> None:
        """Hear that it has to log in again, and then of more writes."""
        self._hear_of("again")
        self.hear_writes(50)

    def stop(self) -> None:
        """End what `fill` began."""
        self.say("enough")
        self._hear_of("done")

    def _hear_of(self, word: str) -> None:
        while not (line := self.hear()).startswith(word):
            assert not line.startswith("failed"), line

    @property
    def again(self) -> list[str]:
        """Why it had to log in again."""
        return [line for line in self.heard if line.startswith("again")]


class Stage:
    """The cluster, and the initiators of one test."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cluster = Cluster(
            lab,
            "ctdbpy",
            scripts=["70.iscsi"],
            options={"CTDB_ISCSI_TARGETS": "/cluster/iscsi.yaml", "CTDB_ISCSI_TIMEOUT": "2"},
            public_addresses=[f"{address}/{64 if ':' in address else 24}" for address in ADDRESSES],
            tunables={"MonitorInterval": 2},
            cluster_lock=False,
        )
        self._initiators: list[Initiator] = []

    def begin(self) -> None:
        self.declare()
        self.lab.run("c0", ["ip", "addr", "add", "fd00:78::101/64", "dev", "pub0", "nodad"], timeout_s=20)
        for address in ADDRESSES:
            file = self.disk(address)
            file.parent.mkdir(exist_ok=True)
            with file.open("wb") as disk:
                os.posix_fallocate(disk.fileno(), 0, DISK_BYTES)
        self.cluster.configure()
        for host in self.lab.nodes:
            self.cluster.start(host)
        self.settle()

    def declare(self, *, shared: bool = False) -> None:
        targets = "".join(
            DECLARATION.format(name=target_of(address), address=address, file=f"/cluster/disks/{address}")
            for address in ADDRESSES
        )
        if shared:
            targets = targets.replace(f"[{INITIATOR}]", "[any]\n  reservations: lost")
        self.lab.path("n0", "/cluster/iscsi.yaml").write_text(f"targets:\n{targets}", encoding="utf-8")

    def disk(self, address: str) -> Path:
        return self.lab.path("n0", f"/cluster/disks/{address}")

    def settle(self) -> None:
        """Wait until all nodes are healthy and every address is served."""
        self.cluster.wait_healthy()
        for address in ADDRESSES:
            self.wait_served(address)

    # -- where things are --------------------------------------------------------------------------

    def host_of(self, address: str, asked: str = "") -> str:
        """The node that the cluster says has an address."""
        host = asked or next(h for h in self.lab.nodes if self.cluster.runs(h))
        for line in self.cluster.tool(host, "-X", "ip").stdout.splitlines():
            _, found, pnn, *_ = line.split("|")
            if found == address:
                return f"n{pnn}"
        raise AssertionError(f"{address} is unknown")

    def post(self, host: str, address: str) -> dict[str, Any]:
        """What the keeper of a node says about an address; {} if there is no keeper."""
        code = f"import socket; s = socket.socket(1); s.settimeout(5); s.connect('{STATE}/control')\n"
        code += "s.sendall(b'status\\n'); print(s.makefile().readline())"
        done = self.lab.run(host, [sys.executable, "-c", code], timeout_s=20, check=False)
        if done.returncode != 0 or not done.stdout.strip():
            return {}
        found: dict[str, Any] = json.loads(done.stdout).get(address, {})
        return found

    def is_served(self, host: str, address: str) -> bool:
        return self.post(host, address).get("phase") == "serving"

    def wait_served(self, address: str, *, but: str = "") -> str:
        """Wait until a node serves an address, another one than `but`; which."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [
                host
                for host in self.lab.nodes
                if host != but and self.is_on(host) and self.is_served(host, address)
            ]
            return len(found) == 1

        wait_until(f"{address} is served", look, timeout_s=LIMIT_S, pause_s=0.1)
        return found[0]

    def is_on(self, host: str) -> bool:
        return any(row["name"] == host and row["power"] == "on" for row in self.lab.status())

    def tgtds(self, host: str) -> list[int]:
        """The processes of tgtd on a node that are not dead."""
        done = self.lab.run(host, ["ps", "-eo", "pid=,stat=,comm="], timeout_s=20)
        rows = (line.split() for line in done.stdout.splitlines())
        return [int(pid) for pid, state, name in rows if name == "tgtd" and state[0] not in "ZX"]

    def log_of(self, host: str) -> str:
        return self.lab.path(host, f"{STATE}/log").read_text(encoding="utf-8")

    # -- initiators --------------------------------------------------------------------------------

    def initiator(self, address: str, name: str = INITIATOR) -> Initiator:
        """An initiator that has logged in."""
        made = Initiator(self.lab, address, name)
        self._initiators.append(made)
        word, port = made.ask("login").split()
        assert word == "in"
        # Whoever serves the address next has to know of the connection, to wake its initiator.
        others = [host for host in self.lab.nodes if host != self.host_of(address)]
        for host in others:

            def knows(host: str = host) -> bool:
                return f":{port}" in self.cluster.tool(host, "gettickles", address).stdout

            wait_until(f"{host} knows the connection", knows, timeout_s=LIMIT_S)
        return made

    def end_initiators(self) -> None:
        for initiator in self._initiators:
            initiator.close()
        self._initiators.clear()


@pytest.fixture(scope="module")
def built() -> Iterator[Stage]:
    with Lab(nodes=3, clients=1) as lab:
        stage = Stage(lab)
        stage.begin()
        yield stage


@pytest.fixture
def stage(built: Stage) -> Iterator[Stage]:
    yield built
    built.end_initiators()


def test_what_was_acknowledged_survives_the_node_and_others_notice_nothing(stage: Stage) -> None:
    address = ADDRESSES[0]
    host = stage.host_of(address)
    other = next(each for each in ADDRESSES[1:] if stage.host_of(each) != host)
    writer, bystander = stage.initiator(address), stage.initiator(other)
    identity = writer.ask("identity")
    assert writer.ask("cache") == "cache 0"
    bystander.say("fill 200")
    bystander.hear_writes(50)
    writer.say("fill 200")
    writer.hear_writes(50)
    stage.lab.power_off(host)
    writer.hear_again()
    writer.stop()
    bystander.hear_writes(50)
    bystander.stop()
    assert bystander.again == []
    assert writer.ask("verify") == "done"
    assert writer.ask("identity") == identity
    assert bystander.ask("verify") == "done"
    stage.lab.power_on(host)
    stage.cluster.start(host)
    stage.settle()


def test_a_frozen_host_keeps_its_luns_until_it_has_stopped_serving_them(stage: Stage) -> None:
    address = ADDRESSES[1]
    host = stage.host_of(address)
    writer = stage.initiator(address)
    writer.say("fill 200")
    writer.hear_writes(50)
    stage.lab.freeze(host)
    try:
        asked = next(each for each in stage.lab.nodes if each != host)
        wait_until("the address has moved", lambda: stage.host_of(address, asked) != host, timeout_s=LIMIT_S)
        successor = stage.host_of(address, asked)
        wait_until(
            "the successor waits",
            lambda: stage.post(successor, address).get("phase") == "waiting",
            timeout_s=LIMIT_S,
        )
        assert "waits for '/cluster/disks/10.78.0.201'" in stage.log_of(successor)
        # The frozen tgtd could write at any moment; nobody else may have the file open as a disk.
        assert stage.disk(address).name not in " ".join(open_files(stage, successor))
    finally:
        stage.lab.thaw(host)
    writer.hear_again()
    writer.stop()
    assert writer.ask("verify") == "done"
    stage.settle()


def open_files(stage: Stage, host: str) -> list[str]:
    """What the tgtds of a node have open."""
    pids = stage.tgtds(host)
    files = [f"/proc/{pid}/fd" for pid in pids]
    return stage.lab.run(host, ["ls", "-l", *files], timeout_s=20, check=False).stdout.split() if pids else []


def test_an_address_that_comes_and_goes_leaves_its_neighbour_alone(stage: Stage) -> None:
    neighbour, address = ADDRESSES[:2]
    host, before = stage.wait_served(neighbour), stage.wait_served(address)
    assert host != before, "three addresses on three nodes"
    bystander, writer = stage.initiator(neighbour), stage.initiator(address)
    for initiator in (bystander, writer):
        initiator.say("fill 200")
    for goal in (host, before):
        stage.cluster.tool(goal, "moveip", address, goal[1:])
        assert stage.wait_served(address) == goal
        writer.hear_again()
    for initiator in (bystander, writer):
        initiator.hear_writes(50)
        initiator.stop()
        assert initiator.ask("verify") == "done"
    assert bystander.again == []


def test_a_killed_daemon_takes_its_tgtds_with_it(stage: Stage) -> None:
    address = ADDRESSES[2]
    host = stage.host_of(address)
    writer = stage.initiator(address)
    writer.say("fill 200")
    writer.hear_writes(50)
    stage.cluster.kill(host)
    wait_until("the node serves nothing", lambda: not stage.tgtds(host), timeout_s=LIMIT_S)
    writer.hear_again()
    writer.stop()
    assert writer.ask("verify") == "done"
    stage.cluster.start(host)
    stage.settle()


def test_a_tgtd_that_dies_is_started_anew_where_it_was(stage: Stage) -> None:
    address = ADDRESSES[0]
    host = stage.wait_served(address)
    writer = stage.initiator(address)
    writer.say("fill 200")
    writer.hear_writes(50)
    stage.lab.run(host, ["kill", "-KILL", str(stage.post(host, address)["pid"])], timeout_s=20)
    writer.hear_again()
    writer.stop()
    assert stage.wait_served(address) == host
    assert writer.ask("verify") == "done"


def test_a_tgtd_that_hangs_loses_its_address_and_is_ended_first(stage: Stage) -> None:
    address = ADDRESSES[1]
    host = stage.wait_served(address)
    writer = stage.initiator(address)
    writer.say("fill 200")
    writer.hear_writes(50)
    pid = stage.post(host, address)["pid"]
    stage.lab.run(host, ["kill", "-STOP", str(pid)], timeout_s=20)
    stage.wait_served(address, but=host)
    assert pid not in stage.tgtds(host)
    assert f"cannot reach the tgtd of '{address}:3260': no answer" in stage.cluster.log(host).read_text()
    writer.hear_again()
    writer.stop()
    assert writer.ask("verify") == "done"
    stage.settle()


def test_a_full_file_system_is_a_failed_write_and_never_an_acknowledged_one(stage: Stage) -> None:
    address = stage.lab.address("n0")
    prepare = (
        "mkdir /tmp/small && mount -t tmpfs -o size=128k small /tmp/small && truncate -s 1M /tmp/small/disk"
    )
    stage.lab.run("n0", ["sh", "-c", prepare], timeout_s=20)
    text = DECLARATION.format(name=target_of(address), address=address, file="/tmp/small/disk")
    environ = {stgt.SOCKET_VARIABLE: "/tmp/small-tgtd"}
    tgtd = stage.lab.spawn("n0", stgt.DAEMON, stage.lab.path("n0", "/tmp/tgtd.log"), env=environ)

    def told(argv: list[str]) -> bool:
        return stage.lab.run("n0", argv, timeout_s=20, env=environ, check=False).returncode == 0

    wait_until("tgtd listens", lambda: told(stgt.ping()), timeout_s=LIMIT_S)
    assert all(told(argv) for argv in stgt.configure(address, parse(f"targets:\n{text}", "here").targets))
    initiator = Initiator(stage.lab, address)
    try:
        assert initiator.ask("login").startswith("in ")
        assert initiator.ask("write 0 100 full") == "done"
        assert initiator.ask("write 1000 500 full").startswith("failed status 2 key 3"), "a medium error"
        assert initiator.ask("read 0 100 full") == "done"
    finally:
        initiator.close()
        tgtd.kill()


def test_reservations_are_lost_in_a_move_as_declared_and_initiators_are_told(
    stage: Stage,
) -> None:
    stage.declare(shared=True)
    stage.cluster.tool("n0", "ipreallocate")
    address = ADDRESSES[0]
    host = stage.wait_served(address)
    initiator = stage.initiator(address, "iqn.2026-11.com.example:another")
    assert initiator.ask("reserve aptpl").startswith("failed"), "it would be promised to survive a power cut"
    assert initiator.ask("reserve") == "done"
    assert initiator.ask("keys") == "keys 1"
    stage.cluster.tool(host, "disable")
    stage.wait_served(address, but=host)
    while not initiator.ask("login").startswith("in "):
        pass
    assert initiator.ask("keys") == "keys 0"
    assert "attention 0x2900" in initiator.heard, "the initiator was told"
    stage.cluster.tool(host, "enable")
    stage.settle()
