# SPDX-License-Identifier: GPL-3.0-or-later
"""10.interface and 11.routing: links, and addresses under a daemon that leaves those to scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.services.stand import Ended, Stand

_IP = """
case $* in
    "link show "*) [ "$3" = {down} ] && echo "2: $3: <NO-CARRIER,UP>" || echo "2: $3: <UP,LOWER_UP>" ;;
    "addr show to 10.0.0.1/32") printf "2: eth0: <UP>\\n    inet 10.0.0.1/24 scope global eth0\\n" ;;
    "addr {fails} "*) exit 2 ;;
esac
"""


class Interfaces(Stand):
    """Two interfaces with public addresses; the first address is here."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.base / "public_addresses").write_text("# all\n\n10.0.0.1/24 eth0,eth1\n10.0.1.1/24\teth1 \n")
        self.program("ctdb", "case $* in '-X ifaces') printf '|Name|\\n|eth0|\\n|eth7|\\n' ;; esac")
        self.program("nft", "cat >/dev/null")
        self.ip()

    def ip(self, *, down: str = "none", fails: str = "nothing") -> None:
        self.program("ip", _IP.format(down=down, fails=fails))

    def event(self, *words: str, **options: str) -> Ended:
        return self.run("10.interface", *words, **options)


@pytest.fixture
def stand(tmp_path: Path) -> Interfaces:
    return Interfaces(tmp_path)


def links(stand: Stand) -> list[str]:
    return [call for call in stand.calls("ctdb") if "setifacelink" in call]


@pytest.mark.parametrize("event", ["startup", "monitor"])
def test_links_are_told_to_the_daemon(stand: Interfaces, event: str) -> None:
    assert stand.event(event) == Ended(0, "")
    assert links(stand) == [f"ctdb setifacelink {name} up" for name in ("eth0", "eth1", "eth7")]


def test_an_interface_without_a_link_makes_unhealthy(stand: Interfaces) -> None:
    stand.ip(down="eth1")
    assert stand.event("monitor") == Ended(1, "interface 'eth1' has no link\n")
    assert links(stand) == [
        "ctdb setifacelink eth0 up",
        "ctdb setifacelink eth1 down",
        "ctdb setifacelink eth7 up",
    ]


def test_a_node_may_go_on_with_some_of_its_interfaces(stand: Interfaces) -> None:
    stand.ip(down="eth1")
    assert stand.event("monitor", CTDB_PARTIALLY_ONLINE_INTERFACES="yes").status == 0
    stand.program("ip", 'echo "2: eth0: <NO-CARRIER,UP>"')
    assert stand.event("monitor", CTDB_PARTIALLY_ONLINE_INTERFACES="yes").status == 1


def test_a_broken_option_gives_one_clear_line(stand: Interfaces) -> None:
    done = stand.event("monitor", CTDB_PARTIALLY_ONLINE_INTERFACES="some")
    assert done.status == 1
    assert done.said.startswith("cannot use CTDB_PARTIALLY_ONLINE_INTERFACES='some' of '")
    assert len(done.said.splitlines()) == 1


def test_without_a_file_the_daemon_knows_the_interfaces(stand: Interfaces) -> None:
    (stand.base / "public_addresses").unlink()
    for event in ("init", "startup", "monitor", "shutdown"):
        assert stand.event(event) == Ended(0, "")
    assert links(stand) == [f"ctdb setifacelink {name} up" for name in ("eth0", "eth7")] * 2


@pytest.mark.parametrize("event", ["init", "shutdown"])
def test_what_is_left_is_dropped(stand: Interfaces, event: str) -> None:
    assert stand.event(event) == Ended(0, "address 10.0.0.1/24 is removed from interface eth0\n")
    calls = stand.calls()
    assert "ip addr del 10.0.0.1/24 dev eth0" in calls
    assert ("set_proc sys/net/ipv4/conf/all/arp_filter 1" in calls) == (event == "init")


