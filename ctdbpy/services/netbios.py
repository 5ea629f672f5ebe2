# SPDX-License-Identifier: GPL-3.0-or-later
"""Samba's nmbd: started, stopped, and pinged by Samba's own messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ctdbpy.services import commands, managers
from ctdbpy.services.event import Event
from ctdbpy.services.managers import Daemon

_NMBD: Final = Daemon(("nmbd", "nmb"), ("nmbd", "-D"), "nmbd", Path("/run/samba/nmbd.pid"))
_PING_LIMIT_S: Final = 10


def run(event: Event) -> None:
    """Do what an event asks of nmbd. Raises ServiceError, which says what is not well."""
    name = event.text("CTDB_SERVICE_NMB")
    nmbd = replace(_NMBD, units=(name,)) if name else _NMBD
    match event.name:
        case "startup":
            managers.restart(event, nmbd)
        case "shutdown":
            managers.stop(event, nmbd)
        case "reload":
            managers.reload(event, nmbd)
        case "monitor":
            # smbcontrol gives up a little before it is given up.
            commands.run(
                ["smbcontrol", "-t", str(_PING_LIMIT_S - 2), "nmbd", "ping"], timeout_s=_PING_LIMIT_S
            )
