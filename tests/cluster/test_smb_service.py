# SPDX-License-Identifier: GPL-3.0-or-later
"""50.samba with Debian's Samba on three nodes: what stops serving loses its addresses, and gets them back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.errors import LabError
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster, Samba

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(240),
]

ADDRESSES = [f"10.78.0.{number}" for number in range(200, 203)]
LIMIT_S = 60


class Served:
    """A cluster whose script runs smbd, and a client on the public network."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.samba = Samba(lab)
        self.cluster = Cluster(
            lab,
            "ctdbpy",
            scripts=["50.samba"],
            options={"CTDB_SAMBA_CHECK_TIMEOUT": "5"},
            public_addresses=[f"{address}/24" for address in ADDRESSES],
            tunables={"MonitorInterval": 2},
            cluster_lock=False,
        )

    def begin(self) -> None:
        self.samba.configure()
        self.cluster.configure()
        for host in self.lab.nodes:
            self.cluster.start(host)
        self.settle()

    def settle(self) -> None:
        """Wait until every node is well and has its share of the addresses, and each serves the client."""
        try:
            self.cluster.wait_healthy()
        except LabError as error:
            logs = "".join(f"{host}:\n{self.samba.log_end(host)}\n" for host in self.lab.nodes)
            raise LabError(f"{error}\nsmbd's logs end:\n{logs}") from None
        share = len(ADDRESSES) // len(self.lab.nodes)
        wait_until(
            "addresses are spread",
            lambda: [len(self.on_host(host)) for host in self.lab.nodes] == [share] * len(self.lab.nodes),
            timeout_s=LIMIT_S,
        )
        self.check_served()

    def on_host(self, host: str) -> set[str]:
        """The public addresses that a host's interface carries."""
        said = self.lab.run(host, ["ip", "-o", "-4", "addr", "show", "dev", "pub0"], timeout_s=10).stdout
        return {word.partition("/")[0] for word in said.split()} & set(ADDRESSES)

    def check_served(self) -> None:
        """Raise unless the client gets a session and a tree at every address."""
        for address in ADDRESSES:
            connect = ["smbclient", "-N", f"//{address}/IPC$", "-c", "quit"]
            self.lab.run("c0", connect, timeout_s=20)

    def wait_sick(self, host: str, reason: str) -> None:
        """Wait until the node is unhealthy for that reason, and others have its addresses and serve them."""
        number = host[1:]
        other = next(each for each in self.lab.nodes if each != host)
        wait_until(
            f"'{host}' is unhealthy",
            lambda: self.cluster.tool(other, "nodestatus", number, check=False).returncode != 0,
            timeout_s=LIMIT_S,
        )
        # One that ends while it is asked is told in other words the first time.
        wait_until(
            f"'{host}' says why",
            lambda: reason in self.cluster.tool(host, "scriptstatus", "monitor").stdout,
            timeout_s=LIMIT_S,
        )
        wait_until(f"'{host}' has no address", lambda: not self.on_host(host), timeout_s=LIMIT_S)
        wait_until(
            "others have them",
            lambda: set.union(*map(self.on_host, self.lab.nodes)) == set(ADDRESSES),
            timeout_s=LIMIT_S,
        )
        self.check_served()

    def smbds(self, host: str) -> list[str]:
        """The ids of all processes called smbd on a host."""
        return self.lab.run(host, ["pgrep", "smbd"], timeout_s=10, check=False).stdout.split()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Lab(nodes=3, clients=1) as lab:
        served = Served(lab)
        served.begin()
        yield served


def test_an_smbd_that_hangs_loses_its_addresses_until_it_goes_on(served: Served) -> None:
    [address] = served.on_host("n0")
    pid = str(served.samba.pid("n0"))
    served.lab.run("n0", ["kill", "-STOP", pid], timeout_s=10)
    served.wait_sick("n0", f"cannot use smbd at '{address}' port 445: no answer to negotiate within 5 s")
    served.lab.run("n0", ["kill", "-CONT", pid], timeout_s=10)
    served.settle()


def test_a_share_whose_directory_is_gone_takes_the_node_out_until_it_is_back(served: Served) -> None:
    # As if the cluster file system was not mounted there.
    served.lab.run("n1", ["mount", "-t", "tmpfs", "none", "/cluster"], timeout_s=10)
    served.wait_sick("n1", "cannot reach the share directory '/cluster/share': No such file or directory")
    served.lab.run("n1", ["umount", "/cluster"], timeout_s=10)
    served.settle()


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_a_share_on_a_file_system_that_hangs_takes_the_node_out_and_hangs_one_process_alone(
    served: Served,
) -> None:
    mount = [sys.executable, "-m", "tests.cluster.hung_mount", "/cluster/share"]
    root = str(Path(__file__).resolve().parents[2])
    log = served.lab.path("n1", "/tmp/mount")
    server = served.lab.spawn("n1", mount, log, env={"PYTHONPATH": root})
    served.wait_sick("n1", "cannot reach the share directory '/cluster/share': its file system still hangs")
    hanging = served.lab.run("n1", ["ps", "-eo", "stat="], timeout_s=10).stdout.split()
    assert [each[0] for each in hanging].count("D") == 1
    server.kill()
    # Lazily: who waited there may not have heard yet that it is over.
    served.lab.run("n1", ["umount", "--lazy", "/cluster/share"], timeout_s=10)
    served.settle()


def test_an_smbd_that_is_killed_loses_its_addresses_until_it_is_started(served: Served) -> None:
    served.lab.run("n2", ["pkill", "-KILL", "smbd"], timeout_s=10)
    served.wait_sick("n2", "cannot reach smbd: nobody listens on TCP port 445")
    served.samba.start("n2")
    served.settle()


def test_smbd_ends_and_starts_with_its_cluster_daemon(served: Served) -> None:
    served.cluster.stop("n0")
    assert served.smbds("n0") == []
    served.cluster.start("n0")
    served.settle()
