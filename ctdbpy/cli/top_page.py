# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of `ctdbctl top`, from two snapshots: no time, terminal or daemon is looked at here."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from typing import Any, Final

import click

from ctdbpy.cli.tables import Paint, plain, span, table_text

_BAD: Final = "red"
_GOOD: Final = "green"
#: Columns of the table of nodes, the one that is missed least first.
_LESS: Final = ("locks", "pending", "packets/s", "since", "recoveries", "clients", "address")
_RESULTS: Final = {0: "OK", -errno.ENOEXEC: "disabled", -errno.ETIMEDOUT: "hung"}


def page(before: dict[str, Any] | None, now: dict[str, Any], width: int, *, colour: bool = False) -> str:
    """The text of the page; speeds are the difference of the two snapshots, unknown without a first."""
    paint = _paint if colour else plain
    parts = [
        _head(now, width),
        _nodes_text([_node(before, now, row) for row in now["nodes"]], width, paint),
        table_text(now["hot_records"], width) or "no records are hot\n",
        table_text([_script(row) for row in now["scripts"]], width, paint),
        "".join(f"{_event(event)[:width]}\n" for event in now["events"]),
    ]
    return "\n".join(part for part in parts if part)


def _head(now: dict[str, Any], width: int) -> str:
    clock = datetime.fromtimestamp(now["wall_s"], UTC).astimezone().strftime("%H:%M:%S")
    leader = "nobody leads" if now["leader"] is None else f"node {now['leader']} leads"
    well = sum(row["state"] == "OK" for row in now["nodes"])
    mode = now["recovery_mode"].lower()
    return f"{clock}  {leader}, {mode}, {well} of {len(now['nodes'])} nodes are well"[:width] + "\n"


def _nodes_text(rows: list[dict[str, Any]], width: int, paint: Paint) -> str:
    """The table of nodes, without what matters least where a line is short."""
    dropped: set[str] = set()
    for column in ("", *_LESS):
        dropped.add(column)
        kept = [{name: value for name, value in row.items() if name not in dropped} for row in rows]
        if all(len(line) <= width for line in table_text(kept).splitlines()):
            break
    return table_text(kept, width, paint)


def _node(before: dict[str, Any] | None, now: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    counters = row["counters"] or {}
    return {
        "node": f"{row['pnn']}{'*' if row['this_node'] else ''}",
        "address": row["address"],
        "state": row["state"],
        "since": None if row["seconds"] is None else span(row["seconds"]),
        "ips": len(row["addresses"]),
        "clients": counters.get("clients"),
        "calls/s": _speed(before, now, row, "total_calls"),
        "migr/s": _speed(before, now, row, "migrations"),
        "packets/s": _speed(before, now, row, "node_packets_recv"),
        "pending": counters.get("pending_calls"),
        "locks": counters.get("waiting_locks"),
        "recoveries": counters.get("num_recoveries"),
    }


def _speed(
    before: dict[str, Any] | None, now: dict[str, Any], row: dict[str, Any], counter: str
) -> int | None:
    """Per second since the snapshot before; None when one of the two is not known, or counting began anew."""
    if before is None or row["counters"] is None:
        return None
    earlier = next((each["counters"] for each in before["nodes"] if each["pnn"] == row["pnn"]), None)
    seconds = now["monotonic_s"] - before["monotonic_s"]
    if earlier is None or seconds <= 0 or row["counters"][counter] < earlier[counter]:
        return None
    counted: int = row["counters"][counter] - earlier[counter]
    return int(counted / seconds + 0.5)


def _script(row: dict[str, Any]) -> dict[str, Any]:
    state = _RESULTS.get(row["result"], f"failed ({row['result']})")
    return {"script": row["script"], "state": state, "seconds": round(row["seconds"], 3)}


def _event(event: dict[str, Any]) -> str:
    clock = datetime.fromtimestamp(event["wall_s"], UTC).astimezone().strftime("%H:%M:%S")
    state = f"{event['state']}: " if event["kind"] == "flags" else ""
    return f"{clock} node {event['pnn']} {event['kind']}: {state}{event['text']}"


def _paint(column: str, text: str) -> str:
    if column != "state":
        return text
    return click.style(text, fg=_GOOD if text in ("OK", "disabled") else _BAD)
