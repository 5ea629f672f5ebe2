# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` about TCP: connections that are woken after a takeover, and whether a port is free."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator

from ctdbpy.cli.ctdb.tool import BadUsage, Failed, Tool, leading_number, warn
from ctdbpy.client.addresses import parse_address, parse_endpoint
from ctdbpy.errors import ClientError, HostError
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import Connection, SockAddr, TickleList


def do_tickle(_tool: Tool, *ends: str) -> None:
    from ctdbpy.host.announcements import bytes_of
    from ctdbpy.host.connections import RawSender
    from ctdbpy.host.raw_packets import tickle

    connections = _connections(ends)
    failed = 0
    try:
        sender = RawSender()
    except (OSError, HostError):
        failed = len(connections)
    else:
        for each in connections:
            client, server = bytes_of(each.src.host), bytes_of(each.dst.host)
            try:
                # From the first to the second, as who holds the first address would send it.
                sender.send(tickle(client, each.src.port, server, each.dst.port), server)
            except OSError:
                failed += 1
        sender.close()
    if failed:
        raise Failed(1, "Failed to send tickle ack" if ends else f"Failed to send {failed} tickles")


def do_gettickles(tool: Tool, text: str, port_text: str = "0") -> None:
    if not port_text.isdecimal():
        raise Failed(errno.EINVAL)
    try:
        address = parse_address(text)
    except ClientError:
        raise Failed(1, f"Invalid IP address {text}") from None
    with tool.saying("Failed to get list of connections"):
        found: TickleList = tool.ask(
            Control.GET_TCP_TICKLE_LIST, SockAddr(address.host, int(port_text) & 0xFFFF)
        )
    if tool.options.is_machine:
        # The misspelt word is upstream's, and scripts look for it.
        tool.row("Source IP", "Port", "Destiation IP", "Port")
        for each in found.connections:
            tool.row(each.src.host, each.src.port, each.dst.host, each.dst.port)
        return
    print(f"Connections for IP: {found.address.host}")
    print(f"Num connections: {len(found.connections)}")
    for each in found.connections:
        print(f"SRC: {_endpoint(each.src)}   DST: {_endpoint(each.dst)}")


def do_addtickle(tool: Tool, *ends: str) -> None:
    _for_each(tool, ends, Control.TCP_ADD_DELAYED_UPDATE, "add", "register")


def do_deltickle(tool: Tool, *ends: str) -> None:
    _for_each(tool, ends, Control.TCP_REMOVE, "remove", "unregister")


def do_checktcpport(_tool: Tool, port_text: str) -> int:
    port = leading_number(port_text)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("0.0.0.0", port & 0xFFFF))
        except OSError as error:
            warn(f"Failed to bind to TCP port {port}")
            return error.errno or 1
    return 0


def _for_each(tool: Tool, ends: tuple[str, ...], opcode: Control, many: str, one: str) -> None:
    failed = 0
    for connection in _connections(ends):
        try:
            tool.ask(opcode, connection)
        except ClientError:
            failed += 1
    if failed:
        raise Failed(1, f"Failed to {one} connection" if ends else f"Failed to {many} {failed} tickles")


def _connections(ends: tuple[str, ...]) -> list[Connection]:
    """The connection between two ends, or those on standard input, one on a line."""
    if len(ends) == 1:
        raise BadUsage
    return [_connection(*ends)] if ends else list(_read())


def _read() -> Iterator[Connection]:
    for line in sys.stdin:
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise Failed(errno.EINVAL)
        yield _connection(*words)


def _connection(src: str, dst: str) -> Connection:
    ends = []
    for text in (src, dst):
        try:
            ends.append(parse_endpoint(text))
        except ClientError:
            raise Failed(1, f"Invalid IP address {text}") from None
    return Connection(ends[0], ends[1])


def _endpoint(address: SockAddr) -> str:
    return f"[{address.host}]:{address.port}" if address.is_ipv6 else f"{address.host}:{address.port}"
