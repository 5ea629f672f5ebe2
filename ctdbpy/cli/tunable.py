# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl tunable`: settings that are changed while the daemon runs, until it ends."""

from __future__ import annotations

import click

from ctdbpy.cli.commands import Answer, about_node, answers, group, target
from ctdbpy.cli.session import Session
from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import TunableValue, VarList
from ctdbpy.wire.tunables import Tunables, find_tunable

tunable = group("Settings that are changed while the daemon runs.")

_OBSOLETE = 1


def _complete(_context: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    names = [name for name, _value in Tunables().pairs()]
    return [name for name in names if name.lower().startswith(begun.lower())]


@tunable.command("list")
@click.option("--changed", is_flag=True, help="Only those that are not at their defaults.")
@about_node
@answers
def list_(session: Session, changed: bool, node: int | None) -> Answer:
    """Show all tunables of a node, and what they mean."""
    with session.connect() as connection:
        number = target(connection, node)
        names: VarList = connection.ask(Control.LIST_TUNABLES, destnode=number)
        values = {name: connection.ask(Control.GET_TUNABLE, name, destnode=number) for name in names.names}
    rows = []
    for name, value in values.items():
        spec = find_tunable(name)
        default = spec.default if spec is not None else None
        if not changed or value != default:
            meaning = spec.meaning if spec is not None else ""
            rows.append({"tunable": name, "value": value, "default": default, "meaning": meaning})
    return {"tunables": rows}


@tunable.command("get")
@click.argument("name", shell_complete=_complete)
@about_node
@answers
def get(session: Session, name: str, node: int | None) -> Answer:
    """Show one tunable."""
    with session.connect() as connection:
        number = target(connection, node)
        known = _known(connection, name, number)
        return {known: connection.ask(Control.GET_TUNABLE, known, destnode=number)}


@tunable.command("set")
@click.argument("name", shell_complete=_complete)
@click.argument("value", type=click.IntRange(0, 2**32 - 1))
@about_node
@click.pass_obj
def set_(session: Session, name: str, value: int, node: int | None) -> None:
    """Set a tunable on a node until its daemon ends; ctdb.tunables or cluster.yaml makes it last."""
    with session.connect() as connection:
        number = target(connection, node)
        known = _known(connection, name, number)
        reply = connection.control(Control.SET_TUNABLE, TunableValue(known, value), destnode=number)
    if reply.status == _OBSOLETE:
        raise ClientError(f"cannot set '{known}': it is obsolete and means nothing any more")
    if reply.status != 0:
        raise ClientError(f"cannot set '{known}' to {value}: {reply.error or f'status {reply.status}'}")
    session.done(f"{known} is {value} on node {number}", tunable=known, value=value, node=number)


def _known(connection: Connection, name: str, node: int) -> str:
    names: VarList = connection.ask(Control.LIST_TUNABLES, destnode=node)
    for each in names.names:
        if each.lower() == name.lower():
            return each
    similar = [each for each in names.names if name.lower() in each.lower()]
    hint = f"; there are {', '.join(similar[:5])}" if similar else "; see `ctdbctl tunable list`"
    raise ClientError(f"cannot find tunable '{name}': there is none{hint}")
