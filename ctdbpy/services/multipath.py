# SPDX-License-Identifier: GPL-3.0-or-later
"""Multipath devices: each that CTDB_MONITOR_MPDEVICES names has a path that works."""

from __future__ import annotations

import re
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands
from ctdbpy.services.event import Event

#: For all devices: the program waits for disks that do not answer.
_LIMIT_S: Final = 10.0
_ACTIVE: Final = re.compile(r"prio=.* status=active")


def run(event: Event) -> None:
    """Do an event. Raises ServiceError."""
    if event.name != "monitor":
        return
    devices = event.words("CTDB_MONITOR_MPDEVICES")
    for device in devices:
        paths = commands.run(
            ["multipath", "-ll", device], timeout_s=_LIMIT_S / len(devices), check=False
        ).output
        if not paths.strip():
            raise ServiceError(f"multipathd does not know device '{device}'")
        if not _ACTIVE.search(paths):
            raise ServiceError(f"multipath device '{device}' has no active path")
