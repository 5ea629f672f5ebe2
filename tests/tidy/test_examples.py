# SPDX-License-Identifier: GPL-3.0-or-later
"""The example configuration in etc/ is one that the daemon reads without a word."""

from __future__ import annotations

import re

from ctdbpy.config.cluster_reader import read_cluster
from ctdbpy.config.nodes import load_nodes
from ctdbpy.config.public_addresses import load_public_addresses
from ctdbpy.config.script_options import parse_script_options
from ctdbpy.config.settings import load_ctdb_conf
from ctdbpy.config.table import SETTINGS
from ctdbpy.config.tunables_file import load_tunables
from ctdbpy.wire.tunables import Tunables
from tests.tidy.tree import ROOT

ETC = ROOT / "etc"

# For these the file shows an example instead.
NO_FIXED_DEFAULT = {
    ("cluster", "cluster lock"),
    ("cluster", "fence command"),
    ("cluster", "node address"),
    ("event", "debug script"),
}


def test_the_example_settings_load_without_a_warning() -> None:
    settings, warnings = load_ctdb_conf(ETC / "ctdb.conf")
    assert warnings == ()
    assert settings.log_location == "syslog"


def test_options_that_are_commented_out_show_their_default() -> None:
    defaults = {(spec.section, spec.option): spec.default for spec in SETTINGS}
    section = ""
    shown = 0
    for line in (ETC / "ctdb.conf").read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif option := re.fullmatch(r"\t# ([a-z][a-z ]+) = (.+)", line):
            default = defaults[section, option[1]]
            assert default == option[2] or (section, option[1]) in NO_FIXED_DEFAULT, line
            shown += 1
    assert shown > 10


def test_the_example_of_one_file_for_the_cluster_is_read_also_when_uncommented() -> None:
    text = (ETC / "cluster.yaml").read_text()
    nodes = load_nodes(ETC / "nodes")
    assert read_cluster(text, "cluster.yaml").node_addresses() == nodes
    uncommented = re.sub(r"^#(?=\S|  )", "", text, flags=re.MULTILINE)
    file = read_cluster(uncommented, "cluster.yaml")
    assert file.node_addresses() == nodes
    assert {given.option for given in file.settings} == {
        "cluster lock",
        "quorum",
        "location",
        "fence command",
        "fence timeout",
    }
    assert len(file.addresses) == 2
    assert file.tunables == (("MonitorInterval", Tunables().get("MonitorInterval")),)
    assert [option.script for option in file.services] == ["all", "50.samba"]


def test_the_example_nodes_are_all_in_service() -> None:
    # A comment in this file is a deleted node.
    nodes = load_nodes(ETC / "nodes")
    assert len(nodes) == 3
    assert not any(node.deleted for node in nodes)


def test_the_example_public_addresses_load() -> None:
    assert len(load_public_addresses(ETC / "public_addresses")) == 4


def test_the_example_tunables_are_the_defaults_also_when_uncommented() -> None:
    text = (ETC / "ctdb.tunables").read_text()
    shown = dict(re.findall(r"^#(\w+)=(\d+)$", text, re.MULTILINE))
    assert shown
    for name, value in shown.items():
        assert Tunables().get(name) == int(value), name
    assert load_tunables(ETC / "ctdb.tunables", ETC / "tunables.d") == (Tunables(), ())


def test_the_example_script_options_are_ones_that_a_script_reads() -> None:
    text = (ETC / "script.options").read_text()
    assert parse_script_options(text, "script.options", "/etc/ctdb") == ()
    uncommented = re.sub(r"^# (CTDB_\w+=\S.*?)(\t\t# e\.g\.)?$", r"\1", text, flags=re.MULTILINE)
    options = [name for _, name, _ in parse_script_options(uncommented, "script.options", "/etc/ctdb")]
    assert len(options) > 40
    scripts = [*(ROOT / "eventscripts").glob("*.script"), *(ROOT / "ctdbpy" / "services").rglob("*.py")]
    read = "".join(path.read_text() for path in scripts)
    assert [name for name in options if not re.search(rf"\b{name}\b", read)] == []
