# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl why ADDRESS` answers on every node, from what that node itself knows."""

from __future__ import annotations

import json
import re
from typing import Any

from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_ctdbctl import STAMP
from tests.unit.daemon.conftest import Cluster, Daemon, wait_until

ADDRESSES = ("192.0.2.1", "2001:db8::1")


def addressed(make: Cluster, **files: str) -> list[Daemon]:
    nodes = make(2)
    for node in nodes:
        for name, text in files.items():
            (node.base / name.replace("__", ".")).write_text(text)
        lines = "".join(f"{each}/{64 if ':' in each else 24} lo\n" for each in ADDRESSES)
        (node.base / "public_addresses").write_text(lines)
        node.spawn()
    for node in nodes:
        node.wait_serving()
    return nodes


def ask(run: Run, node: Daemon, address: str) -> Any:
    done = run("--json", "why", address, socket=node.socket)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_node_says_why_an_address_is_where_it_is(run: Run, make: Cluster) -> None:
    nodes = addressed(make)
    for address in ADDRESSES:
        for node in nodes:

            def has_settled(node: Daemon = node, address: str = address) -> bool:
                answer = ask(run, node, address)
                decision = answer["decision"]
                return decision is not None and answer["pnn"] == decision["pnn"] is not None

            wait_until(has_settled, f"{address} is somewhere, for a reason")
    with nodes[0].connect() as connection:
        connection.ask(Control.DISABLE_NODE, destnode=1)
    for address in ADDRESSES:
        for pnn, node in enumerate(nodes):

            def is_on_the_other(node: Daemon = node, address: str = address) -> bool:
                answer = ask(run, node, address)
                return bool(answer["pnn"] == 0 and answer["decision"]["pnn"] == 0)

            wait_until(is_on_the_other, f"{address} has left node 1")
            answer = ask(run, node, address)
            assert answer["this_node"] is (pnn == 0)
            assert answer["interface"] == ("lo" if pnn == 0 else None)
            assert answer["unfit_nodes"] == [{"pnn": 1, "state": "DISABLED"}]
            shown = run("why", address, socket=node.socket).stdout
            here = r" \(this node\), interface lo" if pnn == 0 else ""
            assert re.fullmatch(
                rf"{re.escape(address)}: on node 0 \S+{here}\n"
                rf"    since {STAMP}: \S.* \[node [01] says\]\n"
                r"    node 1 serves none: DISABLED\n",
                shown,
            ), shown


def test_an_address_may_have_a_home(run: Run, make: Cluster) -> None:
    homes = "".join(f"{each} 1\n" for each in ADDRESSES)
    nodes = addressed(make, ctdb__tunables="IPAllocAlgorithm=0\n", home_nodes=homes)
    for address in ADDRESSES:

        def is_at_home(address: str = address) -> bool:
            answer = ask(run, nodes[0], address)
            return bool(answer["pnn"] == 1 and answer["decision"]["reason"].endswith("node 1 is its home"))

        wait_until(is_at_home, f"{address} is at home")


def test_an_address_that_nobody_serves_has_a_reason_too(run: Run, make: Cluster) -> None:
    nodes = addressed(make)
    with nodes[0].connect() as connection:
        for pnn in range(2):
            connection.ask(Control.DISABLE_NODE, destnode=pnn)

    def is_nowhere() -> bool:
        answer = ask(run, nodes[1], ADDRESSES[0])
        return answer["pnn"] is None and answer["decision"] is not None and answer["decision"]["pnn"] is None

    wait_until(is_nowhere, "it is nowhere, for a reason")
    assert f"{ADDRESSES[0]}: nowhere\n" in run("why", ADDRESSES[0], socket=nodes[1].socket).stdout
    flags = NodeFlag.PERMANENTLY_DISABLED
    with nodes[1].connect() as connection:
        assert [each.flags for each in connection.ask(Control.GET_NODEMAP).nodes] == [flags, flags]


def test_an_address_that_is_not_public_is_an_error(run: Run, daemon: Daemon) -> None:
    done = run("why", "198.51.100.1", socket=daemon.socket)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "ctdbctl: cannot ask about 198.51.100.1: it is no public address of this node; it has none\n"
    )
