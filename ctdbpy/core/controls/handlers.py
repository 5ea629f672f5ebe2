# SPDX-License-Identifier: GPL-3.0-or-later
"""What a handler of a control is, and what many of them do first."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ctdbpy.core.requests import Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.core.state import Database

#: The value is what `wire.controls.decode_request` makes of the data: None where a control has none.
Handler = Callable[[Rooms, Request, Any], Reply | Coroutine[Any, Any, Reply]]


def no_database(db_id: int) -> Reply:
    """The answer about a database that is not attached."""
    return refuse(f"no database {db_id:#010x} is attached")


def of_database(act: Callable[[Rooms, Request, Database], Any]) -> Handler:
    """A handler for a control whose value is the id of a database: gets the database instead."""

    def handle(rooms: Rooms, request: Request, db_id: int) -> Any:
        database = rooms.state.databases.get(db_id)
        return no_database(db_id) if database is None else act(rooms, request, database)

    return handle


def of_client(act: Callable[[Rooms, Request, Any], Any]) -> Handler:
    """A handler that only serves a local program."""

    def handle(rooms: Rooms, request: Request, value: Any) -> Any:
        if request.client is None:
            return refuse("only a local client may ask for this")
        return act(rooms, request, value)

    return handle
