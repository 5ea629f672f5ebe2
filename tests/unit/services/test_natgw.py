# SPDX-License-Identifier: GPL-3.0-or-later
"""11.natgw: one node of a group lends the others a way out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.services.stand import Ended, Stand

_HEADER = "|Node|IP|Disconnected|Unknown|Banned|Disabled|Unhealthy|Stopped|Inactive|PartiallyOnline|ThisNode|"
_UP = 'echo \'[{"ifname":"eth1","flags":["UP","LOWER_UP"]}]\''


class Natgw(Stand):
    """A group of three nodes, of which this is the second."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.nodes = self.base / "natgw_nodes"
        self.nodes.write_text("192.168.1.21\n192.168.1.22\n192.168.1.23 follower-only\n")
        self.options = {
            "CTDB_NATGW_NODES": str(self.nodes),
            "CTDB_NATGW_PRIVATE_NETWORK": "192.168.1.0/24",
            "CTDB_NATGW_PUBLIC_IP": "10.1.1.121/24",
            "CTDB_NATGW_PUBLIC_IFACE": "eth1",
            "CTDB_NATGW_DEFAULT_GATEWAY": "10.1.1.254",
        }
        self.program("ip", f'case $* in *"link show"*) {_UP} ;; esac')
        self.program("nft", f"cat >{directory}/rules")
        self.statuses("", "", "")

    def statuses(self, *flags: str, here: int = 1) -> None:
        """How nodes are: words of the tool's header."""
        names = _HEADER.strip("|").split("|")[2:-1]
        lines = [_HEADER]
        for pnn, words in enumerate(flags):
            bits = "|".join(str(int(name in words.split())) for name in names)
            lines.append(f"|{pnn}|192.168.1.2{pnn + 1}|{bits}|{'Y' if pnn == here else 'N'}|")
        text = "\n".join(lines)
        plain = "\n".join(f"pnn:{pnn} 192.168.1.2{pnn + 1}     OK" for pnn in range(len(flags)))
        self.program(
            "ctdb",
            f"case $* in '-X nodestatus all') echo '{text}' ;; nodestatus*) echo '{plain}' ;; "
            "getvar*) echo 'MonitorInterval            = 15'; exit 0 ;; esac; exit 2",
        )

    def event(self, name: str, **options: str) -> Ended:
        return self.run("11.natgw", name, **(self.options | options))

    def deeds(self) -> list[str]:
        """What was done to addresses and routes."""
        return [call for call in self.calls("ip") if "link show" not in call]

    def rules(self) -> str:
        return (self.directory / "rules").read_text()


@pytest.fixture
def stand(tmp_path: Path) -> Natgw:
    return Natgw(tmp_path)


def test_without_a_group_nothing_happens(stand: Natgw) -> None:
    for event in ("setup", "startup", "ipreallocated", "monitor", "shutdown"):
        assert stand.run("11.natgw", event) == Ended(0, "")
    assert stand.calls() == []


def test_a_follower_goes_out_by_way_of_the_gateway(stand: Natgw) -> None:
    assert stand.event("ipreallocated").status == 0
    assert stand.deeds() == ["ip route replace 0.0.0.0/0 via 192.168.1.21 metric 10"]


def test_the_gateway_has_the_address_and_hides_the_others(stand: Natgw) -> None:
    stand.statuses("Unhealthy", "", "")
    done = stand.event("ipreallocated")
    assert done.status == 0
    assert stand.calls() == [
        "ctdb -X nodestatus all",
        "ctdb getvar MonitorInterval",
        "nft -f -",
        "sysctl -q -w net/ipv4/ip_forward=1",
        "ip addr replace 10.1.1.121/24 brd + dev eth1 valid_lft 75 preferred_lft 75",
        "ctdb gratarp 10.1.1.121 eth1",
        "ip route replace 0.0.0.0/0 via 10.1.1.254 metric 10",
    ]
    assert "ip saddr 192.168.1.0/24 ip daddr != 192.168.1.0/24 masquerade" in stand.rules()
    assert 'oifname "eth1" snat to 10.1.1.121' in stand.rules()
    assert "ip daddr 10.1.1.121 tcp flags & (fin | syn | rst | ack) == syn reject" in stand.rules()


