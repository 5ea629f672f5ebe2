# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations are compared fact by fact."""

from __future__ import annotations

from pathlib import Path

from ctdbpy.config.facts import changes, facts_of, facts_text, is_shared, parse_facts
from tests.unit.config.test_cluster_file import WHOLE, configure


def test_facts_travel_as_text(tmp_path: Path) -> None:
    facts = facts_of(configure(tmp_path))
    assert parse_facts(facts_text(facts)) == facts
    assert facts["[cluster] cluster lock"] == "/clusterfs/lock"
    assert facts["[logging] log level"] == "INFO"
    assert facts["node 1"] == "deleted"
    assert facts["address 192.0.2.1"] == "/24 on eth0,eth1"
    assert facts["tunable MonitorInterval"] == "20"
    assert facts["service 50.samba CTDB_SAMBA_SKIP_SHARE_CHECK"] == "yes"


def test_another_text_is_another_configuration(tmp_path: Path) -> None:
    before = facts_of(configure(tmp_path))
    remark = facts_of(configure(tmp_path, f"# a remark\n{WHOLE}"))
    lock = facts_of(configure(tmp_path, WHOLE.replace("/clusterfs/lock", "/other/lock")))
    assert [name for name, _before, _after in changes(before, remark)] == ["configuration"]
    assert next(iter(changes(before, lock))) == ("[cluster] cluster lock", "/clusterfs/lock", "/other/lock")
    assert is_shared("configuration")
    assert is_shared("[cluster] cluster lock")
    assert not is_shared("[logging] log level")


def test_what_comes_and_goes_is_a_change(tmp_path: Path) -> None:
    before = facts_of(configure(tmp_path))
    after = facts_of(configure(tmp_path, WHOLE.replace("192.0.2.1/24", "192.0.2.2/24")))
    assert [each for each in changes(before, after) if each[0] != "configuration"] == [
        ("address 192.0.2.1", "/24 on eth0,eth1", None),
        ("address 192.0.2.2", None, "/24 on eth0,eth1"),
    ]
