# SPDX-License-Identifier: GPL-3.0-or-later
"""A control on its way in, and the answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ctdbpy.core.state import Client
from ctdbpy.wire.packets import ReqControl

#: What an operation that went wrong answers as its status.
FAILED: Final = -1


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a control; the text of an error travels too, though most clients ignore it."""

    status: int = 0
    data: bytes = b""
    error: str = ""

    @property
    def is_good(self) -> bool:
        return self.status == 0


OK: Final = Reply()


def refuse(reason: str, status: int = FAILED) -> Reply:
    """An answer that says why not."""
    return Reply(status, b"", reason)


@dataclass(frozen=True, slots=True)
class ClientAsker:
    """A local program waits for the answer."""

    client_id: int
    reqid: int


@dataclass(frozen=True, slots=True)
class NodeAsker:
    """Another node waits for the answer."""

    pnn: int
    reqid: int


@dataclass(frozen=True, slots=True)
class OwnAsker:
    """A procedure of this very node waits for the answer."""

    reqid: int


Asker = ClientAsker | NodeAsker | OwnAsker | None


@dataclass(frozen=True, slots=True)
class Request:
    """A control to be served here.

    `pnn` is the node it came from, this one for local clients and our own procedures. `client` is the
    local program that sent it, None for a daemon's own control. `asker` None: nobody wants an answer.
    """

    control: ReqControl
    pnn: int
    client: Client | None
    asker: Asker
