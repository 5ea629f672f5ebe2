# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons started and stopped by systemd, and by plain commands. This one's name is nobody else's."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services import addresses, managers
from ctdbpy.services.event import Event
from ctdbpy.services.managers import Daemon

_serial = itertools.count()

# It says on a fifo when it is ready and which signals it hears, so that nobody has to guess.
_PROGRAM = """\
#!{python} -IS
import os, signal, socket
from pathlib import Path
heard = {{signal.SIGHUP, signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, heard)
Path("{home}/pid").write_text(str(os.getpid()))
Path("{home}/said").write_text("ready\\n")
if Path("{home}/listens").exists():
    listener = socket.create_server(("127.0.0.1", 0))
while signal.sigwait(heard) == signal.SIGHUP:
    Path("{home}/said").write_text("reload\\n")
"""


# An event of its own process that restarts a daemon with a command that hangs.
_RESTART = """
import sys
from pathlib import Path
from ctdbpy.services import managers
from ctdbpy.services.event import Event
from ctdbpy.services.managers import Daemon
home, process, command = sys.argv[1:]
event = Event("startup", (), Path("/etc/ctdb"), Path(home), {"CTDB_SERVICE_MANAGER": "commands"})
managers.restart(event, Daemon(("stub",), ("sh", "-c", command), process))
"""


class Stub:
    """A daemon of our own, in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        name = f"stub{os.getpid()}.{next(_serial)}d"
        os.mkfifo(home / "said")
        program = home / name
        program.write_text(_PROGRAM.format(python=sys.executable, home=home), encoding="ascii")
        program.chmod(0o755)
        background = f"setsid {program} </dev/null >/dev/null 2>&1 & read -r line <{home}/said"
        self.daemon = Daemon(("stub", "stubd"), ("sh", "-c", background), name, home / "pid")

    def said(self) -> str:
        return (self.home / "said").read_text()


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    stub = Stub(tmp_path)
    yield stub
    for pid in managers.processes(stub.daemon):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What events of a test note is the test's own."""
    monkeypatch.setenv("CTDB_SCRIPT_VARDIR", str(tmp_path / "state"))


def event(**options: str) -> Event:
    state = Path(os.environ["CTDB_SCRIPT_VARDIR"])
    return Event("startup", (), Path("/etc/ctdb"), state, {"CTDB_SERVICE_MANAGER": "commands", **options})


def test_a_daemon_is_started_and_stopped(stub: Stub) -> None:
    assert not managers.is_running(event(), stub.daemon)
    managers.start(event(), stub.daemon)
    assert managers.is_running(event(), stub.daemon)
    managers.stop(event(), stub.daemon)
    assert not managers.is_running(event(), stub.daemon)


def test_stopping_what_does_not_run_is_harmless(stub: Stub) -> None:
    managers.stop(event(), stub.daemon)


def test_a_daemon_that_is_stopped_by_a_signal_ends_by_force(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "_END_LIMIT_S", 0.1)
    managers.start(event(), stub.daemon)
    [pid] = managers.processes(stub.daemon)
    os.kill(pid, signal.SIGSTOP)
    managers.restart(event(), stub.daemon)
    assert managers.processes(stub.daemon) != [pid]


