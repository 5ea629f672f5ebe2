# SPDX-License-Identifier: GPL-3.0-or-later
"""NFSv3 locks of a whole cluster, with Debian's NFS-Ganesha: one lock manager, and locks that outlive it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ctdbpy.errors import LabError
from ctdbpy.lab import Lab, wait_until
from tests.cluster.nfs_stage import ADDRESSES, LIMIT_S, NfsClient, NfsCluster, is_root

pytestmark = [pytest.mark.skipif(not is_root(), reason="needs root"), pytest.mark.timeout(240)]

RANGE = (100, 50)


@pytest.fixture(scope="module")
def nfs() -> Iterator[NfsCluster]:
    with Lab(nodes=3, clients=3) as lab:
        nfs = NfsCluster(lab)
        try:
            nfs.start()
            yield nfs
        finally:
            nfs.close()


class Repeated:
    """A client that does the same again and again, and notes what came of it and when."""

    def __init__(self, client: NfsClient, *words: object) -> None:
        self.seen: list[tuple[float, object]] = []
        self._client = client
        self._words = words
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._is_over.wait(0.1):
            self.seen.append((time.monotonic(), self._client.ask(*self._words)))

    def wait_for(self, answer: object) -> None:
        """Until it comes from now on."""
        begin = len(self.seen)
        wait_until(f"'{answer}'", lambda: answer in self.answers(begin), timeout_s=2 * LIMIT_S)

    def answers(self, begin: int = 0) -> set[object]:
        """What has come, each once."""
        return {str(answer) for _when, answer in self.seen[begin:]}

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(2 * LIMIT_S)


class Held:
    """A file with a range that the client `holder` has locked, not through the lock node's own address."""

    def __init__(self, nfs: NfsCluster) -> None:
        self._nfs = nfs
        lock_node = nfs.lock_node()
        others = [host for host in nfs.lab.nodes if host != lock_node]
        self.lock_node, (self.b, self.c) = lock_node, others
        self.address_b, self.address_c = nfs.address_of(self.b), nfs.address_of(self.c)
        self.holder = nfs.client("c0", "holder")
        self.thief = nfs.client("c1", "thief")
        self.worker = nfs.client("c2", "c2")  # a name that servers find
        root = self.holder.ask("mount", self.address_b, "/share")
        assert isinstance(root, str), f"mount fails: {root}"
        self.file: str = self.holder.ask("create", self.address_b, root, "held")
        self.obtain(*RANGE)

    def obtain(self, offset: int, length: int) -> None:
        """Have the holder lock a range, when the grace period is over."""
        seen: list[object] = []

        def is_granted() -> bool:
            seen.append(self.holder.ask("lock", self.address_b, self.file, offset, length, False))
            return seen[-1] == "granted"

        try:
            wait_until("the lock is granted", is_granted, timeout_s=2 * LIMIT_S, pause_s=0.2)
        except LabError:
            raise AssertionError(f"{seen[-5:]}\n{self._nfs.story()}") from None

    def told(self) -> int:
        """Wait for a notice from where the holder mounted, under the name that it mounted; its state."""
        while True:
            notices = self.holder.ask("notices")
            assert notices, self._nfs.story()
            for name, state, source in notices:
                assert name == source
                if name == self.address_b:
                    return int(state)

    def steal(self) -> tuple[object, ...]:
        return ("lock", self.address_c, self.file, RANGE[0] + 10, 10, False)

    def claim(self) -> tuple[object, ...]:
        return ("lock", self.address_b, self.file, *RANGE, True)


@pytest.fixture(scope="module")
def held(nfs: NfsCluster) -> Held:
    return Held(nfs)


def test_a_lock_is_one_for_the_cluster(nfs: NfsCluster, held: Held) -> None:
    assert held.thief.ask(*held.steal()) == "denied"
    free = (*held.steal()[:3], 500, 10, False)
    assert held.thief.ask(*free) == "granted", "another range is free"
    assert held.holder.ask("lock", held.address_b, held.file, 500, 10, False) == "denied"


def test_the_lock_node_knows_clients_and_not_forwarders(nfs: NfsCluster, held: Held) -> None:
    clients = {nfs.lab.address("c0"), nfs.lab.address("c1")}
    assert nfs.holders(held.c) == clients, "noted before their locks were granted"
    for host in nfs.lab.nodes:
        watched = list(nfs.lab.path(host, "/var/lib/ctdb/nfs/statd/sm").iterdir())
        assert len(watched) == (2 if host == held.lock_node else 0), host


def test_a_lock_manager_that_clients_find_elsewhere_is_told_of(nfs: NfsCluster, held: Held) -> None:
    script = "/etc/ctdb/events/legacy/61.nlm-forward.script"
    other = {"CTDB_BASE": "/etc/ctdb", "CTDB_NFS_LOCK_PORT": "600"}
    ended = nfs.lab.run(held.b, [script, "monitor"], timeout_s=LIMIT_S, check=False, env=other)
    assert ended.returncode == 1
    assert "the lock manager listens at tcp port 599, and CTDB_NFS_LOCK_PORT is 600" in ended.stdout


def test_a_lock_that_was_waited_for_is_granted_from_where_it_was_asked(nfs: NfsCluster, held: Held) -> None:
    place = (held.file, 2000, 10)
    held.worker.ask("over", "tcp")
    assert held.holder.ask("lock", held.address_b, *place, False) == "granted"
    assert held.worker.ask("wait_for_lock", held.address_c, *place) == "blocked"
    assert held.holder.ask("unlock", held.address_b, *place) == "granted"
    assert held.worker.ask("granted") == held.address_c
    assert held.worker.ask("unlock", held.address_c, *place) == "granted"


