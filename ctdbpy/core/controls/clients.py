# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about local programs: which there are, what they listen to, what they leave behind."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from ctdbpy.core.controls.handlers import Handler, of_client
from ctdbpy.core.effects import DropClient
from ctdbpy.core.messaging import notify
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import EchoData, NotifyData, PidSrvid


def _process_exists(rooms: Rooms, _request: Request, pid: int) -> Reply:
    """Only programs connected here exist; those of a node that takes no part are told so by hanging up."""
    state = rooms.state
    found = [client for client in state.clients.values() if client.pid == pid]
    if not found:
        return refuse(f"no client has pid {pid}")
    if state.is_inactive:
        for client in found:
            state.emit(DropClient(client.client_id, "this node is inactive"))
        return refuse("this node is inactive")
    return OK


def _check_pid_srvid(rooms: Rooms, _request: Request, wanted: PidSrvid) -> Reply:
    state = rooms.state
    for client in state.clients.values():
        if client.pid == wanted.pid and state.records.has_srvid(client.client_id, wanted.srvid):
            return OK
    return refuse(f"no client with pid {wanted.pid} has srvid {wanted.srvid:#x}")


def _register_srvid(rooms: Rooms, request: Request, _value: None) -> Reply:
    assert request.client is not None
    rooms.state.records.register_srvid(request.client.client_id, request.control.srvid)
    return OK


def _deregister_srvid(rooms: Rooms, request: Request, _value: None) -> Reply:
    assert request.client is not None
    if rooms.state.records.deregister_srvid(request.client.client_id, request.control.srvid):
        return OK
    return refuse(f"srvid {request.control.srvid:#x} is not registered")


def _register_notify(_rooms: Rooms, request: Request, wanted: NotifyData) -> Reply:
    assert request.client is not None
    if notify.register(request.client, wanted):
        return OK
    return refuse(f"a notification for srvid {wanted.srvid:#x} is registered")


def _deregister_notify(_rooms: Rooms, request: Request, srvid: int) -> Reply:
    assert request.client is not None
    if notify.deregister(request.client, srvid):
        return OK
    return refuse(f"no notification for srvid {srvid:#x} is registered")


def _tunnel_register(rooms: Rooms, request: Request, _value: None) -> Reply:
    assert request.client is not None
    if rooms.state.records.register_tunnel(request.client.client_id, request.control.srvid):
        return OK
    return refuse(f"tunnel {request.control.srvid:#x} is registered")


def _tunnel_deregister(rooms: Rooms, request: Request, _value: None) -> Reply:
    assert request.client is not None
    if rooms.state.records.deregister_tunnel(request.client.client_id, request.control.srvid):
        return OK
    return refuse(f"tunnel {request.control.srvid:#x} is not this client's")


def _ping(rooms: Rooms, request: Request, _value: None) -> Reply | Coroutine[Any, Any, Reply]:
    if request.client is None and rooms.freezes.is_behind:
        return _ping_later(rooms)
    return Reply(len(rooms.state.clients))


async def _ping_later(rooms: Rooms) -> Reply:
    """A leader that pushes records asks now and then: it must not send faster than they are stored."""
    await rooms.freezes.catch_up()
    return Reply(len(rooms.state.clients))


def _echo(_rooms: Rooms, _request: Request, value: EchoData) -> Reply:
    """At once, whatever the time asked for: as upstream does."""
    return Reply(data=value.pack())


HANDLERS: dict[Control, Handler] = {
    Control.PROCESS_EXISTS: _process_exists,
    Control.CHECK_PID_SRVID: _check_pid_srvid,
    Control.REGISTER_SRVID: of_client(_register_srvid),
    Control.DEREGISTER_SRVID: of_client(_deregister_srvid),
    Control.REGISTER_NOTIFY: of_client(_register_notify),
    Control.DEREGISTER_NOTIFY: of_client(_deregister_notify),
    Control.TUNNEL_REGISTER: of_client(_tunnel_register),
    Control.TUNNEL_DEREGISTER: of_client(_tunnel_deregister),
    Control.PING: _ping,
    Control.ECHO_DATA: _echo,
}
