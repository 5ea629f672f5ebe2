# SPDX-License-Identifier: GPL-3.0-or-later
"""60.nfs: the NFS server of a node, its health, and grace periods around addresses that move."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from ctdbpy.errors import CtdbpyError, ServiceError
from ctdbpy.services import addresses, directories, nfs_checks
from ctdbpy.services.event import Event
from ctdbpy.services.nfs_server import Server, server_of

FORWARDING: Final = "61.nlm-forward.script"
_PORT: Final = 2049
_SHARE_LIMIT_S: Final = 10.0
#: A takeover run lasts no longer: what startipreallocate began covers the addresses that come with it.
_RUN_S: Final = 30.0


def run(event: Event) -> None:
    """One event of 60.nfs."""
    match event.name:
        case "startup":
            _start(event, server_of(event))
        case "shutdown":
            server_of(event).stop()
        case "startipreallocate":
            _begin_grace(event, server_of(event))
        case "takeip":
            # Samba's daemon of 4.17 knows no startipreallocate.
            if not _has_begun(event):
                _begin_grace(event, server_of(event), event.arguments[1])
        case "releaseip":
            _let_go(event, server_of(event), event.arguments[1])
        case "ipreallocated":
            _tell_clients(event, server_of(event))
        case "monitor":
            _monitor(event, server_of(event))


def is_forwarding(event: Event) -> bool:
    """Whether one lock manager serves all nodes (61.nlm-forward)."""
    return os.access(event.base / "events" / "legacy" / FORWARDING, os.X_OK)


def state_of(event: Event) -> Path:
    """The directory of what this script keeps between events."""
    return event.keep("60.nfs")


# -- private -----------------------------------------------------------------------------------


def _start(event: Event, server: Server) -> None:
    state = state_of(event)
    nfs_checks.forget(state / "failures")
    (state / "hosted").unlink(missing_ok=True)
    server.stop()
    server.start()


def _begin_grace(event: Event, server: Server, address: str = "") -> None:
    """Have locks be claimed only, and not be given, before any address moves.

    One that cannot is told of, and addresses move all the same: else they would stay where nobody serves.
    The kernel's server would have to be restarted for it: it does so when addresses have come.
    """
    if server.begins_grace_at_once:
        try:
            server.begin_grace(address or _any_address(event))
        except ServiceError as error:
            event.warnings.append(f"{error}: locks may be given to others before their holders claim them")
            return
    (state_of(event) / "grace").touch()


def _any_address(event: Event) -> str:
    return next(iter(addresses.public(event)), "127.0.0.1")


def _has_begun(event: Event) -> bool:
    try:
        return time.time() - (state_of(event) / "grace").stat().st_mtime < _RUN_S
    except FileNotFoundError:
        return False


def _let_go(event: Event, server: Server, address: str) -> None:
    """Without a lock node: the node that gets the address gives out its locks."""
    if is_forwarding(event):
        return
    from ctdbpy.services import nfs_clients

    try:
        nfs_clients.drop(event, server, address)
    except CtdbpyError as error:
        event.warnings.append(f"{error}: clients of '{address}' may be refused their own locks")


def _tell_clients(event: Event, server: Server) -> None:
    """Without a lock node each address has its own clients, who claim their locks where it is now."""
    if is_forwarding(event):
        return
    from ctdbpy.services import nfs_clients

    file = state_of(event) / "hosted"
    before = file.read_text(encoding="ascii").split() if file.exists() else []
    hosted = addresses.hosted(event)
    come = [address for address in hosted if address not in before]
    gone = [address for address in before if address not in hosted]
    if hosted and (come or gone):
        begins_grace = bool(come) and not server.begins_grace_at_once
        nfs_clients.welcome(event, server, hosted, begins_grace=begins_grace)
    file.write_text(" ".join(hosted), encoding="ascii")


def _monitor(event: Event, server: Server) -> None:
    state = state_of(event)
    if not event.flag("CTDB_NFS_SKIP_SHARE_CHECK", default=False):
        directories.check("the directory of export", server.exports(), timeout_s=_SHARE_LIMIT_S, state=state)
    from ctdbpy.services import connections, nfs_clients
    from ctdbpy.services.nfs_records import Records

    nfs_checks.run(event, nfs_checks.wanted(event), server.restart, state / "failures")
    server.check_grace()
    connections.update_tickles(event, _PORT)
    if not is_forwarding(event):
        try:
            with Records(event) as records:
                nfs_clients.carry_over(event, server, records)
        except CtdbpyError as error:
            event.warnings.append(f"{error}: clients that hold locks are noted later")
