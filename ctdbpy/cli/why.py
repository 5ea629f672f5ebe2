# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl why` and `ctdbctl events`: why nodes and addresses are as they are, and what led to it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

import click

from ctdbpy.cli.commands import Command
from ctdbpy.cli.session import Session
from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import UNKNOWN_PNN, NodeFlag, flag_names
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.structures import NodeEntry, NodeMap, Reason, ReasonReport

#: Events that `why NODE` shows; `events` shows all there are.
EVENTS_SHOWN: Final = 10

_Answer = dict[str, Any]


#: First words of what else there is to ask about.
_MORE: Final = ("recovery", "record")


def _about(
    _context: click.Context, _param: click.Parameter, words: tuple[str, ...]
) -> int | str | tuple[str, ...] | None:
    """The number of a node, an address, or more words."""
    if not words:
        return None
    value = words[0]
    if value in _MORE:
        return words
    try:
        if len(words) > 1:
            raise ValueError
        return int(value) if value.isdecimal() else str(ip_address(value))
    except ValueError:
        raise click.BadParameter(
            f"{' '.join(words)!r} is neither the number of a node nor an address, nor 'recovery' or "
            "'record DATABASE KEY'"
        ) from None


@click.command(cls=Command)
@click.argument(
    "about", nargs=-1, callback=_about, metavar="[NODE | ADDRESS | recovery | record DATABASE KEY]"
)
@click.pass_obj
def why(session: Session, about: int | str | tuple[str, ...] | None) -> None:
    """Say why NODE (or every node) is in the state it is in, or why ADDRESS is where it is.

    With NODE, also say what happened to it lately. `why recovery` says why recoveries have run, and `why
    record` what the users of a record wait for.
    """
    if isinstance(about, tuple):
        from ctdbpy.cli.why_more import explain

        explain(session, about)
        return
    if isinstance(about, str):
        from ctdbpy.cli.why_address import explain_address

        explain_address(session, about)
        return
    node = about
    with session.connect() as connection:
        nodes = _nodes(connection, node)
        report = _report(connection, node)
        answer: _Answer = {"nodes": [_node(each, connection.pnn, report) for each in nodes]}
    if node is not None:
        answer["events"] = [_event(each) for each in report.events.entries[-EVENTS_SHOWN:]]
    session.show(answer, _why_text)


@click.command(cls=Command)
@click.argument("node", type=click.IntRange(0, UNKNOWN_PNN - 1), required=False)
@click.option("-n", "--number", type=click.IntRange(1), help="Only the newest so many.")
@click.pass_obj
def events(session: Session, node: int | None, number: int | None) -> None:
    """Show what happened to NODE (or to any node), as the daemon of this node knows it, the newest last."""
    with session.connect() as connection:
        _nodes(connection, node)
        found = _report(connection, node).events.entries
    session.show({"events": [_event(each) for each in found[-(number or len(found)) :]]}, _events_text)


COMMANDS: Final[tuple[click.Command, ...]] = (why, events)


# -- asking ---------------------------------------------------------------------------------------


def _nodes(connection: Connection, pnn: int | None) -> list[NodeEntry]:
    nodemap: NodeMap = connection.ask(Control.GET_NODEMAP)
    found = [node for node in nodemap.nodes if not node.flags & NodeFlag.DELETED and pnn in (None, node.pnn)]
    if pnn is not None and not found:
        known = ", ".join(str(node.pnn) for node in nodemap.nodes if not node.flags & NodeFlag.DELETED)
        raise ClientError(f"cannot ask about node {pnn}: there is none; there are {known}")
    return found


def _report(connection: Connection, pnn: int | None) -> ReasonReport:
    reply = connection.control(Control.GET_REASONS, UNKNOWN_PNN if pnn is None else pnn)
    if reply.status != 0:
        reason = reply.error or "the daemon of this node keeps none: it is not ctdbpyd"
        raise ClientError(f"cannot ask for reasons: {reason}")
    report: ReasonReport = decode_reply(Control.GET_REASONS, reply.data)
    return report


# -- as data --------------------------------------------------------------------------------------


def _node(node: NodeEntry, own_pnn: int, report: ReasonReport) -> _Answer:
    return {
        "pnn": node.pnn,
        "address": node.address.host,
        "this_node": node.pnn == own_pnn,
        "state": flag_names(NodeFlag(node.flags)),
        "reasons": [_standing(each) for each in report.standing.entries if each.pnn == node.pnn],
    }


def _standing(reason: Reason) -> _Answer:
    what = "SUSPENDED" if reason.kind == "suspended" else flag_names(NodeFlag(reason.flags))
    return {"what": what, "since": moment(reason.wall_us), "told_by": reason.source, "reason": reason.text}


def _event(event: Reason) -> _Answer:
    return {
        "time": moment(event.wall_us),
        "pnn": event.pnn,
        "told_by": event.source,
        "kind": event.kind,
        "state": flag_names(NodeFlag(event.flags)),
        "text": event.text,
    }


def moment(wall_us: int) -> str:
    """A moment in ISO 8601, in universal time; what no calendar has is given in seconds."""
    try:
        return datetime.fromtimestamp(wall_us / 1_000_000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"@{wall_us // 1_000_000}"


# -- as text --------------------------------------------------------------------------------------


def _why_text(answer: _Answer) -> str:
    lines: list[str] = []
    for node in answer["nodes"]:
        own = " (this node)" if node["this_node"] else ""
        lines.append(f"node {node['pnn']} {node['address']}{own}: {node['state']}")
        lines += [
            f"    {reason['what']} since {local(reason['since'])}: {reason['reason']}"
            for reason in node["reasons"]
        ]
        if not node["reasons"] and node["state"] != "OK":
            lines.append("    nobody has said why")
    if answer.get("events"):
        lines += ["lately:", *(f"    {line}" for line in _event_lines(answer["events"], with_node=False))]
    return "".join(f"{line}\n" for line in lines)


def _events_text(answer: _Answer) -> str:
    return "".join(f"{line}\n" for line in _event_lines(answer["events"], with_node=True))


def _event_lines(found: Iterable[_Answer], *, with_node: bool) -> Iterable[str]:
    for event in found:
        node = f"node {event['pnn']} " if with_node else ""
        teller = "" if event["told_by"] == event["pnn"] else f" [node {event['told_by']} says]"
        state = f"{event['state']}: " if event["kind"] == "flags" else ""
        yield f"{local(event['time'])} {node}{event['kind']}: {state}{event['text']}{teller}"


def local(moment: str) -> str:
    """A moment as a clock on this node's wall shows it."""
    if moment.startswith("@"):
        return moment
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
