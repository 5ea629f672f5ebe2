# SPDX-License-Identifier: GPL-3.0-or-later
"""`eventscripts/functions`: what administrators' own scripts call, by the names that upstream gave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.services.stand import Ended, Stand


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_without_a_base_there_is_one_clear_line(stand: Stand) -> None:
    done = stand.shell(f'unset CTDB_BASE; . "{stand.base}/functions"; echo on')
    assert done.status == 1
    assert done.said.startswith("cannot run an event script: CTDB_BASE is not set")


def test_a_script_dies_with_a_text_and_a_status(stand: Stand) -> None:
    assert stand.shell("die 'it is over' 7; echo on") == stand.shell("echo 'it is over' >&2; exit 7")
    assert stand.shell("die 'it is over'").status == 1


def test_a_scripts_own_options_come_after_those_of_all(stand: Stand) -> None:
    (stand.base / "script.options").write_text("A=1\nB=1\n")
    (stand.directory / "own.options").write_text("B=2\n")
    # Programs that the script starts see them, too.
    assert stand.shell("load_script_options; sh -c 'echo $A $B'").said == "1 2\n"
    (stand.base / "events/legacy/11.natgw.options").write_text("B=3\n")
    assert stand.shell('load_script_options failover 11.natgw; echo "$A $B"').said == "1 3\n"
    assert stand.shell("load_script_options one").status == 1


def test_the_first_system_config_counts(stand: Stand) -> None:
    directory = stand.directory / "sys" / "default"
    directory.mkdir(parents=True)
    (directory / "two").write_text("A=two\n")
    (directory / "three").write_text("A=three\n")
    assert stand.shell('load_system_config one two three; echo "$A"').said == "two\n"


def test_what_is_logged_goes_to_the_daemons_log(stand: Stand) -> None:
    stand.shell("script_log tag some words; echo from stdin | script_log tag")
    assert (stand.directory / "log").read_text() == "some words\nfrom stdin\n"


def test_syslog_is_written_to_with_logger(stand: Stand) -> None:
    stand.program("logger", "")
    stand.shell("CTDB_LOGGING=syslog:nonblocking; script_log tag some words")
    assert stand.calls("logger") == ["logger -t ctdbd: tag some words"]


def test_what_runs_in_the_background_is_logged(stand: Stand) -> None:
    done = stand.shell("background_with_logging sh -c 'echo out; echo err >&2'; wait")
    assert (done.status, done.said) == (0, "")
    assert (stand.directory / "log").read_text() == "out\nerr\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("takeip eth0 10.0.0.1 24", 0),
        ("takeip eth0 10.0.0.1", 1),
        ("releaseip eth0", 1),
        ("updateip eth0 eth1 10.0.0.1 24", 0),
        ("updateip eth0 10.0.0.1 24", 1),
        ("monitor", 0),
    ],
)
def test_arguments_of_events_are_counted(stand: Stand, arguments: str, status: int) -> None:
    assert stand.shell(f"ctdb_check_args {arguments}").status == status


def test_databases_are_where_the_settings_say(stand: Stand) -> None:
    blank = stand.directory / "with a blank"
    blank.mkdir()
    (stand.base / "ctdb.conf").write_text(f"[database]\nvolatile database directory = {blank}\n")
    show = 'ctdb_get_db_options; echo "$CTDB_DBDIR|$CTDB_DBDIR_PERSISTENT|$CTDB_DBDIR_STATE"'
    expected = f"{blank}|/var/lib/ctdb/persistent|/var/lib/ctdb/state\n"
    assert stand.shell(show).said == expected
    # Once is enough.
    (stand.base / "ctdb.conf").unlink()
    assert stand.shell(show).said == expected
    assert [path.name for path in stand.state.iterdir()] == ["db_options.cache"]


def test_the_package_is_not_what_lies_in_the_current_directory(stand: Stand) -> None:
    (stand.directory / "ctdbpy").mkdir()
    (stand.directory / "ctdbpy" / "__init__.py").write_text("raise SystemExit('taken in')\n")
    done = stand.shell(f"cd {stand.directory}; ctdb_translate_option cluster 'cluster lock' LOCK")
    assert done == Ended(0, 'LOCK=""\n')
    assert stand.shell(f"cd {stand.directory}; run_service reclock init") == Ended(0, "")


def test_one_setting_is_translated(stand: Stand) -> None:
    (stand.base / "ctdb.conf").write_text("[cluster]\ncluster lock = /lock\n")
    assert stand.shell("ctdb_translate_option cluster 'cluster lock' LOCK").said == 'LOCK="/lock"\n'
    assert stand.shell("ctdb_translate_option cluster nonsense LOCK; echo on").status == 1


def test_counters_are_the_scripts_own(stand: Stand) -> None:
    count = "ctdb_counter_incr; ctdb_counter_incr; ctdb_counter_incr other"
    show = "ctdb_counter_get; ctdb_counter_get other; ctdb_counter_init; ctdb_counter_get"
    assert stand.shell(f"ctdb_setup_state_dir service one; {count}; {show}").said == "2\n1\n0\n"
    assert stand.shell("ctdb_setup_state_dir service two; ctdb_counter_get other").said == "0\n"
    assert stand.shell("ctdb_counter_incr").said == "cannot count: call ctdb_setup_state_dir first\n"


def test_failures_in_a_row_are_told_and_then_fail(stand: Stand) -> None:
    begin = "ctdb_setup_state_dir service one;"
    fail = f"{begin} failcount_incr 'nfs /a' 2:3 'no answer'; echo on"
    assert [stand.shell(fail) for _ in range(4)] == [
        Ended(0, "on\n"),
        Ended(0, "WARNING: nfs /a: failed 2 times in a row\nno answer\non\n"),
        Ended(1, "ERROR: nfs /a: failed 3 times in a row\nno answer\n"),
        Ended(1, "ERROR: nfs /a: failed 4 times in a row\n"),
    ]
    heal = f"{begin} failcount_reset 'nfs /a'"
    assert [stand.shell(heal).said for _ in range(2)] == ["NOTICE: nfs /a: it is well again\n", ""]
    assert stand.shell(fail) == Ended(0, "on\n")
    assert stand.shell(f"{begin} failcount_init 'nfs /a'; {heal}").said == ""


def test_what_never_makes_unhealthy_is_told_now_and_then(stand: Stand) -> None:
    begin = "ctdb_setup_state_dir service one;"
    told = "WARNING: one: failed {} times in a row\nso\n"
    said = [stand.shell(f"{begin} failcount_incr one 1 so").said for _ in range(2)]
    assert said == [told.format(1), ""]
    always = f"{begin} failcount_set_warning_interval 0; failcount_incr one '' so"
    assert stand.shell(always).said == told.format(3)
    assert stand.shell(f"{begin} failcount_set_warning_interval none; failcount_incr one 1 so").said == (
        "WARNING: one: failed 4 times in a row\n"
    )
    assert stand.shell(f"{begin} failcount_incr one often so").status == 1


def test_a_counter_is_there_or_not(stand: Stand) -> None:
    begin = "ctdb_setup_state_dir service one;"
    assert stand.shell(f"{begin} ctdb_counter_exists").status == 1
    assert stand.shell(f"{begin} ctdb_counter_init; ctdb_counter_exists").status == 0


@pytest.mark.parametrize(
    ("release", "style"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "redhat"),
        ('ID=opensuse-leap\nID_LIKE="suse opensuse"\n', "suse"),
        ("ID=nixos\n", "nixos"),
        ("", "unknown"),
    ],
)
def test_the_distribution_is_told(stand: Stand, release: str, style: str) -> None:
    if release:
        (stand.directory / "sys").mkdir()
        (stand.directory / "sys" / "os-release").write_text(release)
    assert stand.shell('detect_platform_style; echo "$CTDB_PLATFORM_STYLE"').said == f"{style}\n"


def test_a_service_is_reconfigured_when_marked(stand: Stand) -> None:
    done = stand.shell(
        """ctdb_setup_state_dir service one
        service_name=one
        service_reconfigure() { echo done; }
        ctdb_service_needs_reconfigure && echo early
        ctdb_service_set_reconfigure
        ctdb_service_needs_reconfigure && ctdb_service_reconfigure
        ctdb_service_needs_reconfigure || echo no more"""
    )
    assert done.said == "service 'one' is reconfigured\ndone\nno more\n"


def test_services_are_started_with_what_the_system_has(stand: Stand) -> None:
    stand.shell("service_name=one; service_start; service two restart; nice_service three stop; service_stop")
    assert stand.calls("service_stub") == [
        "service_stub one start",
        "service_stub two restart",
        "service_stub three stop",
        "service_stub one stop",
    ]


def test_directories_are_checked(stand: Stand) -> None:
    good = f"{stand.base}\n/home/%U\n"
    assert stand.shell(f"ctdb_check_directories <<E\n{good}E\necho on").said == "on\n"
    done = stand.shell(f"service_name=one\nctdb_check_directories <<E\n{good}/no such\nE\necho on")
    assert (done.status, done.said) == (1, "directory '/no such' of one is not there\n")


def test_ports_are_checked_by_the_tool(stand: Stand) -> None:
    stand.program("ctdb", "case $2 in 80) exit 98 ;; 81) exit 0 ;; esac; echo broken; exit 3")
    assert stand.shell("ctdb_check_tcp_ports 80").status == 0
    done = stand.shell("service_name=one; ctdb_check_tcp_ports 80 81")
    assert (done.status, done.said) == (1, "one does not listen on TCP port 81\n")
    done = stand.shell("ctdb_check_tcp_ports 82")
    assert done.status == 3
    assert done.said == "cannot check TCP port 82: status 3 of 'ctdb checktcpport 82': broken\n"
    assert stand.shell("ctdb_check_tcp_ports").status == 1


def test_unix_sockets_are_checked(stand: Stand) -> None:
    stand.program("ss", 'case $* in *"/there"*) echo u_str LISTEN ;; esac')
    assert stand.shell("ctdb_check_unix_socket /there").status == 0
    done = stand.shell("service_name=one; ctdb_check_unix_socket /gone")
    assert (done.status, done.said) == (1, "one does not listen on '/gone'\n")
    assert stand.shell("service_name=one; ctdb_check_unix_socket ''").status == 1


def test_this_node_is_asked_once(stand: Stand) -> None:
    stand.program("ctdb", 'case $* in pnn) echo 5 ;; *) printf "|Node|IP|\\n|5|192.0.2.5|\\n" ;; esac')
    assert stand.shell("ctdb_get_pnn; ctdb_get_pnn; ctdb_get_ip_address; ctdb_get_ip_address").said == (
        "5\n5\n192.0.2.5\n192.0.2.5\n"
    )
    assert stand.calls("ctdb") == ["ctdb pnn", "ctdb -X nodestatus"]


def test_a_daemon_that_does_not_answer_is_asked_again(stand: Stand) -> None:
    stand.program("ctdb", "exit 1")
    assert stand.shell("ctdb_get_pnn").status != 0
    stand.program("ctdb", "echo 5")
    assert stand.shell("ctdb_get_pnn").said == "5\n"


_ADDRESS = """
case $* in
    *"show to 192.0.2.1/32")
        printf '2: vlan7@eth0: <UP>\\n    link/ether 02\\n    inet 192.0.2.1/24 scope global vlan7\\n' ;;
