# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl status`: the cluster at a glance, from what this node's daemon knows.

No other node is waited for: of one that is silent the last known state is shown, since when, and why.
"""

from __future__ import annotations

import time
from typing import Any, Final

import click

from ctdbpy.cli import tables
from ctdbpy.cli.commands import Answer, Command, nodes_of, reasons_of
from ctdbpy.cli.session import PATIENCE_S, Session, paint, terminal_width
from ctdbpy.client.connection import Connection
from ctdbpy.client.nodes import Cluster
from ctdbpy.wire.constants import (
    INVALID_GENERATION,
    UNKNOWN_PNN,
    NodeFlag,
    RecoveryMode,
    RunState,
    flag_names,
)
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.structures import IfaceList, NodeEntry, VnnMap


@click.command(cls=Command)
@click.pass_obj
def status(session: Session) -> None:
    """Show the cluster at a glance: nodes, since when and why, leader, recovery mode, lmasters."""
    with session.connect() as connection:
        answer = cluster_status(connection)
    session.show(answer, _text)


#: A little more than a leader's time between two broadcasts.
BROADCAST_S: Final = 1.2


def cluster_status(connection: Connection) -> Answer:
    """What `status` shows."""
    nodes = node_rows(connection)
    vnnmap: VnnMap = connection.ask(Control.GETVNNMAP)
    mode = connection.control(Control.GET_RECMODE).status
    return {
        "this_node": connection.pnn,
        "run_state": RunState(connection.ask(Control.GET_RUNSTATE)).name,
        "leader": leader_of(connection),
        "recovery_mode": "NORMAL" if mode == RecoveryMode.NORMAL else "RECOVERY",
        "generation": None if vnnmap.generation == INVALID_GENERATION else vnnmap.generation,
        "lmasters": list(vnnmap.map),
        "nodes": nodes,
    }


def leader_of(connection: Connection) -> int | None:
    """Whom this node follows; None is nobody."""
    reply = connection.control(Control.GET_LEADER)
    if reply.status != 0:
        # Upstream's daemon does not say, but its leader makes itself heard each second.
        return Cluster(connection).leader(BROADCAST_S)
    pnn: int = decode_reply(Control.GET_LEADER, reply.data)
    return None if pnn == UNKNOWN_PNN else pnn


def node_rows(connection: Connection) -> list[dict[str, Any]]:
    """One record for each node: its state as this node knows it, since when, and why."""
    nodes = nodes_of(connection)
    report = reasons_of(connection)
    standing = report.standing.entries if report is not None else ()
    partial = _partially_online(connection, nodes)
    rows = []
    for node in nodes:
        # The newest of those for flags that it wears is what the state is since.
        reasons = [each for each in standing if each.pnn == node.pnn and each.kind != "suspended"]
        newest = max(reasons, key=lambda each: each.wall_us, default=None)
        state = flag_names(NodeFlag(node.flags))
        rows.append(
            {
                "pnn": node.pnn,
                "address": node.address.host,
                "state": "PARTIALLYONLINE" if node.pnn in partial else state,
                "this_node": node.pnn == connection.pnn,
                "seconds": None if newest is None else round(time.time() - newest.wall_us / 1_000_000, 3),
                "reason": None if newest is None else newest.text,
            }
        )
    return rows


def _partially_online(connection: Connection, nodes: list[NodeEntry]) -> set[int]:
    """Nodes that are well, but with an interface that has no link; of those that say so in time."""
    well = [node.pnn for node in nodes if not node.flags]
    replies = connection.controls(Control.GET_IFACES, nodes=well, timeout_s=PATIENCE_S)
    partial = set()
    for pnn, reply in replies.items():
        if reply.status == 0:
            found: IfaceList = decode_reply(Control.GET_IFACES, reply.data)
            if any(not iface.link_state for iface in found.ifaces):
                partial.add(pnn)
    return partial


def nodes_text(rows: list[dict[str, Any]]) -> str:
    """Nodes as a table."""
    shown = [
        {
            "pnn": f"{row['pnn']}{'*' if row['this_node'] else ''}",
            "address": row["address"],
            "state": row["state"],
            "since": None if row["seconds"] is None else f"{tables.span(row['seconds'])} ago",
            "reason": row["reason"],
        }
        for row in rows
    ]
    return tables.table_text(shown, terminal_width(), paint)


def _text(answer: Answer) -> str:
    facts = {
        "leader": "nobody is known to lead" if answer["leader"] is None else f"node {answer['leader']}",
        "recovery_mode": answer["recovery_mode"],
        "generation": "invalid" if answer["generation"] is None else answer["generation"],
        "lmasters": answer["lmasters"],
    }
    if answer["run_state"] != RunState.RUNNING.name:
        facts = {"run_state": answer["run_state"], **facts}
    return f"{nodes_text(answer['nodes'])}* this node\n\n{tables.facts_text(facts, paint)}"
