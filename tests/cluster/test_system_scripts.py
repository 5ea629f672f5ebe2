# SPDX-License-Identifier: GPL-3.0-or-later
"""The system scripts where they are at home: our daemon and Debian's run ours, and ours runs Debian's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(240),
]

LIMIT_S = 30.0
ADDRESSES = [f"10.78.0.{number}" for number in range(200, 206)]
GATEWAY = "10.78.0.250"
#: Behind the client host, so that only a default route leads there.
OUTSIDE = "10.99.0.1"
SMALL = "/small"

SCRIPTS = (
    "00.ctdb",
    "01.reclock",
    "05.system",
    "10.interface",
    "11.natgw",
    "11.routing",
    "13.per_ip_routing",
    "95.database",
)
ROUTING = {
    "CTDB_PER_IP_ROUTING_CONF": "__auto_link_local__",
    "CTDB_PER_IP_ROUTING_RULE_PREF": "100",
    "CTDB_PER_IP_ROUTING_TABLE_ID_LOW": "1000",
    "CTDB_PER_IP_ROUTING_TABLE_ID_HIGH": "9000",
}


class Nodes:
    """A cluster with our scripts, each node with a small file system, and a world behind the client host."""

    def __init__(self, lab: Lab, flavour: str) -> None:
        self.lab = lab
        options = {
            "CTDB_MONITOR_FILESYSTEM_USAGE": f"{SMALL}:60:80",
            "CTDB_NATGW_NODES": "/etc/ctdb/natgw_nodes",
            "CTDB_NATGW_PRIVATE_NETWORK": "10.77.0.0/24",
            "CTDB_NATGW_PUBLIC_IP": f"{GATEWAY}/24",
            "CTDB_NATGW_PUBLIC_IFACE": "pub0",
            "CTDB_NATGW_DEFAULT_GATEWAY": lab.address("c0"),
            "CTDB_PERSISTENT_DB_BACKUP_DIR": "/cluster/backups",
            **ROUTING,
        }
        self.cluster = Cluster(
            lab,
            flavour,
            scripts=SCRIPTS,
            options=options,
            public_addresses=[f"{address}/24" for address in ADDRESSES],
            tunables={"MonitorInterval": 1},
        )

    def begin(self) -> None:
        self.cluster.configure()
        self.sh("c0", f"ip addr add {OUTSIDE}/32 dev lo")
        for host in self.lab.nodes:
            self.start(host)
        self.cluster.wait_healthy()
        wait_until(
            "every address is on a host", lambda: self.all_hosted() == set(ADDRESSES), timeout_s=LIMIT_S
        )

    def start(self, host: str) -> None:
        members = "".join(f"{self.lab.address(node, 'private')}\n" for node in self.lab.nodes)
        self.lab.path(host, "/etc/ctdb/natgw_nodes").write_text(members)
        self.sh(host, f"mkdir -p {SMALL} && mount -t tmpfs -o size=1m small {SMALL}")
        self.cluster.start(host)

    def sh(self, host: str, text: str, *, check: bool = True) -> str:
        return self.lab.run(host, ["sh", "-c", text], timeout_s=LIMIT_S, check=check).stdout

    def on_host(self, host: str) -> set[str]:
        """The addresses that a host's public interface carries."""
        said = self.sh(host, "ip -o -4 addr show dev pub0")
        return {word.partition("/")[0] for word in said.split()} & {*ADDRESSES, GATEWAY}

    def all_hosted(self) -> set[str]:
        return set.union(*(self.on_host(host) for host in self.lab.nodes)) & set(ADDRESSES)

    def routed(self, host: str) -> set[str]:
        """The addresses that have a rule and a table with routes there."""
        rules = self.sh(host, "ip rule show pref 100").splitlines()
        found = {rule.split()[2] for rule in rules}
        return {
            address
            for address in found
            if "10.78.0.0/24 dev pub0" in self.sh(host, f"ip route show table ctdb.{address}", check=False)
        }

    def are_routes_right(self) -> bool:
        return all(self.routed(host) == self.on_host(host) - {GATEWAY} for host in self.lab.nodes)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Lab(nodes=3, clients=1) as lab:
        nodes = Nodes(lab, "ctdbpy")
        nodes.begin()
        yield nodes


