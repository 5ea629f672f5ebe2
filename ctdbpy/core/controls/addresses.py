# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about public addresses, interfaces and connections."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ctdbpy.core.controls.handlers import Handler, of_client
from ctdbpy.core.effects import AnnounceAddress, LogLevel
from ctdbpy.core.failover.table import Entry
from ctdbpy.core.inputs import PublicAddress
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.constants import ControlFlag, RunState
from ctdbpy.wire.controls import Control
from ctdbpy.wire.srvids import SRVID_IPREALLOCATED, SRVID_START_IPREALLOCATE
from ctdbpy.wire.structures import AddrInfo, Connection, Iface, PublicIp, SockAddr, TickleList

#: What C daemons answer about tickles of an address that is none of theirs, and when reloading fails.
_NOT_OURS = 1


def _find(rooms: Rooms, address: SockAddr) -> Entry | None:
    return rooms.addresses.table.find(address.canonical().host)


def _unknown(address: SockAddr, status: int = -1) -> Reply:
    return refuse(f"{address.host} is not a public address of this node", status)


def _verdict(problem: str) -> Reply:
    return refuse(problem) if problem else OK


# -- what there is --------------------------------------------------------------------------------


def _public_ips(rooms: Rooms, request: Request, _value: None) -> Reply:
    only = request.control.flags & ControlFlag.PUBLIC_IP_ONLY_AVAILABLE
    available = rooms.addresses.available() if only else None
    return Reply(data=rooms.addresses.table.public_ips(available).pack())


def _public_ip_info(rooms: Rooms, _request: Request, address: SockAddr) -> Reply:
    entry = _find(rooms, address)
    return _unknown(address) if entry is None else Reply(data=rooms.addresses.table.info(entry).pack())


def _ifaces(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=rooms.addresses.table.ifaces().pack())


def _set_iface(rooms: Rooms, _request: Request, iface: Iface) -> Reply:
    if iface.link_state not in (0, 1) or iface.references:
        return refuse(f"an interface is marked up (1) or down (0), not {iface.link_state}")
    if rooms.upkeep.mark_interface(iface.name, bool(iface.link_state)):
        return OK
    return refuse(f"no public address uses interface {iface.name!r}")


# -- what is configured -----------------------------------------------------------------------------


def _add_ip(rooms: Rooms, _request: Request, wanted: AddrInfo) -> Reply:
    interfaces = tuple(name for name in wanted.iface.split(",") if name)
    address = PublicAddress(wanted.address.canonical().host, wanted.mask, interfaces)
    return _verdict(rooms.addresses.add(address))


def _del_ip(rooms: Rooms, _request: Request, wanted: AddrInfo) -> Reply:
    entry = _find(rooms, wanted.address)
    if entry is None:
        return _unknown(wanted.address)
    rooms.addresses.delete(entry)
    return OK


async def _reload_ips(rooms: Rooms, _request: Request, _value: None) -> Reply:
    problem = await rooms.addresses.reload()
    return refuse(problem, _NOT_OURS) if problem else OK


# -- moving them ----------------------------------------------------------------------------------------


def _takeover(rooms: Rooms, request: Request, wanted: PublicIp) -> Reply | Coroutine[Any, Any, Reply]:
    state = rooms.state
    if wanted.pnn != state.pnn:
        return refuse(f"this is node {state.pnn}, not {wanted.pnn}")
    entry = _find(rooms, wanted.address)
    if entry is None:
        # What is not known here nobody expects here.
        return OK
    by_daemon = request.client is None and not request.control.client_id
    if by_daemon and request.pnn not in (state.leader, state.pnn):
        # Whoever led before may have sent this long ago.
        return refuse(f"cannot take {entry.address}: node {request.pnn} does not lead node {state.pnn}")
    if by_daemon:
        return _when_done(rooms.addresses.take(entry))
    return _when_done(_take_as_asked(rooms, entry, rooms.accounts.asked_by(request)))


async def _take_as_asked(rooms: Rooms, entry: Entry, who: str) -> str:
    """The leader, who knows why addresses are where they are, has not decided this."""
    problem = await rooms.addresses.take(entry)
    if not problem:
        state = rooms.state
        state.log(LogLevel.NOTICE, f"{entry.address} goes to node {state.pnn}: {who}")
        rooms.placed.decided(entry.address, state.pnn, f"moved here: {who}")
    return problem


