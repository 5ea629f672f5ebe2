#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a unit's command line as systemd would, asks its daemon, and ends it: `start_unit.py UNIT`.

For packaging/prove, inside the system to prove; takes nothing from the tree.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

LIMIT_S = 60.0
WATCHDOG_US = 2_000_000
DIRECTORIES = {"/run": "RuntimeDirectory", "/var/lib": "StateDirectory", "/var/log": "LogsDirectory"}


class Unit:
    """What stands in a unit file."""

    def __init__(self, path: Path) -> None:
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read_string(path.read_text())
        self.service = parser["Service"]
        self.argv = shlex.split(self.service["ExecStart"])


def wait_for(notices: socket.socket, wanted: str) -> None:
    """Read what the service says until it says that."""
    notices.settimeout(LIMIT_S)
    while True:
        said = notices.recv(4096).decode()
        if wanted in said.splitlines():
            return


def ask(*argv: str) -> str:
    """What a program says; it has to succeed."""
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=True).stdout


def main() -> int:
    """0 if all went as it should."""
    unit, exporter = (Unit(Path("/usr/lib/systemd/system", name)) for name in sys.argv[1:3])
    assert unit.service["Type"] == "notify", "this starts services of Type=notify"
    for base, name in DIRECTORIES.items():
        Path(base, unit.service[name]).mkdir(parents=True, exist_ok=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind("/run/notices")
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": "/run/notices",
            "WATCHDOG_USEC": str(WATCHDOG_US),
        }
        daemon = subprocess.Popen(unit.argv, env=environment)
        served = subprocess.Popen(exporter.argv, env=environment)
        try:
            wait_for(notices, "READY=1")
            print(f"{unit.argv[0]} says that it is ready")
            wait_for(notices, "WATCHDOG=1")
            print(ask("ctdbctl", "status"), end="")
            status = json.loads(ask("ctdbctl", "status", "--json"))
            assert status, "no status"
            print(ask("ctdb", "status"), end="")
            print(ask("ctdb", "event", "status", "legacy", "startup"), end="")
            with urllib.request.urlopen("http://127.0.0.1:9385/metrics", timeout=LIMIT_S) as answer:
                metrics = answer.read().decode()
            assert "ctdb" in metrics, "no metrics"
            print(f"{exporter.argv[0]} has {len(metrics.splitlines())} lines of metrics")
            daemon.send_signal(signal.SIGTERM)
            wait_for(notices, "STOPPING=1")
            code = daemon.wait(LIMIT_S)
            print(f"it ends with {code}")
        finally:
            for process in (daemon, served):
                process.kill()
                process.wait()
            os.unlink("/run/notices")
    return code


if __name__ == "__main__":
    sys.exit(main())
