# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls that upstream's daemons do not know and refuse with status -1."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler
from ctdbpy.core.effects import LogLevel
from ctdbpy.core.inputs import PublicAddress
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.constants import UNKNOWN_PNN
from ctdbpy.wire.controls import Control
from ctdbpy.wire.own import CONNECTIONS_NAMED_MAX
from ctdbpy.wire.structures import (
    ConfigurationAction,
    ConfigurationRequest,
    DbGeneration,
    DbGenerations,
    ServedConnections,
    SockAddr,
)

#: A number of connections that does not change is told after this.
_CONNECTIONS_WAIT_S = 1.0
#: An address that means every address.
_ALL = "0.0.0.0"


async def _generations(rooms: Rooms, _request: Request, _value: None) -> Reply:
    # A commit under way decides which generation a copy is of.
    await rooms.freezes.finish_commits()
    databases = rooms.state.databases.values()
    entries = (DbGeneration(each.db_id, each.generation) for each in databases)
    return Reply(data=DbGenerations(tuple(entries)).pack())


def _reasons(rooms: Rooms, _request: Request, pnn: int) -> Reply:
    if pnn != UNKNOWN_PNN and rooms.state.peer(pnn) is None:
        return refuse(f"there is no node {pnn}")
    return Reply(data=rooms.accounts.report(pnn).pack())


def _placements(rooms: Rooms, _request: Request, address: SockAddr) -> Reply:
    host = address.canonical().host
    return Reply(data=rooms.placed.report(None if host == _ALL else host).pack())


async def _connections(rooms: Rooms, _request: Request, known: int) -> Reply:
    """Whoever waits for clients to leave asks again; a second is far less than any limit for answers."""
    state = rooms.state
    until_s = state.now_s + _CONNECTIONS_WAIT_S
    while len(served := rooms.connections.served()) == known and state.now_s < until_s:
        await rooms.runner.limit(rooms.connections.changes(), until_s - state.now_s, None)
    return Reply(data=ServedConnections(len(served), tuple(served[:CONNECTIONS_NAMED_MAX])).pack())


def _leader(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=U32.pack(rooms.state.leader))


async def _configure(rooms: Rooms, request: Request, wanted: ConfigurationRequest) -> Reply:
    try:
        action = ConfigurationAction(wanted.action)
    except ValueError:
        return refuse(f"there is no action {wanted.action} on a configuration")
    if action is ConfigurationAction.STORE:
        asker = rooms.accounts.asked_by(request)
        rooms.state.log(LogLevel.NOTICE, f"a cluster file is to be kept here: {asker}")
    addresses = tuple(
        PublicAddress(each.address, each.prefix, each.interfaces)
        for each in rooms.addresses.table.entries.values()
        if not each.is_leaving
    )
    seen = await rooms.configuration.look(action, wanted.text, addresses)
    return Reply(data=seen.report)


def _confirm_fenced(rooms: Rooms, request: Request, pnn: int) -> Reply:
    if rooms.state.peer(pnn) is None:
        return refuse(f"there is no node {pnn}")
    if not rooms.state.is_leader:
        return refuse("only the leader waits for nodes to be fenced")
    problem = rooms.fencing.confirm(pnn, rooms.accounts.asked_by(request))
    return refuse(problem) if problem else OK


HANDLERS: dict[Control, Handler] = {
    Control.GET_DB_GENERATIONS: _generations,
    Control.GET_REASONS: _reasons,
    Control.GET_PLACEMENTS: _placements,
    Control.GET_CONNECTIONS: _connections,
    Control.GET_LEADER: _leader,
    Control.CONFIGURE: _configure,
    Control.CONFIRM_FENCED: _confirm_fenced,
}