def test_a_gateway_that_is_one_no_more_takes_all_back(stand: Natgw) -> None:
    stand.statuses("Unhealthy", "", "")
    stand.event("ipreallocated")
    stand.statuses("", "", "")
    stand.calls()
    stand.event("ipreallocated")
    assert stand.deeds() == [
        "ip route del 0.0.0.0/0 via 10.1.1.254 metric 10",
        "ip addr del 10.1.1.121/24 dev eth1",
        "ip route replace 0.0.0.0/0 via 192.168.1.21 metric 10",
    ]
    assert "add table" in stand.rules()
    assert "chain" not in stand.rules()


def test_a_stopped_gateway_which_is_never_asked_keeps_the_address(stand: Natgw) -> None:
    stand.statuses("Disabled", "Stopped Inactive", "")
    stand.event("ipreallocated")
    assert "ip addr replace 10.1.1.121/24 brd + dev eth1" in stand.deeds()


def test_routes_may_be_others_than_a_default_one(stand: Natgw) -> None:
    routes = "10.1.1.0/24 10.1.2.0/24@10.1.1.253"
    stand.event("ipreallocated", CTDB_NATGW_STATIC_ROUTES=routes)
    assert sorted(stand.deeds()) == [
        "ip route replace 10.1.1.0/24 via 192.168.1.21 metric 10",
        "ip route replace 10.1.2.0/24 via 192.168.1.21 metric 10",
    ]
    stand.statuses("Disabled", "", "")
    stand.event("ipreallocated", CTDB_NATGW_STATIC_ROUTES=routes, CTDB_NATGW_DEFAULT_GATEWAY="")
    assert [deed for deed in stand.deeds() if "replace 10.1.1.1" not in deed][-1] == (
        "ip route replace 10.1.2.0/24 via 10.1.1.253 metric 10"
    )


def test_other_options_take_back_what_the_old_ones_put(stand: Natgw) -> None:
    stand.statuses("Unhealthy", "", "")
    stand.event("ipreallocated")
    stand.calls()
    stand.event("monitor", CTDB_NATGW_PUBLIC_IP="10.1.1.122/24", CTDB_NATGW_PUBLIC_IFACE="eth2")
    assert stand.deeds()[:2] == [
        "ip addr del 10.1.1.121/24 dev eth1",
        "ip addr replace 10.1.1.122/24 brd + dev eth2 valid_lft 75 preferred_lft 75",
    ]


def test_what_a_killed_daemon_left_is_taken_back(stand: Natgw) -> None:
    stand.statuses("Unhealthy", "", "")
    stand.event("ipreallocated")
    stand.calls()
    assert stand.event("setup").status == 0
    assert stand.deeds() == [
        "ip route del 0.0.0.0/0 via 10.1.1.254 metric 10",
        "ip addr del 10.1.1.121/24 dev eth1",
    ]


def test_an_event_killed_halfway_has_forgotten_nothing(stand: Natgw) -> None:
    stand.program("nft", "kill -9 $PPID; sleep 1")
    stand.statuses("Unhealthy", "", "")
    assert stand.event("ipreallocated").status != 0
    kept = json.loads((stand.state / "lasting" / "natgw.json").read_text())
    assert {put["address"] for put in kept} == {"10.1.1.121/24"}


def test_shutdown_takes_all_back_even_if_options_are_broken(stand: Natgw) -> None:
    stand.event("ipreallocated")
    stand.calls()
    assert stand.event("shutdown", CTDB_NATGW_PRIVATE_NETWORK="").status == 0
    assert stand.deeds() == ["ip route del 0.0.0.0/0 via 192.168.1.21 metric 10"]


def test_without_a_gateway_the_takeover_run_goes_on_and_monitor_says_so(stand: Natgw) -> None:
    stand.statuses("Disabled", "Disabled", "")
    reason = f"no node of '{stand.nodes}' can be the NAT gateway: they are disabled or disconnected\n"
    assert stand.event("ipreallocated") == Ended(0, reason)
    assert stand.event("monitor") == Ended(1, reason)


