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


def _start(base: Path, nodes: int, addresses: str = "") -> list[Daemon]:
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
            daemons = _start(base / program, nodes, addresses)
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