def test_a_client_that_restarts_frees_its_locks_through_any_address(nfs: NfsCluster, held: Held) -> None:
    assert held.holder.ask("restart", held.address_b) == nfs.lab.address("c0")
    wait_until("the range is free", lambda: held.thief.ask(*held.steal()) == "granted", timeout_s=LIMIT_S)
    place = held.steal()[1:5]
    assert held.thief.ask("unlock", *place) == "granted"
    assert held.holder.ask("lock", held.address_b, held.file, *RANGE, False) == "granted"


def test_a_lock_outlives_the_lock_node(nfs: NfsCluster, held: Held) -> None:
    held.worker.ask("write", held.address_c, held.file, 0, "begin")
    thief = Repeated(held.thief, *held.steal())
    worker = Repeated(held.worker, "write", held.address_c, held.file, 0, "again")
    thief.wait_for("denied")
    off_s = time.monotonic()
    nfs.lab.power_off(held.lock_node)
    try:
        assert held.told() % 2 == 1, "a state in which the server is up"
        told_s = time.monotonic() - off_s
        # The very UDP port from which it asked the node that is gone.
        assert held.holder.ask(*held.claim()) == "granted"
        kept_s = time.monotonic() - off_s
        assert nfs.lock_node(held.b) in (held.b, held.c)
        thief.wait_for("grace")
        thief.wait_for("denied")
    finally:
        thief.stop()
        worker.stop()
    assert "granted" not in thief.answers()
    assert worker.answers() == {"5"}, "each write at another address was done"
    print(f"told after {told_s:.2f} s, locked again after {kept_s:.2f} s, thief: {thief.answers()}")
    steps = ["a grace period has begun", "this node is the lock node", "clients are told"]
    log = nfs.log(nfs.lock_node(held.b))
    log = log[log.rindex("is silent") :] if "is silent" in log else log
    assert sorted(steps, key=log.index) == steps


def test_a_node_that_returns_is_a_forwarder(nfs: NfsCluster, held: Held) -> None:
    lock_node = nfs.lock_node(held.b)
    nfs.lab.power_on(held.lock_node)
    nfs.boot(held.lock_node)
    nfs.cluster.wait_healthy()
    wait_until("it has an address", lambda: held.lock_node in nfs.places(held.b).values(), timeout_s=LIMIT_S)
    assert nfs.lock_node(held.lock_node) == lock_node
    assert f"forwarded to node {lock_node[1:]}" in nfs.log(held.lock_node)
    address = nfs.address_of(held.lock_node, held.b)
    assert held.thief.ask("lock", address, held.file, *RANGE, False) in ("denied", "grace")


def test_a_lock_node_that_lives_lets_go_of_its_locks(nfs: NfsCluster, held: Held) -> None:
    lock_node = nfs.lock_node(held.b)
    held.holder.ask("forget_notices")
    nfs.cluster.tool(lock_node, "disable")
    wait_until("another lock node", lambda: nfs.lock_node(held.b) != lock_node, timeout_s=LIMIT_S)
    place = nfs.places(held.b)[held.address_b]
    assert place != lock_node, "its addresses have gone as well"
    held.told()
    assert held.holder.ask(*held.claim()) == "granted"
    assert held.thief.ask("lock", held.address_c, held.file, *RANGE, False) in ("grace", "denied")
    nfs.cluster.tool(lock_node, "enable")
    nfs.cluster.wait_healthy()


def test_a_server_that_crashes_is_left(nfs: NfsCluster, held: Held) -> None:
    lock_node = nfs.lock_node(held.b)
    held.holder.ask("forget_notices")
    nfs.lab.run(lock_node, ["pkill", "-KILL", "-x", "ganesha.nfsd"], timeout_s=LIMIT_S)
    wait_until("another lock node", lambda: nfs.lock_node(held.b) != lock_node, timeout_s=LIMIT_S)
    assert "cannot call nfs at '127.0.0.1' by tcp" in nfs.cluster.tool(lock_node, "scriptstatus").stdout
    held.told()
    assert held.holder.ask(*held.claim()) == "granted"
    other = next(address for address in ADDRESSES if address != held.address_b)
    assert held.thief.ask("lock", other, held.file, *RANGE, False) in ("grace", "denied")


def test_without_a_lock_node_an_address_takes_its_locks_along(nfs: NfsCluster, held: Held) -> None:
    for host in nfs.lab.nodes:
        nfs.cluster.tool(host, "event", "script", "disable", "legacy", "61.nlm-forward")
        nfs.lab.run(host, ["nft", "delete", "table", "inet", "ctdb_nlm"], timeout_s=LIMIT_S)
        nfs.lab.run(host, ["conntrack", "-F"], timeout_s=LIMIT_S)
    nfs.cluster.wait_healthy()
    place = nfs.places()[held.address_b]
    lock = ("lock", held.address_b, held.file, 1000, 10)
    held.obtain(1000, 10)
    noted = f"{nfs.lab.address('c0')}@{held.address_b}"
    wait_until("the client is noted there", lambda: noted in nfs.holders(held.b), timeout_s=LIMIT_S)
    held.holder.ask("forget_notices")
    nfs.cluster.tool(place, "disable")
    held.told()
    assert nfs.places()[held.address_b] != place
    assert held.holder.ask(*lock, True) == "granted"
    assert held.thief.ask(*lock, False) in ("grace", "denied")
