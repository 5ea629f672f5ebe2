# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's files become a cluster file that means the same."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctdbpy.config.cluster_file import ClusterAddress, ClusterFile, ClusterNode, Given, ScriptOption
from ctdbpy.config.cluster_reader import read_cluster
from ctdbpy.config.cluster_writer import cluster_text
from ctdbpy.config.configuration import Configuration, load_cluster, load_files
from ctdbpy.config.importing import import_files, import_nodes
from ctdbpy.config.paths import Paths
from ctdbpy.config.script_options import parse_script_options, script_options_text
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.values import (
    read_automatic,
    read_boolean,
    read_command,
    read_deprecated_lock,
    read_directory,
    read_log_format,
    read_log_level,
    read_log_location,
    read_port,
    read_quorum,
    read_script,
    read_string,
    read_transport,
)
from ctdbpy.errors import ConfigError

CONF = """\
# Debian's, with what an administrator changed
[logging]
    location = syslog:nonblocking
    log level = 7
[cluster]
    recovery lock = !/usr/libexec/helper --pool rados "x"
    node address = 127.0.0.3
    leader capability = false
[database]
    tdb mutexes = no
    lock debug script = debug_locks.sh
[failover]
    shutdown extra timeout = 0x10
[legacy]
    start as disabled = yes
    script log level = INFO
"""
OPTIONS = """\
# global
CTDB_PARTIALLY_ONLINE_INTERFACES=yes
export CTDB_NFS_CALLOUT="${CTDB_BASE}/nfs-ganesha-callout" # as shipped
CTDB_RPCINFO_LOCALHOST='a b'\\''c'
"""


def directory(base: Path, **files: str) -> Paths:
    base.mkdir(exist_ok=True)
    script = base / "debug_locks.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    wanted = {
        "ctdb.conf": CONF,
        "nodes": "127.0.0.1\n#127.0.0.2\n127.0.0.3\n",
        "public_addresses": "192.0.2.1/24 eth0,eth1\n2001:db8::1/64 bond0.7\n",
        "ctdb.tunables": "MonitorInterval=020\nRecordHoldUs=7\n",
        "script.options": OPTIONS,
        **files,
    }
    for name, text in wanted.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Paths.from_environment({"CTDB_TEST_MODE": "yes", "CTDB_BASE": str(base)})


def meaning(configuration: Configuration) -> Configuration:
    """All that decides how a daemon runs; the lock by whichever name, this node whether said or found."""
    settings = replace(configuration.settings, cluster_lock=configuration.settings.lock, recovery_lock=None)
    settings = replace(settings, node_address=None, nodes_list=None)
    paths = replace(configuration.paths, nodes="")
    return replace(configuration, settings=settings, paths=paths, warnings=(), script_options=None)


def test_the_cluster_file_means_what_the_files_meant(tmp_path: Path) -> None:
    own = {"events/legacy/50.samba.options": "CTDB_X=1\n", "home_nodes": "192.0.2.1 2\n"}
    paths = directory(tmp_path, **own)
    before = load_files(paths)
    imported = import_files(paths, "cluster.yaml")
    text = cluster_text(imported.file)
    after = load_cluster(text, "cluster.yaml", paths, number=2)
    assert meaning(after) == meaning(before)
    assert before.settings.log_level == after.settings.log_level == 7
    assert after.settings.node_address == before.settings.node_address
    assert after.script_options == (
        ScriptOption("all", "CTDB_PARTIALLY_ONLINE_INTERFACES", "yes"),
        ScriptOption("all", "CTDB_NFS_CALLOUT", f"{tmp_path}/nfs-ganesha-callout"),
        ScriptOption("all", "CTDB_RPCINFO_LOCALHOST", "a b'c"),
        ScriptOption("50.samba", "CTDB_X", "1"),
    )
    assert 'cluster lock: "!/usr/libexec/helper' in text
    assert "recovery lock" not in text
    assert any("'node address' made this node number 2" in note for note in imported.notes)
    assert any("taken for every node" in note for note in imported.notes)


SAMPLES = {
    read_boolean: ("yes", "No", "TRUE", "false"),
    read_automatic: ("auto", "yes", "no"),
    read_log_format: ("text", "JSON"),
    read_log_level: ("ERROR", "info", "7", "0"),
    read_string: ("/a/b", "!/bin/x --y 'z' # no", "yes", "{a: b}", "- x", '"q"', "007"),
    read_deprecated_lock: ("/old lock", "~"),
    read_quorum: ("auto", "majority", "none"),
    read_transport: ("tcp",),
    read_port: ("4380", "0x1000"),
    read_log_location: ("file:/log", "syslog", "syslog:udp", "file:"),
}
numbers = st.sampled_from(("1", "017", "0x1f", "86400", "+5"))
options = st.fixed_dictionaries(
    {},
    optional={
        (row.section, row.option): st.sampled_from(SAMPLES[row.read]) if row.read in SAMPLES else numbers
        for row in SETTINGS
        if row.option not in ("nodes list", "node address")
        and row.read not in (read_command, read_directory, read_script)
    },
)


@given(options)
def test_whatever_is_set_means_the_same_afterwards(chosen: dict[tuple[str, str], str]) -> None:
    with TemporaryDirectory() as place:
        lines = [f"[{section}]\n{option} = {value}\n" for (section, option), value in chosen.items()]
        paths = directory(Path(place), **{"ctdb.conf": "".join(lines)})
        before = load_files(paths)
        text = cluster_text(import_files(paths, "cluster.yaml").file)
        assert meaning(load_cluster(text, "cluster.yaml", paths, number=0)) == meaning(before)


