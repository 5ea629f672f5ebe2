# SPDX-License-Identifier: GPL-3.0-or-later
"""91.lvs: a director spreads the connections of one address over the nodes of a group."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.services.stand import Ended
from tests.unit.services.test_natgw import Natgw

IP = "192.0.2.201"


class Lvs(Natgw):
    """The same three nodes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.options = {
            "CTDB_LVS_NODES": str(self.nodes),
            "CTDB_LVS_PUBLIC_IP": IP,
            "CTDB_LVS_PUBLIC_IFACE": "eth1",
        }
        self.nodes.rename(self.base / "lvs_nodes")
        self.nodes = self.base / "lvs_nodes"
        self.options["CTDB_LVS_NODES"] = str(self.nodes)

    def statuses(self, *flags: str, here: int = 1) -> None:
        super().statuses(*flags, here=here)
        path = self.directory / "bin" / "ctdb"
        # Announcing an address works.
        path.write_text(path.read_text().replace("case $* in ", "case $* in gratarp*) exit 0 ;; "))

    def event(self, name: str, **options: str) -> Ended:
        return self.run("91.lvs", name, **(self.options | options))


@pytest.fixture
def stand(tmp_path: Path) -> Lvs:
    return Lvs(tmp_path)


def both(text: str) -> list[str]:
    return [f"ipvsadm {text.format(service)}" for service in ("-t", "-u")]


def test_without_a_group_nothing_happens(stand: Lvs) -> None:
    for event in ("setup", "startup", "ipreallocated", "monitor", "shutdown"):
        assert stand.run("91.lvs", event) == Ended(0, "")
    assert stand.calls() == []


def test_a_node_that_starts_has_the_address_and_answers_for_it_not(stand: Lvs) -> None:
    assert stand.event("startup") == Ended(0, "")
    assert stand.calls() == [
        "sysctl -q -w net/ipv4/conf/all/arp_ignore=3",
        "sysctl -q -w net/ipv4/conf/all/arp_announce=2",
        *both(f"-D {{}} {IP}"),
        f"ip addr del {IP}/32 dev lo",
        f"ip addr add {IP}/32 dev lo scope host",
    ]


def test_the_director_spreads_over_all_that_serve(stand: Lvs) -> None:
    stand.statuses("Unhealthy", "", "")
    assert stand.event("ipreallocated") == Ended(0, "")
    calls = stand.calls()
    assert [call for call in calls if "nodestatus" not in call and "getvar" not in call] == [
        *both(f"-D {{}} {IP}"),
        f"ip addr del {IP}/32 dev lo",
        f"ip addr add {IP}/32 dev lo valid_lft 75 preferred_lft 75",
        *both(f"-A {{}} {IP} -p 1999999 -s lc"),
        *both(f"-a {{}} {IP} -r 192.168.1.23 -g"),
        *both(f"-a {{}} {IP} -r 127.0.0.1"),
        f"ctdb gratarp {IP} eth1",
    ]


def test_where_nothing_has_changed_nothing_is_done(stand: Lvs) -> None:
    for first in ("Unhealthy", ""):
        stand.statuses(first, "", "")
        stand.event("ipreallocated")
        stand.calls()
        assert stand.event("ipreallocated") == Ended(0, "")
        assert stand.calls("ipvsadm") == []
        assert stand.event("monitor") == Ended(0, "")
        calls = stand.calls()
        assert [call for call in calls if call.startswith("ipvsadm")] == []
        # The director's address goes by itself unless it is put again.
        renewed = f"ip addr replace {IP}/32 dev lo valid_lft 75 preferred_lft 75"
        assert (renewed in calls) == bool(first)


