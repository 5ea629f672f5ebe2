# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl ip connections` and the like: TCP connections of clients to public addresses."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from ctdbpy.cli.commands import Answer, about_node, answers, asks, target
from ctdbpy.cli.ip import ip
from ctdbpy.cli.session import Session
from ctdbpy.client.addresses import addresses_of, parse_address, parse_endpoint
from ctdbpy.errors import ClientError, HostError
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import Connection, SockAddr, TickleList

_PAIR = "[CLIENT:PORT ADDRESS:PORT]"


@ip.command("connections")
@click.argument("address")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Only to this port.")
@about_node
@answers
def connections(session: Session, address: str, port: int, node: int | None) -> Answer:
    """Show the connections to an address that its next node has to wake."""
    wanted = SockAddr(parse_address(address).host, port)
    with session.connect() as connection:
        number = target(connection, node)
        found: TickleList = connection.ask(Control.GET_TCP_TICKLE_LIST, wanted, destnode=number)
    return {
        "address": found.address.host,
        "count": len(found.connections),
        "connections": [
            {
                "client": each.src.host,
                "client_port": each.src.port,
                "address": each.dst.host,
                "port": each.dst.port,
            }
            for each in found.connections
        ],
    }


@ip.command("connection-add")
@click.argument("ends", nargs=-1, metavar=_PAIR)
@about_node
@click.pass_obj
def connection_add(session: Session, ends: tuple[str, ...], node: int | None) -> None:
    """Add a connection to those; without arguments pairs from standard input, one on a line."""
    _tell(session, ends, node, Control.TCP_ADD_DELAYED_UPDATE, "added to")


@ip.command("connection-delete")
@click.argument("ends", nargs=-1, metavar=_PAIR)
@about_node
@click.pass_obj
def connection_delete(session: Session, ends: tuple[str, ...], node: int | None) -> None:
    """Delete a connection from those; without arguments pairs from standard input."""
    _tell(session, ends, node, Control.TCP_REMOVE, "deleted from")


@ip.command("wake")
@click.argument("ends", nargs=-1, metavar="[FROM:PORT TO:PORT]")
@click.pass_obj
def wake(session: Session, ends: tuple[str, ...]) -> None:
    """Send the packet that wakes a connection's other end; without arguments pairs from standard input."""
    from ctdbpy.host.announcements import bytes_of
    from ctdbpy.host.connections import RawSender
    from ctdbpy.host.raw_packets import tickle

    pairs = _pairs(ends)
    try:
        sender = RawSender()
    except (OSError, HostError) as error:
        raise ClientError(f"cannot send raw packets: {error}; it takes root") from error
    try:
        for each in pairs:
            to = bytes_of(each.dst.host)
            sender.send(tickle(bytes_of(each.src.host), each.src.port, to, each.dst.port), to)
    except OSError as error:
        raise ClientError(f"cannot wake {each.dst.host} port {each.dst.port}: {error.strerror}") from error
    finally:
        sender.close()
    session.done(f"{len(pairs)} connections are woken")


@ip.command("kill")
@click.argument("ends", nargs=-1, metavar=_PAIR)
@asks
@click.pass_obj
def kill(session: Session, ends: tuple[str, ...]) -> None:
    """End clients' connections to addresses of this host; without arguments pairs from standard input."""
    from ctdbpy.host import connections
    from ctdbpy.host.announcements import bytes_of
    from ctdbpy.host.netlink import Netlink

    pairs = _pairs(ends)
    session.confirm(f"{len(pairs)} connections of clients will end")
    wanted = {
        (bytes_of(each.dst.host), each.dst.port, bytes_of(each.src.host), each.src.port) for each in pairs
    }
    try:
        netlink = Netlink(connections.FAMILY)
        try:
            chosen = [
                each
                for each in connections.list_sockets(netlink, {address for address, *_ in wanted})
                if (each.address, each.port, each.client, each.client_port) in wanted
            ]
            trouble = connections.destroy(netlink, chosen)
        finally:
            netlink.close()
    except OSError as error:
        trouble = error
    if trouble is not None:
        raise ClientError(f"cannot end connections: {trouble.strerror}; it takes root") from trouble
    session.done(f"{len(chosen)} of {len(pairs)} connections were there, and have ended", ended=len(chosen))


def _tell(session: Session, ends: tuple[str, ...], node: int | None, opcode: Control, verb: str) -> None:
    pairs = _pairs(ends)
    with session.connect() as connection:
        number = target(connection, node)
        # The daemon passes over others in silence.
        known = {each.address for each in addresses_of(connection, number)}
        for each in pairs:
            if replace(each.dst, port=0) not in known:
                raise ClientError(f"cannot use {each.dst.host}: it is no public address of node {number}")
        for each in pairs:
            connection.ask(opcode, each, destnode=number)
    count = "1 connection is" if len(pairs) == 1 else f"{len(pairs)} connections are"
    session.done(f"{count} {verb} those of node {number}")


def _pairs(ends: tuple[str, ...]) -> list[Connection]:
    if ends:
        return [_pair(list(ends))]
    lines = (line.split("#", 1)[0].split() for line in sys.stdin)
    return [_pair(words) for words in lines if words]


def _pair(words: list[str]) -> Connection:
    if len(words) != 2:
        raise click.UsageError("a connection is two ends, each an address and a port")
    return Connection(parse_endpoint(words[0]), parse_endpoint(words[1]))
