# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and databases of Debian's ctdbd are taken over and given back; a firewall between nodes is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdbpy.lab import Lab, wait_until
from ctdbpy.lab.services import Cluster

LIMIT_S = 60.0
PACKAGE = str(Path(__file__).resolve().parents[2])

#: As Debian ships it, with what every administrator changes, by the names of some years ago.
CONF = """\
# See ctdb.conf(5) for documentation
#
# See ctdb-script.options(5) for documentation about event script
# options

[logging]
\t# Enable logging to syslog
\tlocation = file:/var/log/ctdb/log.ctdb
\tlog level = NOTICE

[cluster]
\t# Shared cluster lock file to avoid split brain.
\trecovery lock = /cluster/.ctdb/lock

[legacy]
\trealtime scheduling = false
"""
DATABASE = "takeover.tdb"
# Debian's scripts ask ethtool whether an interface has a link; it is not installed everywhere.
ETHTOOL = "ethtool () { grep -qs 1 /sys/class/net/$1/carrier && echo Link detected: yes; }\n"

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, clients=0) as built:
        yield built


def configure(lab: Lab, cluster: Cluster) -> None:
    """Files of a cluster that has lost a node."""
    cluster.configure()
    for host in lab.nodes:
        etc = lab.path(host, "/etc/ctdb")
        (etc / "ctdb.conf").write_text(CONF)
        (etc / "ctdb.tunables").write_text("# quick starts\nMonitorInterval=2\nRerecoveryTimeout=1\n")
        (etc / "rc.local").write_text(ETHTOOL)
        (etc / "rc.local").chmod(0o755)
        with (etc / "nodes").open("a") as nodes:
            nodes.write("#10.77.0.99\n")


def start(lab: Lab, cluster: Cluster) -> None:
    for host in lab.nodes:
        cluster.start(host)
    cluster.wait_healthy()


def stop(lab: Lab, cluster: Cluster) -> None:
    for host in lab.nodes:
        cluster.stop(host)


def write_values(lab: Lab, cluster: Cluster, who: str) -> None:
    """Each node keeps a record of its own."""
    for host in lab.nodes:
        cluster.tool(host, "attach", DATABASE, "persistent")
        cluster.tool(host, "pstore", DATABASE, f"{who}-{host}", f"kept by {who}-{host}")


def check_values(lab: Lab, cluster: Cluster, *writers: str) -> None:
    """Every node has every record."""
    for host in lab.nodes:
        cluster.tool(host, "attach", DATABASE, "persistent")
        for key in (f"{who}-{each}" for who in writers for each in lab.nodes):
            assert cluster.tool(host, "pfetch", DATABASE, key).stdout.strip() == f"kept by {key}"


def check_served(lab: Lab, cluster: Cluster) -> None:
    """What the files say is so: the tunable, the nodes, the address."""
    for host in lab.nodes:
        assert cluster.tool(host, "getvar", "MonitorInterval").stdout.split() == ["MonitorInterval", "=", "2"]
        assert cluster.tool(host, "status", "-X").stdout.count("|10.") == 2

    def has_address() -> bool:
        shown = [
            lab.run(host, ["ip", "-br", "address", "show", "pub0"], timeout_s=LIMIT_S) for host in lab.nodes
        ]
        return sum("10.78.0.200/24" in each.stdout for each in shown) == 1

    wait_until("one node has the public address", has_address, timeout_s=LIMIT_S)


def ctdbctl(lab: Lab, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ctdbpy.cli", *arguments]
    return lab.run(host, argv, timeout_s=LIMIT_S, check=False, env={"PYTHONPATH": PACKAGE})


def running(lab: Lab, host: str) -> dict[str, str]:
    facts: dict[str, str] = json.loads(ctdbctl(lab, host, "--json", "config", "show", "--running").stdout)
    return facts


def test_debians_files_and_databases_are_taken_over_and_given_back(lab: Lab) -> None:
    debians = Cluster(lab, "debian", events=True, public_addresses=["10.78.0.200/24"])
    ours = Cluster(lab, "ctdbpy")
    configure(lab, debians)
    start(lab, debians)
    write_values(lab, debians, "before")
    check_served(lab, debians)
    stop(lab, debians)

    start(lab, ours)
    check_values(lab, ours, "before")
    check_served(lab, ours)
    write_values(lab, ours, "ours")
    facts = {host: running(lab, host) for host in lab.nodes}
    stop(lab, ours)

    # The same cluster from one file: nothing but where it stands has changed.
    for host in lab.nodes:
        lab.path(host, "/etc/ctdbpy").mkdir()
        made = ctdbctl(lab, host, "config", "import", "-o", "/etc/ctdbpy/cluster.yaml")
        assert made.returncode == 0, made.stderr
    start(lab, ours)
    check_values(lab, ours, "before", "ours")
    check_served(lab, ours)
    for host in lab.nodes:
        now = running(lab, host)
        services = {name for name in now if name.startswith("service ")}
        configuration = {facts[host].pop("configuration"), now.pop("configuration").split()[0]}
        assert configuration == {"upstream's files", "cluster.yaml"}
        assert {name: value for name, value in now.items() if name not in services} == facts[host]
        assert "service all CTDB_RPCINFO_LOCALHOST" in services
    assert len({lab.path(host, "/etc/ctdbpy/cluster.yaml").read_text() for host in lab.nodes}) == 1
    stop(lab, ours)

    start(lab, debians)
    check_values(lab, debians, "before", "ours")
    check_served(lab, debians)
    stop(lab, debians)


def test_the_rule_that_keeps_nodes_apart_is_named(lab: Lab) -> None:
    cluster = Cluster(lab, "ctdbpy")
    cluster.configure()
    start(lab, cluster)
    well = ctdbctl(lab, "n0", "config", "check")
    assert well.returncode == 0, well.stdout
    rules = (
        "table inet guarded { chain input { type filter hook input priority 0; policy accept; "
        "tcp dport 4379 drop; udp dport 4379 drop; }; }\n"
    )
    lab.run("n1", ["nft", "-f", "-"], timeout_s=LIMIT_S, input=rules)

    def is_noticed() -> bool:
        return "node 1: this node has no link to it" in ctdbctl(lab, "n0", "config", "check").stdout

    wait_until("'n0' misses 'n1'", is_noticed, timeout_s=LIMIT_S)
    told = ctdbctl(lab, "n0", "config", "check")
    assert told.returncode == 1
    address = lab.address("n1", "private")
    assert f"TCP port 4379 of {address} does not answer within 2 s" in told.stdout
    there = ctdbctl(lab, "n1", "config", "check", "--local")
    assert there.returncode == 1, there.stdout
    for protocol in ("TCP", "UDP"):
        (line,) = [line for line in there.stdout.splitlines() if f"{protocol} port 4379" in line]
        assert "of chain 'inet guarded input' drops it; open it with 'nft insert rule inet guarded" in line
