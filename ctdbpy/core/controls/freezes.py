# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls that hold databases still for a recovery or a restore."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ctdbpy.core.controls.handlers import Handler, no_database, of_database
from ctdbpy.core.requests import Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.core.state import Database
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import PullDbExt, TransDb

_Answer = Reply | Coroutine[Any, Any, Reply]


def _of_database(act: Callable[[Rooms, Database], _Answer]) -> Handler:
    def handle(rooms: Rooms, _request: Request, database: Database) -> _Answer:
        return rooms.freezes.in_turn(database, lambda: act(rooms, database))

    return of_database(handle)


def _in_transaction(act: Callable[[Rooms, Database, int], _Answer]) -> Handler:
    def handle(rooms: Rooms, _request: Request, value: TransDb) -> _Answer:
        database = rooms.state.databases.get(value.db_id)
        if database is None:
            return no_database(value.db_id)
        return rooms.freezes.in_turn(database, lambda: act(rooms, database, value.tid))

    return handle


def _of_transfer(act: Callable[[Rooms, Request, Database, PullDbExt], _Answer]) -> Handler:
    def handle(rooms: Rooms, request: Request, wanted: PullDbExt) -> _Answer:
        database = rooms.state.databases.get(wanted.db_id)
        if database is None:
            return no_database(wanted.db_id)
        return rooms.freezes.in_turn(database, lambda: act(rooms, request, database, wanted))

    return handle


def _freeze_all(rooms: Rooms, _request: Request, _value: None) -> _Answer:
    return rooms.freezes.freeze_all()


def _freeze(rooms: Rooms, database: Database) -> _Answer:
    return rooms.freezes.freeze_anew(database)


def _thaw(rooms: Rooms, _request: Request, database: Database) -> _Answer:
    generation = rooms.state.generation
    return rooms.freezes.in_turn(database, lambda: _thaw_if_due(rooms, database, generation))


async def _thaw_if_due(rooms: Rooms, database: Database, generation: int) -> Reply:
    """Thaw, unless what the leader knew when it asked is not so any more: the database would move alone."""
    state = rooms.state
    obstacle = ""
    if state.suspended:
        # Also of a recovery whose leader has given this node up meanwhile: only another one will do.
        obstacle = await rooms.standing.lasting_obstacle(rooms.runner) or state.recovery_wanted
    if state.is_inactive:
        reason = "this node is banned or stopped"
    elif state.generation != generation:
        reason = "another recovery has begun since this was asked"
    elif obstacle:
        reason = f"this node must not serve: {obstacle}"
    else:
        return await rooms.freezes.thaw(database)
    return refuse(f"cannot thaw {database.name!r}: {reason}")


def _begin(rooms: Rooms, database: Database, transaction: int) -> _Answer:
    return rooms.freezes.begin(database, transaction)


def _commit(rooms: Rooms, database: Database, transaction: int) -> _Answer:
    return rooms.freezes.commit(database, transaction)


def _wipe(rooms: Rooms, database: Database, transaction: int) -> _Answer:
    return rooms.freezes.wipe(database, transaction)


def _cancel(rooms: Rooms, database: Database) -> _Answer:
    return rooms.freezes.cancel(database)


def _pull(rooms: Rooms, request: Request, database: Database, wanted: PullDbExt) -> _Answer:
    return rooms.freezes.pull(database, wanted.lmaster, request.pnn, wanted.srvid)


def _push_start(rooms: Rooms, _request: Request, database: Database, wanted: PullDbExt) -> _Answer:
    return rooms.freezes.push_start(database, wanted.srvid)


def _push_confirm(rooms: Rooms, database: Database) -> _Answer:
    return rooms.freezes.push_confirm(database)


HANDLERS: dict[Control, Handler] = {
    Control.FREEZE: _freeze_all,
    Control.DB_FREEZE: _of_database(_freeze),
    Control.DB_THAW: of_database(_thaw),
    Control.DB_TRANSACTION_START: _in_transaction(_begin),
    Control.DB_TRANSACTION_COMMIT: _in_transaction(_commit),
    Control.DB_TRANSACTION_CANCEL: _of_database(_cancel),
    Control.WIPE_DATABASE: _in_transaction(_wipe),
    Control.DB_PULL: _of_transfer(_pull),
    Control.DB_PUSH_START: _of_transfer(_push_start),
    Control.DB_PUSH_CONFIRM: _of_database(_push_confirm),
}
