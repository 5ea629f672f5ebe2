# SPDX-License-Identifier: GPL-3.0-or-later
"""60.nfs with stub programs: what it starts, begins and asks, and what it says when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.services.stand import Ended, Stand

ADDRESS = "192.0.2.1"


class Nfs(Stand):
    """A node whose services systemd starts."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.checks = directory / "checks"
        self.checks.mkdir()
        self.export = directory / "export"
        self.export.mkdir()
        self.config = directory / "ganesha.conf"
        self.config.write_text(f'EXPORT {{ Path = "{self.export}"; # Path = /none\n Pseudo = /p; }}')
        (self.base / "public_addresses").write_text(f"{ADDRESS}/24 eth9\n")
        for name in ("nft", "conntrack", "exportfs", "rpc.nfsd"):
            self.program(name, "")
        self.program("dbus-send", "echo boolean true")
        # What is shared with other nodes needs a daemon; with one: tests/cluster.
        self.forward = self.base / "events" / "legacy" / "61.nlm-forward.script"
        self.forward.touch(0o755)

    def event(self, *arguments: str, **options: str) -> Ended:
        return self.run(
            "60.nfs",
            *arguments,
            **{
                "CTDB_SERVICE_MANAGER": "systemd",
                "CTDB_NFS_SERVER": "ganesha",
                "CTDB_GANESHA_CONF": str(self.config),
                "CTDB_GANESHA_LOG": str(self.directory / "log" / "ganesha.log"),
                "CTDB_NFS_STATD_DIR": str(self.directory / "statd"),
                "CTDB_NFS_CHECKS_DIR": str(self.checks),
                **options,
            },
        )

    def check(self, service: str, *lines: str) -> None:
        (self.checks / f"20.{service}.check").write_text("".join(f"{line}\n" for line in lines))

    def units(self) -> list[str]:
        """What systemctl was told to do."""
        calls = [call.removeprefix("systemctl ") for call in self.calls("systemctl")]
        return [call for call in calls if not call.startswith("is-active")]


@pytest.fixture
def nfs(tmp_path: Path) -> Nfs:
    return Nfs(tmp_path)


def well(ended: Ended) -> None:
    assert (ended.status, ended.said) == (0, "")


# -- starting and stopping ----------------------------------------------------------------------


def test_startup_starts_all_afresh_and_forgets_whom_statd_knew(nfs: Nfs) -> None:
    known = nfs.directory / "statd" / "sm" / "192.0.2.9"
    known.parent.mkdir(parents=True)
    known.touch()
    well(nfs.event("startup"))
    assert nfs.units() == [
        "stop nfs-ganesha",
        "stop rpc-statd",
        "stop rpc-statd",
        "start rpc-statd",
        "start nfs-ganesha",
    ]
    assert not known.exists()


def test_the_kernels_server_gets_its_ports_first(nfs: Nfs) -> None:
    well(nfs.event("startup", CTDB_NFS_SERVER="kernel", CTDB_NFS_LOCK_PORT="4001"))
    calls = [call for call in nfs.calls() if "is-active" not in call]
    assert calls[-2:] == [
        "sysctl -q -w fs.nfs.nlm_tcpport=4001 fs.nfs.nlm_udpport=4001",
        "systemctl start nfs-kernel-server",
    ]


def test_a_port_mapper_that_does_not_run_is_started(nfs: Nfs) -> None:
    nfs.program("systemctl", '[ "$1" != is-active ]')
    well(nfs.event("startup"))
    assert "start rpcbind" in nfs.units()


def test_shutdown_stops_what_was_started(nfs: Nfs) -> None:
    well(nfs.event("shutdown"))
    assert nfs.units() == ["stop nfs-ganesha", "stop rpc-statd"]


def test_a_server_that_does_not_start_fails_the_event(nfs: Nfs) -> None:
    nfs.program("systemctl", '[ "$1 $2" != "start nfs-ganesha" ] || { echo no such unit >&2; exit 5; }')
    ended = nfs.event("startup")
    assert ended.status == 1
    assert ended.said == "cannot run 'systemctl start nfs-ganesha': exit status 5: no such unit\n"


