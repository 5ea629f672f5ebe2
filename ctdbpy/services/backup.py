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
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import commands, state, tool
from ctdbpy.services.event import Event

_PREFIX: Final = "persistent-databases."
_SUFFIX: Final = ".tar.gz"
_DAY_S: Final = 24 * 3600
#: After a failure it is tried again so much later.
_AGAIN_S: Final = 3600
_DATABASE_LIMIT_S: Final = 600.0


def run(event: Event) -> None:
    """Do an event, or make a backup now (`backup`). Raises ServiceError."""
    text = event.text("CTDB_PERSISTENT_DB_BACKUP_DIR")
    if not text or event.name not in ("monitor", "backup"):
        return
    directory = Path(text)
    if not directory.is_absolute():
        raise event.misuse("CTDB_PERSISTENT_DB_BACKUP_DIR", "it must be an absolute path")
    limit = event.number("CTDB_PERSISTENT_DB_BACKUP_LIMIT", 14, least=1)
    _make_directory(event, directory)
    if event.name == "backup":
        _back_up(event, directory, limit)
        return
    at_s, trouble = _last_try(event)
    if trouble:
        event.warnings.append(f"WARNING: {trouble}")
    if time.time() - at_s >= _AGAIN_S and is_due(directory) and _is_leader(event):
        state.write(_note(event), {"at_s": time.time(), "trouble": ""})
        commands.leave_running([sys.executable, "-m", "ctdbpy.services", "backup", "backup"])


def is_due(directory: Path) -> bool:
    """Whether no backup is younger than a day."""
    youngest = max((path.stat().st_mtime for path in _backups(directory)), default=0.0)
    return time.time() - youngest >= _DAY_S


def _back_up(event: Event, directory: Path, limit: int) -> None:
    """Make one, and forget the oldest beyond the limit. Raises ServiceError, noted for `monitor`."""
    lock = event.keep("backup") / "lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError("cannot make a backup: another one is being made") from None
        scratch = directory / f".new-{os.uname().nodename}"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(mode=0o700)
            troubles = _write(event, directory, scratch)
            for old in _backups(directory)[limit:]:
                old.unlink()
        except OSError as error:
            troubles = [f"{error.filename or directory}: {error.strerror}"]
        except ServiceError as error:
            troubles = [str(error)]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    trouble = f"cannot back all persistent databases up: {'; '.join(troubles)}" if troubles else ""
    state.write(_note(event), {"at_s": time.time(), "trouble": trouble})
    if trouble:
        raise ServiceError(trouble)


def _write(event: Event, directory: Path, scratch: Path) -> list[str]:
    """The archive of all databases that can be read; what is wrong with the others."""
    troubles = []
    archive = scratch / "archive"
    with tarfile.open(archive, "w:gz") as tar:
        for name in tool.database_names(event):
            copy = scratch / f"{name}.backup"
            try:
                tool.run(event, "backupdb", name, str(copy), timeout_s=_DATABASE_LIMIT_S)
                tar.add(copy, copy.name)
                copy.unlink()
            except ServiceError as error:
                troubles.append(str(error))
    archive.chmod(0o600)
    with archive.open("rb") as file:
        # A name means a whole backup, also after a crash.
        os.fsync(file.fileno())
    now = datetime.now(UTC)
    archive.rename(directory / f"{_PREFIX}{now:%Y%m%dT%H%M%SZ}{_SUFFIX}")
    return troubles


def _make_directory(event: Event, directory: Path) -> None:
    mode = event.text("CTDB_PERSISTENT_DB_BACKUP_MODE", "0700")
    try:
        number = int(mode, 8)
    except ValueError:
        raise event.misuse("CTDB_PERSISTENT_DB_BACKUP_MODE", "it must be an octal mode, as 0700") from None
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(number)
    except OSError as error:
        raise ServiceError(
            f"cannot make CTDB_PERSISTENT_DB_BACKUP_DIR='{directory}': {error.strerror}"
        ) from None


def _backups(directory: Path) -> list[Path]:
    """The youngest first."""
    return sorted(directory.glob(f"{_PREFIX}*{_SUFFIX}"), reverse=True)


def _is_leader(event: Event) -> bool:
    return tool.run(event, "leader").strip() == tool.run(event, "pnn").strip()


def _note(event: Event) -> Path:
    return event.keep("backup") / "last.json"


def _last_try(event: Event) -> tuple[float, str]:
    """When it was, and what went wrong."""
    kept = state.read(_note(event))
    try:
        return float(kept["at_s"]), str(kept["trouble"])
    except (TypeError, KeyError, ValueError):
        return 0.0, ""
