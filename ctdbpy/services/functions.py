# SPDX-License-Identifier: GPL-3.0-or-later
"""What functions of `eventscripts/functions` have done or found out here; no event of the daemon.

directories                  prints CTDB_DBDIR, CTDB_DBDIR_PERSISTENT, CTDB_DBDIR_STATE as shell assignments
setting SECTION OPTION       prints what ctdb.conf has, or the default
kill-connections ADDRESS     ends the TCP connections to an address
update-tickles PORT          has the daemon know the connections at a port
"""

from __future__ import annotations

import shlex

from ctdbpy.errors import ServiceError
from ctdbpy.services import configured
from ctdbpy.services.event import Event


def run(event: Event) -> None:
    """Do one of them. Raises ServiceError."""
    match event.name, event.arguments:
        case "directories", ():
            paths = configured.paths(event)
            for name, value in zip(("", "_PERSISTENT", "_STATE"), paths.databases, strict=True):
                event.answers.append(f"CTDB_DBDIR{name}={shlex.quote(str(value))}")
        case "setting", (section, option):
            event.answers.append(_setting(event, section, option))
        case "kill-connections", (address,):
            # Only these two need what the package knows of sockets.
            from ctdbpy.services import connections

            connections.kill(address)
        case "update-tickles", (port,) if port.isdecimal():
            from ctdbpy.services import connections

            connections.update_tickles(event, int(port))
        case _:
            raise ServiceError(
                f"cannot do '{' '.join((event.name, *event.arguments))}': there is no such function"
            )


def _setting(event: Event, section: str, option: str) -> str:
    paths = configured.paths(event)
    settings = configured.settings(event)
    match section, option:
        case "cluster", "cluster lock" | "recovery lock":
            return settings.lock or ""
        case "database", "volatile database directory":
            return str(paths.volatile)
        case "database", "persistent database directory":
            return str(paths.persistent)
        case "database", "state database directory":
            return str(paths.state)
        case _:
            raise ServiceError(f"cannot read '{option}' of section '{section}': scripts know no such setting")
