# SPDX-License-Identifier: GPL-3.0-or-later
"""50.samba, the real script: with stubs for Samba's commands, and impacket's own server in smbd's place."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ctdbpy.lab import wait_until
from ctdbpy.services import addresses
from ctdbpy.services.samba_configuration import SambaConfiguration
from tests.unit.services.stage import Stage

_SERVER = """
import sys
from impacket.smbserver import SimpleSMBServer
server = SimpleSMBServer("127.0.0.1", int(sys.argv[1]))
server.setSMB2Support(True)
server.start()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.stub("systemctl")
    stage.stub("smbd")
    (tmp_path / "share").mkdir()
    configure(stage)
    return stage


def configure(stage: Stage, more: str = "", *, ports: str = "445 139") -> None:
    (stage.home / "smb.conf").write_text(
        f"# Global parameters\n[global]\n\tsmb ports = {ports}\n"
        f"[share]\n\tpath = {stage.home}/share\n[homes]\n\tpath = /nowhere/%U\n{more}"
    )
    stage.stub("testparm", f"cat {stage.home}/smb.conf")


def run(stage: Stage, event: str, **options: str) -> tuple[int, str]:
    return stage.run("50.samba", event, CTDB_SERVICE_MANAGER="systemd", **options)


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """Somebody who listens on a port of this machine, and does no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, str(listener.getsockname()[1])


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that says `answer` to the first thing it hears, and closes; the port."""
    with listening() as (listener, port):

        def serve() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
            except OSError:
                pass  # closed: the test is over

        server = threading.Thread(target=serve)
        server.start()
        yield port
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def monitor(stage: Stage, port: str, **options: str) -> tuple[int, str]:
    return run(stage, "monitor", CTDB_SAMBA_CHECK_PORTS=port, **options)


def monitor_without_session(stage: Stage, **options: str) -> tuple[int, str]:
    with listening() as (_, port):
        return monitor(stage, port, CTDB_SAMBA_CHECK_SESSION="no", **options)


# -- starting and stopping -------------------------------------------------------------------------


def test_startup_starts_it_afresh(stage: Stage) -> None:
    assert run(stage, "startup", CTDB_SERVICE_SMB="mysmb") == (0, "")
    assert stage.asked() == ["systemctl stop mysmb", "systemctl start mysmb"]


def test_shutdown_stops_it(stage: Stage) -> None:
    assert run(stage, "shutdown", CTDB_SERVICE_SMB="mysmb") == (0, "")
    assert stage.asked() == ["systemctl stop mysmb"]


def test_reload_reloads_it(stage: Stage) -> None:
    assert run(stage, "reload", CTDB_SERVICE_SMB="mysmb") == (0, "")
    assert stage.asked() == ["systemctl reload mysmb"]


def test_a_start_that_fails_is_told(stage: Stage) -> None:
    stage.stub("systemctl", '[ "$1" = stop ] || { echo "Unit x has no y" >&2; exit 5; }')
    said = "cannot run 'systemctl start mysmb': exit status 5: Unit x has no y\n"
    assert run(stage, "startup", CTDB_SERVICE_SMB="mysmb") == (1, said)


@pytest.mark.parametrize(
    "event", ["init", "setup", "takeip", "releaseip", "updateip", "recovered", "ipreallocated"]
)
def test_other_events_do_nothing(stage: Stage, event: str) -> None:
    assert run(stage, event) == (0, "")
    assert stage.asked() == []


# -- the server ------------------------------------------------------------------------------------


def test_a_server_that_gives_a_session_and_a_tree_is_well(stage: Stage) -> None:
    with listening() as (_, port):
        pass
    with subprocess.Popen([sys.executable, "-c", _SERVER, port], stdout=subprocess.DEVNULL) as server:
        wait_until("the server listens", lambda: bool(addresses.listeners(int(port))), timeout_s=30)
        try:
            assert monitor(stage, port) == (0, "")
        finally:
            server.kill()