def test_files_of_a_new_cluster_become_little_more_than_its_nodes(tmp_path: Path) -> None:
    paths = directory(
        tmp_path, **{"ctdb.conf": "", "public_addresses": "", "ctdb.tunables": "", "script.options": ""}
    )
    text = cluster_text(import_files(paths, "cluster.yaml").file)
    assert [line for line in text.split("\n") if not line.startswith("#")] == [
        "nodes:",
        "  - number: 0",
        "    address: 127.0.0.1",
        "  - number: 1",
        "    deleted: true",
        "  - number: 2",
        "    address: 127.0.0.3",
        "",
    ]


def test_a_nodes_command_is_asked_once(tmp_path: Path) -> None:
    paths = directory(tmp_path, **{"ctdb.conf": "[cluster]\nnodes list = !/bin/echo 127.0.0.9\n"})
    imported = import_files(paths, "cluster.yaml")
    assert [node.address for node in imported.file.nodes] == ["127.0.0.9"]
    assert any("the nodes are those that '!/bin/echo 127.0.0.9' gives now" in note for note in imported.notes)


def test_nodes_that_differ_keep_what_is_their_own(tmp_path: Path) -> None:
    first = directory(tmp_path / "a", **{"ctdb.conf": "[cluster]\nleader timeout = 7\n"})
    second = directory(
        tmp_path / "b",
        **{
            "ctdb.conf": "[cluster]\nleader timeout = 7\nleader capability = no\n",
            "public_addresses": "2001:db8::1/64 bond0.7\n",
            "ctdb.tunables": "RecordHoldUs=7\n",
            "script.options": OPTIONS.replace("${CTDB_BASE}", str(tmp_path / "a")),
        },
    )
    file = import_nodes({0: first, 2: second}, "cluster.yaml").file
    assert file == read_cluster(cluster_text(file), "cluster.yaml")
    assert file.settings == (Given("cluster", "leader timeout", "7"),)
    assert [node.settings for node in file.nodes] == [
        (),
        (),
        (Given("cluster", "leader capability", "false"),),
    ]
    assert file.tunables == (("RecordHoldUs", 7),)
    assert [node.tunables for node in file.nodes] == [(("MonitorInterval", 16),), (), ()]
    assert [address.nodes for address in file.addresses] == [frozenset({0}), None]
    for number, paths in ((0, first), (2, second)):
        after = load_cluster(cluster_text(file), "cluster.yaml", paths, number=number)
        assert meaning(after) == meaning(load_files(paths))


@pytest.mark.parametrize(
    ("number", "changed", "reason"),
    [
        (1, {"nodes": "127.0.0.1\n"}, "those of node 1 are not those of the others"),
        (1, {}, "cannot take over nodes 0, 1: the nodes files list 0, 2"),
        (2, {"ctdb.conf": "[cluster]\ncluster lock = /b\n"}, "make it the same on all nodes first"),
        (2, {"script.options": "CTDB_X=2\n"}, "script options are the same on all nodes"),
    ],
)
def test_nodes_that_do_not_belong_together_are_refused(
    tmp_path: Path, number: int, changed: dict[str, str], reason: str
) -> None:
    both = {"ctdb.conf": "[cluster]\ncluster lock = /a\n", "script.options": ""}
    first = directory(tmp_path / "a", **both)
    second = directory(tmp_path / "b", **{**both, **changed})
    with pytest.raises(ConfigError, match=reason):
        import_nodes({0: first, number: second}, "cluster.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A=$B\n", "f:1: 'A=$B': what '$' stands for"),
        ("\nA=`date`\n", "f:2: "),
        ('A="$(date)"\n', "what '$' stands for"),
        ("if true; then\n", "only lines NAME=VALUE can be taken over"),
        (". /etc/default/x\n", "only lines NAME=VALUE"),
        ("A=b c\n", "something follows the value"),
        ("A=b; C=d\n", "something follows the value"),
        ("A=b&\n", "what '&' stands for"),
        ("A=~/x\n", "what '~' stands for"),
        ("A='b\n", "the quote ' is not closed"),
        ("A=(b c)\n", "what '(' stands for"),
    ],
)
def test_what_takes_a_shell_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_script_options(text, "f", "/etc/ctdb")
    assert reason in str(caught.value)


def test_options_are_given_to_the_shell_as_they_are(tmp_path: Path) -> None:
    options = (
        ScriptOption("all", "A", 'it\'s "$HOME" `x` \\'),
        ScriptOption("all", "B", ""),
        ScriptOption("50.samba", "C", "only samba"),
    )
    (tmp_path / "options").write_text(script_options_text(options))
    show = 'set -eu; _script=$1; . "$2"; printf "%s|%s|%s" "$A" "$B" "${C-unset}"'
    for script, third in (("50.samba", "only samba"), ("60.nfs", "unset")):
        argv = ["sh", "-c", show, "sh", script, str(tmp_path / "options")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == f"{options[0].value}||{third}"


words = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, categories=("L", "N", "P", "S")), min_size=1
)


@given(
    lock=words,
    value=words | st.just(""),
    level=st.sampled_from(["yes", "null", "~", "0x10", "1:30", "- a", "a: b"]),
)
def test_whatever_a_text_is_it_reads_back(lock: str, value: str, level: str) -> None:
    file = ClusterFile(
        source="f",
        nodes=(ClusterNode(0, "10.0.0.1", "n-1"), ClusterNode(1, "0.0.0.0", deleted=True)),
        addresses=(ClusterAddress("2001:db8::1", 64, ("eth0", "@x:1"), frozenset({0}), 0),),
        settings=(Given("cluster", "cluster lock", lock), Given("logging", "log level", level)),
        tunables=(("MonitorInterval", 5),),
        services=(ScriptOption("all", "A", value), ScriptOption("50.samba", "B", level)),
    )
    assert read_cluster(cluster_text(file), "f") == file