@pytest.mark.parametrize(
    ("callout", "unit"),
    [
        ("/etc/ctdb/nfs-ganesha-callout", "nfs-ganesha"),
        ("/etc/ctdb/nfs-linux-kernel-callout", "nfs-kernel-server"),
    ],
)
def test_the_callout_of_upstreams_option_names_the_server(nfs: Nfs, callout: str, unit: str) -> None:
    well(nfs.event("shutdown", CTDB_NFS_SERVER="", CTDB_NFS_CALLOUT=callout))
    assert nfs.units()[0] == f"stop {unit}"


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("CTDB_NFS_SERVER", "unfs3", "it must be 'kernel' or 'ganesha'"),
        ("CTDB_NFS_LOCK_PORT", "0", "it must be from 1 to 65535"),
        ("CTDB_NFS_SKIP_SHARE_CHECK", "maybe", "it must be 'yes' or 'no'"),
    ],
)
def test_a_broken_option_gives_one_clear_line(nfs: Nfs, option: str, value: str, rule: str) -> None:
    ended = nfs.event("monitor", **{option: value})
    assert ended.status == 1
    assert ended.said == f"cannot use {option}='{value}' of '{nfs.base}/script.options': {rule}\n"


def test_other_events_are_not_ours(nfs: Nfs) -> None:
    well(nfs.event("init", CTDB_NFS_SERVER="unfs3"))
    assert nfs.calls() == []


# -- grace periods ------------------------------------------------------------------------------


def test_a_grace_period_begins_before_addresses_move(nfs: Nfs) -> None:
    well(nfs.event("startipreallocate"))
    (call,) = nfs.calls("dbus-send")
    assert call.endswith(f"org.ganesha.nfsd.admin.grace string:5:{ADDRESS}")
    well(nfs.event("takeip", "eth9", ADDRESS, "24"))
    assert nfs.calls("dbus-send") == [], "it has begun"


def test_a_daemon_that_knows_no_startipreallocate_begins_it_at_takeip(nfs: Nfs) -> None:
    well(nfs.event("takeip", "eth9", "192.0.2.7", "24"))
    (call,) = nfs.calls("dbus-send")
    assert call.endswith("string:5:192.0.2.7")


def test_the_kernels_server_is_not_restarted_before_addresses_move(nfs: Nfs) -> None:
    well(nfs.event("startipreallocate", CTDB_NFS_SERVER="kernel"))
    assert nfs.calls() == []


def test_a_ganesha_that_does_not_hear_is_told_of_and_does_not_hold_addresses_up(nfs: Nfs) -> None:
    nfs.program("dbus-send", "echo 'Error: no reply' >&2; exit 1")
    ended = nfs.event("startipreallocate")
    assert ended.status == 0
    assert "exit status 1: Error: no reply: locks may be given to others before" in ended.said


def test_a_grace_period_that_is_refused_is_told_of(nfs: Nfs) -> None:
    nfs.program("dbus-send", "echo boolean false; echo string Malformed")
    ended = nfs.event("startipreallocate")
    assert ended.status == 0
    assert "NFS-Ganesha says 'boolean false string Malformed'" in ended.said


def test_a_ganesha_that_is_not_on_the_bus_fails_monitor(nfs: Nfs) -> None:
    nfs.check("nfs", "service_check_cmd=true")
    nfs.program("dbus-send", "echo boolean false")
    ended = nfs.event("monitor")
    assert ended.status == 1
    assert ended.said == "cannot begin grace periods: NFS-Ganesha does not listen on D-Bus\n"


def test_with_a_lock_node_no_clients_are_told_here(nfs: Nfs) -> None:
    well(nfs.event("ipreallocated"))
    well(nfs.event("releaseip", "eth9", ADDRESS, "24"))


def test_an_address_that_leaves_does_not_wait_for_its_locks(nfs: Nfs) -> None:
    nfs.forward.unlink()
    ended = nfs.event("releaseip", "eth9", ADDRESS, "24")
    assert ended.status == 0
    assert ended.said.startswith("cannot connect to the daemon at ")
    assert ended.said.endswith(f": clients of '{ADDRESS}' may be refused their own locks\n")


# -- health -------------------------------------------------------------------------------------


def test_a_check_that_fails_is_told_and_then_counts(nfs: Nfs) -> None:
    nfs.check("nfs", "unhealthy_after=2", 'service_check_cmd="echo it hangs >&2; false"')
    first = nfs.event("monitor")
    assert (first.status, first.said) == (
        0,
        "cannot run 'sh -c echo it hangs >&2; false': exit status 1: it hangs (1 failure)\n",
    )
    second = nfs.event("monitor")
    assert second.status == 1
    assert second.said.endswith("it hangs (2 failures in a row)\n")


