# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl cluster`: who leads, recoveries, lmasters, the cluster lock."""

from __future__ import annotations

import click

from ctdbpy.cli.commands import Answer, about_node, answers, group, need_active, target, waits
from ctdbpy.cli.session import Session
from ctdbpy.cli.status import leader_of
from ctdbpy.wire.constants import INVALID_GENERATION, RecoveryMode
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import VnnMap

cluster = group("Leader, recovery, lmasters, cluster lock.")


@cluster.command("leader")
@answers
def leader(session: Session) -> Answer:
    """Show who leads."""
    with session.connect() as connection:
        return {"leader": leader_of(connection)}


@cluster.command("lmasters")
@about_node
@answers
def lmasters(session: Session, node: int | None) -> Answer:
    """Show the generation and the lmasters of its recovery."""
    with session.connect() as connection:
        number = target(connection, node)
        vnnmap: VnnMap = connection.ask(Control.GETVNNMAP, destnode=number)
    return {
        "generation": None if vnnmap.generation == INVALID_GENERATION else vnnmap.generation,
        "lmasters": [{"hash": index, "lmaster": pnn} for index, pnn in enumerate(vnnmap.map)],
    }


@cluster.command("mode")
@about_node
@answers
def mode(session: Session, node: int | None) -> Answer:
    """Show whether a recovery is under way."""
    with session.connect() as connection:
        number = target(connection, node)
        found = connection.control(Control.GET_RECMODE, destnode=number).status
    return {"recovery_mode": "NORMAL" if found == RecoveryMode.NORMAL else "RECOVERY"}


@cluster.command("lock")
@about_node
@answers
def lock(session: Session, node: int | None) -> Answer:
    """Show the cluster lock that a leader has to hold."""
    with session.connect() as connection:
        number = target(connection, node)
        return {"lock": connection.ask(Control.GET_RECLOCK_FILE, destnode=number) or None}


@cluster.command("recover")
@about_node
@waits
@click.pass_obj
def recover(session: Session, node: int | None) -> None:
    """Recover the databases; clients wait a moment, and nothing is lost."""
    with session.cluster() as found:
        number = target(found.connection, node)
        need_active(found.connection, "recover the databases")
        if session.wait is False:
            found.connection.ask(Control.SET_RECMODE, RecoveryMode.ACTIVE, destnode=number)
            session.done("a recovery begins")
            return
        found.recover(number)
        generation = found.generation()
    session.done(f"the databases are recovered, generation {generation}", generation=generation)
