# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts are told what the daemon is configured with, whichever files count."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdbpy.errors import ServiceError
from ctdbpy.services import addresses, configured
from ctdbpy.services.event import Event

_CLUSTER = """\
nodes:
  - {{number: 0, address: 127.0.0.1}}
cluster lock: {base}/locks/lock
addresses:
  - {{address: 192.0.2.1/24, interfaces: [eth0]}}
settings:
  database:
    volatile database directory: {base}
"""


@pytest.fixture
def event(tmp_path: Path) -> Event:
    """An event of a daemon in test mode, whose files are all in one directory."""
    return Event.from_environment("init", [], {"CTDB_TEST_MODE": "yes", "CTDB_BASE": str(tmp_path)})


def test_upstreams_files_count_where_there_is_no_cluster_file(event: Event) -> None:
    (event.base / "ctdb.conf").write_text(
        f"[cluster]\ncluster lock = /lock\n[database]\nstate database directory = {event.base}\n"
    )
    (event.base / "public_addresses").write_text("192.0.2.7/24 eth0\n")
    assert configured.settings(event).lock == "/lock"
    assert configured.paths(event).databases == (
        event.base / "var/volatile",
        event.base / "var/persistent",
        event.base,
    )
    assert [each.address for each in configured.public_addresses(event)] == ["192.0.2.7"]


def test_the_cluster_file_counts_where_it_is(event: Event) -> None:
    (event.base / "ctdb.conf").write_text("[cluster]\ncluster lock = /other\n")
    (event.base / "cluster.yaml").write_text(_CLUSTER.format(base=event.base))
    assert configured.settings(event).lock == f"{event.base}/locks/lock"
    assert configured.paths(event).volatile == event.base
    assert [each.address for each in configured.public_addresses(event)] == ["192.0.2.1"]
    (event.base / "public_addresses").write_text("192.0.2.7/24 eth0\n")
    assert addresses.public(event) == ["192.0.2.1"]


def test_what_is_wrong_with_a_file_is_told(event: Event) -> None:
    (event.base / "ctdb.conf").write_text("[cluster]\nleader timeout = never\n")
    with pytest.raises(ServiceError, match="leader timeout"):
        configured.paths(event)
    (event.base / "public_addresses").write_text("192.0.2.7\n")
    with pytest.raises(ServiceError, match="public_addresses"):
        configured.public_addresses(event)
