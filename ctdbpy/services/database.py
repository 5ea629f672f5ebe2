# SPDX-License-Identifier: GPL-3.0-or-later
"""Database files: scripts' state emptied and files checked before the daemon opens them, and regular backups.

A persistent file that is not sound keeps the daemon from starting: other nodes have the records, and an
administrator decides. A volatile one would be emptied anyway; it is kept aside for whoever wants to know why.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError, StoreError
from ctdbpy.services import configured, state
from ctdbpy.services.event import Event

#: For all files together. The event has 30 s, and the daemon ends when it fails.
CHECK_LIMIT_S: Final = 20.0
_FILE: Final = re.compile(r".+\.tdb\.\d+")


def run(event: Event) -> None:
    """Do an event. Raises ServiceError."""
    if event.name == "init":
        empty_state(event)
        check_files(event)


def empty_state(event: Event) -> None:
    """Forget what scripts noted under the last daemon, but what is to last. Raises ServiceError."""
    directory = event.state
    # What follows removes all there is: a slip of the variable is not to cost anybody's files.
    if not directory.is_absolute() or len(directory.parts) < 4:
        raise ServiceError(
            f"cannot empty CTDB_SCRIPT_VARDIR='{directory}': "
            "it must be a directory of its own, as /var/lib/ctdb/scripts"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for entry in directory.iterdir():
            if entry.name == state.LASTING:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except OSError as error:
        raise ServiceError(f"cannot empty '{directory}': {error.strerror}") from None


def check_files(event: Event) -> None:
    """Check the databases' files. Raises ServiceError when a persistent one is not sound."""
    most = event.number("CTDB_MAX_CORRUPT_DB_BACKUPS", 10)
    paths = configured.paths(event)
    deadline_s = time.monotonic() + CHECK_LIMIT_S
    for path in _files(paths.persistent):
        reason = _why_not_sound(event, path, deadline_s, is_persistent=True)
        if reason:
            raise ServiceError(
                f"cannot start with persistent database '{path}': it is corrupt ({reason}); "
                "put a backup in its place, or move it away to have its records come from the other nodes"
            )
    for path in _files(paths.volatile):
        reason = _why_not_sound(event, path, deadline_s, is_persistent=False)
        if reason:
            aside = _put_aside(path, most)
            event.warnings.append(
                f"WARNING: volatile database '{path}' is corrupt ({reason}); it is kept as '{aside.name}'"
            )


def _files(directory: Path) -> list[Path]:
    # A directory that is not there is the daemon's to complain about.
    return sorted(path for path in directory.glob("*") if _FILE.fullmatch(path.name) and path.is_file())


def _why_not_sound(event: Event, path: Path, deadline_s: float, *, is_persistent: bool) -> str:
    """What is wrong with a file, "" if nothing is.

    A child looks: libtdb may crash over what it finds, or wait for a lock.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _look(path, write, is_persistent=is_persistent)
    os.close(write)
    try:
        left_s = max(0.0, deadline_s - time.monotonic())
        if not select.select([read], [], [], left_s)[0]:
            os.kill(child, signal.SIGKILL)
            event.warnings.append(
                f"WARNING: '{path}' is not checked: there was no time left, or somebody has it locked"
            )
            return ""
        with open(read, "rb", closefd=False) as file:
            said = file.read().decode(errors="replace")
    finally:
        os.close(read)
    _, status = os.waitpid(child, 0)
    if said:
        return said[1:]
    return f"checking it ended with status {os.waitstatus_to_exitcode(status)}"


def _look(path: Path, write: int, *, is_persistent: bool) -> None:
    """The child: says `+`, or `-` and what is wrong. Does not return."""
    try:
        from ctdbpy.store import tdb

        try:
            # A persistent file may have a transaction that a crash cut short: opened to be written to, it is
            # mended. Locks of a volatile one mean nothing while no daemon runs.
            flags, how = (tdb.DEFAULT, os.O_RDWR) if is_persistent else (tdb.NOLOCK, os.O_RDONLY)
            with tdb.Tdb.open(path, flags=flags, open_flags=how) as file:
                file.check()
            said = "+"
        except StoreError as error:
            said = f"-{error}"
        os.write(write, said.encode())
    finally:
        os._exit(1)


def _put_aside(path: Path, most: int) -> Path:
    now = datetime.now(UTC)
    aside = path.with_name(f"{path.name}.{now:%Y%m%d.%H%M%S}.corrupt")
    try:
        path.rename(aside)
        kept = sorted(path.parent.glob(f"{path.name}.*.corrupt"), reverse=True)
        for old in kept[most:]:
            old.unlink()
    except OSError as error:
        raise ServiceError(f"cannot put corrupt '{path}' aside: {error.strerror}") from None
    return aside
