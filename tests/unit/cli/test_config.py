# SPDX-License-Identifier: GPL-3.0-or-later
"""ctdbctl config shows, checks, imports and applies; what is broken is said and changes nothing that runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctdbpy.config.paths import Paths
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import NodeMap, TunableValue
from tests.unit.cli.conftest import Run
from tests.unit.daemon.conftest import LIMIT_S, Cluster, Daemon, wait_until
from tests.unit.daemon.test_configuring import addresses_of, give_cluster_file

Config = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config(run: Run) -> Config:
    """Run `ctdbctl config` as on the host of a daemon."""

    def config(daemon: Daemon, *arguments: str, as_json: bool = False) -> subprocess.CompletedProcess[str]:
        options = ["--json"] if as_json else []
        return run(
            *options,
            "config",
            *arguments,
            socket=daemon.socket,
            CTDB_TEST_MODE="1",
            CTDB_BASE=str(daemon.base),
        )

    return config


def start_all(daemons: list[Daemon], rest: str = "", log: Path | None = None) -> str:
    """A cluster on cluster files; their text, which is the same but for the place of the log."""
    text = ""
    for daemon in daemons:
        text = give_cluster_file(daemon, addresses_of(daemon), rest)
        if log is not None:
            text = text.replace(f"{daemon.base}/log", str(log))
            (daemon.base / "cluster.yaml").write_text(text)
        daemon.spawn()
    for daemon in daemons:
        daemon.wait_serving()

    def are_linked() -> bool:
        with daemons[0].connect() as connection:
            nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
        return all(node.flags == 0 for node in nodemap.nodes)

    wait_until(are_linked, "all nodes are well")
    return text


def tunable(daemon: Daemon, name: str) -> int:
    with daemon.connect() as connection:
        value: int = connection.ask(Control.GET_TUNABLE, name)
    return value


# -- show and import ------------------------------------------------------------------------------


def test_what_counts_is_shown_as_a_cluster_file(make: Cluster, config: Config) -> None:
    (daemon,) = make(conf="leader timeout = 7\n")
    shown = config(daemon, "show")
    assert shown.returncode == 0
    assert f"    address: {addresses_of(daemon)[0]}\n" in shown.stdout
    assert "    leader timeout: 7\n" in shown.stdout
    (daemon.base / "cluster.yaml").write_text(shown.stdout)
    assert config(daemon, "show").stdout.endswith(shown.stdout.partition("nodes:\n")[2])
    facts = json.loads(config(daemon, "show", "--json").stdout)
    assert facts["[cluster] leader timeout"] == "7"
    daemon.start()
    running = config(daemon, "show", "--running").stdout
    assert "[cluster] leader timeout = 7\n" in running


def test_import_writes_a_file_that_is_not_there_yet(make: Cluster, config: Config, tmp_path: Path) -> None:
    (daemon,) = make(conf="recovery lock = /clusterfs/lock\n")
    target = tmp_path / "cluster.yaml"
    done = config(daemon, "import", "-o", str(target))
    assert (done.returncode, done.stdout) == (0, "")
    assert "note: " in done.stderr
    assert "cluster lock: /clusterfs/lock\n" in target.read_text()
    shown = json.loads(config(daemon, "import", as_json=True).stdout)
    assert shown["text"] == target.read_text() and shown["file"] is None
    again = config(daemon, "import", "-o", str(target))
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1] == f"ctdbctl: cannot write '{target}': File exists"


def test_the_files_of_every_node_become_one(make: Cluster, config: Config) -> None:
    first, second = make(2)
    (second.base / "ctdb.tunables").write_text("MonitorInterval=44\n")
    done = config(first, "import", "--node", f"0={first.base}", "--node", f"1={second.base}")
    assert done.returncode == 0
    assert f"    address: {addresses_of(first)[1]}\n    settings:\n" in done.stdout
    assert "    tunables:\n      MonitorInterval: 44\n" in done.stdout
    wrong = config(first, "import", "--node", "0=/no/such")
    assert (wrong.returncode, "is not NUMBER=DIRECTORY" in wrong.stderr) == (2, True)


def test_upstreams_program_reads_the_nodes_that_count(make: Cluster) -> None:
    first, _second = make(2)
    addresses = addresses_of(first)
    give_cluster_file(first, addresses[::-1])
    argv = [sys.executable, "-m", "ctdbpy.cli.ctdb", "listnodes", "-X"]
    environ = {**os.environ, "CTDB_TEST_MODE": "1", "CTDB_BASE": str(first.base)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert done.stdout == f"|0|{addresses[1]}|\n|1|{addresses[0]}|\n"


# -- check ------------------------------------------------------------------------------------------


def test_a_cluster_without_mistakes(make: Cluster, config: Config) -> None:
    daemons = make(2)
    shared = f"cluster lock: {daemons[0].base.parent}/lock\n"
    start_all(daemons, shared, log=daemons[0].base.parent / "log")
    said: list[str] = []

    def is_well() -> bool:
        """Heartbeats come a moment after the link stands."""
        done = config(daemons[0], "check")
        said[:] = [
            line for line in done.stdout.splitlines() if "not read" not in line and "split" not in line
        ]
        return done.returncode == 0 and len(said) == 1

    wait_until(is_well, "no mistakes are found")


def test_nodes_that_differ_are_told_apart(make: Cluster, config: Config) -> None:
    daemons = make(2)
    first, second = daemons
    for daemon in daemons:
        lock = f"cluster lock: {daemon.base}/lock\n" if daemon is first else ""
        give_cluster_file(daemon, addresses_of(daemon), lock + "quorum: none\n")
        daemon.spawn()
    for daemon in daemons:
        daemon.wait_serving()
    with second.connect() as connection:
        connection.ask(Control.SET_TUNABLE, TunableValue("MonitorInterval", 44))
    path = second.base / "cluster.yaml"
    path.write_text(path.read_text() + "tunables: {KeepaliveLimit: many}\n")
    done = config(first, "check")
    assert done.returncode == 1
    differs = "error: nodes run with a different"
    for line in (
        f"error: node 1: cannot load the cluster file: {path}:8: tunable 'KeepaliveLimit': ",
        f"{differs} [cluster] cluster lock: '{first.base}/lock' on node 0, 'none' on node 1; make it",
        f"{differs} tunable MonitorInterval: '15' on node 0, '44' on node 1; make it the same on all nodes",
    ):
        assert line in done.stdout, done.stdout
    path.write_text(path.read_text().replace("KeepaliveLimit: many", "KeepaliveLimit: 6"))
    done = config(first, "check")
    assert "error: nodes have files with a different tunable KeepaliveLimit: '5' on node 0" in done.stdout
    assert f"{differs} configuration: 'cluster.yaml " in done.stdout
    assert (
        "warning: node 1: its files say something else than it runs with: "
        "tunable KeepaliveLimit: 6 instead of 5; tunable MonitorInterval: 15 instead of 44; configuration: "
    ) in done.stdout


def test_a_node_that_is_away_is_named_with_its_port(make: Cluster, config: Config) -> None:
    daemons = make(2)
    start_all(daemons, "quorum: none\n")
    first, second = daemons
    assert second.end(signal.SIGKILL) == -signal.SIGKILL

    def is_noticed() -> bool:
        return "this node has no link to it" in config(first, "check").stdout

    wait_until(is_noticed, "the link is gone")
    done = config(first, "check")
    assert done.returncode == 1
    own = addresses_of(first)[1]
    assert (
        f"error: node 1: this node has no link to it: TCP port {first.port} of {own} is refused"
        in done.stdout
    )


def test_without_a_daemon_the_host_is_checked_alone(make: Cluster, config: Config) -> None:
    (daemon,) = make()
    done = config(daemon, "check")
    assert done.returncode == 0
    assert "warning: the other nodes were not asked: cannot connect to the daemon at " in done.stdout
    assert str(daemon.socket) in done.stdout
    local = config(daemon, "check", "--local", as_json=True)
    assert json.loads(local.stdout) == {"findings": []}


def test_a_daemon_that_hangs_does_not_keep_the_host_from_being_checked(
    make: Cluster, run: Run, tmp_path: Path
) -> None:
    (daemon,) = make()
    place = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place))
        silent.listen()
        environ = {"CTDB_TEST_MODE": "1", "CTDB_BASE": str(daemon.base)}
        done = run("--timeout", "0.3", "config", "check", socket=place, **environ)
    assert done.returncode == 0
    assert f"warning: the other nodes were not asked: cannot get an answer from the daemon at '{place}'" in (
        done.stdout
    )


def test_a_file_with_a_mistake_is_told_of_once(make: Cluster, config: Config, tmp_path: Path) -> None:
    (daemon,) = make()
    daemon.start()
    wrong = tmp_path / "wrong.yaml"
    for text, why in (("nodes: [\n", "mend the YAML"), ("nodes: []\0\n", "#x0000"), ("", "it names no node")):
        wrong.write_text(text)
        done = config(daemon, "check", str(wrong))
        (line, count) = done.stdout.splitlines()
        assert (done.returncode, done.stderr, count) == (1, "", "1 mistake")
        assert f"{wrong}:" in line
        assert why in line


# -- apply -----------------------------------------------------------------------------------------


def test_a_file_is_brought_to_every_node_and_used(make: Cluster, config: Config, tmp_path: Path) -> None:
    daemons = make(2)
    first, second = daemons
    known = "addresses:\n- {address: 192.0.2.8/24, interfaces: lo}\n"
    start_all(daemons, f"quorum: none\n{known}")
    text = (first.base / "cluster.yaml").read_text().replace("log level: DEBUG", "log level: INFO")
    text += "tunables: {MonitorInterval: 44, RecordHoldUs: 7}\n"
    text = text.replace(known, known.replace("2.8", "2.9"))
    text += "services: {all: {CTDB_OPTION: x}}\n"
    text = text.replace("port:", "leader timeout: 9, port:")
    lock = tmp_path / "lock"
    text += f"cluster lock: {lock}\n"
    text = text.replace("settings:\n", "- {number: 2, name: new, address: 127.255.255.3}\nsettings:\n", 1)
    wanted = tmp_path / "wanted.yaml"
    wanted.write_text(text)
    dry = config(first, "apply", "--dry-run", str(wanted))
    assert dry.returncode == 0
    plan = config(first, "apply", "--dry-run", str(wanted), as_json=True)
    assert json.loads(plan.stdout) == {"changes": dry.stdout.splitlines()}
    own = ("location", " configuration: ")
    told = [line for line in dry.stdout.splitlines() if not any(word in line for word in own)]
    assert sorted(told) == [
        f"every node: [cluster] cluster lock: none -> {lock} (after a restart of all nodes together)",
        "every node: [cluster] leader timeout: 5 -> 9 (after a restart)",
        "every node: [logging] log level: DEBUG -> INFO (at once)",
        "every node: address 192.0.2.8: /24 on lo -> none (at once)",
        "every node: address 192.0.2.9: none -> /24 on lo (at once)",
        "every node: node 2: none -> 127.255.255.3 (at once)",
        "every node: service all CTDB_OPTION: none -> x (at once)",
        "every node: tunable MonitorInterval: 15 -> 44 (at once)",
        "every node: tunable RecordHoldUs: 300 -> 7 (at once)",
    ]
    asked = config(first, "apply", str(wanted))
    assert (asked.returncode, "add --yes" in asked.stderr) == (1, True)
    assert tunable(second, "MonitorInterval") == 15
    done = config(first, "apply", "--yes", str(wanted))
    assert done.returncode == 0, done.stderr
    assert "kept on node 0, 1\nnode 2 is new: it needs the file too" in done.stdout
    assert (
        "node 0: restart ctdbpyd there for [cluster] cluster lock, [cluster] leader timeout\n" in done.stdout
    )
    assert "stop all nodes before you start the first one again" in done.stdout
    for daemon in daemons:
        assert (daemon.base / "cluster.yaml").read_text() == text
        assert tunable(daemon, "MonitorInterval") == 44
        assert tunable(daemon, "RecordHoldUs") == 7
        with daemon.connect() as connection:
            assert connection.ask(Control.GET_DEBUG) == 5
            assert len(connection.ask(Control.GET_NODEMAP).nodes) == 3
            assert [ip.address.host for ip in connection.ask(Control.GET_PUBLIC_IPS).ips] == ["192.0.2.9"]


def test_what_one_node_cannot_use_changes_no_node(make: Cluster, config: Config, tmp_path: Path) -> None:
    daemons = make(2)
    first, second = daemons
    before = start_all(daemons, "quorum: none\n")
    own = (first.base / "cluster.yaml").read_text()
    wanted = tmp_path / "wanted.yaml"
    wanted.write_text(own + "addresses: [{address: 192.0.2.9/24, interfaces: nosuch0, nodes: [1]}]\n")
    done = config(first, "apply", "--yes", str(wanted))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"ctdbctl: cannot apply it, nothing was changed: node 1: {wanted}:8: there is no interface 'nosuch0'"
    )
    wanted.write_text(own.replace(f"address: {addresses_of(first)[1]}", "deleted: true"))
    done = config(first, "apply", "--yes", str(wanted))
    assert (done.returncode, "still connected; shut its daemon down first" in done.stderr) == (1, True), (
        done.stderr
    )
    assert (first.base / "cluster.yaml").read_text() == own
    assert (second.base / "cluster.yaml").read_text() == before


def test_a_file_that_one_node_cannot_keep_is_applied_again(make: Cluster, config: Config) -> None:
    daemons = make(2)
    first, second = daemons
    start_all(daemons, "quorum: none\n")
    path = first.base / "cluster.yaml"
    path.write_text(path.read_text() + "tunables: {MonitorInterval: 44}\n")
    in_the_way = second.base / "cluster.yaml.old"
    in_the_way.mkdir()
    failed = config(first, "apply", "--yes")
    assert failed.returncode == 1
    assert f"node 1: cannot write '{second.base}/cluster.yaml': Is a directory" in failed.stderr
    assert [tunable(daemon, "MonitorInterval") for daemon in daemons] == [15, 15]
    in_the_way.rmdir()
    assert config(first, "apply", "--yes").returncode == 0
    assert [tunable(daemon, "MonitorInterval") for daemon in daemons] == [44, 44]
    assert (second.base / "cluster.yaml").read_text() == path.read_text()


def test_a_node_without_a_daemon_is_reached_another_way(make: Cluster, config: Config) -> None:
    daemons = make(2)
    first, second = daemons
    give_cluster_file(first, addresses_of(first), "quorum: none\n")
    first.start()
    assert (refused := config(first, "apply", "--yes")).returncode == 1
    assert "no daemon can be asked on node 1; start it, reach the host with --via" in refused.stderr
    assert config(first, "apply", "--yes", "--skip-unreachable").returncode == 0
    # The file's place is the same on every host; here it is moved to the other node's directory.
    via = f"env HOST={{address}} {second.base}/reach"
    (second.base / "reach").write_text(
        f'#!/bin/sh\ntest "$HOST" = {addresses_of(first)[1]} || exit 9\n'
        f'sh -c "$(echo "$1" | sed s,{first.base},{second.base},g)"\n'
    )
    (second.base / "reach").chmod(0o755)
    done = config(first, "apply", "--yes", "--via", via)
    assert done.returncode == 0, done.stderr
    assert (second.base / "cluster.yaml").read_text() == (first.base / "cluster.yaml").read_text()
    failed = config(first, "apply", "--yes", "--via", "false")
    assert (failed.returncode, "cannot bring the file there by 'false'" in failed.stderr) == (1, True)


# -- broken configurations ------------------------------------------------------------------------------

#: What is done to good files, what is said, how to mend it. `{}`: the directory, `{own}`: the node's address.
BROKEN: dict[str, tuple[dict[str, str], str, str]] = {
    "wrong type": (
        {"ctdb.conf": "[cluster]\nleader timeout = soon\n"},
        "{}/ctdb.conf:2: ",
        "write a whole number",
    ),
    "out of range": ({"ctdb.conf": "[cluster]\nleader timeout = 0\n"}, "{}/ctdb.conf:2: ", "from 1 to"),
    "neither yes nor no": (
        {"ctdb.conf": "[legacy]\nstart as stopped = maybe\n"},
        "{}/ctdb.conf:2: ",
        "write true",
    ),
    "empty value": ({"ctdb.conf": "[cluster]\ncluster lock =\n"}, "{}/ctdb.conf:2: ", "leave the line out"),
    "open section": ({"ctdb.conf": "[cluster\n"}, "{}/ctdb.conf:1: ", "closing ']'"),
    "unknown option": (
        {"ctdb.conf": "[cluster]\nleader timeot = 5\n"},
        "{}/ctdb.conf:2: ",
        "'leader timeout'?",
    ),
    "unknown section": ({"ctdb.conf": "[clutser]\n"}, "{}/ctdb.conf:1: ", "'cluster'?"),
    "no such log level": ({"ctdb.conf": "[logging]\nlog level = LOUD\n"}, "{}/ctdb.conf:2: ", "write ERROR"),
    "no such log": ({"ctdb.conf": "[logging]\nlocation = file:/no/x\n"}, "{}/ctdb.conf:2: ", "create it"),
    "no such directory": (
        {"ctdb.conf": "[database]\nstate database directory = /no\n"},
        "{}/ctdb.conf:2: ",
        "create it or name another",
    ),
    "no such script": (
        {"ctdb.conf": "[event]\ndebug script = x.sh\n"},
        "{}/ctdb.conf:2: ",
        "scripts live in",
    ),
    "quorum needs a lock": (
        {"ctdb.conf": "[cluster]\nquorum = lock\n"},
        "{}/ctdb.conf:2: ",
        "set 'cluster lock'",
    ),
    "transport": ({"ctdb.conf": "[cluster]\ntransport = ib\n"}, "{}/ctdb.conf:2: ", "only 'tcp' exists"),
    "own address not listed": (
        {"ctdb.conf": "[cluster]\nnode address = 10.9.9.9\n"},
        "{}/ctdb.conf:2: [cluster] node address: cannot use node address '10.9.9.9'",
        "mend '[cluster] node address'",
    ),
    "no nodes": ({"nodes": ""}, "{}/nodes:1: ", "one on a line"),
    "host name as node": ({"nodes": "{own}\nnode2\n"}, "{}/nodes:2: ", "write the numeric address"),
    "node twice": ({"nodes": "{own}\n{own}\n"}, "{}/nodes:2: ", "each node has its own address"),
    "comment behind a node": ({"nodes": "{own} # first\n"}, "{}/nodes:1: ", "on a line of its own"),
    "nodes out of order": (
        {"nodes": "10.9.9.9\n{own}\n"},
        "{}/nodes:2: node 0 runs at '{own}'",
        "keeps number",
    ),
    "node gone": (
        {"nodes": "#{own}\n10.9.9.9\n"},
        "{}/ctdb.conf:6: [cluster] node address: ",
        "mend '[cluster] node address'",
    ),
    "nodes of another kind": (
        {"nodes": "\xff\n"},
        "{}/nodes:1': byte 0xff is not UTF-8",
        "save the file as UTF-8",
    ),
    "nodes command fails": (
        {"ctdb.conf": "[cluster]\nnodes list = !/bin/false\n"},
        "{}/ctdb.conf:2: [cluster] nodes list: ",
        "it ended with status 1",
    ),
    "no prefix": ({"public_addresses": "192.0.2.1 lo\n"}, "{}/public_addresses:1: ", "ADDRESS/BITS"),
    "no interface": ({"public_addresses": "192.0.2.1/24\n"}, "{}/public_addresses:1: ", "INTERFACE"),
    "unknown interface": (
        {"public_addresses": "192.0.2.1/24 lo\n192.0.2.2/24 nosuch0\n"},
        "{}/public_addresses:2: there is no interface 'nosuch0'",
        "it has ",
    ),
    "address twice": (
        {"public_addresses": "192.0.2.1/24 lo\n192.0.2.1/24 lo\n"},
        "{}/public_addresses:2: ",
        "each address has one line",
    ),
    "private and public": (
        {"public_addresses": "{own}/8 lo\n"},
        "{}/public_addresses:1: cannot use public address '{own}'",
        "take it out",
    ),
    "wrong prefix": ({"public_addresses": "192.0.2.1/33 lo\n"}, "{}/public_addresses:1: ", "from 0 to 32"),
    "unknown tunable": (
        {"ctdb.tunables": "MonitorIntervall=5\n"},
        "{}/ctdb.tunables:1: ",
        "'MonitorInterval'?",
    ),
    "tunable no number": ({"ctdb.tunables": "MonitorInterval=x\n"}, "{}/ctdb.tunables:1: ", "whole number"),
    "obsolete tunable": ({"ctdb.tunables": "LCP2PublicIPs=1\n"}, "{}/ctdb.tunables:1: ", "remove the line"),
    "tunable too large": (
        {"ctdb.tunables": "MonitorInterval=4294967296\n"},
        "{}/ctdb.tunables:1: ",
        "more than",
    ),
}


def test_every_broken_configuration_is_explained_and_the_cluster_goes_on(
    make: Cluster, config: Config
) -> None:
    (daemon,) = make()
    good = {
        "ctdb.conf": (daemon.base / "ctdb.conf").read_text(),
        "nodes": (daemon.base / "nodes").read_text(),
        "public_addresses": "192.0.2.1/24 lo\n",
        "ctdb.tunables": "MonitorInterval=30\n",
    }
    own = good["nodes"].strip()

    def write(files: dict[str, str]) -> None:
        for name, text in {**good, **files}.items():
            data = text.replace("{own}", own)
            (daemon.base / name).write_bytes(data.encode("latin-1"))

    write({})
    daemon.start()
    assert config(daemon, "check").returncode == 0
    before = config(daemon, "show", "--running").stdout
    for case, (files, where, fix) in BROKEN.items():
        write(files)
        done = config(daemon, "check")
        errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        named = [
            line
            for line in errors
            if where.format(daemon.base, own=own).replace("{}", str(daemon.base)) in line
        ]
        assert done.returncode == 1, case
        assert len(errors) == len(named) == 1, (case, errors)
        assert fix in named[0], (case, named)
        with daemon.connect() as connection:
            connection.control(Control.RELOAD_NODES_FILE)
            connection.control(Control.RELOAD_PUBLIC_IPS)
    write({})
    assert config(daemon, "show", "--running").stdout == before
    assert config(daemon, "check").returncode == 0


def test_an_unreadable_file_is_named(make: Cluster, config: Config) -> None:
    (daemon,) = make()
    for name in ("cluster.yaml", "nodes", "public_addresses", "ctdb.conf"):
        path = daemon.base / name
        kept = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.mkdir()
        done = config(daemon, "check", "--local")
        assert done.returncode == 1
        assert f"error: cannot read '{path}': Is a directory\n" in done.stdout
        path.rmdir()
        if kept is not None:
            path.write_bytes(kept)


def test_paths_of_tests_are_apart_from_those_of_the_host() -> None:
    assert Paths.from_environment(dict(os.environ)).cluster == Path("/etc/ctdbpy/cluster.yaml")
