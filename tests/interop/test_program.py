# SPDX-License-Identifier: GPL-3.0-or-later
"""Our program `ctdb` says and does the same as Debian's, each with daemons of ours of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.masks import check_same
from tests.interop.programs import Talk
from tests.interop.test_tool import CONVERSATIONS
from tests.unit.daemon.conftest import Daemon, own_network

_CONF = "[legacy]\nrealtime scheduling = false\n"


def start_nodes(base: Path, nodes: int, addresses: str = "") -> list[Daemon]:
    base.mkdir()
    net, port = own_network()
    members = [f"{net}.{number + 1}" for number in range(nodes)]
    daemons = [Daemon(base / f"n{pnn}", members, pnn, port, _CONF) for pnn in range(nodes)]
    for daemon in daemons:
        (daemon.base / "public_addresses").write_text(addresses)
        (daemon.base / "ctdb.tunables").write_text(
            "RerecoveryTimeout=1\nElectionTimeout=1\nVacuumInterval=99999\n"
        )
        (daemon.base / "events" / "legacy").mkdir(parents=True)
        (daemon.base / "share" / "events" / "legacy").mkdir(parents=True)
        daemon.spawn()
    return daemons


def _pair(base: Path, nodes: int, addresses: str = "") -> Iterator[tuple[Talk, Talk]]:
    """Debian's program and ours, each with a cluster of its own."""
    started: list[Daemon] = []
    try:
        talks = []
        for program in ("debian", "ours"):
            daemons = start_nodes(base / program, nodes, addresses)
            started += daemons
            talks.append(Talk(daemons, program, base / f"{program}.tmp"))
        for daemon in started:
            daemon.wait_serving()
            daemon.wait_log("own flags UNHEALTHY -> OK")
        debians, ours = talks
        yield debians, ours
    finally:
        for daemon in started:
            assert daemon.process is not None
            daemon.process.kill()
            daemon.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Talk, Talk]]:
    yield from _pair(tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Talk, Talk]]:
    addresses = "192.0.2.10/24 lo\n192.0.2.9/24 lo\n2001:db8::7/64 lo\n"
    yield from _pair(tmp_path_factory.mktemp("three"), 3, addresses)


def _in_base(line: str) -> str:
    line = line.replace("{", "{{").replace("}", "}}")
    line = line.replace("/var/lib/ctdb", "{base}/var").replace("/run/ctdb", "{base}/run")
    return re.sub(r"(?<![\w}])/tmp/", "{tmp}/", line)


@pytest.mark.parametrize("topic", CONVERSATIONS)
def test_it_says_the_same_of_one_node_about(alone: tuple[Talk, Talk], topic: str) -> None:
    lines = [_in_base(line) for line in CONVERSATIONS[topic] if line != "ctdb version"]
    debians, ours = (talk.hold(lines) for talk in alone)
    check_same(ours, debians)


