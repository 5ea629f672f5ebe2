# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything lives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ctdbpy.config.paths import Paths
from ctdbpy.config.settings import Settings
from ctdbpy.errors import ConfigError


def test_paths_are_where_debian_has_them() -> None:
    paths = Paths.from_environment({})
    assert paths == Paths(
        etc=Path("/etc/ctdb"),
        run=Path("/run/ctdb"),
        var=Path("/var/lib/ctdb"),
        data=Path("/usr/share/ctdb"),
        socket=Path("/run/ctdb/ctdbd.socket"),
        pidfile=Path("/run/ctdb/ctdbd.pid"),
        nodes="/etc/ctdb/nodes",
        volatile=Path("/var/lib/ctdb/volatile"),
        persistent=Path("/var/lib/ctdb/persistent"),
        state=Path("/var/lib/ctdb/state"),
        test_mode=False,
    )
    assert paths.conf == Path("/etc/ctdb/ctdb.conf")
    assert paths.tunables == Path("/etc/ctdb/ctdb.tunables")
    assert paths.tunables_directory == Path("/etc/ctdb/tunables.d")
    assert paths.public_addresses == Path("/etc/ctdb/public_addresses")
    assert paths.event_scripts == Path("/etc/ctdb/events/legacy")
    assert paths.notify_script == Path("/etc/ctdb/notify.sh")
    assert paths.event_socket == Path("/run/ctdb/eventd.socket")


def test_test_mode_puts_everything_below_the_base() -> None:
    paths = Paths.from_environment({"CTDB_TEST_MODE": "yes", "CTDB_BASE": "/t/node.0"})
    assert paths.test_mode
    assert paths.etc == Path("/t/node.0")
    assert paths.socket == Path("/t/node.0/run/ctdbd.socket")
    assert paths.databases == tuple(
        Path(f"/t/node.0/var/{name}") for name in ("volatile", "persistent", "state")
    )


def test_the_base_alone_changes_nothing() -> None:
    assert Paths.from_environment({"CTDB_BASE": "/elsewhere"}) == Paths.from_environment({})


@pytest.mark.parametrize("base", [{}, {"CTDB_BASE": ""}])
def test_test_mode_needs_a_base(base: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="set CTDB_BASE"):
        Paths.from_environment({"CTDB_TEST_MODE": "yes", **base})


def test_the_socket_can_be_named() -> None:
    named = Paths.from_environment({"CTDB_SOCKET": "/tmp/s"})
    assert named == dataclasses.replace(Paths.from_environment({}), socket=Path("/tmp/s"))


def test_settings_move_directories_and_nodes() -> None:
    settings = Settings(volatile_directory=Path("/ram"), nodes_list="!/bin/nodes")
    moved = Paths.from_environment({}).with_settings(settings)
    assert moved == dataclasses.replace(
        Paths.from_environment({}), volatile=Path("/ram"), nodes="!/bin/nodes"
    )