def test_connections_by_way_of_nodes_that_stay_go_on(stand: Lvs) -> None:
    stand.nodes.write_text("192.168.1.22\n192.168.1.21\n192.168.1.23\n")
    options = {"CTDB_LVS_NODES": str(stand.nodes)}
    stand.statuses("Unhealthy", "", "")
    stand.event("ipreallocated", **options)
    stand.calls()
    stand.nodes.write_text("192.168.1.22\n192.168.1.21 follower-only\n192.168.1.23\n")
    stand.statuses("", "", "Unhealthy")
    stand.event("ipreallocated", **options)
    assert stand.calls("ipvsadm") == [
        *both(f"-d {{}} {IP} -r 192.168.1.23"),
        *both(f"-a {{}} {IP} -r 192.168.1.21 -g"),
    ]


def test_a_director_that_is_one_no_more_gives_up(stand: Lvs) -> None:
    stand.statuses("Unhealthy", "", "")
    stand.event("ipreallocated")
    stand.statuses("", "", "")
    stand.calls()
    assert stand.event("ipreallocated") == Ended(0, "")
    assert [call for call in stand.calls() if "nodestatus" not in call] == [
        *both(f"-D {{}} {IP}"),
        f"ip addr del {IP}/32 dev lo",
        f"ip addr add {IP}/32 dev lo scope host",
    ]


def test_monitor_mends_what_could_not_be_done(stand: Lvs) -> None:
    stand.statuses("Unhealthy", "", "")
    stand.program("ipvsadm", 'case $1 in -A) echo "no such module" >&2; exit 1 ;; esac')
    done = stand.event("ipreallocated")
    assert done.status == 0
    assert "no such module" in done.said
    assert stand.event("monitor").status == 1
    stand.program("ipvsadm", "")
    assert stand.event("monitor") == Ended(0, "")
    assert f"ipvsadm -A -t {IP} -p 1999999 -s lc" in stand.calls("ipvsadm")


def test_shutdown_takes_all_back(stand: Lvs) -> None:
    assert stand.event("shutdown") == Ended(0, "")
    assert stand.calls() == [*both(f"-D {{}} {IP}"), f"ip addr del {IP}/32 dev lo"]


def test_an_interface_without_a_link_makes_unhealthy(stand: Lvs) -> None:
    stand.program("ip", 'echo \'[{"flags":["UP"]}]\'')
    assert stand.event("monitor") == Ended(1, "interface 'eth1' has no link\n")


def test_a_missing_program_is_told(stand: Lvs) -> None:
    (stand.directory / "bin" / "ipvsadm").unlink()
    stand.program("env", "")
    done = stand.shell(
        f"export PATH={stand.directory}/bin:/bin CTDB_LVS_NODES={stand.nodes} CTDB_LVS_PUBLIC_IP={IP} "
        "CTDB_LVS_PUBLIC_IFACE=eth1; run_service lvs startup"
    )
    if "ipvsadm" in done.said:  # This machine has none either.
        assert done.status == 1
        assert done.said.startswith("cannot use LVS: there is no program 'ipvsadm'")


@pytest.mark.parametrize(
    ("option", "value"),
    [("CTDB_LVS_PUBLIC_IP", ""), ("CTDB_LVS_PUBLIC_IP", "192.0.2.1/24"), ("CTDB_LVS_PUBLIC_IFACE", "")],
)
def test_a_broken_option_gives_one_clear_line(stand: Lvs, option: str, value: str) -> None:
    done = stand.event("setup", **{option: value})
    assert done.status == 1
    assert re.fullmatch(rf"cannot use {option}='{value}' of '.*/script.options': .*\n", done.said)


def test_the_tool_is_told_who_serves(stand: Lvs) -> None:
    stand.statuses("Unhealthy", "", "")
    assert stand.helper("ctdb_lvs", "leader") == Ended(0, "1\n")
    assert stand.helper("ctdb_lvs", "list") == Ended(0, "1 192.168.1.22\n2 192.168.1.23\n")
    assert len(stand.helper("ctdb_lvs", "status").said.splitlines()) == 3
    stand.statuses("Disabled", "Disabled", "Disabled")
    assert stand.helper("ctdb_lvs", "leader") == Ended(255, "")
    assert stand.helper("ctdb_lvs", "list") == Ended(0, "")
