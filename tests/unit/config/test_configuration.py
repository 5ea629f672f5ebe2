# SPDX-License-Identifier: GPL-3.0-or-later
"""All files together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.config.configuration import Configuration, load
from ctdbpy.config.nodes import NodeAddress
from ctdbpy.config.paths import Paths
from ctdbpy.config.public_addresses import PublicAddress
from ctdbpy.config.settings import Settings
from ctdbpy.config.values import Quorum
from ctdbpy.errors import ConfigError
from ctdbpy.wire.tunables import Tunables

FILES = {
    "ctdb.conf": "[cluster]\nleader timeout = 7\nport = 4380\n",
    "nodes": "10.0.0.1\n10.0.0.2\n10.0.0.3\n",
    "public_addresses": "10.1.1.1/24 eth0\n",
    "ctdb.tunables": "MonitorInterval=20\n",
}


def load_files(base: Path, **changed: str | None) -> Configuration:
    for name, text in {
        **FILES,
        **{key.replace("_conf", ".conf"): text for key, text in changed.items()},
    }.items():
        if text is not None:
            (base / name).write_text(text)
    return load(Paths.from_environment({"CTDB_TEST_MODE": "yes", "CTDB_BASE": str(base)}))


def test_the_daemon_starts_with_what_the_files_say(tmp_path: Path) -> None:
    configuration = load_files(tmp_path)
    assert configuration == Configuration(
        settings=Settings(leader_timeout_s=7, port=4380),
        nodes=tuple(NodeAddress(pnn, f"10.0.0.{pnn + 1}") for pnn in range(3)),
        public_addresses=(PublicAddress("10.1.1.1", 24, ("eth0",)),),
        tunables=Tunables().replaced("MonitorInterval", 20),
        paths=Paths.from_environment({"CTDB_TEST_MODE": "yes", "CTDB_BASE": str(tmp_path)}),
        port=4380,
        quorum=Quorum.MAJORITY,
        warnings=(),
    )


def test_all_that_is_wrong_in_all_files_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_files(tmp_path, nodes="", public_addresses="10.1.1.1\n")
    assert "nodes:1: it names no node" in str(caught.value)
    assert "the prefix length is missing" in str(caught.value)


def test_a_missing_nodes_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_files(tmp_path, nodes=None)


def test_a_node_address_that_is_not_listed_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot use node address '10\.0\.0\.9'"):
        load_files(tmp_path, ctdb_conf="[cluster]\nnode address = 10.0.0.9\n")


def test_a_private_address_cannot_be_public(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is the private address of node 1"):
        load_files(tmp_path, public_addresses="10.0.0.2/24 eth0\n")


def test_wrong_tunables_are_warnings(tmp_path: Path) -> None:
    (tmp_path / "ctdb.tunables").write_text("")
    (tmp_path / "tunables.d").mkdir()
    (tmp_path / "tunables.d" / "x.tunables").write_text("Nonsense=1\n")
    (warning,) = load_files(tmp_path).warnings
    assert "there is no such tunable" in warning


FENCED = "[cluster]\nfence command = /bin/true --for me\nfence timeout = 7\n"


def test_a_fence_command_needs_a_quorum(tmp_path: Path) -> None:
    three = "10.0.0.1\n10.0.0.2\n10.0.0.3\n"
    settings = load_files(tmp_path, nodes=three, ctdb_conf=FENCED).settings
    assert (settings.fence_command, settings.fence_timeout_s) == ("/bin/true --for me", 7)
    load_files(tmp_path, nodes="10.0.0.1\n", ctdb_conf=FENCED)
    with pytest.raises(ConfigError, match=r"ctdb.conf:2: .*: it needs a quorum, or both sides of a split"):
        load_files(tmp_path, nodes="10.0.0.1\n10.0.0.2\n", ctdb_conf=FENCED)
    with pytest.raises(ConfigError, match="it needs a quorum"):
        load_files(tmp_path, nodes=three, ctdb_conf=f"{FENCED}quorum = none\n")


@pytest.mark.parametrize(
    ("nodes", "conf", "is_warned"),
    [
        ("10.0.0.1\n", "", False),
        ("10.0.0.1\n#gone\n#gone\n", "", False),
        ("10.0.0.1\n10.0.0.2\n", "", True),
        ("10.0.0.1\n10.0.0.2\n", "[cluster]\ncluster lock = /lock\n", False),
        ("10.0.0.1\n10.0.0.2\n10.0.0.3\n", "[cluster]\nquorum = none\n", True),
    ],
)
def test_a_cluster_that_could_split_is_warned_about(
    tmp_path: Path, nodes: str, conf: str, is_warned: bool
) -> None:
    warnings = load_files(tmp_path, nodes=nodes, ctdb_conf=conf).warnings
    assert bool(warnings) == is_warned
    assert all("split cluster" in warning for warning in warnings)
