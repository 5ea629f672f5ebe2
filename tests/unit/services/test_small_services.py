# SPDX-License-Identifier: GPL-3.0-or-later
"""20.multipathd, 31.clamd, 40.vsftpd, 41.httpd: services that are little more than started and looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.services.stand import Ended, Stand


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


LISTENS = "[ $1 = checktcpport ] && exit 98"
DEAF = ""


# -- multipath -------------------------------------------------------------------------------------------

_PATHS = "size=10G\n`-+- policy='service-time 0' prio=1 status={status}"


def test_devices_with_an_active_path_are_well(stand: Stand) -> None:
    stand.program("multipath", f'cat <<"E"\n{_PATHS.format(status="active")}\nE')
    assert stand.run("20.multipathd", "monitor", CTDB_MONITOR_MPDEVICES="mpa mpb") == Ended(0, "")
    assert stand.calls("multipath") == ["multipath -ll mpa", "multipath -ll mpb"]
    assert stand.run("20.multipathd", "startup", CTDB_MONITOR_MPDEVICES="mpa mpb") == Ended(0, "")
    assert stand.run("20.multipathd", "monitor") == Ended(0, "")
    assert stand.calls("multipath") == []


def test_a_device_without_an_active_path_makes_unhealthy(stand: Stand) -> None:
    stand.program("multipath", f'cat <<"E"\n{_PATHS.format(status="enabled")}\nE')
    done = stand.run("20.multipathd", "monitor", CTDB_MONITOR_MPDEVICES="mpa")
    assert done == Ended(1, "multipath device 'mpa' has no active path\n")


def test_a_device_that_nobody_knows_makes_unhealthy(stand: Stand) -> None:
    stand.program("multipath", "")
    done = stand.run("20.multipathd", "monitor", CTDB_MONITOR_MPDEVICES="mpa")
    assert done == Ended(1, "multipathd does not know device 'mpa'\n")


# -- clamd -----------------------------------------------------------------------------------------------


def test_clamd_is_started_and_stopped(stand: Stand) -> None:
    assert stand.run("31.clamd", "startup") == Ended(0, "")
    assert stand.run("31.clamd", "shutdown") == Ended(0, "")
    assert stand.run("31.clamd", "startup", CTDB_SERVICE_CLAMD="scanner") == Ended(0, "")
    assert [call.partition(" ")[2] for call in stand.calls("service_stub")] == [
        "clamav-daemon stop",
        "clamav-daemon start",
        "clamav-daemon stop",
        "scanner stop",
        "scanner start",
    ]
    stand.program("service_stub", '[ "$2" != start ]')
    assert stand.run("31.clamd", "startup") == Ended(1, "cannot start service 'clamav-daemon'\n")


def test_clamd_listens_or_the_node_is_unhealthy(stand: Stand) -> None:
    stand.program("ss", "echo u_str LISTEN")
    assert stand.run("31.clamd", "monitor", CTDB_CLAMD_SOCKET="/run/clamd.ctl") == Ended(0, "")
    stand.program("ss", "")
    done = stand.run("31.clamd", "monitor", CTDB_CLAMD_SOCKET="/run/clamd.ctl")
    assert done == Ended(1, "clamav-daemon does not listen on '/run/clamd.ctl'\n")
    done = stand.run("31.clamd", "monitor")
    assert done.status == 1
    assert "CTDB_CLAMD_SOCKET" in done.said


# -- vsftpd ----------------------------------------------------------------------------------------------


def test_vsftpd_is_restarted_once_when_addresses_have_moved(stand: Stand) -> None:
    assert stand.run("40.vsftpd", "startup") == Ended(0, "")
    assert stand.calls("service_stub") == ["service_stub vsftpd stop", "service_stub vsftpd start"]
    assert stand.run("40.vsftpd", "ipreallocated") == Ended(0, "")
    assert stand.calls() == []
    for event in ("takeip", "releaseip"):
        assert stand.run("40.vsftpd", event, "eth0", "10.0.0.1", "24") == Ended(0, "")
    assert stand.calls() == []
    for restarts in (1, 0):
        assert stand.run("40.vsftpd", "ipreallocated").status == 0
        assert stand.calls() == ["service_stub vsftpd restart"] * restarts
    assert stand.run("40.vsftpd", "shutdown") == Ended(0, "")
    assert stand.calls() == ["service_stub vsftpd stop"]


def test_vsftpd_that_does_not_start_fails_the_event(stand: Stand) -> None:
    stand.program("service_stub", "exit 1")
    assert stand.run("40.vsftpd", "startup") == Ended(1, "cannot start service 'vsftpd'\n")
    stand.run("40.vsftpd", "takeip", "eth0", "10.0.0.1", "24")
    assert stand.run("40.vsftpd", "ipreallocated").status == 1


def test_vsftpd_that_is_deaf_twice_makes_unhealthy(stand: Stand) -> None:
    deaf = "vsftpd does not listen on TCP port 21\n"
    stand.program("ctdb", DEAF)
    assert stand.run("40.vsftpd", "monitor") == Ended(0, f"WARNING: vsftpd: failed 1 times in a row\n{deaf}")
    assert stand.run("40.vsftpd", "monitor") == Ended(1, f"ERROR: vsftpd: failed 2 times in a row\n{deaf}")
    stand.program("ctdb", LISTENS)
    assert stand.run("40.vsftpd", "monitor") == Ended(0, "NOTICE: vsftpd: it is well again\n")
    assert stand.run("40.vsftpd", "monitor") == Ended(0, "")
    stand.program("ctdb", DEAF)
    given = {"CTDB_VSFTPD_MONITOR_THRESHOLDS": "2:3"}
    said = [stand.run("40.vsftpd", "monitor", **given) for _ in range(3)]
    assert [done.status for done in said] == [0, 0, 1]
    assert said[0].said == ""


@pytest.mark.parametrize("value", ["x:2", "1:2:3", "many"])
def test_a_broken_threshold_gives_one_clear_line(stand: Stand, value: str) -> None:
    done = stand.run("40.vsftpd", "monitor", CTDB_VSFTPD_MONITOR_THRESHOLDS=value)
    assert done.status == 1
    assert done.said.startswith(f"cannot use CTDB_VSFTPD_MONITOR_THRESHOLDS='{value}' of '")
    assert len(done.said.splitlines()) == 1


# -- httpd -----------------------------------------------------------------------------------------------


def test_httpd_is_started_and_stopped(stand: Stand) -> None:
    assert stand.run("41.httpd", "startup") == Ended(0, "")
    assert stand.run("41.httpd", "shutdown") == Ended(0, "")
    assert stand.calls() == ["service_stub apache2 start", "service_stub apache2 stop"]
    stand.program("service_stub", "exit 1")
    assert stand.run("41.httpd", "startup") == Ended(1, "cannot start service 'apache2'\n")


def test_httpd_that_is_deaf_is_restarted_and_then_unhealthy(stand: Stand) -> None:
    stand.program("ctdb", DEAF)
    ends = [stand.run("41.httpd", "monitor") for _ in range(6)]
    assert [done.status for done in ends] == [0, 0, 0, 0, 1, 1]
    assert [bool(done.said) for done in ends] == [False, True, False, False, True, True]
    assert ends[1].said == "apache2 does not listen on TCP port 80, 2 times in a row: it is restarted\n"
    assert stand.calls("service_stub") == ["service_stub apache2 stop", "service_stub apache2 start"] * 3
    stand.program("ctdb", LISTENS)
    assert stand.run("41.httpd", "monitor") == Ended(0, "")
    stand.program("ctdb", DEAF)
    assert stand.run("41.httpd", "monitor") == Ended(0, "")
    assert stand.calls("service_stub") == []
