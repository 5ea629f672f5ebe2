# SPDX-License-Identifier: GPL-3.0-or-later
"""`ctdbctl event`: event scripts of this node."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from ctdbpy.cli import tables
from ctdbpy.cli.commands import Answer, answers, asks, group
from ctdbpy.cli.session import Session, paint, terminal_width
from ctdbpy.client import event_socket
from ctdbpy.config.paths import Paths
from ctdbpy.errors import ClientError
from ctdbpy.wire.events import EventStatus, RunRequest, ScriptStatus, StatusRequest

event = group("Event scripts: how they ended, running and enabling them.")

_COMPONENT: Final = "legacy"
_STATES: Final = {0: "OK", -errno.ENOEXEC: "DISABLED", -errno.ETIMEDOUT: "TIMEDOUT"}


@event.command("status")
@click.argument("name", default="monitor", metavar="[EVENT]")
@click.pass_obj
def status(session: Session, name: str) -> int:
    """Show how the scripts of an event ended when it last ran; exit with 1 if one failed."""
    reply = event_socket.ask(
        _paths().event_socket, StatusRequest(_COMPONENT, name), timeout_s=session.timeout_s
    )
    if reply.result == errno.EINVAL:
        raise ClientError(f"cannot show event '{name}': it has never run since the daemon began")
    if reply.result or reply.status is None:
        raise ClientError(f"cannot show event '{name}': {os.strerror(abs(reply.result))}")
    session.show({"event": name, "scripts": _rows(reply.status)}, _text)
    return int(reply.status.summary != 0)


def _rows(status: EventStatus) -> list[dict[str, Any]]:
    return [
        {
            "script": script.name,
            "status": _state(script),
            "seconds": round(script.end.time_s - script.begin.time_s, 3),
            "began": datetime.fromtimestamp(script.begin.time_s, UTC).isoformat(timespec="milliseconds"),
            "output": script.output or "",
        }
        for script in status.scripts
    ]


def _state(script: ScriptStatus) -> str:
    if script.result < 0 and script.result not in _STATES:
        return f"CANNOT RUN ({os.strerror(-script.result)})"
    return _STATES.get(script.result, f"ERROR {script.result}")


def _text(answer: Answer) -> str:
    rows = [
        {**row, "began": datetime.fromisoformat(row["began"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")}
        for row in answer["scripts"]
    ]
    shown = [{name: value for name, value in row.items() if name != "output"} for row in rows]
    said = [
        f"{row['script']} said:\n" + "".join(f"    {line}\n" for line in row["output"].splitlines())
        for row in rows
        if row["output"] and row["status"] not in ("OK", "DISABLED")
    ]
    if not shown:
        return f"no script has run on {answer['event']}\n"
    return tables.table_text(shown, terminal_width(), paint) + "".join(said)


@event.command("run")
@click.argument("name", metavar="EVENT")
@click.argument("arguments", nargs=-1)
@click.option(
    "--limit", type=click.IntRange(0), default=60, show_default=True, help="Seconds; 0 is no limit."
)
@asks
@click.pass_obj
def run(session: Session, name: str, arguments: tuple[str, ...], limit: int) -> None:
    """Run the scripts of an event now, one after the other, until one fails."""
    if name != "monitor":
        session.confirm(f"the scripts of this node do what they do on '{name}'")
    request = RunRequest(_COMPONENT, name, " ".join(arguments) or None, limit)
    result = event_socket.ask(
        _paths().event_socket, request, timeout_s=limit + 30.0 if limit else None
    ).result
    if result:
        reasons = {
            errno.ENOEXEC: "a script failed",
            errno.ETIMEDOUT: "a script hung",
            errno.ECANCELED: "cancelled",
        }
        why = reasons.get(abs(result), os.strerror(abs(result)))
        raise ClientError(f"cannot run event '{name}': {why}; see `ctdbctl event status {name}`")
    ran = event_socket.ask(
        _paths().event_socket, StatusRequest(_COMPONENT, name), timeout_s=session.timeout_s
    ).status
    scripts = [each["script"] for each in _rows(ran) if each["status"] != "DISABLED"] if ran else []
    text = f"the scripts of {name} have run" if scripts else f"no script is enabled: none has run on {name}"
    session.done(text, scripts=scripts)


@event.command("list")
@answers
def list_(_session: Session) -> Answer:
    """Show the event scripts there are, and which of them are enabled."""
    # Only here: what runs scripts brings an event loop along.
    from ctdbpy.host.scripts import list_scripts

    provided = _provided()
    try:
        present = {script.name: script for script in list_scripts(_directory())}
    except OSError as error:
        raise ClientError(f"cannot list '{_directory()}': {error.strerror}") from error
    rows = []
    for name in sorted({*provided, *present}):
        script = present.get(name)
        rows.append(
            {
                "script": name,
                "enabled": script is not None and script.is_enabled,
                "provided": name in provided,
            }
        )
    return {"scripts": rows}


@event.command("enable")
@click.argument("script")
@click.pass_obj
def enable(session: Session, script: str) -> None:
    """Have a script run from the next event on."""
    from ctdbpy.host.scripts import enable_script

    link = _directory() / f"{script}.script"
    if not os.path.lexists(link):
        provided = _provided().get(script)
        if provided is None:
            raise ClientError(f"cannot enable '{script}': there is no such script; see `ctdbctl event list`")
        try:
            link.symlink_to(provided)
        except OSError as error:
            raise ClientError(f"cannot enable '{script}': '{link}': {error.strerror}") from error
    elif not link.is_symlink():
        try:
            enable_script(_directory(), script, is_enabled=True)
        except OSError as error:
            raise ClientError(f"cannot enable '{script}': {error.strerror}") from error
    session.done(f"{script} is enabled")


@event.command("disable")
@click.argument("script")
@click.pass_obj
def disable(session: Session, script: str) -> None:
    """Have a script not run any more."""
    from ctdbpy.host.scripts import enable_script

    link = _directory() / f"{script}.script"
    if not os.path.lexists(link) and script not in _provided():
        raise ClientError(f"cannot disable '{script}': there is no such script; see `ctdbctl event list`")
    try:
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            enable_script(_directory(), script, is_enabled=False)
    except OSError as error:
        raise ClientError(f"cannot disable '{script}': {error.strerror}") from error
    session.done(f"{script} is disabled")


def _paths() -> Paths:
    return Paths.from_environment(os.environ)


def _directory() -> Path:
    return _paths().event_scripts


def _provided() -> dict[str, Path]:
    """The scripts that packages brought, by name."""
    from ctdbpy.host.scripts import list_scripts

    try:
        found = list_scripts((_paths().data / "events" / _COMPONENT).resolve())
    except OSError:
        return {}
    return {script.name: script.path for script in found}