def test_a_full_file_system_makes_unhealthy_until_there_is_room(nodes: Nodes) -> None:
    nodes.sh("n1", f"head -c 900k /dev/zero >{SMALL}/much")
    reason = f"file system '{SMALL}' is used to "
    wait_until(
        "n1 is unhealthy",
        lambda: nodes.cluster.tool("n0", "nodestatus", "1", check=False).returncode != 0,
        timeout_s=LIMIT_S,
    )
    assert reason in nodes.cluster.tool("n1", "scriptstatus").stdout
    wait_until("its addresses are with others", lambda: not nodes.on_host("n1"), timeout_s=LIMIT_S)
    # A node that has no address has its way out.
    assert "1 received" in nodes.sh("n1", f"ping -c 1 -W 20 {OUTSIDE}")
    nodes.sh("n1", f"rm {SMALL}/much")
    nodes.cluster.wait_healthy()
    wait_until("addresses are back", lambda: bool(nodes.on_host("n1")), timeout_s=LIMIT_S)


_LISTEN = """
import socket
with socket.create_server(("0.0.0.0", 4001)) as listener:
    connection, _ = listener.accept()
    try:
        connection.recv(1)
    except OSError as error:
        print(error.strerror)
"""
_CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], 4001), 20) as connection:
    print("open")
    connection.recv(1)
