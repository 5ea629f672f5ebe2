# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about nodes: the node map, flags, bans, the nodes file."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.constants import NodeFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import BanState, NodeEntry, NodeFlagChange, NodeMap, SockAddr

_NONE = NodeFlag(0)


def _nodemap(rooms: Rooms, _request: Request, _value: None) -> Reply:
    nodes = (NodeEntry(node.pnn, int(node.flags), SockAddr(node.address)) for node in rooms.state.nodes)
    return Reply(data=NodeMap(tuple(nodes)).pack())


def _modify_flags(rooms: Rooms, request: Request, change: NodeFlagChange) -> Reply:
    return OK if rooms.flags.modify(change, request.pnn) else refuse(f"there is no node {change.pnn}")


def _stop(rooms: Rooms, request: Request, _value: None) -> Reply:
    rooms.flags.change_own(NodeFlag.STOPPED, _NONE, f"stopped: {rooms.accounts.asked_by(request)}")
    return OK


def _continue(rooms: Rooms, request: Request, _value: None) -> Reply:
    rooms.flags.change_own(_NONE, NodeFlag.STOPPED, f"continued: {rooms.accounts.asked_by(request)}")
    return OK


def _disable(rooms: Rooms, request: Request, _value: None) -> Reply:
    reason = f"disabled: {rooms.accounts.asked_by(request)}"
    rooms.flags.change_own(NodeFlag.PERMANENTLY_DISABLED, _NONE, reason)
    return OK


def _enable(rooms: Rooms, request: Request, _value: None) -> Reply:
    reason = f"enabled: {rooms.accounts.asked_by(request)}"
    rooms.flags.change_own(_NONE, NodeFlag.PERMANENTLY_DISABLED, reason)
    return OK


def _set_ban(rooms: Rooms, request: Request, wanted: BanState) -> Reply:
    if wanted.pnn != rooms.state.pnn:
        return refuse(f"cannot ban node {wanted.pnn}: this is node {rooms.state.pnn}")
    state = rooms.state
    why = rooms.accounts.asked_by(request)
    by_daemon = request.client is None and not request.control.client_id
    if by_daemon and request.pnn not in (state.leader, state.pnn):
        # Two nodes that both think they lead would ban each other.
        return refuse(f"cannot be banned by node {request.pnn}: it does not lead node {state.pnn}")
    rooms.flags.ban(wanted.time_s, why)
    return OK


def _ban(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=rooms.flags.ban_state.pack())


async def _reload(rooms: Rooms, _request: Request, _value: None) -> Reply:
    read = await rooms.links.read_file()
    reason = read.error or rooms.links.reload(read.nodes)
    return refuse(f"cannot reload the nodes file: {reason}") if reason else OK


async def _nodes_file(rooms: Rooms, _request: Request, _value: None) -> Reply:
    read = await rooms.links.read_file()
    if read.error:
        return refuse(f"cannot read the nodes file: {read.error}")
    nodes = (
        NodeEntry(
            node.pnn,
            int(NodeFlag.DELETED) if node.deleted else 0,
            SockAddr("0.0.0.0" if node.deleted else node.address),
        )
        for node in read.nodes
    )
    return Reply(data=NodeMap(tuple(nodes)).pack())


HANDLERS: dict[Control, Handler] = {
    Control.GET_NODEMAP: _nodemap,
    Control.MODIFY_FLAGS: _modify_flags,
    Control.STOP_NODE: _stop,
    Control.CONTINUE_NODE: _continue,
    Control.DISABLE_NODE: _disable,
    Control.ENABLE_NODE: _enable,
    Control.SET_BAN_STATE: _set_ban,
    Control.GET_BAN_STATE: _ban,
    Control.RELOAD_NODES_FILE: _reload,
    Control.GET_NODES_FILE: _nodes_file,
}
