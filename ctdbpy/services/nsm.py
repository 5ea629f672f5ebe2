# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling NFS clients that a lock manager has lost their locks, so that they claim them again.

A client takes SM_NOTIFY only from the address that it has mounted, and only under the name that it has
mounted. So it is sent from each public address under that address, and under each name that the
administrator says clients use.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import oncrpc
from ctdbpy.services.oncrpc import Service, opaque, uint

_STATUS: Final = Service("the status monitor", oncrpc.STATUS, 1)
_SM_NOTIFY: Final = 6
_AT_ONCE: Final = 64
_TRY_S: Final = 1.0


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
    """Tell them all, again and again until they answer; those that had no answer in time.

    Many at a time, and none for long: clients that are gone must not keep others waiting.
    """
    deadline_s = time.monotonic() + limit_s
    silent = wanted
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while silent and time.monotonic() < deadline_s:
            answered = list(pool.map(lambda notice: _send(notice, epoch, deadline_s), silent))
            silent = [
                notice for notice, has_answered in zip(silent, answered, strict=True) if not has_answered
            ]
    return silent


def _send(notice: Notice, epoch: int, deadline_s: float) -> bool:
    """Whether the client has answered, if only that it has no status monitor: then it asks no more of us."""
    now_s = time.monotonic()
    until_s = min(deadline_s, now_s + _TRY_S)
    if until_s <= now_s:
        return False
    told = opaque(notice.name.encode()) + uint(state_of(epoch))
    try:
        oncrpc.call(
            notice.client,
            _STATUS,
            _SM_NOTIFY,
            told,
            transport="udp",
            timeout_s=until_s - now_s,
            source=notice.source,
        )
    except ServiceError:
        return time.monotonic() < until_s
    return True
