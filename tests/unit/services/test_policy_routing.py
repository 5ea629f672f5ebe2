# SPDX-License-Identifier: GPL-3.0-or-later
"""13.per_ip_routing: packets from a public address take routes of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.services.stand import Ended, Stand

#: `ip` with rules and routes in files; of what it is asked for it does just what the script needs.
_IP = """
case $* in
    "-json -4 rule show") cat {rules} ;;
    *"route show table "*) [ -e {tables}/${{6}} ] && echo '[{{"dst":"x"}}]' ;;
    *"rule del"*) exit 2 ;;
    *"route replace"*) for table; do :; done; touch {tables}/$table ;;
    *"route flush table "*) rm -f {tables}/${{5}} ;;
esac
"""


class Routing(Stand):
    """Two public addresses, which may be here."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.tables = directory / "tables"
        self.tables.mkdir()
        self.rules = directory / "rules"
        self.rules.write_text("[]")
        self.program("ip", _IP.format(rules=self.rules, tables=self.tables))
        self.rt_tables = directory / "sys" / "iproute2" / "rt_tables"
        self.conf = self.base / "policy_routing"
        self.conf.write_text(
            "# who goes where\n10.0.0.1 0.0.0.0/0 10.0.0.254\n10.0.0.1 10.0.0.0/24\nfd00::1 ::/0 fd00::fe\n"
        )
        (self.base / "public_addresses").write_text("10.0.0.1/24 eth0\n10.0.0.2/24 eth0\n")
        self.options = {
            "CTDB_PER_IP_ROUTING_CONF": str(self.conf),
            "CTDB_PER_IP_ROUTING_RULE_PREF": "100",
            "CTDB_PER_IP_ROUTING_TABLE_ID_LOW": "1000",
            "CTDB_PER_IP_ROUTING_TABLE_ID_HIGH": "1002",
        }
        self.hosts()

    def hosts(self, *addresses: str) -> None:
        """What the tool says of addresses."""
        lines = [f"|{address}|0|eth0|eth0|eth0|" for address in addresses]
        lines.append("|10.0.0.9|1||eth0|eth0|")
        text = "\n".join(
            ["|Public IP|Node|ActiveInterfaces|AvailableInterfaces|ConfiguredInterfaces|", *lines]
        )
        self.program("ctdb", f"echo '{text}'")

    def has_rules(self, *addresses: str) -> None:
        """What `ip` says of rules."""
        rules = [f'{{"priority":100,"src":"{address}","table":"ctdb.{address}"}}' for address in addresses]
        self.rules.write_text(
            f'[{{"priority":0,"src":"all","table":"local"}},{",".join(rules)}]'.replace(",]", "]")
        )

    def event(self, *words: str, **options: str) -> Ended:
        return self.run("13.per_ip_routing", *words, **(self.options | options))

    def deeds(self) -> list[str]:
        """What was changed."""
        return [call for call in self.calls("ip") if "show" not in call]


@pytest.fixture
def stand(tmp_path: Path) -> Routing:
    return Routing(tmp_path)


_GONE = ["ip -4 rule del from {0} pref 100", "ip -4 route flush table ctdb.{0}"]


def gone(address: str) -> list[str]:
    return [line.format(address) for line in _GONE]


def put(interface: str = "eth0") -> list[str]:
    return [
        *gone("10.0.0.1"),
        "ip -4 rule add from 10.0.0.1 pref 100 table ctdb.10.0.0.1",
        f"ip -4 route replace 10.0.0.0/24 dev {interface} table ctdb.10.0.0.1",
        f"ip -4 route replace 0.0.0.0/0 via 10.0.0.254 dev {interface} table ctdb.10.0.0.1",
    ]


def test_without_a_configuration_nothing_happens(stand: Routing) -> None:
    for words in ("startup", "takeip eth0 10.0.0.1 24", "ipreallocated", "shutdown"):
        assert stand.run("13.per_ip_routing", *words.split()) == Ended(0, "")
    assert stand.calls() == []


def test_an_address_that_comes_has_its_table(stand: Routing) -> None:
    assert stand.event("takeip", "eth0", "10.0.0.1", "24") == Ended(0, "")
    # The link first: a gateway can be used only when something leads to it.
    assert stand.deeds() == put()
    assert stand.rt_tables.read_text() == "1000\tctdb.10.0.0.1\n"


def test_an_address_that_is_not_configured_is_left_alone(stand: Routing) -> None:
    assert stand.event("takeip", "eth0", "10.0.0.2", "24") == Ended(0, "")
    assert stand.deeds() == []


def test_an_address_of_ipv6_is_routed_as_well(stand: Routing) -> None:
    assert stand.event("takeip", "eth0", "fd00::1", "64") == Ended(0, "")
    assert "ip -6 route replace ::/0 via fd00::fe dev eth0 table ctdb.fd00::1" in stand.deeds()


def test_an_address_that_changes_its_interface_is_routed_there(stand: Routing) -> None:
    assert stand.event("updateip", "eth0", "eth1", "10.0.0.1", "24") == Ended(0, "")
    assert stand.deeds() == put("eth1")


def test_an_address_that_goes_takes_its_rule_along(stand: Routing) -> None:
    assert stand.event("releaseip", "eth0", "10.0.0.1", "24") == Ended(0, "")
    assert stand.deeds() == gone("10.0.0.1")


