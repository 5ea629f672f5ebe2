# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon starts from a cluster file, looks at another one beside it, and keeps it if it would do."""

from __future__ import annotations

from pathlib import Path

from ctdbpy.config.configuration import load
from ctdbpy.config.facts import changes, parse_facts
from ctdbpy.config.paths import Paths
from ctdbpy.core.effects import LookAtConfiguration
from ctdbpy.daemon.configuring import ConfigurationFiles, core_nodes
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import (
    ConfigurationAction,
    ConfigurationReport,
    ConfigurationRequest,
    NodeMap,
    TunableValue,
)
from tests.unit.daemon.conftest import Cluster, Daemon, wait_until

SCRIPT = """\
#!/bin/sh
echo "${0##*/} $1 $CTDB_OPTION_A $CTDB_OPTION_B" >>"$CTDB_BASE/said"
"""


def give_cluster_file(daemon: Daemon, addresses: list[str], rest: str = "") -> str:
    """Put the daemon on a cluster file instead of upstream's files; the text."""
    text = "nodes:\n" + "".join(
        f"- {{number: {number}, address: {address}}}\n" for number, address in enumerate(addresses)
    )
    text += (
        f"settings:\n  logging: {{location: 'file:{daemon.base}/log', log level: DEBUG}}\n"
        f"  cluster: {{port: {daemon.port}}}\n{rest}"
    )
    (daemon.base / "cluster.yaml").write_text(text)
    (daemon.base / "node").write_text(f"{daemon.pnn}\n")
    (daemon.base / "ctdb.conf").write_text("[logging]\nlog level = this is not read\n")
    return text


def addresses_of(daemon: Daemon) -> list[str]:
    return (daemon.base / "nodes").read_text().split()


def configure(
    daemon: Daemon, action: ConfigurationAction = ConfigurationAction.READ, text: str = ""
) -> ConfigurationReport:
    with daemon.connect() as connection:
        report: ConfigurationReport = connection.ask(Control.CONFIGURE, ConfigurationRequest(action, text))
    return report


def test_it_starts_from_the_cluster_file_and_says_what_it_does_not_read(make: Cluster) -> None:
    (daemon,) = make()
    give_cluster_file(daemon, addresses_of(daemon), "tunables: {MonitorInterval: 33}\n")
    daemon.start()
    daemon.wait_log(r"cluster\.yaml' counts; not read: .*ctdb\.conf, .*nodes\n")
    with daemon.connect() as connection:
        assert connection.ask(Control.GET_TUNABLE, "MonitorInterval") == 33
    report = configure(daemon)
    assert (report.problems, report.source) == ("", f"{daemon.base}/cluster.yaml")
    assert report.running == report.found
    assert abs(report.wall_us - (daemon.base / "log").stat().st_mtime_ns / 1000) < 60_000_000


def test_nodes_of_the_cluster_file_form_a_cluster(make: Cluster) -> None:
    daemons = make(2)
    for daemon in daemons:
        give_cluster_file(daemon, addresses_of(daemon))
        daemon.spawn()
    for daemon in daemons:
        daemon.wait_serving()
    for daemon in daemons:
        with daemon.connect() as connection:
            assert connection.pnn == daemon.pnn
            nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
        assert [node.address.host for node in nodemap.nodes] == addresses_of(daemon)


def test_a_file_is_kept_only_if_it_would_do(make: Cluster) -> None:
    (daemon,) = make()
    own = addresses_of(daemon)
    text = give_cluster_file(daemon, own)
    daemon.start()
    path = daemon.base / "cluster.yaml"
    unknown_interface = f"addresses:\n- {{address: {own[0]}0/8, interfaces: nosuch0}}\n"
    wrong = {
        text.replace("port:", "prt:"): "did you mean 'port'?",
        text.replace(own[0], "192.0.2.77"): f"node 0 runs at '{own[0]}', not '192.0.2.77'",
        text.replace("number: 0", "number: 1"): "it has no node 0, which is this one",
        text + unknown_interface: "there is no interface 'nosuch0'",
        b"\xff".decode(errors="surrogateescape"): "it is not UTF-8",
        "x" * ((1 << 20) + 1): "it is larger than",
    }
    for candidate, why in wrong.items():
        report = configure(daemon, ConfigurationAction.STORE, candidate)
        assert why in report.problems
        assert report.found == ""
        assert path.read_text() == text
    better = text + "tunables: {MonitorInterval: 44}\n"
    checked = configure(daemon, ConfigurationAction.CHECK, better)
    assert (checked.problems, path.read_text()) == ("", text)
    changed = list(changes(parse_facts(checked.running), parse_facts(checked.found)))
    assert changed[:-1] == [("tunable MonitorInterval", "15", "44")]
    assert changed[-1][0] == "configuration"
    assert configure(daemon, ConfigurationAction.STORE, better).problems == ""
    assert path.read_text() == better
    assert Path(f"{path}.old").read_text() == text
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in daemon.base.iterdir() if each.name.startswith(".cluster")] == []