def test_an_address_is_put(stand: Interfaces) -> None:
    assert stand.event("takeip", "eth1", "10.0.1.1", "24") == Ended(0, "")
    calls = stand.calls()
    assert calls[:3] == [
        "ip link set eth1 up",
        "ip addr add 10.0.1.1/24 brd + dev eth1",
        "nft delete table inet ctdbpy_going_10_0_1_1",
    ]
    stand.ip(fails="add")
    assert stand.event("takeip", "eth1", "10.0.1.1", "24").status == 1


def test_an_address_goes_while_no_packet_comes_in(stand: Interfaces) -> None:
    assert stand.event("releaseip", "eth0", "10.0.0.1", "24") == Ended(0, "")
    calls = [call for call in stand.calls() if "show" not in call]
    assert calls[0] == "nft -f -"
    assert calls[1:4] == [
        "set_proc sys/net/ipv4/conf/eth0/promote_secondaries 1",
        "ip addr del 10.0.0.1/24 dev eth0",
        "nft delete table inet ctdbpy_going_10_0_0_1",
    ]


def test_an_address_that_stays_fails_the_event_and_packets_come_in_again(stand: Interfaces) -> None:
    stand.ip(fails="del")
    done = stand.event("releaseip", "eth0", "10.0.0.1", "24")
    assert done.status == 1
    assert "nft delete table inet ctdbpy_going_10_0_0_1" in stand.calls()
    assert stand.event("releaseip", "eth0", "10.0.0.2", "24") == Ended(
        1, "cannot find address '10.0.0.2' on any interface\n"
    )


def test_an_address_is_found_where_it_is(stand: Interfaces) -> None:
    done = stand.event("releaseip", "eth1", "10.0.0.1", "16")
    assert done.status == 0
    assert done.said == (
        "WARNING: address '10.0.0.1' is 10.0.0.1/24 on 'eth0', "
        "and the daemon believes 10.0.0.1/16 on 'eth1'\n"
    )


def test_an_address_changes_its_interface(stand: Interfaces) -> None:
    assert stand.event("updateip", "eth0", "eth1", "10.0.0.1", "24") == Ended(0, "")
    calls = [
        call for call in stand.calls() if call.partition(" ")[0] in ("ip", "ctdb") and "show" not in call
    ]
    assert calls == [
        "ip addr del 10.0.0.1/24 dev eth0",
        "ip link set eth1 up",
        "ip addr add 10.0.0.1/24 brd + dev eth1",
        "ctdb gratarp 10.0.0.1 eth1",
    ]
    assert stand.event("updateip", "eth1", "eth0", "10.0.0.1", "24").status == 0
    assert not [call for call in stand.calls("ip") if "addr del" in call]
    stand.ip(fails="add")
    assert stand.event("updateip", "eth0", "eth1", "10.0.0.1", "24").status == 1


def test_arguments_are_counted(stand: Interfaces) -> None:
    assert stand.event("takeip", "eth0").status == 1
    assert stand.calls() == []


# -- static routes -------------------------------------------------------------------------------------


def test_static_routes_go_with_addresses(stand: Interfaces) -> None:
    assert stand.run("11.routing", "ipreallocated") == Ended(0, "")
    (stand.base / "static-routes").write_text(
        "# ours\neth0 10.3.0.0/16 10.0.0.254\neth1 10.4.0.0/16 10.0.1.254\n"
    )
    assert stand.run("11.routing", "ipreallocated") == Ended(0, "")
    both = [
        "ip route add 10.3.0.0/16 via 10.0.0.254 dev eth0",
        "ip route add 10.4.0.0/16 via 10.0.1.254 dev eth1",
    ]
    assert stand.calls() == both
    assert stand.run("11.routing", "updateip", "eth1", "eth2", "10.0.1.1", "24") == Ended(0, "")
    assert stand.calls() == both[1:]
    assert stand.run("11.routing", "takeip", "eth1", "10.0.1.1", "24") == Ended(0, "")
    assert stand.calls() == []


def test_a_static_route_without_a_gateway_is_told(stand: Interfaces) -> None:
    path = stand.base / "static-routes"
    path.write_text("eth0 10.3.0.0/16\n")
    done = stand.run("11.routing", "ipreallocated")
    assert done == Ended(0, f"cannot use the line for '10.3.0.0/16' of '{path}': it has no gateway\n")
