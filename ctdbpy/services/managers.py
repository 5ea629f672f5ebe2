# SPDX-License-Identifier: GPL-3.0-or-later
"""Who starts and stops daemons: systemd where it runs, plain commands where not (containers, the lab).

Administrators choose with CTDB_SERVICE_MANAGER ("systemd" or "commands") when that is not what they want.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import addresses, commands
from ctdbpy.services.event import Event

#: There exactly where systemd is the init of this machine.
_SYSTEMD: Final = Path("/run/systemd/system")
_UNIT_DIRECTORIES: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
#: Less than EventScriptTimeout's 30 s: the reason is ours to say.
_COMMAND_LIMIT_S: Final = 25.0
_LISTEN_LIMIT_S: Final = 12.0
_LOOK_PAUSE_S: Final = 0.05
_END_LIMIT_S: Final = 10.0
_KILL_LIMIT_S: Final = 3.0
_TURN_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """One program that stays: how systemd calls it, and how it is started and found without systemd.

    units: its names as a unit, the first that is installed is meant. command: starts it in the background.
    process: the name of its processes. pid_file: where it notes the main one. listens: it has started once
    it listens on a TCP port, as its unit says, too; the command ends long before.
    """

    units: tuple[str, ...]
    command: tuple[str, ...]
    process: str
    pid_file: Path | None = None
    listens: bool = False


def start(event: Event, daemon: Daemon) -> None:
    """Start it; harmless when it runs already under systemd. Raises ServiceError."""
    if is_systemd(event):
        _systemctl("start", daemon)
        return
    with _turn(event, daemon):
        _start(daemon)


def stop(event: Event, daemon: Daemon) -> None:
    """End it with all its processes, by force if need be; harmless when none runs. Raises ServiceError."""
    if is_systemd(event):
        _systemctl("stop", daemon)
        return
    # Without a turn: what ends for good is not kept running by a start that hangs.
    _stop(daemon)


def restart(event: Event, daemon: Daemon) -> None:
    """Start it afresh, whatever runs of it now. Raises ServiceError."""
    if is_systemd(event):
        _systemctl("stop", daemon)
        _systemctl("start", daemon)
        return
    with _turn(event, daemon):
        _stop(daemon)
        _start(daemon)


def reload(event: Event, daemon: Daemon) -> None:
    """Have it read its configuration again. Raises ServiceError, also when it does not run."""
    if is_systemd(event):
        _systemctl("reload", daemon)
        return
    pid = main_process(daemon)
    if pid is None:
        raise ServiceError(f"cannot reload '{daemon.process}': it does not run")
    os.kill(pid, signal.SIGHUP)


def is_running(event: Event, daemon: Daemon) -> bool:
    """Whether it runs, as systemd or its processes say; it may hang all the same."""
    if is_systemd(event):
        asked = commands.run(
            ["systemctl", "is-active", "--quiet", _unit(daemon)], timeout_s=_COMMAND_LIMIT_S, check=False
        )
        return asked.status == 0
    return bool(processes(daemon))


def processes(daemon: Daemon) -> list[int]:
    """The ids of its processes, those of other containers on this machine left out."""
    own = os.readlink("/proc/self/ns/pid")
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if _is_of(entry, daemon.process) and os.readlink(f"/proc/{entry}/ns/pid") == own:
                found.append(int(entry))
        except OSError:
            pass  # It is gone, or it belongs to somebody whom we may not look at.
    return found


def main_process(daemon: Daemon) -> int | None:
    """The process that it has noted, else one of its own whose parent is none of them; None if none runs."""
    running = processes(daemon)
    if daemon.pid_file is not None:
        try:
            noted = int(daemon.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            noted = 0
        if noted in running:
            return noted
    return next((pid for pid in running if _parent(pid) not in running), None)


def is_systemd(event: Event) -> bool:
    """Whether systemd starts and stops daemons here. Raises ServiceError about an option that is wrong."""
    chosen = event.text("CTDB_SERVICE_MANAGER")
    if chosen not in ("", "systemd", "commands"):
        raise event.misuse("CTDB_SERVICE_MANAGER", "it must be 'systemd' or 'commands'")
    return chosen == "systemd" or (not chosen and _SYSTEMD.is_dir())


@contextmanager
def _turn(event: Event, daemon: Daemon) -> Iterator[None]:
    """One start at a time: an event that hung lives on while it is looked at, and the next one has begun.

    Else the older one would end what the newer has started, and might be ended before it starts it again.
    """
    # With what lasts: the older one may be an earlier daemon's.
    with (event.keep("lasting") / f"{daemon.process}.start").open("a") as file:
        until_s = time.monotonic() + _TURN_LIMIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise ServiceError(
                        f"cannot start '{daemon.process}': an earlier event that hangs is about to start it"
                    ) from None
            # A wait for the lock itself has no limit.
            select.select([], [], [], _LOOK_PAUSE_S)
        yield


def _start(daemon: Daemon) -> None:
    commands.run(daemon.command, timeout_s=_COMMAND_LIMIT_S)
    if daemon.listens:
        _wait_listening(daemon)


def _stop(daemon: Daemon) -> None:
    _end(processes(daemon), signal.SIGTERM, _END_LIMIT_S)
    left = _end(processes(daemon), signal.SIGKILL, _KILL_LIMIT_S)
    if left:
        raise ServiceError(
            f"cannot stop '{daemon.process}': process {left[0]} survived SIGKILL for {_KILL_LIMIT_S:g} s"
        )


def _wait_listening(daemon: Daemon) -> None:
    """Until one of its processes listens. Raises ServiceError if none is left, or time is up."""
    until_s = time.monotonic() + _LISTEN_LIMIT_S
    while True:
        running = processes(daemon)
        if not running:
            raise ServiceError(f"cannot start '{daemon.process}': it ended at once; its own log says why")
        if any(addresses.is_listener(pid) for pid in running):
            return
        if time.monotonic() >= until_s:
            raise ServiceError(
                f"cannot start '{daemon.process}': process {running[0]} listens on no TCP port after "
                f"{_LISTEN_LIMIT_S:g} s; its own log says what it waits for"
            )
        # Nothing tells when another process begins to listen.
        select.select([], [], [], _LOOK_PAUSE_S)


def _systemctl(verb: str, daemon: Daemon) -> None:
    commands.run(["systemctl", verb, _unit(daemon)], timeout_s=_COMMAND_LIMIT_S)


def _unit(daemon: Daemon) -> str:
    """The first of its names that is installed; if none is, the first, for systemd to complain about."""
    for name in daemon.units:
        if any(os.path.exists(f"{directory}/{name}.service") for directory in _UNIT_DIRECTORIES):
            return name
    return daemon.units[0]


def _is_of(pid: str, name: str) -> bool:
    """Whether a process that is alive has this name: of its program, or of the script that it runs."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        before, _, after = file.read().rpartition(")")
    if after.split(maxsplit=1)[0] in "ZX":
        return False
    # The kernel keeps 15 bytes of it.
    if before.partition("(")[2] == name[:15]:
        return True
    program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    return os.path.basename(program) == name


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def _end(pids: list[int], number: signal.Signals, limit_s: float) -> list[int]:
    """Signal processes and wait until they are gone; those that stay."""
    deadline_s = time.monotonic() + limit_s
    poll = select.poll()
    waiting: dict[int, int] = {}
    try:
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            waiting[handle] = pid
            # Also of one that has gone just now: then its handle says so.
            poll.register(handle, select.POLLIN)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
        alive = dict(waiting)
        while alive and (left_s := deadline_s - time.monotonic()) > 0:
            for handle, _ in poll.poll(left_s * 1000):
                poll.unregister(handle)
                del alive[handle]
    finally:
        for handle in waiting:
            os.close(handle)
    return list(alive.values())