def test_what_runs_is_told_as_it_is_now(make: Cluster) -> None:
    (daemon,) = make()
    give_cluster_file(daemon, addresses_of(daemon))
    daemon.start()
    with daemon.connect() as connection:
        connection.ask(Control.SET_DEBUG, 3)
        connection.ask(Control.SET_TUNABLE, TunableValue("MonitorInterval", 44))
    report = configure(daemon)
    assert list(changes(parse_facts(report.found), parse_facts(report.running))) == [
        ("[logging] log level", "DEBUG", "NOTICE"),
        ("tunable MonitorInterval", "15", "44"),
    ]


def test_a_node_that_is_missing_keeps_its_number(make: Cluster) -> None:
    first, second = make(2)
    own, other = addresses_of(first)
    text = give_cluster_file(first, [own, other])
    give_cluster_file(second, [own, other])
    first.start()
    without = text.replace(f"- {{number: 1, address: {other}}}\n", "")
    assert (
        "keep '- {number: 1, deleted: true}'" in configure(first, ConfigurationAction.CHECK, without).problems
    )
    deleted = text.replace(f"address: {other}", "deleted: true")
    assert configure(first, ConfigurationAction.STORE, deleted).problems == ""
    with first.connect() as connection:
        connection.ask(Control.RELOAD_NODES_FILE)
        nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
    assert [node.address.host for node in nodemap.nodes] == [own, "0.0.0.0"]


def test_scripts_get_their_options_and_new_ones_without_a_restart(make: Cluster) -> None:
    (daemon,) = make()
    scripts = daemon.base / "events" / "legacy"
    scripts.mkdir(parents=True)
    for name in ("10.one", "20.two"):
        (scripts / f"{name}.script").write_text(SCRIPT)
        (scripts / f"{name}.script").chmod(0o755)
    services = "services:\n  all: {CTDB_OPTION_A: yes}\n  20.two: {CTDB_OPTION_B: 'a b'}\n"
    text = give_cluster_file(daemon, addresses_of(daemon), services + "tunables: {MonitorInterval: 1}\n")
    daemon.start()
    said = daemon.base / "said"
    wait_until(lambda: "20.two.script monitor yes a b\n" in said.read_text(), "scripts were told")
    assert "10.one.script monitor yes \n" in said.read_text()
    assert "CTDB_OPTION_A=yes\n" in (daemon.base / "run" / "script.options").read_text()
    assert configure(daemon, ConfigurationAction.STORE, text.replace("'a b'", "c")).problems == ""
    wait_until(lambda: "20.two.script monitor yes c\n" in said.read_text(), "scripts were told anew")


def test_a_node_on_upstreams_files_goes_over_to_the_cluster_file(make: Cluster) -> None:
    (daemon,) = make()
    daemon.start()
    own = addresses_of(daemon)
    assert configure(daemon).source == str(daemon.base)
    text = f"nodes:\n- {{number: 0, address: {own[0]}}}\n- {{number: 1, address: 127.255.255.1}}\n"
    text += f"settings: {{cluster: {{port: {daemon.port}}}}}\n"
    report = configure(daemon, ConfigurationAction.STORE, text)
    assert report.problems == ""
    assert "counts; not read" in report.notes
    assert configure(daemon).source == f"{daemon.base}/cluster.yaml"
    with daemon.connect() as connection:
        connection.ask(Control.RELOAD_NODES_FILE)
        nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
    assert len(nodemap.nodes) == 2


def test_a_node_that_is_not_heard_is_told_of(tmp_path: Path) -> None:
    text = "nodes: [{number: 0, address: 127.0.0.1}, {number: 1, address: 127.0.0.2}]\n"
    (tmp_path / "cluster.yaml").write_text(text)
    paths = Paths.from_environment({"CTDB_TEST_MODE": "1", "CTDB_BASE": str(tmp_path)})
    running = load(paths, number=0)
    files = ConfigurationFiles(paths, running, 0, lambda _options: None)
    read = (ConfigurationAction.READ, "", core_nodes(running.nodes), (), running.tunables, 3)
    assert "heartbeats" not in files.look(LookAtConfiguration(1, *read)).notes
    notes = files.look(LookAtConfiguration(2, *read, unheard=(1,))).notes
    assert "the heartbeats of node 1 (127.0.0.2) are not heard" in notes
    assert f"UDP port {running.port} is blocked" in notes


def test_a_broken_cluster_file_stops_the_start(make: Cluster) -> None:
    (daemon,) = make()
    give_cluster_file(daemon, addresses_of(daemon), "nonsense: 1\n")
    status, errors = daemon.refusal()
    assert status == 1
    assert f"{daemon.base}/cluster.yaml:6: the file: 'nonsense' is not known" in errors
