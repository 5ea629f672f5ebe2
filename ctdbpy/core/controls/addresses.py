# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about public addresses, interfaces and connections, on a node that has no public addresses."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler, of_client
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.constants import RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_IPREALLOCATED, SRVID_START_IPREALLOCATE
from ctdbpy.wire.structures import (
    AddrInfo,
    Connection,
    Iface,
    IfaceList,
    PublicIp,
    PublicIpList,
    SockAddr,
    TickleList,
)

#: A client with more connections than this has lost count, or is none.
CONNECTIONS_MAX = 10_000


def _public_ips(_rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=PublicIpList().pack())


def _public_ip_info(_rooms: Rooms, _request: Request, address: SockAddr) -> Reply:
    return refuse(f"{address.host} is not a public address of this node")


def _ifaces(_rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=IfaceList().pack())


def _set_iface(_rooms: Rooms, _request: Request, iface: Iface) -> Reply:
    return refuse(f"no public address uses interface {iface.name!r}")


def _add_ip(_rooms: Rooms, _request: Request, wanted: AddrInfo) -> Reply:
    return refuse(f"cannot add public address {wanted.address.host}: public addresses are not supported yet")


def _del_ip(_rooms: Rooms, _request: Request, wanted: AddrInfo) -> Reply:
    return refuse(f"{wanted.address.host} is not a public address of this node")


def _release(_rooms: Rooms, _request: Request, _wanted: PublicIp) -> Reply:
    """What is not known here is not here: released."""
    return OK


def _takeover(rooms: Rooms, _request: Request, wanted: PublicIp) -> Reply:
    if wanted.pnn != rooms.state.pnn:
        return refuse(f"this is node {rooms.state.pnn}, not {wanted.pnn}")
    return refuse(f"cannot take {wanted.address.host}: public addresses are not supported yet")


def _reload_ips(_rooms: Rooms, _request: Request, _value: None) -> Reply:
    return refuse("cannot reload public addresses: public addresses are not supported yet")


async def _start_reallocate(rooms: Rooms, _request: Request, _value: None) -> Reply:
    """Addresses are about to move; only a node that has come up has anything to get ready."""
    if rooms.state.runstate >= RunState.RUNNING:
        result = await rooms.events.run("startipreallocate")
        if not result.is_good:
            return refuse(result.text)
    rooms.state.send_message(rooms.state.pnn, SRVID_START_IPREALLOCATE, b"")
    return OK


async def _reallocated(rooms: Rooms, _request: Request, _value: None) -> Reply:
    result = await rooms.events.run("ipreallocated")
    if not result.is_good:
        return refuse(result.text)
    rooms.state.send_message(rooms.state.pnn, SRVID_IPREALLOCATED, b"")
    return OK


def _gratuitous_arp(_rooms: Rooms, _request: Request, wanted: AddrInfo) -> Reply:
    return refuse(f"cannot announce {wanted.address.host}: public addresses are not supported yet")


def _client_connected(_rooms: Rooms, request: Request, connection: Connection) -> Reply:
    """Remembered with the client; only connections to public addresses would matter to others."""
    assert request.client is not None
    if len(request.client.connections) >= CONNECTIONS_MAX:
        return refuse(f"this client has {CONNECTIONS_MAX} connections")
    request.client.connections.append(_canonical(connection))
    return OK


def _client_disconnected(_rooms: Rooms, request: Request, connection: Connection) -> Reply:
    assert request.client is not None
    try:
        request.client.connections.remove(_canonical(connection))
    except ValueError:
        return refuse("this client has no such connection")
    return OK


def _tcp(_rooms: Rooms, _request: Request, connection: Connection) -> Reply:
    return refuse(f"{connection.dst.host} is not a public address of this node")


def _tickles(_rooms: Rooms, _request: Request, address: SockAddr) -> Reply:
    return refuse(f"{address.host} is not a public address of this node", 1)


def _set_tickles(_rooms: Rooms, _request: Request, tickles: TickleList) -> Reply:
    return refuse(f"{tickles.address.host} is not a public address of this node", 1)


def _canonical(connection: Connection) -> Connection:
    return Connection(connection.src.canonical(), connection.dst.canonical())


HANDLERS: dict[Control, Handler] = {
    Control.GET_PUBLIC_IPS: _public_ips,
    Control.GET_PUBLIC_IP_INFO: _public_ip_info,
    Control.GET_IFACES: _ifaces,
    Control.SET_IFACE_LINK_STATE: _set_iface,
    Control.ADD_PUBLIC_IP: _add_ip,
    Control.DEL_PUBLIC_IP: _del_ip,
    Control.RELEASE_IP: _release,
    Control.TAKEOVER_IP: _takeover,
    Control.RELOAD_PUBLIC_IPS: _reload_ips,
    Control.START_IPREALLOCATE: _start_reallocate,
    Control.IPREALLOCATED: _reallocated,
    Control.SEND_GRATUITOUS_ARP: _gratuitous_arp,
    Control.TCP_CLIENT: of_client(_client_connected),
    Control.TCP_CLIENT_DISCONNECTED: of_client(_client_disconnected),
    Control.TCP_CLIENT_PASSED: of_client(_client_disconnected),
    Control.TCP_ADD: _tcp,
    Control.TCP_ADD_DELAYED_UPDATE: _tcp,
    Control.TCP_REMOVE: _tcp,
    Control.GET_TCP_TICKLE_LIST: _tickles,
    Control.SET_TCP_TICKLE_LIST: _set_tickles,
}
