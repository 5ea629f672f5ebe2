# SPDX-License-Identifier: GPL-3.0-or-later
"""With one node of three standing still, every question is answered at once, from what this node knows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from ctdbpy.cli.ctdbctl import main
from ctdbpy.client.connection import DEFAULT_SOCKET
from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster

#: No claim about time, but far less than any wait for a node that does not answer would take.
_LIMIT_S = 5.0

QUESTIONS = [
    "status",
    "why",
    "why 2",
    "why 10.78.0.201",
    "events",
    "node list",
    "node status 0 1 2",
    "node pnn",
    "node ping",
    "node uptime",
    "node runstate",
    "node pid",
    "node roles",
    "node memory",
    "node statistics",
    "node statistics 1",
    "node history",
    "node process 1",
    "ip list",
    "ip list -n 1",
    "ip info 10.78.0.201",
    "ip interfaces",
    "ip connections 10.78.0.201",
    "db list",
    "db status kept.tdb",
    "db seqnum kept.tdb",
    "db statistics kept.tdb",
    "db hot kept.tdb",
    "db cat kept.tdb",
    "db keys kept.tdb",
    "tunable list",
    "tunable get RecoverTimeout",
    "cluster leader",
    "cluster lmasters",
    "cluster mode",
    "cluster lock",
    "log level",
    "top --count 1 --interval 0.2",
]
#: Asked about the node that stands still: refused at once, by what this node knows of it.
ABOUT_IT = ["node ping 2", "node uptime 2", "ip list -n 2", "tunable list -n 2", "db list -n 2"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    lab = Lab(nodes=3, clients=0)
    cluster = Cluster(lab, "ctdbpy", public_addresses=["10.78.0.201/24", "10.78.0.202/24"])
    lab.up()
    try:
        cluster.configure()
        for host in lab.nodes:
            cluster.start(host)
        cluster.wait_healthy()
        yield cluster
    finally:
        lab.down()


def ask(cluster: Cluster, line: str) -> tuple[int, str, float]:
    """Exit code, what was said, and the seconds it took without the start of a process."""
    out, errors = io.StringIO(), io.StringIO()
    socket = str(cluster.lab.path("n0", DEFAULT_SOCKET))
    begin_s = time.monotonic()
    with (
        mock.patch.dict(os.environ, {"CTDB_SOCKET": socket}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = main(line.split())
    return code, out.getvalue() + errors.getvalue(), time.monotonic() - begin_s


def told(cluster: Cluster, line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(cluster, f"{line} --json")[1])
    return found


def goes_on(cluster: Cluster, before: int) -> bool:
    """A recovery has left the node out, and is over."""
    status = told(cluster, "status")
    return (
        status["generation"] not in (before, None)
        and status["recovery_mode"] == "NORMAL"
        and "DISCONNECTED" in status["nodes"][2]["state"]
    )


def test_a_node_that_stands_still_is_waited_for_by_no_question(cluster: Cluster) -> None:
    lab = cluster.lab
    assert ask(cluster, "db attach kept.tdb persistent")[0] == 0
    before = told(cluster, "status")["generation"]
    lab.freeze("n2")
    try:
        # Before anybody has noticed: what only another node could tell is left out.
        took = [("status, at once", ask(cluster, "status")), ("ip list, at once", ask(cluster, "ip list"))]
        wait_until("the cluster goes on without it", lambda: goes_on(cluster, before), timeout_s=30)
        took += [(line, ask(cluster, line)) for line in QUESTIONS]
        # Each is imported by now.
        took += [(line, ask(cluster, line)) for line in QUESTIONS]
        refused = [(line, ask(cluster, line)) for line in ABOUT_IT]
        listed = told(cluster, "node list")["nodes"]
    finally:
        lab.thaw("n2")
    slowest = sorted([*took, *refused], key=lambda each: each[1][2])[-10:]
    print("\n".join(f"{seconds:.3f} s {line}" for line, (_code, _said, seconds) in slowest))
    no = {"node process 1": 1, "node status 0 1 2": 3}
    for line, (code, said, seconds) in took:
        assert code == no.get(line, 0), f"{line}: {said}"
        assert seconds < _LIMIT_S, line
    for line, (code, said, seconds) in refused:
        assert code == 1 and "cannot ask node 2: it is DISCONNECTED" in said, f"{line}: {said}"
        assert seconds < _LIMIT_S, line
    (gone,) = [row for row in listed if row["pnn"] == 2]
    assert gone["state"] == "DISCONNECTED|UNHEALTHY" and gone["seconds"] > 0 and gone["reason"]
