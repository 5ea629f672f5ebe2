# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl node statistics` and `history`: what a node's daemon counts."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import click

from ctdbpy.cli.commands import Answer, a_node, answers, asks, target
from ctdbpy.cli.node import node as nodes
from ctdbpy.cli.session import Session
from ctdbpy.wire.controls import Control
from ctdbpy.wire.nodes import Timeval
from ctdbpy.wire.statistics import LatencyCounter, Statistics
from ctdbpy.wire.structures import StatisticsList


@nodes.command("statistics")
@a_node
@answers
def statistics(session: Session, node: int | None) -> Answer:
    """Show what a node's daemon has counted."""
    with session.connect() as connection:
        number = target(connection, node)
        found: Statistics = connection.ask(Control.STATISTICS, destnode=number)
    return {"node": number, **flat(found)}


@nodes.command("history")
@a_node
@click.option(
    "--count", type=click.IntRange(1, 100), default=10, show_default=True, help="So many intervals."
)
@answers
def history(session: Session, node: int | None, count: int) -> Answer:
    """Show what it has counted interval by interval, the newest first."""
    with session.connect() as connection:
        number = target(connection, node)
        found: StatisticsList = connection.ask(Control.GET_STAT_HISTORY, destnode=number)
    entries = [each for each in found.entries if each.start.sec][:count]
    shown = ("total_calls", "client_packets_recv", "node_packets_recv", "max_hop_count", "num_recoveries")
    rows = [
        {"seconds": round(each.current.time_s - each.start.time_s, 3)}
        | {name: getattr(each, name) for name in shown}
        | {"call_seconds_max": each.call_latency.max}
        for each in entries
    ]
    return {"node": number, "intervals": rows}


@nodes.command("statistics-reset")
@a_node
@asks
@click.pass_obj
def statistics_reset(session: Session, node: int | None) -> None:
    """Set a node's counters back, hot keys included."""
    session.confirm("what has been counted so far is lost")
    with session.connect() as connection:
        number = target(connection, node)
        connection.ask(Control.STATISTICS_RESET, destnode=number)
    session.done(f"the counters of node {number} begin anew", node=number)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A structure of counters as one level of facts, groups divided by dots."""
    found: dict[str, Any] = {}
    for field in fields(value):
        name, each = f"{prefix}{field.name}", getattr(value, field.name)
        match each:
            case Timeval():
                found[name] = each.time_s
            case LatencyCounter():
                average = each.total / each.num if each.num else 0.0
                found[name] = {"count": each.num, "min": each.min, "average": average, "max": each.max}
            case tuple():
                found[name] = list(each)
            case _ if is_dataclass(each):
                found |= flat(each, f"{name}.")
            case _:
                found[name] = each
    return found
