# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses of a real cluster under real faults, watched from a client on the public network."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctdbpy.lab import HostProcess, Lab, wait_until
from ctdbpy.lab.services import Cluster
from tests.cluster.arp_watch import INTERVAL_S, Answer, longest_double_s, longest_silence_s, read_answers

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(240),
]

ADDRESSES = [f"10.78.0.{number}" for number in range(200, 206)]
#: Longer than a failover takes on a machine that does other things as well.
SILENCE_MAX_S = 3.0
DOUBLE_MAX_S = 0.2

_ECHO = """
import socket, threading
def serve(connection):
    while data := connection.recv(100):
        connection.send(data)
with socket.create_server(("0.0.0.0", 4001)) as listener:
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

_TALK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 4001), 5) as connection:
    while connection.send(b".") and connection.recv(1):
        print(".", end="")
        time.sleep(0.05)
print("closed")
"""


def test_the_watch_sees_silence_and_two_who_answer() -> None:
    one, two = "02:00:00:00:00:01", "02:00:00:00:00:02"
    text = f"1 a {one}\n2 a {one}\n2 a {two}\n3 a {two}\n3 a {one}\n3 b {two}\n9 a {two}\n10 a 02:"
    answers = read_answers(text)
    assert longest_double_s(answers, "a") == pytest.approx(0.04)
    assert longest_double_s(answers, "b") == 0
    assert longest_silence_s(answers, "a", since=0, until=10) == pytest.approx(0.12)
    assert longest_silence_s(answers, "b", since=0, until=10) == pytest.approx(0.14)


class Watched:
    """A cluster with public addresses, an echo service on each node, and a client that watches."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        addresses = [f"{address}/24" for address in ADDRESSES]
        self.cluster = Cluster(lab, "ctdbpy", public_addresses=addresses, cluster_lock=False)
        self._watch_log = lab.path("c0", "/tmp/arp")

    def begin(self) -> None:
        self.cluster.configure()
        for host in self.lab.nodes:
            self.start(host)
        self.cluster.wait_healthy()
        argv = [sys.executable, "-m", "tests.cluster.arp_watch", str(INTERVAL_S), "pub0"]
        argv += [self.lab.address("c0"), *ADDRESSES]
        root = str(Path(__file__).resolve().parents[2])
        self.lab.spawn("c0", argv, self._watch_log, env={"PYTHONPATH": root})
        self.settle()

    def start(self, host: str) -> HostProcess:
        self.cluster.start(host)
        return self.lab.spawn(host, [sys.executable, "-c", _ECHO], self.lab.path(host, "/tmp/echo"))

    def boot(self, host: str) -> None:
        self.lab.power_on(host)
        self.start(host)

    def answers(self) -> list[Answer]:
        return read_answers(self._watch_log.read_text())

    def now(self) -> int:
        """The number of the last question that somebody answered."""
        return max(each.question for each in self.answers())

    def where(self, asked: str) -> dict[str, str]:
        """By address the node that a node says has it."""
        said = self.cluster.tool(asked, "ip", "all").stdout.splitlines()[1:]
        return {address: f"n{pnn}" for address, pnn in (line.split() for line in said)}

    def on_host(self, host: str) -> set[str]:
        """The public addresses that a host's interface carries."""
        said = self.lab.run(host, ["ip", "-o", "-4", "addr", "show", "dev", "pub0"], timeout_s=10).stdout
        return {word.partition("/")[0] for word in said.split()} & set(ADDRESSES)

    def settle(self) -> None:
        """Wait until two addresses are on each node, as every node sees it."""

        def is_even() -> bool:
            hosted = [self.on_host(host) for host in self.lab.nodes]
            return [len(each) for each in hosted] == [2, 2, 2] and set.union(*hosted) == set(ADDRESSES)

        wait_until("addresses are spread", is_even, timeout_s=30)

    def leader(self) -> str:
        return f"n{self.cluster.tool('n0', 'leader').stdout.strip()}"


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Lab(nodes=3, clients=1) as lab:
        watched = Watched(lab)
        watched.begin()
        yield watched


_FAULTS: dict[str, tuple[Callable[[Watched, str], None], Callable[[Watched, str], object]]] = {
    "power off": (
        lambda watched, host: watched.lab.power_off(host),
        lambda watched, host: watched.boot(host),
    ),
    "unplugged": (
        lambda watched, host: watched.lab.cut(host),
        lambda watched, host: watched.lab.mend(host),
    ),
    "private link cut": (
        lambda watched, host: watched.lab.cut(host, "private", manner="silent"),
        lambda watched, host: watched.lab.mend(host),
    ),
    # Its kernel goes on, and would answer for its addresses.
    "frozen": (
        lambda watched, host: watched.lab.freeze(host),
        lambda watched, host: watched.lab.thaw(host),
    ),
    "killed daemon": (
        lambda watched, host: watched.cluster.kill(host),
        lambda watched, host: watched.cluster.start(host),
    ),
}


@pytest.mark.parametrize("is_leader", [True, False], ids=["leader", "other"])
@pytest.mark.parametrize("fault", _FAULTS)
def test_addresses_move_and_clients_of_other_nodes_notice_nothing(
    watched: Watched, fault: str, is_leader: bool
) -> None:
    leader = watched.leader()
    victim = leader if is_leader else next(host for host in watched.lab.nodes if host != leader)
    survivor = next(host for host in watched.lab.nodes if host not in (victim, leader))
    kept = min(watched.on_host(survivor))
    lost = watched.on_host(victim)
    talk = watched.lab.path("c0", "/tmp/talk")
    talk.unlink(missing_ok=True)
    client = watched.lab.spawn("c0", [sys.executable, "-u", "-c", _TALK, kept], talk)
    wait_until("a client is connected", lambda: "." in talk.read_text(), timeout_s=10)
    begin = watched.now()
    fail, mend = _FAULTS[fault]
    fail(watched, victim)

    def is_taken() -> bool:
        others = [watched.on_host(host) for host in watched.lab.nodes if host != victim]
        return set.union(*others) == set(ADDRESSES)

    wait_until("its addresses are taken", is_taken, timeout_s=20)
    if fault == "private link cut":
        assert watched.on_host(victim) == set()
    said = len(talk.read_text())
    wait_until("the client has gone on", lambda: len(talk.read_text()) > said + 10, timeout_s=10)
    end = watched.now()
    assert client.poll() is None, talk.read_text()
    client.kill()
    answers = watched.answers()
    for address in ADDRESSES:
        silence_s = longest_silence_s(answers, address, since=begin, until=end)
        print(f"{fault}: nobody answered for {address} for {silence_s:.2f} s")
        limit_s = SILENCE_MAX_S if address in lost else DOUBLE_MAX_S
        assert silence_s <= limit_s, f"nobody answered for {address} for {silence_s:.2f} s"
        assert longest_double_s(answers, address) <= DOUBLE_MAX_S, address
    mend(watched, victim)
    watched.cluster.wait_healthy()
    watched.settle()


def test_a_node_that_shuts_down_hands_its_addresses_over(watched: Watched) -> None:
    victim = next(host for host in watched.lab.nodes if host != watched.leader())
    lost = watched.on_host(victim)
    begin = watched.now()
    watched.cluster.stop(victim)
    others = [watched.on_host(host) for host in watched.lab.nodes if host != victim]
    assert set.union(*others) == set(ADDRESSES)
    time.sleep(0.2)
    answers, end = watched.answers(), watched.now()
    for address in lost:
        assert longest_silence_s(answers, address, since=begin, until=end) < 1.0
    watched.cluster.start(victim)
    watched.cluster.wait_healthy()
    watched.settle()
