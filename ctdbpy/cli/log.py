# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl log`: read the daemon's log, and say how much it writes."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from ctdbpy.cli.commands import Answer, about_node, answers, group, target
from ctdbpy.cli.session import Session
from ctdbpy.config.loglevels import LOG_LEVELS, parse_log_level
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError
from ctdbpy.wire.controls import Control

log = group("The daemon's log.")


@log.command("show")
@click.option(
    "-n", "--lines", type=click.IntRange(1), default=50, show_default=True, help="The newest so many."
)
@click.option("-f", "--follow", is_flag=True, help="And what is written from now on.")
@click.pass_obj
def show(session: Session, lines: int, follow: bool) -> int:
    """Show the log of this node's daemon, from where it writes it."""
    from ctdbpy.config.configuration import load

    location = load(Paths.from_environment(os.environ)).settings.log_location
    argv = _reader(location, lines, follow)
    sys.stdout.flush()
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE if session.as_json else None, check=False)
    except OSError as error:
        raise ClientError(f"cannot read the log: '{argv[0]}': {error.strerror}") from error
    if session.as_json:
        session.show({"location": location, "lines": done.stdout.decode(errors="replace").splitlines()})
    return done.returncode


def _reader(location: str, lines: int, follow: bool) -> list[str]:
    more = ["--follow"] if follow else []
    kind, _, rest = location.partition(":")
    if kind == "file" and rest in ("", "-"):
        raise ClientError(
            "cannot read the log: the daemon writes to standard error; see journalctl -u ctdbpyd"
        )
    if kind == "file":
        return ["tail", f"--lines={lines}", *more, "--", rest]
    if kind == "syslog":
        return ["journalctl", "--no-pager", "--identifier=ctdbpyd", f"--lines={lines}", *more]
    raise ClientError(f"cannot read the log: it goes to '{location}'")


@log.command("level")
@click.argument("level", required=False)
@about_node
@answers
def level(session: Session, level: str | None, node: int | None) -> Answer:
    """Show how much a node's daemon logs, or set it: ERROR, WARNING, NOTICE, INFO, DEBUG."""
    with session.connect() as connection:
        number = target(connection, node)
        if level is not None:
            wanted = parse_log_level(level)
            if wanted is None:
                raise ClientError(f"cannot set log level '{level}': there are {', '.join(LOG_LEVELS)}")
            connection.ask(Control.SET_DEBUG, wanted, destnode=number)
        found = connection.ask(Control.GET_DEBUG, destnode=number)
    name = max((each for each in LOG_LEVELS.items() if each[1] <= found), key=lambda each: each[1])[0]
    return {"node": number, "log_level": name}