def test_monitor_mends_what_could_not_be_put(stand: Natgw) -> None:
    stand.program("ip", f'case $* in *"link show"*) {_UP} ;; route*) echo "no way" >&2; exit 2 ;; esac')
    done = stand.event("ipreallocated")
    assert done.status == 0
    assert done.said.endswith("metric 10': exit status 2: no way\n")
    assert stand.event("monitor").status == 1
    stand.program("ip", f'case $* in *"link show"*) {_UP} ;; esac')
    assert stand.event("monitor") == Ended(0, "")


def test_an_interface_without_a_link_makes_unhealthy(stand: Natgw) -> None:
    stand.program("ip", 'echo \'[{"flags":["UP","NO-CARRIER"]}]\'')
    assert stand.event("monitor") == Ended(1, "interface 'eth1' has no link\n")
    stand.program("ip", "exit 1")
    assert stand.event("monitor") == Ended(1, "interface 'eth1' does not exist\n")


def test_the_address_is_none_of_the_public_ones(stand: Natgw) -> None:
    (stand.base / "public_addresses").write_text("10.1.1.121/24 eth1\n")
    done = stand.event("startup")
    assert done.status == 1
    assert done.said.endswith("it must be none of the public addresses\n")
    (stand.base / "public_addresses").write_text("10.1.1.12/24 eth1\n")
    stand.calls()
    assert stand.event("startup") == Ended(0, "")
    assert stand.calls("sysctl") == ["sysctl -q -w net/ipv4/conf/all/arp_announce=2"]


def test_a_follower_needs_no_address(stand: Natgw) -> None:
    stand.statuses("", "", "", here=2)
    nothing = {"CTDB_NATGW_PUBLIC_IP": "", "CTDB_NATGW_PUBLIC_IFACE": ""}
    assert stand.event("monitor", **nothing) == Ended(0, "")
    stand.statuses("", "", "", here=0)
    done = stand.event("monitor", **nothing)
    assert done.status == 1
    assert "cannot use CTDB_NATGW_PUBLIC_IP='' of" in done.said


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("CTDB_NATGW_PRIVATE_NETWORK", ""),
        ("CTDB_NATGW_PRIVATE_NETWORK", "192.168.1.0/64"),
        ("CTDB_NATGW_PUBLIC_IP", "10.1.1.121"),
        ("CTDB_NATGW_PUBLIC_IFACE", ""),
        ("CTDB_NATGW_DEFAULT_GATEWAY", "gateway"),
        ("CTDB_NATGW_STATIC_ROUTES", "10.1.1.1/24"),
        ("CTDB_NATGW_STATIC_ROUTES", "0.0.0.0/0@gateway"),
    ],
)
def test_a_broken_option_gives_one_clear_line(stand: Natgw, option: str, value: str) -> None:
    done = stand.event("setup", **{option: value})
    assert done.status == 1
    assert re.fullmatch(rf"cannot use {option}='{re.escape(value)}' of '.*/script.options': .*\n", done.said)


def test_a_group_that_cannot_be_read_is_told(stand: Natgw) -> None:
    done = stand.event("setup", CTDB_NATGW_NODES="/no/such")
    assert done == Ended(1, "cannot read CTDB_NATGW_NODES='/no/such': No such file or directory\n")


def test_the_tool_is_told_who_it_is(stand: Natgw) -> None:
    assert stand.helper("ctdb_natgw", "leader") == Ended(0, "0 192.168.1.21\n")
    assert stand.helper("ctdb_natgw", "list") == Ended(
        0, "192.168.1.21\tLEADER\n192.168.1.22\n192.168.1.23\tfollower-only\n"
    )
    stand.nodes.write_text("192.168.1.21\n192.168.1.23\n")
    assert stand.helper("ctdb_natgw", "status") == Ended(
        0, "pnn:0 192.168.1.21     OK\npnn:2 192.168.1.23     OK\n"
    )
    stand.statuses("Disabled", "Disabled", "Disabled")
    assert stand.helper("ctdb_natgw", "leader") == Ended(2, "")
    assert stand.helper("ctdb_natgw", "nonsense").status == 1
    stand.nodes.unlink()
    assert stand.helper("ctdb_natgw", "list").status == 1
