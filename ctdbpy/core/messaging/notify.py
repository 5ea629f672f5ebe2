# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that clients leave with us, sent when they are gone.

Source: reference/ctdb.md 7.18.
"""

from __future__ import annotations

from ctdbpy.core.state import Client, State
from ctdbpy.wire.constants import BROADCAST_CONNECTED
from ctdbpy.wire.structures import NotifyData


def register(client: Client, wanted: NotifyData) -> bool:
    """Keep a message for this srvid; False if the client left one already."""
    if wanted.srvid in client.notifications:
        return False
    client.notifications[wanted.srvid] = wanted.data
    return True


def deregister(client: Client, srvid: int) -> bool:
    """Forget it; False if there is none."""
    return client.notifications.pop(srvid, None) is not None


def send_all(state: State, client: Client) -> None:
    """The client is gone: tell everybody what it wanted told."""
    for srvid, data in client.notifications.items():
        state.send_message(BROADCAST_CONNECTED, srvid, data)
