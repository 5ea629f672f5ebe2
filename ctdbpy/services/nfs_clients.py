# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that hold locks: noting them before they get one, and telling them when their locks are lost."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ctdbpy.errors import CtdbpyError, ServiceError
from ctdbpy.services import addresses, commands, nsm
from ctdbpy.services.event import Event
from ctdbpy.services.nfs import is_forwarding
from ctdbpy.services.nfs_records import Holder, Records
from ctdbpy.services.nfs_server import Server

#: What an event waits for clients; those that have not answered by then are told by a process of its own.
_FIRST_LIMIT_S: Final = 1.5
_LATER_LIMIT_S: Final = 60.0
#: The status monitor answers nobody meanwhile.
_NOTE_LIMIT_S: Final = 5.0


def run(event: Event) -> None:
    """What statd calls (`add-client`, `del-client`), and what goes on telling clients (`notify`)."""
    match event.name:
        case "add-client":
            note(event, event.arguments[0])
        case "del-client":
            # A server that ends or starts says so of all clients, and just then they have to be told.
            # Who holds no locks takes no notice of it, and is forgotten after the next grace period.
            pass
        case "notify":
            epoch, *words = event.arguments
            nsm.send([nsm.Notice(*word.split("@")) for word in words], int(epoch), limit_s=_LATER_LIMIT_S)
        case _:
            raise ServiceError(f"cannot do '{event.name}': it must be add-client, del-client or notify")


def note(event: Event, name: str) -> None:
    """Note a client before its first lock is given out, so that it is told whatever becomes of this node.

    When the cluster cannot note it now, this node does, and the next `monitor` event carries it over.
    """
    client = _address(name)
    try:
        with Records(event, limit_s=_NOTE_LIMIT_S) as records:
            records.note(_holders(event, records, [client]))
    except CtdbpyError as error:
        (_waiting(event) / client).touch()
        raise ServiceError(f"cannot note that '{client}' holds locks; it is tried again: {error}") from None


def carry_over(event: Event, server: Server, records: Records) -> None:
    """Have the cluster note whom only this node knows: noted here in need, or watched as an address came."""
    waiting = os.listdir(_waiting(event))
    keys = {holder.key for holder in records.holders()}
    watched = _holders(event, records, _watched(event, server))
    wanted = _holders(event, records, waiting) + [each for each in watched if each.key not in keys]
    if wanted:
        records.note(wanted)
    for client in waiting:
        (_waiting(event) / client).unlink(missing_ok=True)


def known(event: Event, records: Records) -> list[str]:
    """Every client that is noted, in the cluster or only here."""
    return sorted({holder.client for holder in records.holders()} | set(os.listdir(_waiting(event))))


def drop(event: Event, server: Server, address: str) -> None:
    """Let go of locks given out at an address that leaves this node: another gives them out from now on."""
    with Records(event) as records:
        clients = {holder.client for holder in records.holders() if holder.server == address}
    if clients:
        server.drop_locks(sorted(clients))


def welcome(event: Event, server: Server, hosted: list[str], *, begins_grace: bool) -> None:
    """Have the clients of every address that is here claim their locks anew.

    Not of those only that have come: a client that has lost its locks with one address may have had others
    here, and a server that is restarted has lost all.
    """
    with Records(event) as records:
        holders = records.holders()
    if begins_grace:
        server.begin_grace(hosted[0])
    for address in hosted:
        clients = [holder.client for holder in holders if holder.server == address]
        tell(event, clients, [address], int(time.time()))


def tell(event: Event, clients: Iterable[str], sources: list[str], epoch: int) -> None:
    """Send SM_NOTIFY to clients from these addresses; who does not answer is told on after the event."""
    wanted = nsm.notices(clients, sources, event.words("CTDB_NFS_SERVER_NAMES"))
    silent = nsm.send(wanted, epoch, limit_s=_FIRST_LIMIT_S)
    if wanted:
        answered = f"{len(wanted) - len(silent)} of {len(wanted)} notices answered"
        event.warnings.append(f"clients are told to claim their locks: {answered}")
    if silent:
        words = [f"{notice.client}@{notice.source}@{notice.name}" for notice in silent]
        commands.leave_running(
            [sys.executable, "-m", "ctdbpy.services", "statd", "notify", str(epoch), *words]
        )


# -- private -----------------------------------------------------------------------------------


def _holders(event: Event, records: Records, clients: list[str]) -> list[Holder]:
    if is_forwarding(event):
        lock_node = records.lock_node()
        epoch = 0 if lock_node is None else lock_node.epoch
        return [Holder(client, "", epoch) for client in clients]
    now = int(time.time())
    return [Holder(client, address, now) for client in clients for address in addresses.hosted(event)]


def _watched(event: Event, server: Server) -> list[str]:
    found = []
    for name in server.watched():
        try:
            found.append(_address(name))
        except ServiceError as error:
            event.warnings.append(str(error))
    return found


def _waiting(event: Event) -> Path:
    return event.keep("lasting/nfs-clients")


def _address(name: str) -> str:
    """The address of a client as statd calls it. Raises ServiceError."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise ServiceError(f"cannot find the address of client '{name}': {error.strerror}") from None
