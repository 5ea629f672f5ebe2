# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl node`: the states of nodes and what they may be, and the daemon that runs there."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import click

from ctdbpy.cli.commands import (
    Answer,
    a_node,
    about_node,
    answers,
    asks,
    group,
    nodes_of,
    target,
    unknown_node,
    waits,
)
from ctdbpy.cli.session import Session
from ctdbpy.cli.status import node_rows, nodes_text
from ctdbpy.client.connection import Connection, NoDaemon, TimeUp
from ctdbpy.client.drain import CLIENTS_LIMIT_S
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import Capability, NodeFlag, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_MEM_DUMP
from ctdbpy.wire.structures import BanState, PidSrvid, SrvidMessage, Uptime

node = group(
    "Nodes: states, draining, roles, counters, running commands.",
    "ctdbpy.cli.node_counters",
    "ctdbpy.cli.node_exec",
    "ctdbpy.cli.node_fence",
)

_ROLES: Final = {
    "leader": (Capability.RECMASTER, Control.SET_RECMASTERROLE),
    "lmaster": (Capability.LMASTER, Control.SET_LMASTERROLE),
}


# -- states -----------------------------------------------------------------------------------------


@node.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """Show all nodes: state, since when, and why."""
    with session.connect() as connection:
        answer = {"nodes": node_rows(connection)}
    session.show(answer, lambda shown: nodes_text(shown["nodes"]))


@node.command("status")
@click.argument("nodes", type=click.IntRange(0), nargs=-1, metavar="[PNN]...")
@click.pass_obj
def status(session: Session, nodes: tuple[int, ...]) -> int:
    """Show the states of nodes, this one's by default, and exit with them.

    The exit code has the bits 1 disconnected, 2 unhealthy, 4 disabled, 8 banned and 32 stopped of all
    nodes asked about.
    """
    with session.connect() as connection:
        wanted = nodes or (connection.pnn,)
        rows = [row for row in node_rows(connection) if row["pnn"] in wanted]
        flags = {each.pnn: each.flags for each in nodes_of(connection)}
        for pnn in wanted:
            if pnn not in flags:
                raise unknown_node(connection, pnn)
    session.show({"nodes": rows}, lambda shown: nodes_text(shown["nodes"]))
    code = 0
    for pnn in wanted:
        code |= flags[pnn]
    return code


def _change(
    session: Session,
    pnn: int | None,
    flag: NodeFlag,
    *,
    to: bool,
    text: str,
    order: Callable[[Connection, int], object],
) -> None:
    """Have a node wear a flag or lose it, and addresses follow. Nothing is done when it is so already."""
    with session.cluster() as cluster:
        connection = cluster.connection
        number = target(connection, pnn)
        if bool(cluster.node(number).flags & flag) is to:
            session.done(f"node {number} is {text} already", node=number)
            return
        order(connection, number)
        if session.wait is not False:
            cluster.wait_for_flags(number, flag, are_set=to)
            cluster.take_over()
    session.done(f"node {number} is {text}", node=number)


def _simple(opcode: Control) -> Callable[[Connection, int], object]:
    return lambda connection, pnn: connection.ask(opcode, destnode=pnn)


@node.command("disable")
@a_node
@asks
@waits
@click.pass_obj
def disable(session: Session, node: int | None) -> None:
    """Have a node serve no public addresses; it stays in the cluster."""
    session.confirm(f"{_named(node)} will serve no public addresses; they move to other nodes")
    flag = NodeFlag.PERMANENTLY_DISABLED
    _change(session, node, flag, to=True, text="disabled", order=_simple(Control.DISABLE_NODE))


@node.command("enable")
@a_node
@waits
@click.pass_obj
def enable(session: Session, node: int | None) -> None:
    """Have a node serve public addresses again."""
    flag = NodeFlag.PERMANENTLY_DISABLED
    _change(session, node, flag, to=False, text="enabled", order=_simple(Control.ENABLE_NODE))


@node.command("stop")
@a_node
@asks
@waits
@click.pass_obj
def stop(session: Session, node: int | None) -> None:
    """Take a node out of the cluster at once; `drain` lets its clients leave first."""
    session.confirm(f"{_named(node)} will leave the cluster: its clients lose their connections")
    _change(session, node, NodeFlag.STOPPED, to=True, text="stopped", order=_simple(Control.STOP_NODE))