def _release(rooms: Rooms, _request: Request, wanted: PublicIp) -> Reply | Coroutine[Any, Any, Reply]:
    entry = _find(rooms, wanted.address)
    if entry is None:
        # What is not known here is not here: released.
        return OK
    return _when_done(rooms.addresses.release(entry, wanted.pnn))


async def _when_done(work: Coroutine[Any, Any, str]) -> Reply:
    return _verdict(await work)


def _start_reallocate(rooms: Rooms, _request: Request, _value: None) -> Reply | Coroutine[Any, Any, Reply]:
    """Addresses are about to move; they wait for scripts only where the administrator wants it so."""
    work = _get_ready(rooms)
    if rooms.state.config.scripts_first:
        return _when_done(work)
    rooms.runner.spawn("startipreallocate", work)
    return OK


async def _get_ready(rooms: Rooms) -> str:
    """Only a node that has come up has anything to get ready."""
    state = rooms.state
    if state.runstate >= RunState.RUNNING:
        result = await rooms.events.run("startipreallocate")
        if not result.is_good:
            state.log(LogLevel.ERROR, f"addresses are about to move, but {result.text}")
            return result.text
    state.send_message(state.pnn, SRVID_START_IPREALLOCATE, b"")
    return ""


async def _reallocated(rooms: Rooms, _request: Request, _value: None) -> Reply:
    """Scripts hear of it after those of each address; if one of these failed, so has the run."""
    problem = await rooms.addresses.scripts_problem()
    result = await rooms.events.run("ipreallocated")
    if not result.is_good or problem:
        return refuse("; ".join(each for each in (problem, result.text) if each))
    rooms.state.send_message(rooms.state.pnn, SRVID_IPREALLOCATED, b"")
    return OK


def _gratuitous_arp(rooms: Rooms, _request: Request, wanted: AddrInfo) -> Reply:
    if rooms.state.config.puts_addresses:
        rooms.state.emit(AnnounceAddress(wanted.address.canonical().host, wanted.iface))
    return OK


# -- connections --------------------------------------------------------------------------------------------


def _of_connection(act: Callable[[Rooms, Request, Connection], str]) -> Handler:
    def handle(rooms: Rooms, request: Request, connection: Connection) -> Reply:
        return _verdict(act(rooms, request, connection))

    return handle


def _opened(rooms: Rooms, request: Request, connection: Connection) -> str:
    assert request.client is not None
    return rooms.connections.opened(request.client, connection)


def _closed(rooms: Rooms, request: Request, connection: Connection) -> str:
    assert request.client is not None
    return rooms.connections.closed(request.client, connection)


def _passed(rooms: Rooms, request: Request, connection: Connection) -> str:
    assert request.client is not None
    return rooms.connections.passed(request.client, connection)


def _tcp_add(rooms: Rooms, _request: Request, connection: Connection) -> str:
    return rooms.connections.add(connection, tell_later=False)


def _tcp_add_later(rooms: Rooms, _request: Request, connection: Connection) -> str:
    return rooms.connections.add(connection, tell_later=True)


def _tcp_remove(rooms: Rooms, _request: Request, connection: Connection) -> Reply:
    rooms.connections.remove(connection)
    return OK


def _tickles(rooms: Rooms, _request: Request, address: SockAddr) -> Reply:
    tickles = rooms.connections.tickles(address)
    return _unknown(address, _NOT_OURS) if tickles is None else Reply(data=tickles.pack())


def _set_tickles(rooms: Rooms, _request: Request, tickles: TickleList) -> Reply:
    return OK if rooms.connections.replace(tickles) else _unknown(tickles.address, _NOT_OURS)


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
    Control.TCP_CLIENT: of_client(_of_connection(_opened)),
    Control.TCP_CLIENT_DISCONNECTED: of_client(_of_connection(_closed)),
    Control.TCP_CLIENT_PASSED: of_client(_of_connection(_passed)),
    Control.TCP_ADD: _of_connection(_tcp_add),
    Control.TCP_ADD_DELAYED_UPDATE: _of_connection(_tcp_add_later),
    Control.TCP_REMOVE: _tcp_remove,
    Control.GET_TCP_TICKLE_LIST: _tickles,
    Control.SET_TCP_TICKLE_LIST: _set_tickles,
}
