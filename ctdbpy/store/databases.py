# SPDX-License-Identifier: GPL-3.0-or-later
"""Database files as ctdbd keeps them: names, open flags, corrupt ones put aside, the health database.

Source: reference/ctdb.md 5.4 (open flags) and 7.6 (health).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Final

from ctdbpy.errors import StoreError
from ctdbpy.store.tdb import (
    CLEAR_IF_FIRST,
    DEFAULT,
    DISALLOW_NESTING,
    INCOMPATIBLE_HASH,
    MUTEX_LOCKING,
    NOSYNC,
    OpenError,
    Tdb,
    robust_mutexes_supported,
)

#: Hash chains of a new file: upstream's tunable DatabaseHashSize.
HASH_SIZE: Final = 100001

#: Deleted records kept for reuse in each chain: upstream's tunable DatabaseMaxDead.
MAX_DEAD: Final = 5

# How opening fails when the file is not a TDB, or one of another version or hash.
_BAD_CONTENT: Final = (0, errno.EIO, errno.EINVAL)

_HEALTH_NAME: Final = "persistent_health.tdb"


class CorruptDatabase(StoreError):
    """A persistent database's file is not sound; it was put aside.

    Attributes:
        name: the database's.
        reason: libtdb's words.
        moved_to: where the file is now.
    """

    def __init__(self, name: str, path: str, reason: str, moved_to: str) -> None:
        super().__init__(
            f"cannot use database {name!r}: {path!r} is corrupt ({reason}); it was moved to {moved_to!r}"
        )
        self.name = name
        self.reason = reason
        self.moved_to = moved_to


class DatabaseKind(Enum):
    """What becomes of a database's content."""

    VOLATILE = "volatile"
    PERSISTENT = "persistent"
    REPLICATED = "replicated"


def open_flags(kind: DatabaseKind, *, mutexes: bool) -> int:
    """libtdb's flags for every process that opens a database of this kind."""
    match kind:
        case DatabaseKind.PERSISTENT:
            return DEFAULT | DISALLOW_NESTING
        case DatabaseKind.REPLICATED:
            return NOSYNC | CLEAR_IF_FIRST | INCOMPATIBLE_HASH | DISALLOW_NESTING
        case DatabaseKind.VOLATILE:
            flags = NOSYNC | CLEAR_IF_FIRST | INCOMPATIBLE_HASH | DISALLOW_NESTING
            return flags | MUTEX_LOCKING if mutexes and robust_mutexes_supported() else flags


def file_name(name: str, pnn: int) -> str:
    """Name of a database's file on a node."""
    return f"{name}.{pnn}"


def open_database(
    directory: str | os.PathLike[str],
    name: str,
    pnn: int,
    kind: DatabaseKind,
    *,
    hash_size: int = HASH_SIZE,
    max_dead: int = MAX_DEAD,
    mutexes: bool = True,
    now: datetime | None = None,
) -> Tdb:
    """Open, and if need be create, a database's file.

    A volatile or replicated one is empty afterwards, as nobody but the daemon opens it first.
    `now` dates a corrupt file that is put aside.

    Raises:
        CorruptDatabase: a persistent file is not sound; it was moved away, so that the next call starts anew.
        StoreError: anything else, and a volatile file that another process keeps in use.
    """
    path = Path(directory) / file_name(name, pnn)
    flags = open_flags(kind, mutexes=mutexes)
    if kind is DatabaseKind.PERSISTENT:
        return _open_persistent(path, name, flags, hash_size, max_dead, now or datetime.now(UTC))
    tdb = Tdb.open(path, hash_size=hash_size, flags=flags, max_dead=max_dead)
    if not _is_empty(tdb):
        tdb.close()
        raise StoreError(
            f"cannot start with {os.fspath(path)!r}: it is not empty, so another process has it open;"
            " stop Samba (smbd, winbindd, nmbd) before starting the daemon"
        )
    return tdb


def _is_empty(tdb: Tdb) -> bool:
    # Another process that has it open may hold a lock in it for ever, so only try.
    if not tdb.lockall_nonblock():
        return False
    try:
        cursor: int | None = 0
        while cursor is not None:
            records, cursor = tdb.traverse_chunk(cursor, 1)
            if records:
                return False
        return True
    finally:
        tdb.unlockall()


def _open_persistent(path: Path, name: str, flags: int, hash_size: int, max_dead: int, now: datetime) -> Tdb:
    if path.exists():
        # Without O_CREAT first: with it, libtdb makes an empty database of a file it does not recognise.
        try:
            tdb = Tdb.open(path, flags=flags, open_flags=os.O_RDWR, max_dead=max_dead)
        except OpenError as error:
            # Anything else (permission, memory, already open) is no reason to move the file.
            if error.errno not in _BAD_CONTENT:
                raise
            raise _put_aside(path, name, str(error), now) from error
        try:
            tdb.check()
        except StoreError as error:
            tdb.close()
            raise _put_aside(path, name, str(error), now) from error
        return tdb
    return Tdb.open(path, hash_size=hash_size, flags=flags, max_dead=max_dead)


def _put_aside(path: Path, name: str, reason: str, now: datetime) -> CorruptDatabase:
    moved_to = path.with_name(f"{path.name}.corrupted.{now:%Y%m%d%H%M%S}.0Z")
    try:
        path.rename(moved_to)
    except OSError as error:
        raise StoreError(
            f"cannot move corrupt {os.fspath(path)!r} to {os.fspath(moved_to)!r}: {error.strerror}"
        ) from error
    return CorruptDatabase(name, os.fspath(path), reason, os.fspath(moved_to))


def persistent_files(directory: str | os.PathLike[str], pnn: int) -> dict[str, Path]:
    """Persistent databases of a node by name: the files called `NAME.tdb.<pnn>`, sorted."""
    suffix = f".{pnn}"
    found = {}
    for path in sorted(Path(directory).iterdir()):
        name = path.name.removesuffix(suffix)
        if path.name.endswith(suffix) and name.endswith(".tdb") and path.is_file():
            found[name] = path
    return found


class Health:
    """Why persistent databases of this node are unhealthy; a file of its own, as theirs may be gone."""

    def __init__(self, directory: str | os.PathLike[str], pnn: int) -> None:
        """Open or create the file. A corrupt one is started anew. Raises StoreError."""
        path = Path(directory) / file_name(_HEALTH_NAME, pnn)
        try:
            self._tdb = _open_persistent(path, _HEALTH_NAME, DISALLOW_NESTING, 0, 0, datetime.now(UTC))
        except CorruptDatabase:
            self._tdb = Tdb.open(path, flags=DISALLOW_NESTING)

    def reason(self, name: str) -> str | None:
        """Why a database is unhealthy; None when it is healthy."""
        value = self._tdb.fetch(name.encode())
        return value.decode("utf-8", "replace") if value else None

    def set_unhealthy(self, name: str, reason: str) -> None:
        """Note a reason. On disk when this returns."""
        with self._tdb.transaction():
            self._tdb.store(name.encode(), reason.encode())

    def set_healthy(self, name: str) -> None:
        """Forget the reason, if any."""
        with self._tdb.transaction():
            self._tdb.delete(name.encode())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Each unhealthy database with its reason."""
        for key, value in self._tdb.traverse():
            if value:
                yield key.decode("utf-8", "replace"), value.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file."""
        self._tdb.close()