@node.command("continue")
@a_node
@waits
@click.pass_obj
def continue_(session: Session, node: int | None) -> None:
    """Have a stopped node take part again."""
    flag = NodeFlag.STOPPED
    _change(session, node, flag, to=False, text="not stopped", order=_simple(Control.CONTINUE_NODE))


@node.command("ban")
@a_node
@click.option("--seconds", type=click.IntRange(1, 2**32 - 1), required=True, help="For how long.")
@asks
@waits
@click.pass_obj
def ban(session: Session, node: int | None, seconds: int) -> None:
    """Keep a node out of the cluster for some time."""
    session.confirm(f"{_named(node)} will be kept out of the cluster for {seconds} s")

    def order(connection: Connection, pnn: int) -> None:
        connection.ask(Control.SET_BAN_STATE, BanState(pnn, seconds), destnode=pnn)

    _change(session, node, NodeFlag.BANNED, to=True, text="banned", order=order)


@node.command("unban")
@a_node
@waits
@click.pass_obj
def unban(session: Session, node: int | None) -> None:
    """End a ban."""

    def order(connection: Connection, pnn: int) -> None:
        connection.ask(Control.SET_BAN_STATE, BanState(pnn, 0), destnode=pnn)

    _change(session, node, NodeFlag.BANNED, to=False, text="not banned", order=order)


@node.command("drain")
@a_node
@click.option(
    "--clients-limit",
    type=click.FloatRange(0),
    default=CLIENTS_LIMIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long clients have to leave.",
)
@click.option("--force", is_flag=True, help="Go on when clients stay, or an address can be nowhere else.")
@asks
@waits
@click.pass_obj
def drain(session: Session, node: int | None, clients_limit: float, force: bool) -> None:
    """Take a node out of service gently: addresses away, clients away, then stopped."""
    from ctdbpy.client.drain import drain

    session.confirm(f"{_named(node)} will be taken out of service: its addresses and clients go elsewhere")
    with session.cluster() as cluster:
        number = target(cluster.connection, node)
        drain(
            cluster.connection,
            number,
            clients_limit_s=clients_limit,
            force=force,
            on_progress=lambda progress: session.progress(f"it is drained: {progress.text}"),
        )
    session.done(f"node {number} is out of service", node=number)


@node.command("resume")
@a_node
@waits
@click.pass_obj
def resume(session: Session, node: int | None) -> None:
    """Undo a drain: the node takes part and serves again."""
    from ctdbpy.client.drain import resume

    with session.cluster() as cluster:
        number = target(cluster.connection, node)
        resume(
            cluster.connection,
            number,
            on_progress=lambda progress: session.progress(f"it is back: {progress.text}"),
        )
    session.done(f"node {number} is in service", node=number)


@node.command("shutdown")
@a_node
@asks
@click.pass_obj
def shutdown(session: Session, node: int | None) -> None:
    """End a node's daemon; public addresses and records go to the others."""
    session.confirm(f"the daemon of {_named(node)} will end")
    with session.connect() as connection:
        number = target(connection, node)
        connection.tell(Control.SHUTDOWN, destnode=number)
        if number == connection.pnn and session.wait is not False:
            _wait_for_end(connection)
    session.done(f"the daemon of node {number} ends", node=number)


def _wait_for_end(connection: Connection) -> None:
    deadline_s = time.monotonic() + connection.timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            connection.receive(left_s)
        except TimeUp:
            break
        except NoDaemon:
            return
    raise TimeUp("cannot wait longer for the daemon to end: its scripts may still run; see its log")


def _named(pnn: int | None) -> str:
    return "this node" if pnn is None else f"node {pnn}"


# -- the daemon there -------------------------------------------------------------------------------


@node.command("pnn")
@answers
def pnn(session: Session) -> Answer:
    """Show this node's number."""
    with session.connect() as connection:
        return {"pnn": connection.pnn}


@node.command("ping")
@a_node
@answers
def ping(session: Session, node: int | None) -> Answer:
    """Ask a node's daemon for a sign of life."""
    with session.connect() as connection:
        number = target(connection, node)
        begin_s = time.monotonic()
        clients = connection.control(Control.PING, destnode=number).status
        return {"node": number, "seconds": round(time.monotonic() - begin_s, 6), "clients": clients}


