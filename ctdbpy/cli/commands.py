# SPDX-License-Identifier: GPL-3.0-or-later
"""How commands are written: groups, options that all have, and answers that show themselves.

    @node.command("uptime")
    @about_node
    @answers
    def uptime(session: Session, node: int | None) -> Answer:
        '''Show since when a node's daemon runs.'''
        with session.connect() as connection:
            found = connection.ask(Control.UPTIME, destnode=target(connection, node))
        return {"since": ...}

A group's commands are in a module of their own that is imported when one of them, or its help, is asked for.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from ctdbpy.cli.session import PATIENCE_S, Session
from ctdbpy.client.connection import Connection
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError, CtdbpyError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag, flag_names
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.structures import NodeEntry, NodeMap, ReasonReport

Answer = dict[str, Any]

_P = ParamSpec("_P")
_F = TypeVar("_F", bound=Callable[..., Any])

_NODE: Final = click.IntRange(0, UNKNOWN_PNN - 1)


class Command(click.Command):
    """A command; every one takes --json, wherever it stands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--json"], is_flag=True, expose_value=False, callback=_set("as_json"), help="Answer in JSON."
            )
        )


class Group(click.Group):
    """A group of such commands; `parts` are modules that add more of them when they are imported."""

    command_class = Command

    def __init__(self, *args: Any, parts: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts = parts

    def list_commands(self, ctx: click.Context) -> list[str]:
        for part in self._parts:
            importlib.import_module(part)
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        for part in self._parts if found is None else ():
            importlib.import_module(part)
        return found or super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Whole first sentences: click cuts them to what is left of the line.
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, each.get_short_help_str(limit=200)) for name, each in found if each is not None]
            )


class LazyGroup(Group):
    """A group whose members are imported when they are needed: name -> (module, attribute, help)."""

    def __init__(self, *args: Any, rows: Mapping[str, tuple[str, str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows = rows

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = self._rows.get(cmd_name)
        if row is None:
            return None
        found: click.Command = getattr(importlib.import_module(row[0]), row[1])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row[2]) for name, row in self._rows.items()])


def group(text: str, *parts: str) -> Group:
    """A group of commands about something, some of them in other modules."""
    return Group(help=text, parts=parts)


def answers(function: Callable[Concatenate[Session, _P], Answer]) -> Callable[_P, None]:
    """The function's answer is shown."""

    @functools.wraps(function)
    def show(*args: _P.args, **kwargs: _P.kwargs) -> None:
        session: Session = click.get_current_context().obj
        session.show(function(session, *args, **kwargs))

    return show


def _set(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def note(context: click.Context, _param: click.Parameter, value: Any) -> None:
        # Given behind the command or in front of it: once is enough.
        if value is not None and value is not False:
            setattr(context.find_object(Session), field, value)

    return note


def asks(function: _F) -> _F:
    """A deed that is not done without a yes (see Session.confirm)."""
    option = click.option(
        "-y",
        "--yes",
        is_flag=True,
        expose_value=False,
        callback=_set("is_sure"),
        help="Do it without asking.",
    )
    return option(function)


def waits(function: _F) -> _F:
    """A deed that takes a while: it is waited for, or not."""
    option = click.option(
        "--wait/--no-wait",
        default=None,
        expose_value=False,
        callback=_set_wait,
        help="Wait until it has come to its end, and say what is waited for; or do not wait.",
    )
    return option(function)


def _set_wait(context: click.Context, _param: click.Parameter, value: bool | None) -> None:
    session = context.find_object(Session)
    if session is not None and value is not None:
        session.wait = value


def about_node(function: _F) -> _F:
    """A command about this node, or another one."""
    option = click.option(
        "-n",
        "--node",
        type=_NODE,
        metavar="PNN",
        shell_complete=_complete_nodes,
        help="About that node, not this one.",
    )
    return option(function)


def a_node(function: _F) -> _F:
    """A command about the node that is named, or this one."""
    argument = click.argument(
        "node", type=_NODE, required=False, metavar="[PNN]", shell_complete=_complete_nodes
    )
    return argument(function)


def a_database(function: _F) -> _F:
    """A command about a database, by name or by a number that begins with 0x."""
    return click.argument("database", metavar="DB", shell_complete=_complete_databases)(function)


def _complete_databases(_context: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    from ctdbpy.client.databases import list_databases

    # Who completes a word wants no complaints, and no waiting.
    with suppress(CtdbpyError), _connect_briefly() as connection:
        names = [each.name for each in list_databases(connection, connection.pnn)]
        return sorted(name for name in names if name.startswith(begun))
    return []


def _complete_nodes(_context: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    with suppress(CtdbpyError), _connect_briefly() as connection:
        return [str(node.pnn) for node in nodes_of(connection) if str(node.pnn).startswith(begun)]
    return []


def _connect_briefly() -> Connection:
    return Connection(Paths.from_environment(os.environ).socket, timeout_s=PATIENCE_S)


# -- nodes ------------------------------------------------------------------------------------------


def nodes_of(connection: Connection) -> list[NodeEntry]:
    """The nodes as this node's daemon knows them, without deleted ones."""
    nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
    return [node for node in nodemap.nodes if not node.flags & NodeFlag.DELETED]


def target(connection: Connection, pnn: int | None) -> int:
    """The node a command is about. Raises ClientError at once when it cannot be asked."""
    if pnn is None or pnn == connection.pnn:
        return connection.pnn
    for node in nodes_of(connection):
        if node.pnn == pnn:
            if node.flags & NodeFlag.DISCONNECTED:
                raise ClientError(f"cannot ask node {pnn}: it is {flag_names(NodeFlag(node.flags))}")
            return pnn
    raise unknown_node(connection, pnn)


def need_active(connection: Connection, what: str) -> None:
    """Raises ClientError when this node takes no part: it knows nothing of the records of the others."""
    own = next((node.flags for node in nodes_of(connection) if node.pnn == connection.pnn), 0)
    if NodeFlag(own) & (NodeFlag.STOPPED | NodeFlag.BANNED):
        raise ClientError(f"cannot {what}: this node is {flag_names(NodeFlag(own))}; ask on another one")


def unknown_node(connection: Connection, pnn: int) -> ClientError:
    """The error for a node that does not exist."""
    known = ", ".join(str(node.pnn) for node in nodes_of(connection))
    return ClientError(f"cannot find node {pnn}: there is none; there are {known}")


def reasons_of(connection: Connection, pnn: int = UNKNOWN_PNN) -> ReasonReport | None:
    """Why nodes are as they are; None from a daemon that keeps no reasons."""
    reply = connection.control(Control.GET_REASONS, pnn)
    if reply.status != 0:
        return None
    report: ReasonReport = decode_reply(Control.GET_REASONS, reply.data)
    return report