def test_nobody_on_the_port_is_told(stage: Stage) -> None:
    with listening() as (_, port):
        pass
    assert monitor(stage, port) == (1, f"cannot reach smbd: nobody listens on TCP port {port}\n")


def test_every_port_is_looked_at(stage: Stage) -> None:
    with listening() as (_, gone):
        pass
    with listening() as (_, port):
        status, said = monitor(stage, f"{port} {gone}", CTDB_SAMBA_CHECK_SESSION="no")
    assert (status, said) == (1, f"cannot reach smbd: nobody listens on TCP port {gone}\n")


def test_a_server_that_hangs_is_told(stage: Stage) -> None:
    with listening() as (_, port):
        status, said = monitor(stage, port, CTDB_SAMBA_CHECK_TIMEOUT="1")
    assert (status, said) == (
        1,
        f"cannot use smbd at '127.0.0.1' port {port}: no answer to negotiate within 1 s\n",
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "negotiate fails: closed by the server"),
        (b"\0\0\0\x04what", "the answer to negotiate cannot be read .*"),
    ],
)
def test_an_answer_that_is_none_is_told(stage: Stage, answer: bytes, why: str) -> None:
    with answering(answer) as port:
        status, said = monitor(stage, port)
    assert status == 1
    assert said.count("\n") == 1
    assert re.fullmatch(f"cannot use smbd at '127.0.0.1' port {port}: {why}\n", said)


def test_a_server_that_denies_this_host_is_well(stage: Stage) -> None:
    with answering(b"\x83\0\0\x01\x81") as port:
        assert monitor(stage, port) == (0, "")


# -- share directories -----------------------------------------------------------------------------


def test_share_directories_that_are_there_are_well(stage: Stage) -> None:
    assert monitor_without_session(stage) == (0, "")


def test_a_share_directory_that_is_gone_is_told(stage: Stage) -> None:
    (stage.home / "share").rmdir()
    said = f"cannot reach the share directory '{stage.home}/share': No such file or directory\n"
    assert monitor_without_session(stage) == (1, said)


def test_shares_are_not_looked_at_if_the_administrator_says_so(stage: Stage) -> None:
    (stage.home / "share").rmdir()
    assert monitor_without_session(stage, CTDB_SAMBA_SKIP_SHARE_CHECK="yes") == (0, "")


def test_a_share_that_was_taken_out_of_the_configuration_is_not_missed(stage: Stage) -> None:
    configure(stage, "[old]\n\tpath = /nowhere\n")
    (stage.state / "samba").mkdir()
    (stage.state / "samba" / "smb.conf").write_text((stage.home / "smb.conf").read_text())
    assert monitor_without_session(stage) == (
        1,
        "cannot reach the share directory '/nowhere': No such file or directory\n",
    )
    configure(stage)
    assert monitor_without_session(stage) == (0, "")


# -- testparm --------------------------------------------------------------------------------------


def test_the_configuration_is_read_at_once_only_if_there_is_no_copy(stage: Stage) -> None:
    assert monitor_without_session(stage) == (0, "")
    assert stage.asked() == ["testparm -v -s"]
    # Now one that hangs does not hang the event.
    fifo = stage.home / "go"
    stage.stub("testparm", f"read line <{fifo}; cat {stage.home}/smb.conf")
    os.mkfifo(fifo)
    assert monitor_without_session(stage) == (0, "")
    with (stage.home / "smb.conf").open("a") as configuration:
        configuration.write("[new]\n\tpath = /nowhere\n")
    fifo.write_text("go\n")
    copy = stage.state / "samba" / "smb.conf"
    wait_until("the copy is new", lambda: "[new]" in copy.read_text(), timeout_s=30)
    stage.stub("testparm", f"cat {stage.home}/smb.conf")
    assert monitor_without_session(stage)[0] == 1


def test_a_configuration_that_cannot_be_read_is_told(stage: Stage) -> None:
    stage.stub("testparm", "echo 'Load smb config' >&2; echo 'Unknown parameter' >&2; exit 1")
    said = "cannot run 'testparm -v -s': exit status 1: Unknown parameter\n"
    assert run(stage, "monitor") == (1, said)


