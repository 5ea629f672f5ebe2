# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls of walks over a database."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler, no_database, of_client
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import TraverseAll, TraverseAllExt, TraverseStart, TraverseStartExt


def _start(rooms: Rooms, request: Request, start: TraverseStart) -> Reply:
    return _begin(rooms, request, start, False)


def _start_ext(rooms: Rooms, request: Request, wanted: TraverseStartExt) -> Reply:
    start = TraverseStart(wanted.db_id, wanted.reqid, wanted.srvid)
    return _begin(rooms, request, start, wanted.with_empty)


def _begin(rooms: Rooms, request: Request, start: TraverseStart, with_empty: bool) -> Reply:
    assert request.client is not None
    database = rooms.state.databases.get(start.db_id)
    if database is None:
        return no_database(start.db_id)
    if database.unhealthy and not rooms.state.tunables.allow_unhealthy_db_read:
        return refuse(f"{database.name!r} is unhealthy: {database.unhealthy}")
    rooms.traverses.start(request.client, database, start, with_empty)
    return OK


def _all(rooms: Rooms, _request: Request, wanted: TraverseAll) -> Reply:
    return _serve(rooms, wanted, False)


def _all_ext(rooms: Rooms, _request: Request, wanted: TraverseAllExt) -> Reply:
    plain = TraverseAll(wanted.db_id, wanted.reqid, wanted.pnn, wanted.client_reqid, wanted.srvid)
    return _serve(rooms, plain, wanted.with_empty)


def _serve(rooms: Rooms, wanted: TraverseAll, with_empty: bool) -> Reply:
    database = rooms.state.databases.get(wanted.db_id)
    if database is None:
        return no_database(wanted.db_id)
    if rooms.state.peer(wanted.pnn) is None:
        return refuse(f"there is no node {wanted.pnn}")
    if database.unhealthy and not rooms.state.tunables.allow_unhealthy_db_read:
        return refuse(f"{database.name!r} is unhealthy: {database.unhealthy}")
    rooms.traverses.serve(database, wanted, with_empty)
    return OK


def _data(rooms: Rooms, request: Request, data: bytes) -> Reply:
    return OK if rooms.traverses.data(request.pnn, data) else refuse("no such traverse is under way")


def _kill(rooms: Rooms, request: Request, start: TraverseStart) -> Reply:
    rooms.traverses.kill(request.pnn, start)
    return OK


HANDLERS: dict[Control, Handler] = {
    Control.TRAVERSE_START: of_client(_start),
    Control.TRAVERSE_START_EXT: of_client(_start_ext),
    Control.TRAVERSE_ALL: _all,
    Control.TRAVERSE_ALL_EXT: _all_ext,
    Control.TRAVERSE_DATA: _data,
    Control.TRAVERSE_KILL: _kill,
}
