# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls that look into a node: log level, statistics, memory."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler, of_database
from ctdbpy.core.effects import SetLogLevel
from ctdbpy.core.requests import OK, Reply, Request
from ctdbpy.core.rooms import Rooms
from ctdbpy.core.state import Database
from ctdbpy.wire.codecs import I32
from ctdbpy.wire.controls import Control


def _level(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=I32.pack(rooms.state.log_level))


def _set_level(rooms: Rooms, _request: Request, level: int) -> Reply:
    rooms.state.log_level = level
    rooms.state.emit(SetLogLevel(level))
    return OK


def _statistics(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=rooms.statistician.current(rooms.memory().total).pack())


def _reset(rooms: Rooms, _request: Request, _value: None) -> Reply:
    rooms.statistician.reset()
    return OK


def _of_database(rooms: Rooms, _request: Request, database: Database) -> Reply:
    return Reply(data=rooms.statistician.of_database(database).pack())


def _history(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=rooms.statistician.history().pack())


def _memory(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=rooms.memory().text.encode())


HANDLERS: dict[Control, Handler] = {
    Control.GET_DEBUG: _level,
    Control.SET_DEBUG: _set_level,
    Control.STATISTICS: _statistics,
    Control.STATISTICS_RESET: _reset,
    Control.GET_DB_STATISTICS: of_database(_of_database),
    Control.GET_STAT_HISTORY: _history,
    Control.DUMP_MEMORY: _memory,
}
