# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease as the daemon's loop takes it, and guards that end or cannot begin."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from ctdbpy.daemon.poller import Poller
from ctdbpy.store import engine as upcalls
from ctdbpy.store.engine import Engine
from tests.unit.daemon.conftest import Cluster, Daemon, is_alive, wait_until
from tests.unit.daemon.test_nodes import sees
from tests.unit.store.network import DB, call, decoded, single

S = 1_000_000


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Loop:
    """The daemon's loop with one client; the test plays the guard on the page they share."""

    def __init__(self) -> None:
        self.engine: Engine = single()
        self.poller = Poller(self.engine)
        self.page = mmap.mmap(-1, mmap.PAGESIZE)
        self.poller.set_page(self.page)
        self.client, theirs = socket.socketpair()
        self.client.setblocking(False)
        theirs.setblocking(False)
        self.poller.add_client(theirs.detach())

    def serve_until(self, moment_us: int) -> None:
        struct.pack_into("<q", self.page, 8, moment_us)

    def progress(self) -> int:
        return int(struct.unpack_from("<Q", self.page)[0])

    def turn(self) -> list[int]:
        """One turn without waiting; the kinds of its upcalls."""
        self.poller.wait(0)
        return [kind for kind, _, _, _ in self.engine.take_upcalls()]

    def ask(self) -> None:
        self.client.sendall(call(b"key"))

    def answers(self) -> int:
        try:
            return len(decoded(self.client.recv(65536)))
        except BlockingIOError:
            return 0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.poller.close()
    loop.client.close()


def test_without_a_lease_no_call_is_executed_until_a_recovery_ends_with_one(loop: Loop) -> None:
    loop.serve_until(now_us() - 1)
    loop.ask()
    assert loop.turn() == [upcalls.LEASE_LOST]
    assert loop.turn() == []
    assert loop.answers() == 0
    assert loop.engine.queues(DB)["recovery"] == 1
    # That others confirm again is not enough: they may have gone on meanwhile.
    loop.serve_until(now_us() + 60 * S)
    assert loop.turn() == []
    assert loop.answers() == 0
    loop.engine.set_recovery(True)
    loop.engine.set_recovery(False)
    loop.turn()
    assert loop.answers() == 1


def test_a_recovery_that_ends_without_a_lease_is_told_so_and_starts_nothing(loop: Loop) -> None:
    loop.serve_until(now_us() - 1)
    loop.ask()
    loop.turn()
    loop.engine.set_recovery(False)
    assert loop.turn() == [upcalls.LEASE_LOST]
    assert loop.answers() == 0


def test_what_arrives_with_the_end_of_the_lease_comes_too_late(loop: Loop) -> None:
    """The clock is compared before the packets of a turn are looked at."""
    loop.serve_until(now_us() + 60 * S)
    loop.ask()
    loop.turn()
    assert loop.answers() == 1
    loop.ask()
    loop.serve_until(now_us() - 1)
    loop.turn()
    assert loop.answers() == 0


def test_a_lease_that_is_wanted_and_never_written_runs_out(loop: Loop) -> None:
    loop.poller.want_lease(True, 60 * S)
    assert loop.turn() == []
    loop.poller.want_lease(False, 0)
    loop.poller.want_lease(True, 0)
    assert not loop.poller.has_lease
    assert loop.turn() == [upcalls.LEASE_LOST]


def test_an_idle_loop_shows_progress(loop: Loop) -> None:
    before = loop.progress()
    loop.poller.wait(1.0)
    assert loop.progress() - before >= 4


# -- real daemons --------------------------------------------------------------------------


def guard_of(daemon: Daemon) -> int:
    found = daemon.children("ctdbpy.guard")
    return found[0] if found else 0


@pytest.fixture
def pair(make: Cluster) -> list[Daemon]:
    """Two nodes that have found each other."""
    nodes = make(2)
    for node in nodes:
        node.spawn()
    for node in nodes:
        node.wait_serving()
    hear_each_other(nodes)
    return nodes


def hear_each_other(nodes: list[Daemon]) -> None:
    """Wait until two nodes know each other by link and by heartbeat."""
    wait_until(lambda: all(sees(node, 2) for node in nodes), "both see both")
    for node in nodes:
        node.wait_log(f"node {1 - node.pnn} is live: its heartbeats come")


def test_a_port_that_another_program_has_is_named(make: Cluster) -> None:
    daemon = make()[0]
    address = (daemon.base / "nodes").read_text().split()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((address, daemon.port))
        status, words = daemon.refusal()
    assert status == 1
    assert f"cannot hear heartbeats on UDP '{address}' port {daemon.port}: Address already in use" in words


def test_a_guard_that_dies_is_started_again(pair: list[Daemon]) -> None:
    first, second = pair
    guard = guard_of(first)
    os.kill(guard, signal.SIGKILL)
    first.wait_log(r"ERROR: the guard has ended \(its process is gone\): .* started again in 0 s")
    wait_until(lambda: guard_of(first) not in (0, guard), "a new guard")
    assert not is_alive(guard)
    wait_until(lambda: all(sees(node, 2) for node in pair), "both see both")
    assert "node 0 is silent" not in second.log()


def test_a_guard_that_hangs_is_ended_and_started_again(pair: list[Daemon]) -> None:
    first, second = pair
    guard = guard_of(first)
    os.kill(guard, signal.SIGSTOP)
    # On a busy machine it may not know yet that its peer hears it: then that peer is not dead for it.
    second.wait_log(r"node 0( is silent)?: no heartbeat for")
    first.wait_log(r"ERROR: the guard has ended \(it has hung for 5 s\)")
    wait_until(lambda: guard_of(first) not in (0, guard), "a new guard")
    assert not is_alive(guard)
    wait_until(lambda: all(sees(node, 2) for node in pair), "both see both")


def test_a_daemon_that_ends_leaves_no_guard_and_its_peer_hears_good_bye(pair: list[Daemon]) -> None:
    first, second = pair
    guard = guard_of(second)
    # The first thing that is heard of the end: its peer has no other reason to look.
    os.kill(second.pid, signal.SIGKILL)
    first.wait_log("node 1 is gone: its guard says that its daemon has ended")
    wait_until(lambda: not is_alive(guard), "the guard has ended")
    second.wait()
    second.start()
    wait_until(lambda: all(sees(node, 2) for node in pair), "both see both again")


def test_limits_follow_the_tunables(make: Cluster) -> None:
    nodes = make(2)
    for node in nodes:
        (node.base / "ctdb.tunables").write_text("HeartbeatInterval=50\nHeartbeatLimit=4\n")
        node.spawn()
    for node in nodes:
        node.wait_serving()
    hear_each_other(nodes)
    guard = guard_of(nodes[1])
    os.kill(guard, signal.SIGSTOP)
    try:
        nodes[0].wait_log(r"node 1( is silent)?: no heartbeat for 0\.\d+ s")
    finally:
        # One that stands still would not notice that its daemon has ended; its daemon may have ended it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(guard, signal.SIGCONT)