@node.command("uptime")
@a_node
@answers
def uptime(session: Session, node: int | None) -> Answer:
    """Show since when a node's daemon runs, and its last recovery."""
    with session.connect() as connection:
        number = target(connection, node)
        found: Uptime = connection.ask(Control.UPTIME, destnode=number)
    took_s = found.recovery_end.time_s - found.recovery_start.time_s
    return {
        "node": number,
        "now": _moment(found.now.time_s),
        "started": _moment(found.start.time_s),
        "last_recovery": _moment(found.recovery_end.time_s),
        "last_recovery_seconds": round(took_s, 6),
    }


@node.command("runstate")
@a_node
@click.option("--is", "wanted", multiple=True, metavar="STATE", help="Exit with 1 unless it is one of these.")
@click.pass_obj
def runstate(session: Session, node: int | None, wanted: tuple[str, ...]) -> int:
    """Show how far a node's daemon has come: init, setup, first_recovery, startup, running, shutdown."""
    known = {each.name.lower() for each in RunState}
    for name in wanted:
        if name.lower() not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(sorted(known))}")
    with session.connect() as connection:
        number = target(connection, node)
        state = RunState(connection.ask(Control.GET_RUNSTATE, destnode=number)).name
    session.show({"node": number, "run_state": state})
    return int(bool(wanted) and state.lower() not in [name.lower() for name in wanted])


@node.command("pid")
@a_node
@answers
def pid(session: Session, node: int | None) -> Answer:
    """Show the process id of a node's daemon."""
    with session.connect() as connection:
        number = target(connection, node)
        return {"node": number, "pid": connection.control(Control.GET_PID, destnode=number).status}


@node.command("process")
@click.argument("process", type=int)
@click.option("--srvid", type=str, metavar="NUMBER", help="And has registered this number.")
@about_node
@click.pass_obj
def process(session: Session, process: int, srvid: str | None, node: int | None) -> int:
    """Say whether PROCESS is a client of the daemon; exit with 1 if it is none."""
    number = _integer(srvid) if srvid is not None else 0
    with session.connect() as connection:
        pnn = target(connection, node)
        if number:
            reply = connection.control(Control.CHECK_PID_SRVID, PidSrvid(process, number), destnode=pnn)
        else:
            reply = connection.control(Control.PROCESS_EXISTS, process, destnode=pnn)
    session.show({"node": pnn, "process": process, "exists": reply.status == 0})
    return int(reply.status != 0)


@node.command("roles")
@a_node
@answers
def roles(session: Session, node: int | None) -> Answer:
    """Show what a node may be: leader, lmaster."""
    with session.connect() as connection:
        number = target(connection, node)
        found = connection.ask(Control.GET_CAPABILITIES, destnode=number)
    return {"node": number, **{name: bool(found & role) for name, (role, _control) in _ROLES.items()}}


@node.command("role")
@click.argument("role", type=click.Choice(tuple(_ROLES)))
@click.argument("state", type=click.Choice(("on", "off")))
@about_node
@click.pass_obj
def role(session: Session, role: str, state: str, node: int | None) -> None:
    """Let a node be leader or lmaster, or not, until its daemon ends."""
    with session.connect() as connection:
        number = target(connection, node)
        connection.ask(_ROLES[role][1], int(state == "on"), destnode=number)
    session.done(f"node {number} may {'' if state == 'on' else 'not '}be {role}", node=number)


@node.command("memory")
@a_node
@click.option("--recovery", is_flag=True, help="Of the part that leads the cluster.")
@answers
def memory(session: Session, node: int | None, recovery: bool) -> Answer:
    """Show how a node's daemon uses memory."""
    with session.cluster() as cluster:
        connection = cluster.connection
        number = target(connection, node)
        if not recovery:
            return {"node": number, "report": connection.ask(Control.DUMP_MEMORY, destnode=number)}
        srvid = cluster.next_srvid()
        connection.listen(srvid)
        connection.message(number, SRVID_MEM_DUMP, SrvidMessage(connection.pnn, srvid).pack())
        said = connection.message_to(srvid, timeout_s=connection.timeout_s)
        if said is None:
            raise TimeUp(f"cannot get a memory report from node {number}: no answer in time")
        return {"node": number, "report": said.data.split(b"\0", 1)[0].decode(errors="replace")}


def _moment(time_s: float) -> str | None:
    if not time_s:
        return None
    return datetime.fromtimestamp(time_s, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ClientError(f"cannot use '{text}': it is no number") from None
