# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of cluster.yaml tells what the reader takes, and its example is one."""

from __future__ import annotations

from pathlib import Path

from ctdbpy.config import cluster_manual, cluster_reader
from ctdbpy.config.cluster_manual import KEYS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "man" / "cluster.yaml.5"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == cluster_manual.cluster_manual(), (
        "run: python -m ctdbpy.config.cluster_manual >docs/man/cluster.yaml.5"
    )


def test_it_names_every_key_that_the_reader_takes() -> None:
    assert set(KEYS["KEYS"]) == set(cluster_reader._TOP)
    assert set(KEYS["NODES"]) == set(cluster_reader._OF_NODE)
    assert set(KEYS["ADDRESSES"]) == set(cluster_reader._OF_ADDRESS)


def test_its_example_is_a_cluster_file() -> None:
    file = cluster_reader.read_cluster(cluster_manual._EXAMPLE, "example")
    assert [node.number for node in file.nodes] == [0, 1, 2]
    assert file.addresses[0].home == 0
