# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program `ctdb` has beyond Debian's, or what takes a process: JSON, options, its time limit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctdbpy.cli.ctdb.program import parse
from ctdbpy.cli.ctdb.tool import Failed, Options, flags_text, parse_number
from tests.unit.daemon.conftest import LIMIT_S, Cluster, Daemon, is_alive, wait_until

Ctdb = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctdb() -> Ctdb:
    """Run the program as a process."""

    def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ctdbpy.cli.ctdb", *words],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("words", "options", "rest"),
    [
        ("status -n 1", Options(node=1), ["status"]),
        ("-n1 -Xv status", Options(node=1, is_machine=True, is_verbose=True), ["status"]),
        ("--node=0x2 -t7 x -Y", Options(node=2, timelimit_s=7, is_machine=True), ["x"]),
        ("-Y -x: --separator , y", Options(is_machine=True, separator=","), ["y"]),
        ("-T 5 -j version", Options(maxruntime_s=5, is_json=True), ["version"]),
        ("event -d DEBUG -- run -1 x", Options(debug="DEBUG"), ["event", "run", "-1", "x"]),
    ],
)
def test_options_stand_anywhere(words: str, options: Options, rest: list[str]) -> None:
    assert parse(words.split()) == (options, rest)


@pytest.mark.parametrize("words", ["-q", "--no-such", "-n", "-t x", "-T -x"])
def test_wrong_options_are_named(words: str) -> None:
    with pytest.raises(Failed, match=r"Invalid option \S+: "):
        parse(words.split())


def test_numbers_are_read_as_c_reads_them() -> None:
    numbers = {"10": 10, "0x10": 16, "010": 8, "-1": -1, " 7": 7, "0": 0, "": None, "x": None, "1x": None}
    assert {text: parse_number(text) for text in numbers} == numbers


def test_flags_have_upstreams_order() -> None:
    assert flags_text(0) == "OK"
    assert flags_text(0x40) == "UNKNOWN"
    assert flags_text(0x2F) == "DISCONNECTED|DISABLED|BANNED|UNHEALTHY|STOPPED|INACTIVE"


def test_status_in_json_has_the_newest_form(ctdb: Ctdb, make: Cluster) -> None:
    daemon: Daemon = make(1)[0].start()
    daemon.wait_log("own flags UNHEALTHY -> OK")
    where = {"CTDB_SOCKET": str(daemon.socket)}
    status = json.loads(ctdb("-j", "status", **where).stdout)
    address = (daemon.base / "nodes").read_text().strip()
    flags = ("disconnected", "unknown", "disabled", "banned", "unhealthy", "deleted", "stopped", "inactive")
    assert status == {
        "node_status": {
            "node_count": 1,
            "deleted_node_count": 0,
            "nodes": {
                "0": {
                    "pnn": 0,
                    "address": address,
                    "partially_online": False,
                    "flags_raw": 0,
                    "flags_ok": True,
                    "flags": dict.fromkeys(flags, False),
                    "this_node": True,
                }
            },
        },
        "vnn_status": {
            "generation": status["vnn_status"]["generation"],
            "size": 1,
            "vnn_map": [{"hash": 0, "lmaster": 0}],
        },
        "recovery_mode": "NORMAL",
        "recovery_mode_raw": 0,
        "leader": 0,
    }
    assert list(json.loads(ctdb("version", "--json").stdout)) == ["version"]
    assert ctdb("-j", "pnn", **where).stderr == "--json not supported by the pnn subcommand\n"
    both = ctdb("-j", "-X", "status", **where)
    assert (both.returncode, both.stdout) == (1, "")


def test_time_that_is_up_ends_it_and_its_helpers(ctdb: Ctdb, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        done = ctdb("-T", "1", "-t", "60", "pnn", CTDB_SOCKET=str(tmp_path / "mute"))
    assert (done.returncode, done.stderr) == (1, "Maximum runtime exceeded - exiting\n")
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\nsh -c 'echo $$ >{tmp_path}/pid; exec sleep 1000'\n")
    helper.chmod(0o755)
    done = ctdb("event", "status", CTDB_EVENT_HELPER=str(helper), CTDB_TIMEOUT="1")
    assert done.returncode == 1
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), "the helper's child has ended")
    assert ctdb("pnn", CTDB_TIMEOUT="soon").stderr == "Invalid value CTDB_TIMEOUT\n"


def test_who_reads_no_further_ends_it(daemon: Daemon) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ctdbpy.cli.ctdb", "listvars"],
        env={**os.environ, "CTDB_SOCKET": str(daemon.socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(LIMIT_S) == -signal.SIGPIPE
        assert process.stderr.read() == b""