"""


def check_a_connection_is_tickled_and_ended(nodes: Nodes, host: str, address: str) -> None:
    """The daemon knows of a connection after update_tickles; when the address goes, both ends hear of it."""
    lab = nodes.lab
    heard, said = lab.path(host, "/tmp/heard"), lab.path("c0", "/tmp/said")
    lab.spawn(host, [sys.executable, "-u", "-c", _LISTEN], heard)
    wait_until("it listens", lambda: ":4001" in nodes.sh(host, "ss -Htln"), timeout_s=LIMIT_S)
    lab.spawn("c0", [sys.executable, "-u", "-c", _CONNECT, address], said)
    wait_until("a client is connected", lambda: "open" in said.read_text(), timeout_s=LIMIT_S)
    base = "CTDB_BASE=/etc/ctdb; . /etc/ctdb/functions; load_script_options"
    nodes.sh(host, f"{base}; update_tickles 4001")
    tickles = f"ctdb -X gettickles {address} 4001 | tail -n +2 | cut -d'|' -f 2,4,5"
    assert nodes.sh(host, tickles) == f"{lab.address('c0')}|{address}|4001\n"
    nodes.cluster.tool(host, "disable")
    wait_until("the address is gone", lambda: address not in nodes.on_host(host), timeout_s=LIMIT_S)
    wait_until("the connection is ended", lambda: heard.read_text() != "", timeout_s=LIMIT_S)


def test_connections_are_tickled_and_ended(nodes: Nodes) -> None:
    check_a_connection_is_tickled_and_ended(nodes, "n2", min(nodes.on_host("n2") & set(ADDRESSES)))
    nodes.cluster.tool("n2", "enable")
    nodes.cluster.wait_healthy()


def test_routes_go_where_their_address_goes(nodes: Nodes) -> None:
    wait_until("each address has its routes", nodes.are_routes_right, timeout_s=LIMIT_S)
    address = min(nodes.on_host("n1") & set(ADDRESSES))
    nodes.cluster.tool("n0", "moveip", address, "2")
    wait_until(f"{address} has its routes on n2", lambda: address in nodes.routed("n2"), timeout_s=LIMIT_S)
    wait_until("n1 has forgotten it", lambda: address not in nodes.routed("n1"), timeout_s=LIMIT_S)
    assert f"ctdb.{address}" in nodes.lab.path("n2", "/etc/iproute2/rt_tables").read_text()


def test_the_leader_has_made_a_backup(nodes: Nodes) -> None:
    def backups() -> list[str]:
        return nodes.sh("n0", "ls /cluster/backups/*.tar.gz", check=False).split()

    wait_until("there is a backup", lambda: bool(backups()), timeout_s=LIMIT_S)
    nodes.sh("n0", f"cd /tmp && tar xzf {backups()[0]} && ctdb restoredb ctdb.tdb.backup ctdb.tdb")


def test_the_nat_gateway_moves_when_its_node_dies(nodes: Nodes) -> None:
    assert nodes.sh("n2", "ctdb natgw leader") == "0 10.77.0.1\n"
    wait_until("n0 is the gateway", lambda: GATEWAY in nodes.on_host("n0"), timeout_s=LIMIT_S)
    assert "default via 10.77.0.1 dev priv0 metric 10" in nodes.sh("n2", "ip route show")
    # From its private address only: that one is known to nobody outside.
    ping = f"ping -c 1 -W 20 -I 10.77.0.3 {OUTSIDE}"
    assert "1 received" in nodes.sh("n2", ping)
    nodes.lab.power_off("n0")
    wait_until("n1 is the gateway", lambda: GATEWAY in nodes.on_host("n1"), timeout_s=LIMIT_S)
    wait_until(
        "n2 goes out by way of n1",
        lambda: "default via 10.77.0.2" in nodes.sh("n2", "ip route show"),
        timeout_s=LIMIT_S,
    )
    assert "1 received" in nodes.sh("n2", ping)


def test_debians_daemon_runs_our_scripts() -> None:
    with Lab(nodes=1, clients=1) as lab:
        node = Nodes(lab, "debian")
        node.begin()
        wait_until("each address has its routes", node.are_routes_right, timeout_s=LIMIT_S)
        for event in ("init", "setup", "startup", "ipreallocated", "monitor"):
            said = node.cluster.tool("n0", "scriptstatus", event).stdout
            assert [line.split()[1] for line in said.splitlines()] == ["OK"] * len(SCRIPTS), said
        check_a_connection_is_tickled_and_ended(node, "n0", ADDRESSES[0])
        wait_until("no address has a rule", lambda: not node.routed("n0"), timeout_s=LIMIT_S)
        node.cluster.stop("n0")
        assert GATEWAY not in node.on_host("n0")


def test_debians_scripts_run_with_our_functions() -> None:
    """As those of administrators do, which were written for upstream's."""
    debians = ("00.ctdb", "01.reclock", "05.system", "10.interface", "13.per_ip_routing")
    with Lab(nodes=1, clients=0) as lab:
        cluster = Cluster(
            lab,
            "ctdbpy",
            events=True,
            scripts=["95.database"],
            options=ROUTING,
            public_addresses=[f"{address}/24" for address in ADDRESSES],
        )
        cluster.configure()
        name = "13.per_ip_routing.script"
        link = ["ln", "-s", f"/usr/share/ctdb/events/legacy/{name}", f"/etc/ctdb/events/legacy/{name}"]
        lab.run("n0", link, timeout_s=LIMIT_S)
        cluster.start("n0")
        cluster.wait_healthy()

        def rules() -> int:
            said = lab.run("n0", ["ip", "rule", "show", "pref", "100"], timeout_s=LIMIT_S).stdout
            return len(said.splitlines())

        wait_until("each address has its rule", lambda: rules() == len(ADDRESSES), timeout_s=LIMIT_S)
        for event in ("init", "setup", "startup", "monitor"):
            said = cluster.tool("n0", "scriptstatus", event).stdout
            words = [line.split() for line in said.splitlines() if line[:1].isdigit()]
            assert [tuple(each[:2]) for each in words] == [
                (script, "OK") for script in (*debians, "95.database")
            ]
        cluster.stop("n0")
        assert rules() == 0
