# SPDX-License-Identifier: GPL-3.0-or-later
"""ctdbctl says what it could not do, and why nodes are as they are."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import pytest

import ctdbpy
from ctdbpy.wire import packets
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import BanState, NodeEntry, NodeMap, SockAddr
from tests.unit.cli.conftest import Run
from tests.unit.daemon.conftest import LIMIT_S, Cluster, Daemon, wait_until

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"


def test_without_a_daemon_one_line_says_so(run: Run, tmp_path: Path) -> None:
    done = run("why")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"ctdbctl: cannot connect to the daemon at '{tmp_path}/nothing': "
        "No such file or directory; is ctdbpyd running?\n"
    )


def test_the_socket_is_the_one_named(run: Run, tmp_path: Path) -> None:
    other = run("--socket", f"{tmp_path}/other", "why")
    assert f"'{tmp_path}/other'" in other.stderr
    base = run("why", CTDB_SOCKET="", CTDB_TEST_MODE="1", CTDB_BASE=str(tmp_path))
    assert f"'{tmp_path}/run/ctdbd.socket'" in base.stderr
    wrong = run("why", CTDB_SOCKET="", CTDB_TEST_MODE="1", CTDB_BASE="")
    assert wrong.returncode == 1
    assert "CTDB_TEST_MODE is set without CTDB_BASE" in wrong.stderr


@pytest.mark.parametrize("wrong", [["why", "x"], ["why", "-1"], ["frobnicate"], ["--timeout", "0", "why"]])
def test_wrong_usage_is_an_error_of_its_own(run: Run, wrong: list[str]) -> None:
    done = run(*wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: ctdbctl" in done.stderr


def test_it_explains_itself(run: Run) -> None:
    assert run("--version").stdout == f"ctdbctl {ctdbpy.__version__}\n"
    shown = run("--help")
    assert shown.returncode == 0
    assert re.search(r"^  why ", shown.stdout, re.MULTILINE)


def test_a_node_that_is_well_says_since_when(run: Run, daemon: Daemon) -> None:
    daemon.wait_log("own flags UNHEALTHY -> OK")
    done = run("why", socket=daemon.socket)
    assert (done.returncode, done.stderr) == (0, "")
    address = (daemon.base / "nodes").read_text().strip()
    assert re.fullmatch(
        rf"node 0 {re.escape(address)} \(this node\): OK\n    OK since {STAMP}: \S.*\n", done.stdout
    )
    unknown = run("why", "7", socket=daemon.socket)
    assert unknown.returncode == 1
    assert unknown.stderr == "ctdbctl: cannot ask about node 7: there is none; there are 0\n"


def test_every_node_answers_why_another_is_banned(run: Run, make: Cluster) -> None:
    nodes = make(2)
    for node in nodes:
        node.spawn()
    for node in nodes:
        node.wait_serving()
    first, second = nodes

    def sees(node: Daemon, flags: NodeFlag) -> bool:
        with node.connect() as connection:
            return bool(connection.ask(Control.GET_NODEMAP).nodes[1].flags == flags)

    wait_until(lambda: sees(first, NodeFlag(0)), "node 1 is well")
    with first.connect() as connection:
        connection.ask(Control.SET_BAN_STATE, BanState(1, 0xFFFFFFFF), destnode=1)
    who = r"asked for by process \d+ \(uid \d+\) on node 0"
    for node in nodes:
        wait_until(lambda node=node: sees(node, NodeFlag.BANNED), "node 1 is banned")  # type: ignore[misc]
        done = run("why", "1", socket=node.socket)
        assert done.returncode == 0
        assert re.search(r"^node 1 \S+( \(this node\))?: BANNED$", done.stdout, re.MULTILINE), done.stdout
        banned = rf"^    BANNED since {STAMP}: banned for 4294967295 s: {who}$"
        assert re.search(banned, done.stdout, re.MULTILINE), done.stdout
    answer = json.loads(run("--json", "why", "1", socket=first.socket).stdout)
    ((told_by, what),) = [(each["told_by"], each["what"]) for each in answer["nodes"][0]["reasons"]]
    assert (told_by, what) == (1, "BANNED")
    found = json.loads(run("--json", "events", "1", socket=second.socket).stdout)["events"]
    assert (1, "flags", "BANNED") in [(each["pnn"], each["kind"], each["state"]) for each in found]
    last = run("events", "-n", "1", socket=second.socket).stdout
    assert re.fullmatch(rf"{STAMP} node [01] \w+: .*\n", last), last
    with second.connect() as connection:
        connection.ask(Control.SET_BAN_STATE, BanState(1, 0))
    wait_until(lambda: sees(first, NodeFlag(0)), "node 1 is well again")


def test_a_daemon_that_keeps_no_reasons_is_named_as_what_it_is(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def upstream() -> None:
            peer, _address = listener.accept()
            with peer:
                while data := peer.recv(4096):
                    asked = packets.decode(data)
                    assert isinstance(asked, packets.ReqControl)
                    known = asked.opcode < 163
                    nodes = NodeMap((NodeEntry(0, 0, SockAddr("192.0.2.1")),)).pack()
                    reply = nodes if asked.opcode == Control.GET_NODEMAP else b""
                    answer = packets.ReplyControl(0, 0, 0, asked.reqid, 0 if known else -1, reply, "")
                    peer.sendall(answer.encode(padded=False))

        thread = threading.Thread(target=upstream, daemon=True)
        thread.start()
        done = run("why", socket=path)
        thread.join(LIMIT_S)
    assert done.returncode == 1
    assert done.stderr == (
        "ctdbctl: cannot ask for reasons: the daemon of this node keeps none: it is not ctdbpyd\n"
    )
