# SPDX-License-Identifier: GPL-3.0-or-later
"""Samba's winbindd: started, stopped, and pinged as its clients talk to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ctdbpy.services import commands, managers
from ctdbpy.services.event import Event
from ctdbpy.services.managers import Daemon

_WINBINDD: Final = Daemon(("winbind",), ("winbindd", "-D"), "winbindd", Path("/run/samba/winbindd.pid"))
_PING_LIMIT_S: Final = 10


def run(event: Event) -> None:
    """Do what an event asks of winbindd. Raises ServiceError, which says what is not well."""
    name = event.text("CTDB_SERVICE_WINBIND")
    winbindd = replace(_WINBINDD, units=(name,)) if name else _WINBINDD
    match event.name:
        case "startup":
            managers.restart(event, winbindd)
        case "shutdown":
            managers.stop(event, winbindd)
        case "reload":
            managers.reload(event, winbindd)
        case "monitor":
            commands.run(["wbinfo", "--ping"], timeout_s=_PING_LIMIT_S)
