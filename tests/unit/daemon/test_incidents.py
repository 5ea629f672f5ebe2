# SPDX-License-Identifier: GPL-3.0-or-later
"""In JSON, lines of one recovery are told by the same word in the logs of all nodes."""

from __future__ import annotations

import json

from ctdbpy.wire.controls import Control
from tests.unit.daemon.conftest import Cluster, Daemon, wait_until


def _recoveries(daemon: Daemon) -> dict[str, list[str]]:
    """By incident: how it said that the recovery is over."""
    found: dict[str, list[str]] = {}
    for line in daemon.log_path.read_text().splitlines():
        said = json.loads(line)
        if said["text"].startswith("recovery mode NORMAL"):
            found.setdefault(said["incident"], []).append(said["text"])
    return found


def test_a_recovery_has_the_same_word_on_all_nodes_and_the_next_another(make: Cluster) -> None:
    one, other = make(2, "quorum = none\n[logging]\nformat = json\n")
    one.start()
    other.start()

    def generation(daemon: Daemon) -> int:
        with daemon.connect() as connection:
            found: int = connection.ask(Control.GETVNNMAP).generation
            return found

    wait_until(lambda: generation(one) == generation(other), "both serve in one generation")
    incident = f"{generation(one):08x}"
    wait_until(
        lambda: incident in _recoveries(one) and incident in _recoveries(other),
        f"both logs tell of {incident}",
    )
    before = set(_recoveries(one))
    assert other.process is not None
    other.process.kill()
    wait_until(lambda: set(_recoveries(one)) - before, "the next recovery has another word")
    (following,) = set(_recoveries(one)) - before
    assert following == f"{generation(one):08x}"
