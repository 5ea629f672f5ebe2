# SPDX-License-Identifier: GPL-3.0-or-later
"""What every command works with: which daemon to ask, and how to show the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from ctdbpy.client.connection import Connection

#: A daemon that serves answers at once; a recovery on its way takes far less.
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Session:
    """The options in front of the command."""

    socket: str
    timeout_s: float
    as_json: bool

    def connect(self) -> Connection:
        """A connection to the daemon of this node. Raises ClientError."""
        return Connection(self.socket, timeout_s=self.timeout_s)

    def show(self, answer: Mapping[str, Any], to_text: Callable[[Any], str]) -> None:
        """Print an answer, as JSON if asked for."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        else:
            click.echo(to_text(answer), nl=False)