def test_one_success_begins_the_count_anew(nfs: Nfs) -> None:
    for command in ("false", "true", "false"):
        nfs.check("nfs", "unhealthy_after=2", f"service_check_cmd={command}")
        ended = nfs.event("monitor")
    assert (ended.status, "(1 failure)" in ended.said) == (0, True)


def test_what_fails_too_often_is_restarted(nfs: Nfs) -> None:
    watched = nfs.directory / "statd" / "sm" / "192.0.2.9"
    watched.parent.mkdir(parents=True)
    watched.touch()
    nfs.check("status", "unhealthy_after=0", "restart_every=2", "service_check_cmd=false")
    nfs.event("monitor")
    assert nfs.units() == []
    ended = nfs.event("monitor")
    assert "status is restarted\n" in ended.said
    assert nfs.units() == ["stop rpc-statd", "start rpc-statd"]
    assert watched.exists(), "its locks stand"


def test_one_server_for_many_services_is_restarted_once(nfs: Nfs) -> None:
    for service in ("nfs", "mountd", "nlockmgr"):
        nfs.check(service, "unhealthy_after=0", "restart_every=1", "service_check_cmd=false")
    nfs.event("monitor")
    assert nfs.units() == ["stop nfs-ganesha", "start nfs-ganesha"]


def test_an_administrators_own_commands_restart(nfs: Nfs) -> None:
    for name in ("first", "second", "third"):
        nfs.program(name, "")
    nfs.check(
        "nlockmgr",
        "unhealthy_after=0",
        "restart_every=1",
        "service_check_cmd=false",
        "service_stop_cmd=first",
        "service_debug_cmd='second it'  # why",
        "service_start_cmd=third",
    )
    nfs.event("monitor")
    assert [call for call in nfs.calls() if call.split()[0] in ("first", "second", "third")] == [
        "first ",
        "second it",
        "third ",
    ]


def test_upstreams_own_files_have_us_restart(nfs: Nfs) -> None:
    nfs.check(
        "nfs",
        'version="3"',
        "restart_every=1",
        "unhealthy_after=0",
        'service_check_cmd="false"',
        'service_stop_cmd="$CTDB_NFS_CALLOUT stop nfs"',
        'service_start_cmd="$CTDB_NFS_CALLOUT start nfs"',
    )
    nfs.event("monitor")
    assert nfs.units() == ["stop nfs-ganesha", "start nfs-ganesha"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("version=three", "it must be a whole number"),
        ("version", "it must be NAME=VALUE"),
        ("colour=red", "'colour' is unknown"),
        ("family=ipx", "family must be of tcp, tcp6, udp, udp6"),
        ("service_check_cmd='open", "No closing quotation"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(nfs: Nfs, line: str, reason: str) -> None:
    nfs.check("nfs", "# fine", line)
    ended = nfs.event("monitor")
    assert ended.status == 1
    assert ended.said.startswith(f"cannot use line 2 of '{nfs.checks}/20.nfs.check'")
    assert ended.said.endswith(f": {reason}\n")


def test_a_service_that_nobody_knows_needs_a_command(nfs: Nfs) -> None:
    nfs.check("unknown")
    assert "'unknown' needs a service_check_cmd" in nfs.event("monitor").said


def test_an_rpc_service_that_is_not_there_is_told_by_name(nfs: Nfs) -> None:
    nfs.check("nfs")
    # Nobody answers for this address of the loopback network.
    ended = nfs.event("monitor", CTDB_RPCINFO_LOCALHOST="127.9.9.9")
    assert ended.status == 1
    assert ended.said.startswith("cannot call nfs at '127.9.9.9' by tcp: ")


def test_an_export_that_is_gone_fails_the_event(nfs: Nfs) -> None:
    nfs.check("nfs", "service_check_cmd=true")
    well(nfs.event("monitor"))
    nfs.export.rmdir()
    ended = nfs.event("monitor")
    assert ended.status == 1
    assert ended.said == f"cannot reach the directory of export '{nfs.export}': No such file or directory\n"
    well(nfs.event("monitor", CTDB_NFS_SKIP_SHARE_CHECK="yes"))


def test_a_node_is_well_though_clients_cannot_be_noted_now(nfs: Nfs) -> None:
    nfs.forward.unlink()
    nfs.check("nfs", "service_check_cmd=true")
    ended = nfs.event("monitor")
    assert ended.status == 0
    assert ended.said.endswith(": clients that hold locks are noted later\n")
