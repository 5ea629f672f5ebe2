# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls about tunables."""

from __future__ import annotations

from typing import Final

from ctdbpy.core.controls.handlers import Handler
from ctdbpy.core.requests import OK, Reply, Request, refuse
from ctdbpy.core.rooms import Rooms
from ctdbpy.wire.codecs import U32
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import TunableValue, VarList
from ctdbpy.wire.tunables import LISTED_NAMES, find_tunable

_OBSOLETE: Final = 1
_UNKNOWN: Final = -22


def _set(rooms: Rooms, _request: Request, wanted: TunableValue) -> Reply:
    spec = find_tunable(wanted.name)
    if spec is None:
        return refuse(f"there is no tunable {wanted.name!r}")
    if spec.obsolete:
        return refuse(f"tunable {spec.name!r} is obsolete", _OBSOLETE)
    rooms.state.set_tunables(rooms.state.tunables.replaced(wanted.name, wanted.value))
    return OK


def _get(rooms: Rooms, _request: Request, name: str) -> Reply:
    if find_tunable(name) is None:
        return refuse(f"there is no tunable {name!r}", _UNKNOWN)
    return Reply(data=U32.pack(rooms.state.tunables.get(name)))


def _list(_rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=VarList(LISTED_NAMES).pack())


def _get_all(rooms: Rooms, _request: Request, _value: None) -> Reply:
    return Reply(data=rooms.state.tunables.pack())


HANDLERS: dict[Control, Handler] = {
    Control.SET_TUNABLE: _set,
    Control.GET_TUNABLE: _get,
    Control.LIST_TUNABLES: _list,
    Control.GET_ALL_TUNABLES: _get_all,
}
