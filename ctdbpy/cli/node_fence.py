# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl node confirm-off`: an administrator's word where the fence command fails."""

from __future__ import annotations

import click

from ctdbpy.cli.commands import asks
from ctdbpy.cli.node import node
from ctdbpy.cli.session import Session
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import UNKNOWN_PNN
from ctdbpy.wire.controls import Control

#: The leader says so each second.
_LEADER_WAIT_S = 3.0


@node.command("confirm-off")
@click.argument("pnn", type=click.IntRange(0, UNKNOWN_PNN - 1))
@asks
@click.pass_obj
def confirm_off(session: Session, pnn: int) -> None:
    """Say that a lost node is off, where the fence command cannot; others go on without it.

    Look first: a node that still runs may write to files over what clients write through others from now on.
    """
    session.confirm(f"the others will go on as if node {pnn} had no power")
    with session.cluster() as cluster:
        leader = cluster.leader(_LEADER_WAIT_S)
        if leader is None:
            raise ClientError(f"cannot confirm that node {pnn} is off: nobody leads; see 'ctdbctl why'")
        cluster.connection.ask(Control.CONFIRM_FENCED, pnn, destnode=leader)
    session.done(f"node {pnn} is taken for off", node=pnn)