def test_a_process_that_goes_by_itself_just_as_it_is_stopped_is_not_waited_for(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen(["sleep", "60"])
    opened = os.pidfd_open

    def open_too_late(pid: int) -> int:
        handle = opened(pid)
        child.kill()
        child.wait()
        return handle

    monkeypatch.setattr(os, "pidfd_open", open_too_late)
    # With any limit at all, what is left in the end would be told as having survived.
    assert managers._end([child.pid], signal.SIGKILL, 0.1) == []


def test_one_that_serves_has_started_once_it_listens(stub: Stub) -> None:
    (stub.home / "listens").touch()
    managers.start(event(), replace(stub.daemon, listens=True))
    assert [addresses.is_listener(pid) for pid in managers.processes(stub.daemon)] == [True]


def test_one_that_serves_and_does_not_come_to_listen_is_told(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "_LISTEN_LIMIT_S", 0.2)
    with pytest.raises(ServiceError, match=r"process \d+ listens on no TCP port after 0\.2 s"):
        managers.start(event(), replace(stub.daemon, listens=True))


def test_one_that_serves_and_ends_at_once_is_told(stub: Stub) -> None:
    with pytest.raises(ServiceError, match=f"^cannot start '{stub.daemon.process}': it ended at once"):
        managers.start(event(), replace(stub.daemon, command=("true",), listens=True))


def test_a_start_leaves_alone_what_an_older_one_that_hangs_is_about_to_start(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "_TURN_LIMIT_S", 0.1)
    at_home = replace(event(), state=stub.home)
    waits = f"echo hangs >{stub.home}/said; exec sleep 60"
    argv = [sys.executable, "-c", _RESTART, str(stub.home), stub.daemon.process, waits]
    older = subprocess.Popen(argv, process_group=0)
    try:
        assert stub.said() == "hangs\n"
        with pytest.raises(ServiceError, match="an earlier event that hangs is about to start it"):
            managers.restart(at_home, stub.daemon)
        assert not managers.is_running(at_home, stub.daemon)
    finally:
        os.killpg(older.pid, signal.SIGKILL)
        older.wait()
    managers.restart(at_home, stub.daemon)
    assert managers.is_running(at_home, stub.daemon)


def test_what_was_started_does_not_keep_the_next_start_waiting(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "_TURN_LIMIT_S", 0.1)
    at_home = replace(event(), state=stub.home)
    managers.start(at_home, stub.daemon)
    [pid] = managers.processes(stub.daemon)
    managers.restart(at_home, stub.daemon)
    assert managers.processes(stub.daemon) != [pid]


def test_a_reload_reaches_the_main_process(stub: Stub) -> None:
    managers.start(event(), stub.daemon)
    managers.reload(event(), stub.daemon)
    assert stub.said() == "reload\n"
    (stub.home / "pid").write_text("1\n")
    managers.reload(event(), stub.daemon)
    assert stub.said() == "reload\n"


def test_a_reload_of_what_does_not_run_is_told(stub: Stub) -> None:
    with pytest.raises(ServiceError, match=f"^cannot reload '{stub.daemon.process}': it does not run$"):
        managers.reload(event(), stub.daemon)


def test_processes_of_another_container_are_not_ours(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    managers.start(event(), stub.daemon)
    readlink = os.readlink
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "readlink", lambda path: "another" if path == "/proc/self/ns/pid" else readlink(path)
        )
        assert managers.processes(stub.daemon) == []
    assert len(managers.processes(stub.daemon)) == 1


def test_a_dead_process_does_not_run(stub: Stub) -> None:
    with subprocess.Popen([str(stub.home / stub.daemon.process)]) as process:
        assert stub.said() == "ready\n"
        assert managers.processes(stub.daemon) == [process.pid]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert managers.processes(stub.daemon) == []


def test_systemd_is_asked_by_the_name_that_is_installed(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    systemctl = tools / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n[ "$1" != reload ] || exit 4\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr(managers, "_UNIT_DIRECTORIES", (str(tmp_path / "none"), str(tmp_path)))
    systemd = event(CTDB_SERVICE_MANAGER="systemd")
    managers.start(systemd, stub.daemon)
    (tmp_path / "stubd.service").touch()
    managers.restart(systemd, stub.daemon)
    assert managers.is_running(systemd, stub.daemon)
    with pytest.raises(ServiceError, match=r"^cannot run 'systemctl reload stubd': exit status 4$"):
        managers.reload(systemd, stub.daemon)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["start stub", "stop stubd", "start stubd", "is-active --quiet stubd", "reload stubd"]


def test_a_manager_that_nobody_knows_is_told_in_one_line(stub: Stub) -> None:
    with pytest.raises(
        ServiceError, match=r"cannot use CTDB_SERVICE_MANAGER='upstart' .*'systemd' or 'commands'"
    ):
        managers.start(event(CTDB_SERVICE_MANAGER="upstart"), replace(stub.daemon))