def test_what_is_missing_is_added_and_what_is_too_much_removed(stand: Routing) -> None:
    stand.hosts("10.0.0.1", "10.0.0.2")
    stand.has_rules("10.0.0.7")
    assert stand.event("ipreallocated") == Ended(
        0, "address 10.0.0.7 is not here: its rule and routes are removed\n"
    )
    assert stand.deeds() == [*gone("10.0.0.7"), *put()]
    stand.has_rules("10.0.0.1")
    assert stand.event("ipreallocated") == Ended(0, "")
    assert stand.deeds() == []
    assert stand.event("reconfigure") == Ended(0, "")
    assert stand.deeds() == put()


def test_routes_may_be_those_of_the_link(stand: Routing) -> None:
    done = stand.event("takeip", "eth0", "10.0.0.2", "24", CTDB_PER_IP_ROUTING_CONF="__auto_link_local__")
    assert done == Ended(0, "")
    assert stand.deeds()[-1] == "ip -4 route replace 10.0.0.0/24 dev eth0 table ctdb.10.0.0.2"


def test_a_start_and_an_end_leave_no_rule(stand: Routing) -> None:
    stand.has_rules("10.0.0.1", "10.0.0.7")
    assert stand.event("startup") == Ended(0, "")
    calls = stand.calls()
    assert sorted(call for call in calls if "rule del" in call) == [
        "ip -4 rule del from 10.0.0.1 pref 100",
        "ip -4 rule del from 10.0.0.7 pref 100",
    ]
    assert calls[-1] == "sysctl -q -w net/ipv4/conf/all/arp_filter=1"
    stand.rt_tables.parent.mkdir(parents=True)
    stand.rt_tables.write_text("# names\n255\tlocal\n1000\tctdb.10.0.0.1\n1001 mine\n")
    assert stand.event("shutdown") == Ended(0, "")
    # Names of others stay, even in our range.
    assert stand.rt_tables.read_text() == "# names\n255\tlocal\n1001 mine\n"


def test_tables_are_found_again_and_free_numbers_used(stand: Routing) -> None:
    stand.rt_tables.parent.mkdir(parents=True)
    stand.rt_tables.write_text("# names\n1000 mine\n1001\tctdb.10.0.0.1\n")
    for address in ("10.0.0.1", "10.0.0.2"):
        auto = {"CTDB_PER_IP_ROUTING_CONF": "__auto_link_local__"}
        assert stand.event("takeip", "eth0", address, "24", **auto) == Ended(0, "")
    assert stand.rt_tables.read_text() == "# names\n1000 mine\n1001\tctdb.10.0.0.1\n1002\tctdb.10.0.0.2\n"
    (stand.base / "public_addresses").write_text("10.0.0.3/24 eth0\n")
    done = stand.event("takeip", "eth0", "10.0.0.3", "24", **auto)
    assert done == Ended(
        1,
        "cannot route for address '10.0.0.3': "
        f"all tables from 1000 to 1002 are taken in '{stand.rt_tables}'\n",
    )


def test_a_table_of_another_range_is_numbered_anew(stand: Routing) -> None:
    stand.rt_tables.parent.mkdir(parents=True)
    stand.rt_tables.write_text("7\tctdb.10.0.0.1\n")
    assert stand.event("takeip", "eth0", "10.0.0.1", "24") == Ended(0, "")
    assert stand.rt_tables.read_text() == "1000\tctdb.10.0.0.1\n"


def test_a_route_that_cannot_be_put_fails_the_event(stand: Routing) -> None:
    stand.program(
        "ip", 'case $* in *"route replace"*) echo "no such gateway" >&2; exit 2 ;; *del*) exit 2 ;; esac'
    )
    done = stand.event("takeip", "eth0", "10.0.0.1", "24")
    assert done.status == 1
    assert done.said.endswith(": exit status 2: no such gateway\n")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("CTDB_PER_IP_ROUTING_RULE_PREF", ""),
        ("CTDB_PER_IP_ROUTING_RULE_PREF", "32766"),
        ("CTDB_PER_IP_ROUTING_TABLE_ID_LOW", "1002"),
        ("CTDB_PER_IP_ROUTING_TABLE_ID_LOW", "200"),
        ("CTDB_PER_IP_ROUTING_TABLE_ID_HIGH", "many"),
    ],
)
def test_a_broken_option_gives_one_clear_line(stand: Routing, option: str, value: str) -> None:
    done = stand.event("startup", **{option: value})
    assert done.status == 1
    assert re.fullmatch(rf"cannot use {option}='{value}' of '.*/script.options': .*\n", done.said)


def test_a_broken_line_of_the_configuration_is_told(stand: Routing) -> None:
    for line in (
        "10.0.0.1",
        "10.0.0.1 10.0.0.0/24 gateway",
        "10.0.0.1 10.0.0.0/24 10.0.0.2 more",
        "x 10.0.0.0/24",
    ):
        stand.conf.write_text(f"\n{line}\n")
        done = stand.event("ipreallocated")
        assert done == Ended(
            1, f"cannot use line 2 of '{stand.conf}': '{line}' is no 'ADDRESS NETWORK/BITS [GATEWAY]'\n"
        )
    done = stand.event("startup", CTDB_PER_IP_ROUTING_CONF="/no/such")
    assert done == Ended(1, "cannot read CTDB_PER_IP_ROUTING_CONF='/no/such': No such file or directory\n")
