# SPDX-License-Identifier: GPL-3.0-or-later
"""What every command works with: which daemon to ask, how to show the answer, whether to go on."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from ctdbpy.cli import tables
from ctdbpy.client.connection import Connection
from ctdbpy.errors import ClientError

if TYPE_CHECKING:
    from ctdbpy.client.nodes import Cluster

#: A daemon that serves answers at once; a recovery on its way takes far less.
TIMEOUT_S: Final = 10.0
#: Other nodes are only asked for what would be nice to know: who does not answer in this time is left out.
PATIENCE_S: Final = 0.15
#: A deed that has not come to its end by then is given up.
WAIT_S: Final = 120.0

_COLOURS: Final = {"OK": "green", "yes": "green", "NORMAL": "green"}
_PAINTED: Final = frozenset({"state", "recovery_mode", "status", "health"})


@dataclass(slots=True)
class Session:
    """The options of the program, and those that every command has."""

    socket: str
    timeout_s: float = TIMEOUT_S
    as_json: bool = False
    is_sure: bool = False
    wait: bool | None = None
    is_waiting: bool = False

    def connect(self) -> Connection:
        """A connection to the daemon of this node. Raises ClientError."""
        return Connection(self.socket, timeout_s=self.timeout_s)

    @contextmanager
    def cluster(self) -> Iterator[Cluster]:
        """The cluster through such a connection; progress is shown."""
        from ctdbpy.client.nodes import Cluster

        with self.connect() as connection:
            try:
                yield Cluster(connection, limit_s=WAIT_S, progress=self.progress)
            finally:
                self.clear_progress()

    def show(self, answer: Mapping[str, Any], to_text: Callable[[Any], str] | None = None) -> None:
        """Print an answer, as JSON if asked for."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        elif to_text is not None:
            click.echo(to_text(answer), nl=False)
        else:
            click.echo(tables.text_of(answer, terminal_width(), paint), nl=False)

    def done(self, text: str, **facts: object) -> None:
        """Say that something has been done."""
        self.clear_progress()
        self.show({"done": text, **facts}, lambda answer: f"{answer['done']}\n")

    def confirm(self, what: str) -> None:
        """Go on only with a yes, given before or by whoever sits at the terminal. Raises ClientError."""
        if self.is_sure:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ClientError(f"cannot go on without a yes: {what}; add --yes")
        click.confirm(f"{what}. Go on?", abort=True, err=True)

    # -- progress ----------------------------------------------------------------------------

    def progress(self, what: str) -> None:
        """Tell what is waited for: on one line of a terminal, or line by line when --wait is given."""
        if sys.stderr.isatty():
            width = terminal_width(sys.stderr.fileno()) or 80
            sys.stderr.write(f"\r\x1b[K{f'waiting until {what}'[: width - 1]}")
            sys.stderr.flush()
            self.is_waiting = True
        elif self.wait:
            sys.stderr.write(f"waiting until {what}\n")

    def clear_progress(self) -> None:
        """Take the line back."""
        if self.is_waiting:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.is_waiting = False


def terminal_width(descriptor: int | None = None) -> int | None:
    """How many characters a line of the terminal has; None when the output goes elsewhere."""
    stream = sys.stdout.fileno if descriptor is None else None
    try:
        number = stream() if stream is not None else descriptor
        if number is None or not os.isatty(number):
            return None
    except (OSError, ValueError):
        return None
    return shutil.get_terminal_size().columns


def paint(column: str, text: str) -> str:
    """Colour for words about states, on a terminal that is not told otherwise (NO_COLOR)."""
    if column not in _PAINTED or "NO_COLOR" in os.environ or terminal_width() is None:
        return text
    return click.style(text, fg=_COLOURS.get(text, "red"))
