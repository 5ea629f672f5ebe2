# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock traffic through forwarders, on a real kernel: whom the lock node sees, and what its change does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.lab import Lab
from tests.cluster.test_addresses_host import Talk

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(120)]

ROOT = str(Path(__file__).resolve().parents[2])
ECHO = "tests.cluster.lock_echo"


class Stage:
    """Three nodes with a stand-in for a lock manager each; n1 is the forwarder that the client asks."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.public = lab.address("n1")
        self.client = lab.address("c0")
        self._nodes = [lab.address(host, "private") for host in lab.nodes]
        self._talks = [Talk(lab, host, ECHO, "serve") for host in [*lab.nodes, "c0"]]
        for talk in self._talks:
            assert talk.hear() == "ready"

    def part(self, host: str, lock_node: str) -> None:
        """Have a node do its part; with "=" before the lock node's number only the rules change."""
        argv = [sys.executable, "-m", ECHO, "apply", host[1:], lock_node, self.public, *self._nodes]
        self.lab.run(host, argv, timeout_s=30, env={"PYTHONPATH": ROOT})

    def lock_node(self, number: str) -> None:
        """Make this the lock node everywhere."""
        for host in self.lab.nodes:
            self.part(host, number)

    def close(self) -> None:
        for talk in self._talks:
            talk.close()


class Asker(Talk):
    """A program that asks from one port for ever; by default the client, the forwarder's public address."""

    def __init__(self, stage: Stage, host: str = "c0", *addresses: str) -> None:
        super().__init__(stage.lab, host, ECHO, "ask", *(addresses or [stage.public]), hears=True)
        assert self.hear() == "ready"

    def ask(self, protocol: str) -> str:
        self.say(protocol)
        return self.hear()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Lab(nodes=3, clients=1) as lab:
        stage = Stage(lab)
        yield stage
        stage.close()


@pytest.fixture
def asker(stage: Stage) -> Iterator[Asker]:
    stage.lock_node("0")
    asker = Asker(stage)
    yield asker
    asker.close()


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_the_lock_node_sees_the_client_and_answers_from_where_it_asked(
    stage: Stage, asker: Asker, protocol: str
) -> None:
    assert asker.ask(protocol) == f"n0 {stage.client}"
    assert asker.ask(protocol) == f"n0 {stage.client}"


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_what_the_lock_node_asks_a_client_comes_from_where_the_client_asked(
    stage: Stage, asker: Asker, protocol: str
) -> None:
    assert asker.ask("udp") == f"n0 {stage.client}"
    back = Asker(stage, "n0", stage.client, stage.lab.address("n0", "private"))
    try:
        assert back.ask(protocol) == f"c0 {stage.public}"
        assert back.ask(protocol) == f"c0 {stage.public}"
    finally:
        back.close()


def test_the_lock_node_serves_its_own_clients(stage: Stage, asker: Asker) -> None:
    stage.lock_node("1")
    assert asker.ask("udp") == f"n1 {stage.client}"


def test_one_port_reaches_the_next_lock_node_as_well(stage: Stage, asker: Asker) -> None:
    assert asker.ask("udp") == f"n0 {stage.client}"
    stage.part("n2", "2")
    stage.part("n1", "=2")
    assert asker.ask("udp") == f"n0 {stage.client}", "the kernel remembers: with rules alone nothing changes"
    stage.part("n1", "2")
    assert asker.ask("udp") == f"n2 {stage.client}"


def test_a_connection_to_a_node_that_is_gone_is_reset(stage: Stage, asker: Asker) -> None:
    assert asker.ask("tcp") == f"n0 {stage.client}"
    stage.lab.cut("n0", manner="silent")
    try:
        assert asker.ask("tcp") == "silence"
        stage.part("n2", "2")
        stage.part("n1", "2")
        assert asker.ask("tcp") == "reset"
        assert asker.ask("tcp") == f"n2 {stage.client}"
    finally:
        stage.lab.mend("n0")


def test_without_a_lock_node_nobody_answers(stage: Stage, asker: Asker) -> None:
    stage.part("n1", "-")
    assert asker.ask("udp") == "silence"


def test_a_node_that_knows_no_others_answers_itself_alone(stage: Stage, asker: Asker) -> None:
    assert asker.ask("udp") == f"n0 {stage.client}"
    argv = [sys.executable, "-m", ECHO, "apply", "0", "-", stage.public]
    stage.lab.run("n0", argv, timeout_s=30, env={"PYTHONPATH": ROOT})
    assert asker.ask("udp") == "silence"
    here = Asker(stage, "n0", "127.0.0.1")
    try:
        assert here.ask("udp") == "n0 127.0.0.1"
    finally:
        here.close()


def test_one_that_is_not_the_lock_node_any_more_does_not_serve_late_forwarders(
    stage: Stage, asker: Asker
) -> None:
    stage.part("n0", "2")
    assert asker.ask("udp") == "silence"


def test_what_is_not_for_the_lock_manager_does_not_pass(stage: Stage, asker: Asker) -> None:
    node = stage.lab.address("n0", "private")
    stage.lab.run("c0", ["ip", "route", "replace", f"{node}/32", "via", stage.public], timeout_s=5)
    ping = stage.lab.run("c0", ["ping", "-c1", "-W1", node], timeout_s=5, check=False)
    assert ping.returncode != 0
    assert asker.ask("tcp") == f"n0 {stage.client}"
