# SPDX-License-Identifier: GPL-3.0-or-later
"""A node is drained: its addresses leave first, then its clients, then it stops; and comes back as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.client.connection import Connection
from ctdbpy.client.drain import Progress, Step, drain, resume
from ctdbpy.errors import ClientError
from ctdbpy.lab import HostProcess, Lab, wait_until
from ctdbpy.lab.services import Cluster
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import SockAddr

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(240),
]

ADDRESSES = [f"10.78.0.{number}" for number in range(200, 206)]
LIMIT_S = 30.0

#: Serves a connection as smbd does: says so, and ends when its address goes, or when it is told to.
_PROGRAM = """
import sys
from ctdbpy.client.connection import Connection
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_RELEASE_IP
from ctdbpy.wire.structures import Connection as Ends, SockAddr
address, is_stubborn = sys.argv[1], sys.argv[2] == "stubborn"
with Connection() as connection:
    connection.ask(Control.REGISTER_SRVID, srvid=SRVID_RELEASE_IP)
    connection.ask(Control.TCP_CLIENT, Ends(SockAddr("10.78.0.9", 40000), SockAddr(address, 445)))
    print("serves", flush=True)
    while is_stubborn or connection.next_message(1000).data != address.encode() + b"\\0":
        if is_stubborn:
            sys.stdin.read()
            break
"""


class Drained:
    """A cluster with addresses, asked over the first node's socket."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        public = [f"{address}/24" for address in ADDRESSES]
        self.cluster = Cluster(lab, "ctdbpy", public_addresses=public, cluster_lock=False)
        self.progress: list[Progress] = []

    def begin(self) -> None:
        self.cluster.configure()
        for host in self.lab.nodes:
            self.cluster.start(host)
        self.cluster.wait_healthy()
        self.wait_counts([2, 2, 2])

    def connect(self, host: str) -> Connection:
        return Connection(self.lab.path(host, "/run/ctdb/ctdbd.socket"), timeout_s=LIMIT_S)

    def carried(self, host: str) -> set[str]:
        said = self.lab.run(host, ["ip", "-o", "-4", "addr", "show", "dev", "pub0"], timeout_s=LIMIT_S).stdout
        return {word.partition("/")[0] for word in said.split()} & set(ADDRESSES)

    def wait_counts(self, wanted: list[int]) -> None:
        def counts() -> bool:
            return [len(self.carried(host)) for host in self.lab.nodes] == wanted

        wait_until(f"nodes have {wanted} addresses", counts, timeout_s=LIMIT_S)

    def serve(self, host: str, address: str, manner: str) -> HostProcess:
        """A program on a host that serves a client's connection."""
        log = self.lab.path(host, f"/tmp/{manner}")
        log.unlink(missing_ok=True)
        root = str(Path(__file__).resolve().parents[2])
        read, write = os.pipe()
        with open(read, "rb") as stdin, log.open("wb") as out:
            argv = [sys.executable, "-c", _PROGRAM, address, manner]
            program = self.lab.connect(host, argv, (stdin, out, out), env={"PYTHONPATH": root})
        self.hold = open(write, "wb")  # noqa: SIM115 - closed by the test, to end the program
        wait_until("the program serves", lambda: "serves" in log.read_text(), timeout_s=LIMIT_S)
        return program

    def flags(self, pnn: int) -> NodeFlag:
        with self.connect("n0") as connection:
            return NodeFlag(connection.ask(Control.GET_NODEMAP).nodes[pnn].flags)

    def steps(self) -> list[Step]:
        return list(dict.fromkeys(each.step for each in self.progress))

    def drain(self, pnn: int, *, asked: str = "n0", **how: float | bool) -> None:
        self.progress.clear()
        with self.connect(asked) as connection:
            drain(connection, pnn, on_progress=self.progress.append, **how)  # type: ignore[arg-type]

    def resume(self, pnn: int) -> None:
        with self.connect("n0") as connection:
            resume(connection, pnn)
        self.wait_counts([2, 2, 2])


@pytest.fixture(scope="module")
def drained() -> Iterator[Drained]:
    with Lab(nodes=3, clients=1) as lab:
        drained = Drained(lab)
        drained.begin()
        yield drained


@pytest.mark.parametrize("asked", ["n0", "n1"], ids=["another node", "itself"])
def test_a_drained_node_is_stopped_without_addresses_and_clients(drained: Drained, asked: str) -> None:
    program = drained.serve("n1", min(drained.carried("n1")), "smbd")
    drained.drain(1, asked=asked)
    assert program.wait(timeout_s=LIMIT_S) == 0
    assert drained.steps() == [Step.CHECKED, Step.ADDRESSES, Step.CLIENTS, Step.STOPPING, Step.DONE]
    assert [len(drained.carried(host)) for host in drained.lab.nodes] == [3, 0, 3]
    wait_until("only stopped", lambda: drained.flags(1) == NodeFlag.STOPPED, timeout_s=LIMIT_S)
    drained.resume(1)
    assert drained.flags(1) == NodeFlag(0)
    drained.hold.close()


def test_clients_that_stay_are_waited_for_and_not_cut_off_unasked(drained: Drained) -> None:
    program = drained.serve("n1", min(drained.carried("n1")), "stubborn")
    with pytest.raises(ClientError, match=r"1 clients' connections \(10.78.0.9 to .*\) are left after 0.3 s"):
        drained.drain(1, clients_limit_s=0.3)
    assert drained.flags(1) == NodeFlag.PERMANENTLY_DISABLED
    assert drained.carried("n1") == set()
    assert program.poll() is None
    drained.drain(1, clients_limit_s=0.3, force=True)
    assert drained.flags(1) & NodeFlag.STOPPED
    drained.hold.close()
    assert program.wait(timeout_s=LIMIT_S) == 0
    drained.resume(1)


def test_the_last_node_that_can_serve_is_not_drained(drained: Drained) -> None:
    drained.drain(1)
    drained.drain(2)
    drained.wait_counts([6, 0, 0])
    with pytest.raises(ClientError, match="no other node is healthy"):
        drained.drain(0)
    assert drained.flags(0) == NodeFlag(0)
    with drained.connect("n0") as connection:
        resume(connection, 1)
        resume(connection, 2)
    drained.wait_counts([2, 2, 2])


def test_every_node_knows_why_an_address_is_where_it_is(drained: Drained) -> None:
    moved = min(drained.carried("n1"))
    drained.drain(1)
    for host in drained.lab.nodes:
        with drained.connect(host) as connection:
            (found,) = connection.ask(Control.GET_PLACEMENTS, SockAddr(moved)).entries
            assert found.reason.text.startswith("node 1 is ")
            assert moved in drained.carried(f"n{found.reason.pnn}")
    drained.resume(1)
    home = f"n{next(pnn for pnn in range(3) if moved not in drained.carried(f'n{pnn}'))}"
    drained.cluster.tool("n2", "moveip", moved, home[1:])
    for host in drained.lab.nodes:
        with drained.connect(host) as connection:

            def is_told(connection: Connection = connection) -> bool:
                (found,) = connection.ask(Control.GET_PLACEMENTS, SockAddr(moved)).entries
                return found.reason.pnn == int(home[1:]) and "moved here: asked for by" in found.reason.text

            wait_until("all know who has moved it", is_told, timeout_s=LIMIT_S)
