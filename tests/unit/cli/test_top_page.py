# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of `ctdbctl top` shows speeds between two looks, and says when it does not know."""

from __future__ import annotations

import copy
import re
from typing import Any

from ctdbpy.cli.top_page import page

COUNTERS = {
    "total_calls": 1000,
    "node_packets_recv": 500,
    "client_packets_recv": 800,
    "num_recoveries": 2,
    "migrations": 40,
    "clients": 7,
    "pending_calls": 1,
    "waiting_locks": 0,
    "call_seconds_max": 0.25,
}


def node(pnn: int, **changes: Any) -> dict[str, Any]:
    return {
        "pnn": pnn,
        "address": f"192.0.2.{pnn + 1}",
        "state": "OK",
        "this_node": pnn == 0,
        "seconds": 75.0,
        "reason": "no event script says otherwise",
        "counters": dict(COUNTERS),
        "addresses": ["198.51.100.1"],
    } | changes


def look(**changes: Any) -> dict[str, Any]:
    return {
        "leader": 1,
        "recovery_mode": "NORMAL",
        "nodes": [node(0), node(1)],
        "monotonic_s": 100.0,
        "wall_s": 0.0,
        "hot_records": [{"database": "locking.tdb", "key": "00ff", "hops": 33}],
        "scripts": [{"script": "50.samba", "result": 0, "seconds": 0.2}],
        "events": [{"wall_s": 0.0, "pnn": 1, "kind": "flags", "state": "OK", "text": "it is well"}],
    } | changes


def cells(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(first)]
    return re.split(r" {2,}", line)


def test_speeds_are_what_was_counted_between_two_looks() -> None:
    before, now = look(), look(monotonic_s=102.0)
    now["nodes"][0]["counters"] |= {"total_calls": 1500, "migrations": 60, "node_packets_recv": 504}
    text = page(before, now, 200)
    assert "node 1 leads, normal, 2 of 2 nodes are well" in text.splitlines()[0]
    assert cells(text, "0*")[4:] == ["1", "7", "250", "10", "2", "1", "0", "2"]
    assert "locking.tdb" in text and "00ff" in text and "50.samba" in text and "flags: OK: it is well" in text


def test_what_is_not_known_is_not_made_up() -> None:
    before, now = look(), look(leader=None, hot_records=[], monotonic_s=102.0)
    now["nodes"][1] |= {"state": "DISCONNECTED", "counters": None, "addresses": []}
    now["nodes"][0]["counters"]["total_calls"] = 3  # Its daemon is a new one.
    text = page(before, now, 200)
    assert "nobody leads, normal, 1 of 2 nodes are well" in text
    assert cells(text, "0*")[6] == "-"
    assert cells(text, "1 ")[4:] == ["0", "-", "-", "-", "-", "-", "-", "-"]
    assert "no records are hot" in text
    assert "-" in cells(page(None, look(), 200), "0*")[6]


def test_every_line_fits() -> None:
    now = copy.deepcopy(look())
    now["events"][0]["text"] = "x" * 500
    now["hot_records"][0]["key"] = "ab" * 300
    for width in (60, 80, 130):
        assert all(len(line) <= width for line in page(now, now, width).splitlines())


def test_states_have_colours_where_colours_are_wanted() -> None:
    now = look()
    now["scripts"][0]["result"] = 3
    assert "\x1b[" not in page(None, now, 100)
    coloured = page(None, now, 100, colour=True)
    assert "\x1b[32mOK\x1b[0m" in coloured and "\x1b[31mfailed (3)\x1b[0m" in coloured
