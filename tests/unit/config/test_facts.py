# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations are compared fact by fact."""

from __future__ import annotations

from pathlib import Path

from ctdbpy.config.facts import changes, digest_of, facts_of, facts_text, is_shared, parse_facts
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


def test_only_what_nodes_must_share_makes_another_digest(tmp_path: Path) -> None:
    before = facts_of(configure(tmp_path))
    level = facts_of(configure(tmp_path, WHOLE.replace("log level: INFO", "log level: DEBUG")))
    lock = facts_of(configure(tmp_path, WHOLE.replace("/clusterfs/lock", "/other/lock")))
    assert digest_of(before) == digest_of(level) != digest_of(lock)
    assert list(changes(before, level)) == [("[logging] log level", "INFO", "DEBUG")]
    assert list(changes(before, lock)) == [("[cluster] cluster lock", "/clusterfs/lock", "/other/lock")]
    assert not is_shared("[logging] log level")


def test_what_comes_and_goes_is_a_change(tmp_path: Path) -> None:
    before = facts_of(configure(tmp_path))
    after = facts_of(configure(tmp_path, WHOLE.replace("192.0.2.1/24", "192.0.2.2/24")))
    assert list(changes(before, after)) == [
        ("address 192.0.2.1", "/24 on eth0,eth1", None),
        ("address 192.0.2.2", None, "/24 on eth0,eth1"),
    ]
