# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP connections to this node's addresses: ended, and told to the daemon as tickles.

A tickle is what the daemon tells the other nodes about a connection: the one that takes the address over
wakes the client with it. Connections of smbd are told by smbd; those of other services have to be looked for.
"""

from __future__ import annotations

import socket

from ctdbpy.client.connection import Connection as Daemon
from ctdbpy.errors import CtdbpyError, ServiceError
from ctdbpy.host import connections
from ctdbpy.host.connections import RawSender, TcpSocket
from ctdbpy.host.netlink import Netlink
from ctdbpy.services import addresses, configured
from ctdbpy.services.event import Event
from ctdbpy.wire.addresses import Connection, SockAddr
from ctdbpy.wire.controls import Control


def kill(address: str) -> None:
    """End all connections to an address of this host; both ends learn of it. Raises ServiceError."""
    diag = Netlink(connections.FAMILY)
    try:
        sockets = connections.list_sockets(diag, [_raw(address)])
        if not sockets:
            return
        if connections.can_destroy(diag):
            trouble = connections.destroy(diag, sockets)
            if trouble is not None:
                raise trouble
            return
        sender = RawSender()
        try:
            connections.reset(sender, sockets)
        finally:
            sender.close()
    except OSError as error:
        raise ServiceError(f"cannot end the connections to '{address}': {error.strerror}") from None
    finally:
        diag.close()


def update_tickles(event: Event, port: int) -> None:
    """Have the daemon know just the connections to this node's public addresses at a port.

    Raises ServiceError.
    """
    hosted = addresses.hosted(event)
    if not hosted:
        return
    there = _established(hosted, port)
    try:
        with Daemon(configured.paths(event).socket, timeout_s=10.0) as daemon:
            known = set()
            for address in hosted:
                known.update(daemon.ask(Control.GET_TCP_TICKLE_LIST, SockAddr(address, port)).connections)
            for connection in there - known:
                daemon.ask(Control.TCP_ADD_DELAYED_UPDATE, connection)
            for connection in known - there:
                daemon.ask(Control.TCP_REMOVE, connection)
    except ServiceError:
        raise
    except CtdbpyError as error:
        raise ServiceError(f"cannot tell the daemon the connections at port {port}: {error}") from None


def _established(hosted: list[str], port: int) -> set[Connection]:
    diag = Netlink(connections.FAMILY)
    try:
        sockets = connections.list_sockets(diag, [_raw(address) for address in hosted])
    except OSError as error:
        raise ServiceError(f"cannot list the connections at port {port}: {error.strerror}") from None
    finally:
        diag.close()
    return {_connection(each) for each in sockets if each.is_established and each.port == port}


def _connection(each: TcpSocket) -> Connection:
    return Connection(
        SockAddr(_text(each.client), each.client_port), SockAddr(_text(each.address), each.port)
    )


def _raw(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
