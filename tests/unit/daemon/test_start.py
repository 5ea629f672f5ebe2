# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and end of the daemon as a process: what it finds, what it says, what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ctdbpy.errors import ClientError
from ctdbpy.wire.controls import Control
from tests.unit.daemon.conftest import Cluster, Daemon, is_alive, wait_until

START_LIMIT_S = 10.0
#: An instant, on a machine as busy as it may be.
SOON_S = 5.0


def test_the_daemon_serves_soon_after_its_start(make: Cluster) -> None:
    began_s = time.monotonic()
    daemon = make()[0].start()
    with daemon.connect() as connection:
        db_id, path, _flags = connection.attach("start.tdb")
        assert connection.pnn == 0
        assert Path(path).name == "start.tdb.0"
        assert connection.ask(Control.GET_DBNAME, db_id) == "start.tdb"
    assert time.monotonic() - began_s < START_LIMIT_S


def test_only_the_owner_may_use_the_socket(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600


def test_a_second_daemon_is_refused_while_the_pid_file_is_held(daemon: Daemon) -> None:
    second = daemon.twin()
    status, said = second.refusal()
    assert status == 11
    assert f"process {daemon.pid}" in said
    assert "a daemon is running already, stop it first" in said
    with daemon.connect() as connection:
        assert connection.control(Control.GET_PID).status == daemon.pid


def test_a_second_daemon_is_refused_while_the_socket_is_answered(make: Cluster) -> None:
    daemon = make()[0]
    daemon.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(daemon.socket))
        other.listen()
        status, said = daemon.refusal()
    assert status == 10
    assert f"process {os.getpid()}" in said
    assert "answers there; a daemon is running already, stop it first" in said
    assert not daemon.pidfile.exists()


def test_what_a_killed_daemon_left_is_taken_over_and_said(daemon: Daemon) -> None:
    left = daemon.pid
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    assert daemon.socket.exists() and daemon.pidfile.exists()
    daemon.start()
    daemon.wait_log(f"NOTICE: the pid file .* was left by process {left}, which is gone; taken over")
    daemon.wait_log("NOTICE: the socket .* was left behind, nobody answers there; removed")
    assert int(daemon.pidfile.read_text()) == daemon.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_in_order_and_soon(daemon: Daemon, number: signal.Signals) -> None:
    children = daemon.children()
    assert children
    began_s = time.monotonic()
    assert daemon.end(number) == 0
    assert time.monotonic() - began_s < SOON_S
    assert not daemon.socket.exists()
    assert not daemon.pidfile.exists()
    assert not [pid for pid in children if is_alive(pid)]
    assert f"ctdbpyd ends: signal {number.name}" in daemon.log()


def test_the_shutdown_control_ends_the_daemon_as_a_signal_does(daemon: Daemon) -> None:
    began_s = time.monotonic()
    with daemon.connect() as connection:
        try:
            connection.control(Control.SHUTDOWN)
        except ClientError as reason:
            assert "it closed the connection" in str(reason)
    assert daemon.wait() == 0
    assert time.monotonic() - began_s < SOON_S
    assert not daemon.socket.exists()


def test_a_killed_daemon_takes_its_helpers_along(daemon: Daemon) -> None:
    children = daemon.children()
    assert len(children) >= 3
    daemon.end(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in children if is_alive(pid)], "its helpers are gone")


def test_hangup_opens_the_log_file_again(daemon: Daemon) -> None:
    rotated = daemon.base / "log.1"
    daemon.log_path.rename(rotated)
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_log("log file '.*' opened again")
    with daemon.connect() as connection:
        connection.attach("after.tdb")
    daemon.wait_log("attached 'after.tdb'")
    assert "after.tdb" not in rotated.read_text()


def test_the_service_manager_hears_ready_signs_of_life_and_stopping(make: Cluster, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(START_LIMIT_S)
        daemon = make()[0]
        process = daemon.spawn(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="200000")
        heard = ""
        while "READY=1" not in heard or heard.count("WATCHDOG=1") < 5:
            heard += manager.recv(4096).decode() + "\n"
        assert f"MAINPID={process.pid}" in heard
        assert daemon.end() == 0
        while "STOPPING=1" not in heard:
            heard += manager.recv(4096).decode() + "\n"
        # No helper may speak for the daemon.
        assert heard.count("READY=1") == 1


def test_a_node_that_has_none_of_the_addresses_does_not_start(make: Cluster) -> None:
    daemon = make(2)[0]
    addresses = (daemon.base / "nodes").read_text().split()
    with ExitStack() as stack:
        # Addresses in use, not foreign ones: no test may listen or connect outside of the loopback.
        for address in addresses:
            taken = stack.enter_context(socket.socket())
            taken.bind((address, daemon.port))
            taken.listen()
        conf = (daemon.base / "ctdb.conf").read_text()
        (daemon.base / "ctdb.conf").write_text(conf.replace(f"node address = {addresses[0]}\n", ""))
        status, said = daemon.refusal()
    assert status == 1
    assert "cannot find this machine in the nodes file" in said
    assert all(f"'{address}': Address already in use" in said for address in addresses)
    assert not daemon.socket.exists()


def test_a_wrong_setting_stops_the_start_and_names_its_line(make: Cluster) -> None:
    daemon = make(conf="leader timeout = soon\n")[0]
    status, said = daemon.refusal()
    assert status == 1
    assert "ctdb.conf:" in said and "leader timeout" in said and "'soon'" in said


@pytest.mark.root
def test_locked_memory_and_priority_are_had_or_their_refusal_is_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # Outside its test mode the daemon has fixed places: they get a mount namespace of their own.
    script = f"""
        mount -t tmpfs none /etc/ctdb && mount -t tmpfs none /run && mkdir /run/ctdb
        mount -t tmpfs none /var/lib/ctdb && ip link set lo up
        echo 127.0.0.1 > /etc/ctdb/nodes
        printf '[logging]\\nlocation = file:{log}\\n' > /etc/ctdb/ctdb.conf
        exec "$0" -m ctdbpy.daemon
    """
    for path in ("/etc/ctdb", "/var/lib/ctdb"):
        if not Path(path).is_dir():
            pytest.fail(f"{path} is missing: is Debian's package ctdb installed?")
    daemon = subprocess.Popen(["unshare", "-m", "-n", "sh", "-ec", script, sys.executable])
    try:
        wait_until(lambda: log.exists() and "starts, pid" in log.read_text(), "it starts", START_LIMIT_S)
        text = log.read_text()
        assert "memory locked" in text or "cannot lock memory: " in text
        assert "real-time priority 1 taken" in text or "cannot take real-time priority: " in text
    finally:
        daemon.terminate()
        assert daemon.wait(START_LIMIT_S) == 0
