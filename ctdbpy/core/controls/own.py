# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls that upstream's daemons do not know and refuse with status -1."""

from __future__ import annotations

from ctdbpy.core.controls.handlers import Handler
from ctdbpy.core.requests import Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.constants import UNKNOWN_PNN
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import DbGeneration, DbGenerations


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


HANDLERS: dict[Control, Handler] = {
    Control.GET_DB_GENERATIONS: _generations,
    Control.GET_REASONS: _reasons,
}