esac
"""


def test_an_address_is_found_put_and_removed(stand: Stand) -> None:
    stand.program("ip", _ADDRESS)
    assert stand.shell("ip_maskbits_iface 192.0.2.1; ip_maskbits_iface 192.0.2.2").said == "24 vlan7\n"
    stand.calls()
    assert stand.shell("add_ip_to_iface eth0 192.0.2.1 24; add_ip_to_iface eth0 fd00::1 64").status == 0
    assert stand.calls() == [
        "ip link set eth0 up",
        "ip addr add 192.0.2.1/24 brd + dev eth0",
        "ip link set eth0 up",
        "ip addr add fd00::1/64 nodad dev eth0",
    ]
    (stand.base / "public_addresses").write_text("# ours\n\n192.0.2.1/24 vlan7\n192.0.2.2/24 vlan7\n")
    assert stand.shell("drop_all_public_ips").said == "address 192.0.2.1/24 is removed from interface vlan7\n"
    assert stand.calls()[-3:] == [
        "set_proc sys/net/ipv4/conf/vlan7/promote_secondaries 1",
        "ip addr del 192.0.2.1/24 dev vlan7",
        "ip addr show to 192.0.2.2/32",
    ]


def test_addresses_may_be_written_with_their_mask(stand: Stand) -> None:
    stand.program("ip", _ADDRESS)
    assert stand.shell("ip_prefix_iface 192.0.2.1; ip_prefix_iface 192.0.2.2").said == "192.0.2.1/24 vlan7\n"
    stand.calls()
    stand.shell("ip_addr_add 192.0.2.1/24 eth0; ip_addr_del 192.0.2.1/24 eth0")
    assert [call for call in stand.calls("ip") if "addr" in call] == [
        "ip addr add 192.0.2.1/24 brd + dev eth0",
        "ip addr del 192.0.2.1/24 dev eth0",
    ]


def test_the_interfaces_of_public_addresses_are_those_of_file_and_daemon(stand: Stand) -> None:
    stand.program("ctdb", "printf '|Name|\\n|eth7|\\n'")
    assert stand.shell('have_public_addresses || get_public_ifaces; echo "$public_ifaces"').said == "eth7\n"
    (stand.base / "public_addresses").write_text("# all\n\n10.0.0.1/24 eth1,eth0\n10.0.0.2/24\teth1\n")
    assert stand.shell('have_public_addresses && get_public_ifaces; echo "$public_ifaces"').said == (
        "eth0\neth1\neth7\n"
    )


def test_addresses_that_cannot_be_put_or_removed_are_told(stand: Stand) -> None:
    stand.program("ip", "case $1 in addr) exit 2 ;; esac")
    done = stand.shell("add_ip_to_iface eth0 192.0.2.1 24 || delete_ip_from_iface eth0 192.0.2.1 24")
    assert done.status == 1
    assert done.said == (
        "cannot add address '192.0.2.1/24' to interface 'eth0'\n"
        "cannot remove address '192.0.2.1/24' from interface 'eth0'\n"
    )


@pytest.mark.parametrize(
    ("flags", "status"),
    [("BROADCAST,UP,LOWER_UP", 0), ("UP,LOWER_UP", 0), ("NO-CARRIER,BROADCAST,UP", 1), ("LOWER_UP,UP", 0)],
)
def test_an_interface_has_a_link_or_not(stand: Stand, flags: str, status: int) -> None:
    stand.program("ip", f'echo "2: eth0: <{flags}> mtu 1500"')
    done = stand.shell("interface_monitor eth0")
    assert (done.status, done.said) == (status, "interface 'eth0' has no link\n" if status else "")


def test_an_interface_that_is_down_is_brought_up(stand: Stand) -> None:
    up = stand.directory / "up"
    stand.program(
        "ip",
        f'case $* in *up) touch {up} ;; esac; [ -e {up} ] && f=,UP,LOWER_UP; echo "2: eth0: <BROADCAST$f>"',
    )
    assert stand.shell("interface_monitor eth0").status == 0
    stand.program("ip", "exit 1")
    assert stand.shell("interface_monitor eth9").said == "interface 'eth9' does not exist\n"


def test_connections_are_listed_and_tickled_both_ways(stand: Stand) -> None:
    stand.program("ss", 'echo "0 0 192.0.2.1:445 192.0.2.9:5000"')
    assert stand.shell("get_tcp_connections_for_ip 192.0.2.1").said == "192.0.2.1:445 192.0.2.9:5000\n"
    stand.program("ctdb", "cat")
    assert stand.shell("tickle_tcp_connections 192.0.2.1").said == (
        "192.0.2.1:445 192.0.2.9:5000\n192.0.2.9:5000 192.0.2.1:445\n"
    )


def test_ending_no_connections_is_harmless(stand: Stand) -> None:
    # An address that no machine has: the kernel is asked and knows of none.
    assert stand.shell("kill_tcp_connections eth0 192.0.2.77").status == 0
    assert stand.shell("kill_tcp_connections_local_only eth0 192.0.2.77").status == 0


def test_iptables_runs_alone(stand: Stand) -> None:
    stand.program("flock", 'shift 3; "$@"')
    stand.shell("iptables_wrapper inet -L; iptables_wrapper inet6 -L")
    assert [call for call in stand.calls() if call.startswith("ip")] == ["iptables -L", "ip6tables -L"]


def test_a_callout_hears_of_what_it_registered_for(stand: Stand) -> None:
    for name, wants in (("some", "startup\nmonitor-pre"), ("all", "")):
        stand.program(name, f'if [ "$1" = register ]; then printf "{wants}\\n"; fi')
    act = "nfs_callout_init $CTDB_SCRIPT_VARDIR; nfs_callout startup; nfs_callout shutdown"
    stand.shell(f"CTDB_NFS_CALLOUT=some; {act}")
    assert stand.calls("some") == ["some register", "some startup"]
    # Another callout is asked anew.
    stand.shell(f"CTDB_NFS_CALLOUT=all; {act}")
    stand.shell(f"CTDB_NFS_CALLOUT=all; {act}")
    assert stand.calls("all") == [
        "all register",
        "all startup",
        "all shutdown",
        "all startup",
        "all shutdown",
    ]


def test_an_administrators_additions_are_read(stand: Stand) -> None:
    directory = stand.base / "rc.local.d"
    directory.mkdir()
    for name, mode in (("on", 0o755), ("off", 0o644)):
        (directory / name).write_text(f"echo {name}\n")
        (directory / name).chmod(mode)
    assert stand.shell("echo end").said == "on\nend\n"
