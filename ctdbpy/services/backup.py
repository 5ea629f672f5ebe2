# SPDX-License-Identifier: GPL-3.0-or-later
"""Regular backups of persistent databases: once a day, by the node that leads the cluster.

A backup is an archive with a file for each database that `ctdb restoredb` takes. It is made beside the
events, which do not wait for it; what went wrong is told by the next `monitor`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tarfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands, state, tool
from ctdbpy.services.event import Event

_PREFIX: Final = "persistent-databases."
_SUFFIX: Final = ".tar.gz"
#: What lacks a database says so in its name.
_PARTIAL: Final = ".partial.tar.gz"
_DAY_S: Final = 24 * 3600
#: How often it is looked whether one is due.
_LOOK_S: Final = 600
_DATABASE_LIMIT_S: Final = 600.0


def run(event: Event) -> None:
    """Do an event, or make a backup if one is due (`look`) or now (`backup`). Raises ServiceError."""
    text = event.text("CTDB_PERSISTENT_DB_BACKUP_DIR")
    if not text or event.name not in ("monitor", "look", "backup"):
        return
    plan = read_options(event, Path(text))
    if event.name != "monitor":
        _work(event, plan, is_asked_for=event.name == "backup")
        return
    # The directory's file system may hang: only the process that is left to itself goes near it.
    at_s, trouble = _last_look(event)
    if trouble:
        event.warnings.append(f"WARNING: {trouble}")
    if time.time() - at_s >= _LOOK_S:
        state.write(_note(event), {"at_s": time.time(), "trouble": trouble})
        commands.leave_running([sys.executable, "-P", "-m", "ctdbpy.services", "backup", "look"])


@dataclass(frozen=True, slots=True)
class Plan:
    """What script.options say. mode: of the directory, if it has to be made."""

    directory: Path
    limit: int
    mode: int


def read_options(event: Event, directory: Path) -> Plan:
    """The options, each as it must be. Raises ServiceError."""
    if not directory.is_absolute():
        raise event.misuse("CTDB_PERSISTENT_DB_BACKUP_DIR", "it must be an absolute path")
    limit = event.number("CTDB_PERSISTENT_DB_BACKUP_LIMIT", 14, least=1)
    try:
        mode = int(event.text("CTDB_PERSISTENT_DB_BACKUP_MODE", "0700"), 8)
    except ValueError:
        raise event.misuse("CTDB_PERSISTENT_DB_BACKUP_MODE", "it must be an octal mode, as 0700") from None
    return Plan(directory, limit, mode)


def is_due(directory: Path) -> bool:
    """Whether no backup is younger than a day."""
    youngest = max((path.stat().st_mtime for path in _backups(directory)), default=0.0)
    return time.time() - youngest >= _DAY_S


def _work(event: Event, plan: Plan, *, is_asked_for: bool) -> None:
    """Make one if need be, forget the oldest beyond the limit. Raises ServiceError, noted for `monitor`."""
    with (event.keep("backup") / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError("cannot make a backup: another one is being made") from None
        try:
            troubles = _back_up(event, plan) if is_asked_for or _is_wanted(event, plan) else []
        except OSError as error:
            troubles = [f"'{error.filename or plan.directory}': {error.strerror}"]
        except ServiceError as error:
            troubles = [str(error)]
        trouble = f"cannot back all persistent databases up: {'; '.join(troubles)}" if troubles else ""
        state.write(_note(event), {"at_s": time.time(), "trouble": trouble})
    if trouble:
        raise ServiceError(trouble)


def _is_wanted(event: Event, plan: Plan) -> bool:
    return is_due(plan.directory) and tool.run(event, "leader").strip() == tool.run(event, "pnn").strip()


def _back_up(event: Event, plan: Plan) -> list[str]:
    """What went wrong. Raises OSError, ServiceError when nothing went right."""
    if not plan.directory.is_dir():
        plan.directory.mkdir(parents=True)
        plan.directory.chmod(plan.mode)
    scratch = plan.directory / f".new-{os.uname().nodename}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        troubles = _write(event, plan.directory, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    backups = _backups(plan.directory)
    partial = [path for path in backups if path.name.endswith(_PARTIAL)]
    whole = [path for path in backups if path not in partial]
    # Each kind by itself: the last copy of a database that cannot be read is not pushed out by what lacks it.
    for old in whole[plan.limit :] + partial[plan.limit :]:
        old.unlink()
    return troubles


def _write(event: Event, directory: Path, scratch: Path) -> list[str]:
    """The archive of all databases that can be read; what is wrong with the others.

    Raises ServiceError when none can be.
    """
    troubles = []
    names = tool.database_names(event)
    archive = scratch / "archive"
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            copy = scratch / f"{name}.backup"
            try:
                tool.run(event, "backupdb", name, str(copy), timeout_s=_DATABASE_LIMIT_S)
                tar.add(copy, copy.name)
                copy.unlink()
            except ServiceError as error:
                troubles.append(str(error))
    if troubles and len(troubles) == len(names):
        raise ServiceError("; ".join(troubles))
    archive.chmod(0o600)
    with archive.open("rb") as file:
        # A name means a whole backup, also after a crash.
        os.fsync(file.fileno())
    now = datetime.now(UTC)
    suffix = _PARTIAL if troubles else _SUFFIX
    archive.rename(directory / f"{_PREFIX}{now:%Y%m%dT%H%M%SZ}{suffix}")
    return troubles


def _backups(directory: Path) -> list[Path]:
    """The youngest first."""
    return sorted(directory.glob(f"{_PREFIX}*{_SUFFIX}"), reverse=True)


def _note(event: Event) -> Path:
    return event.keep("backup") / "last.json"


def _last_look(event: Event) -> tuple[float, str]:
    """When it was, and what went wrong."""
    kept = state.read(_note(event))
    try:
        return float(kept["at_s"]), str(kept["trouble"])
    except (TypeError, KeyError, ValueError):
        return 0.0, ""