CLUSTER = {
    "nodes": [
        "ctdb status",
        "ctdb -n 1 status",
        "ctdb -X status -n2",
        "ctdb nodestatus 0,2",
        "ctdb nodestatus 0,7",
        "ctdb nodestatus x",
        "ctdb -n 7 pnn",
        "ctdb -n 1 pnn",
        "ctdb -n x ping",
        "ctdb -q ping",
        "ctdb --frobnicate ping",
        "ctdb ping -t",
        "ctdb --node=2 runstate",
        "ctdb listnodes -n 1",
        "ctdb listnodes -X",
        "ctdb -n 2 getcapabilities",
        "ctdb -n 2 setleaderrole off",
        "ctdb -n 2 setlmasterrole off",
        "ctdb -n 2 getcapabilities",
        "ctdb -n 2 setleaderrole on",
        "ctdb -n 2 setlmasterrole on",
        "ctdb setleaderrole maybe",
        "ctdb recover",
        "ctdb -n 1 recover",
        "ctdb sync",
        "ctdb ipreallocate extra",
    ],
    "states": [
        "ctdb -n 1 enable",
        "ctdb -n 1 disable",
        "ctdb -n 1 disable",
        "ctdb nodestatus all",
        "ctdb -n 1 enable",
        "ctdb -n 1 continue",
        "ctdb -n 1 stop",
        "ctdb -X nodestatus all",
        "ctdb -n 1 status",
        "ctdb -n 1 stop",
        "ctdb -n 1 continue",
        "ctdb ban",
        "ctdb ban 0",
        "ctdb ban soon",
        "ctdb unban",
        "ctdb -n 2 ban 300",
        "ctdb -n 2 ban 300",
        "n2: ctdb nodestatus",
        "ctdb nodestatus all",
        "ctdb -n 2 unban",
        "ctdb nodestatus all",
    ],
    "addresses": [
        "ctdb moveip 192.0.2.9 0",
        "ctdb moveip 192.0.2.10 1",
        "ctdb moveip 2001:db8::7 2",
        "ctdb ip",
        "ctdb ip all",
        "ctdb -X ip all",
        "ctdb -v ip",
        "ctdb -v -X ip all",
        "ctdb ip some",
        "ctdb ipinfo 192.0.2.9",
        "ctdb ipinfo 2001:db8::7",
        "ctdb ipinfo 192.0.2.99",
        "ctdb ipinfo nowhere",
        "ctdb ifaces",
        "ctdb -X ifaces",
        "ctdb setifacelink lo down",
        "ctdb ifaces",
        "ctdb status -n 0",
        "ctdb -X nodestatus",
        "ctdb setifacelink lo up",
        "ctdb setifacelink eth99 up",
        "ctdb setifacelink lo sideways",
        "ctdb setifacelink much-too-long-a-name up",
        "ctdb moveip 192.0.2.9 1",
        "ctdb ip all | grep 192.0.2.9",
        "ctdb moveip 192.0.2.9 x",
        "ctdb moveip nowhere 1",
        "ctdb addip 192.0.2.50/24 lo",
        "ctdb addip 192.0.2.50/24 lo",
        "ctdb addip 192.0.2.51 lo",
        "ctdb ip | grep 192.0.2.5",
        "ctdb delip 192.0.2.50",
        "ctdb delip 192.0.2.50",
        "ctdb delip nowhere",
        "ctdb reloadips",
        "ctdb reloadips all",
        "ctdb reloadips 0,7",
        "ctdb gratarp nowhere lo",
    ],
    "tickles": [
        "ctdb moveip 192.0.2.10 0",
        "ctdb gettickles 192.0.2.10",
        "ctdb addtickle 203.0.113.5:4000 192.0.2.10:445",
        "printf '203.0.113.6:4001 192.0.2.10:2049\\n203.0.113.7:4002 192.0.2.10:445\\n' | ctdb addtickle",
        "ctdb gettickles 192.0.2.10 | sort",
        "ctdb gettickles 192.0.2.10 445 | sort",
        "ctdb -X gettickles 192.0.2.10 2049",
        "ctdb deltickle 203.0.113.6:4001 192.0.2.10:2049",
        "ctdb gettickles 192.0.2.10 2049",
        "ctdb addtickle 203.0.113.5 192.0.2.10:445",
        "ctdb addtickle 203.0.113.5:4000",
        "ctdb gettickles nowhere",
        "ctdb gettickles 192.0.2.99",
        "ctdb tickle nowhere:1 192.0.2.10:445",
        "ctdb checktcpport 0",
        "ctdb -n 1 tickle 203.0.113.5:4000 192.0.2.10:445",
    ],
    "the nodes file": [
        "ctdb reloadnodes",
        "sed -i '$s/^/#/' {base}/nodes; ctdb reloadnodes",
        "ctdb listnodes",
        "sed -i 's/^#//' {base}/nodes; ctdb listnodes",
        "rm {base}/nodes; ctdb listnodes",
    ],
}


@pytest.mark.parametrize("topic", CLUSTER)
def test_it_says_the_same_of_three_nodes_about(three: tuple[Talk, Talk], topic: str) -> None:
    debians, ours = (_without_leader(talk.hold(CLUSTER[topic])) for talk in three)
    check_same(ours, debians)


def _without_leader(transcript: str) -> str:
    """Which node leads is chance."""
    return re.sub(r"(?<=^Leader:)[0-2]$", "<node>", transcript, flags=re.MULTILINE)
