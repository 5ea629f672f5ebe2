# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of `ctdb` about tunables, the log level, the cluster lock and what a node may be."""

from __future__ import annotations

import errno

from ctdbpy.cli.ctdb.tool import BadUsage, Failed, Tool, parse_number, warn
from ctdbpy.config.loglevels import LOG_LEVELS, parse_log_level
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import TunableValue, VarList

#: The status that answers setting a tunable which means nothing any more.
_OBSOLETE = 1


def do_getvar(tool: Tool, name: str) -> int:
    if not _is_known(tool, name):
        return 1
    _print(tool, name)
    return 0


def do_listvars(tool: Tool) -> None:
    found: VarList = tool.ask(Control.LIST_TUNABLES)
    for name in found.names:
        _print(tool, name)


def do_setvar(tool: Tool, name: str, text: str) -> int:
    if not _is_known(tool, name):
        return 1
    value = parse_number(text)
    if value is None:
        return errno.EINVAL
    status = tool.status(Control.SET_TUNABLE, TunableValue(name, value & 0xFFFFFFFF))
    if status == _OBSOLETE:
        warn(f"Setting obsolete tunable variable '{name}'")
        return 0
    return 1 if status == -1 else status


def do_getdebug(tool: Tool) -> None:
    level = tool.ask(Control.GET_DEBUG)
    print(max((each for each in LOG_LEVELS.items() if each[1] <= level), key=lambda each: each[1])[0])


def do_setdebug(tool: Tool, text: str) -> None:
    level = parse_log_level(text)
    if level is None:
        names = " | ".join(LOG_LEVELS)
        raise Failed(1, f"Invalid debug level '{text}'. Valid levels are:\n\t{names}")
    tool.ask(Control.SET_DEBUG, level)


def do_getreclock(tool: Tool) -> None:
    lock = tool.ask(Control.GET_RECLOCK_FILE)
    if lock:
        print(lock)


def do_setlmasterrole(tool: Tool, text: str) -> None:
    tool.ask(Control.SET_LMASTERROLE, _on_or_off(text))


def do_setleaderrole(tool: Tool, text: str) -> None:
    tool.ask(Control.SET_RECMASTERROLE, _on_or_off(text))


def _on_or_off(text: str) -> int:
    if text not in ("on", "off"):
        raise BadUsage
    return int(text == "on")


def _is_known(tool: Tool, name: str) -> bool:
    with tool.saying(f"Failed to get list of variables from node {tool.cmd_pnn}"):
        found: VarList = tool.ask(Control.LIST_TUNABLES)
    if name.lower() in (each.lower() for each in found.names):
        return True
    print(f"No such tunable {name}")
    return False


def _print(tool: Tool, name: str) -> None:
    print(f"{name:<26} = {tool.ask(Control.GET_TUNABLE, name)}")