def test_an_older_copy_is_used_and_told(stage: Stage) -> None:
    assert monitor_without_session(stage) == (0, "")
    stage.stub("testparm", "echo 'Unknown parameter' >&2; exit 1")
    trouble = stage.state / "samba" / "smb.conf.trouble"
    assert monitor_without_session(stage) == (0, "")
    wait_until("testparm has failed", trouble.exists, timeout_s=30)
    said = "cannot read Samba's configuration, an older copy is used: Unknown parameter; exit status 1\n"
    before = trouble.stat().st_ino
    assert monitor_without_session(stage) == (0, said)
    wait_until("it has failed again", lambda: trouble.stat().st_ino != before, timeout_s=30)
    configure(stage)
    assert run(stage, "reload", CTDB_SERVICE_SMB="mysmb") == (0, "")
    for _ in range(2):
        assert monitor_without_session(stage) == (0, "")


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        ("smb ports = 445 139", [445, 139]),
        ("smb ports = 4450, 139", [4450, 139]),
        ("server smb transports = tcp, nbt\nsmb ports = 1", [445, 139]),
        ("server smb transports = tcp:4450 quic nbt:1390 77", [4450, 1390, 77]),
        ("server smb transports = \nsmb ports = 445", [445]),
    ],
)
def test_ports_are_read(lines: str, ports: list[int]) -> None:
    assert SambaConfiguration.parse(f"[global]\n{lines}\n").ports() == ports


def test_only_directories_of_this_machine_are_looked_at() -> None:
    text = (
        "[global]\n\tvfs objects = acl_xattr\n"
        '[a]\n\tpath = "/a b"\n[a2]\n\tpath = /a b\n[off]\n\tpath = /off\n\tavailable = No\n'
        "[gluster]\n\tpath = /\n\tvfs objects = acl_xattr glusterfs\n[fuse]\n\tpath = /fuse\n"
        "\tvfs objects = glusterfs_fuse\n[home]\n\tpath = /home/%S\n[none]\n\tcomment = path = /x\n"
    )
    assert list(SambaConfiguration.parse(text).share_directories()) == ["/a b", "/fuse"]


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("CTDB_SAMBA_CHECK_PORTS", "smb", "it must be TCP ports, divided by blanks"),
        ("CTDB_SAMBA_CHECK_PORTS", "445,139", "it must be TCP ports, divided by blanks"),
        ("CTDB_SAMBA_CHECK_PORTS", "70000", "it must be TCP ports, divided by blanks"),
        ("CTDB_SAMBA_CHECK_TIMEOUT", "0", "it must be from 1"),
    ],
)
def test_a_broken_option_gives_one_line(stage: Stage, option: str, value: str, rule: str) -> None:
    said = f"cannot use {option}='{value}' of '{stage.base}/script.options': {rule}\n"
    assert run(stage, "monitor", **{option: value}) == (1, said)


@pytest.mark.parametrize("option", ["CTDB_SAMBA_SKIP_SHARE_CHECK", "CTDB_SAMBA_CHECK_SESSION"])
def test_a_switch_is_yes_or_no(stage: Stage, option: str) -> None:
    options = {"CTDB_SAMBA_CHECK_SESSION": "no", option: "perhaps"}
    with listening() as (_, port):
        status, said = run(stage, "monitor", CTDB_SAMBA_CHECK_PORTS=port, **options)
    rule = "it must be 'yes' or 'no'"
    assert (status, said) == (
        1,
        f"cannot use {option}='perhaps' of '{stage.base}/script.options': {rule}\n",
    )


def test_a_configuration_without_ports_is_told(stage: Stage) -> None:
    configure(stage, ports="")
    said = "cannot check smbd: 'smb ports' of its configuration names none; set CTDB_SAMBA_CHECK_PORTS\n"
    assert run(stage, "monitor") == (1, said)
