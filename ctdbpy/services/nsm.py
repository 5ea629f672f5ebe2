# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling NFS clients that a lock manager has lost their locks, so that they claim them again.

A client takes SM_NOTIFY only from the address that it has mounted, and only under the name that it has
mounted. So it is sent from each public address under that address, and under each name that the
administrator says clients use.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import oncrpc
from ctdbpy.services.oncrpc import Service, opaque, uint

_STATUS: Final = Service("the status monitor", oncrpc.STATUS, 1)
_SM_NOTIFY: Final = 6
_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Notice:
    """What a client is told: the server called `name` has restarted. source: the address it is told from."""

    client: str
    source: str
    name: str


def notices(clients: Iterable[str], sources: Iterable[str], names: Iterable[str]) -> list[Notice]:
    """Every notice: to each client from each address of its family, under the address and under each name."""
    others = tuple(names)
    return [
        Notice(client, source, name)
        for client in clients
        for source in sources
        if (":" in client) == (":" in source)
        for name in (source, *others)
    ]


def state_of(epoch: int) -> int:
    """NSM's state number of an epoch: odd while the server is up, and another one after each restart."""
    return (epoch * 2 + 1) & 0x7FFFFFFF


def send(wanted: list[Notice], epoch: int, *, limit_s: float) -> list[Notice]:
    """Tell them all at once, again and again until they answer; those that had no answer in time."""
    if not wanted:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
        answered = list(pool.map(lambda notice: _send(notice, epoch, limit_s), wanted))
    return [notice for notice, is_answered in zip(wanted, answered, strict=True) if not is_answered]


def _send(notice: Notice, epoch: int, limit_s: float) -> bool:
    told = opaque(notice.name.encode()) + uint(state_of(epoch))
    try:
        oncrpc.call(
            notice.client,
            _STATUS,
            _SM_NOTIFY,
            told,
            transport="udp",
            timeout_s=limit_s,
            source=notice.source,
        )
    except ServiceError:
        return False
    return True
