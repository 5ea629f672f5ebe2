# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of the daemon's state: made when missing, refused when others could tamper with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ctdbpy.errors import HostError

STATE_MODE = 0o700
RUN_MODE = 0o755
"""/run/ctdb: everybody may look in it, the socket has a mode of its own."""


def ensure_directories(paths: Iterable[Path], mode: int = STATE_MODE) -> tuple[str, ...]:
    """Make each directory that is missing (and its parents, mode 0755) and check the others.

    Return a note for each that was made. Raises HostError that lists every unfit one: not a directory,
    another user's, open to writing by others, not writable.
    """
    notes: list[str] = []
    problems: list[str] = []
    for path in paths:
        try:
            if _make(path, mode):
                notes.append(f"made the directory '{path}' with mode {mode:04o}")
            problem = _unfit(path)
        except OSError as error:
            problem = error.strerror
        if problem:
            problems.append(f"cannot use the directory '{path}': {problem}")
    if problems:
        raise HostError("\n".join(problems))
    return tuple(notes)


def _make(path: Path, mode: int) -> bool:
    """Return whether it was missing. Explicit chmod: the umask must not decide who may look in."""
    try:
        path.lstat()
        return False
    except FileNotFoundError:
        pass
    if not path.parent.is_dir():
        _make(path.parent, RUN_MODE)
    try:
        path.mkdir(mode=STATE_MODE)
    except FileExistsError:
        return False
    path.chmod(mode)
    return True


def _unfit(path: Path) -> str | None:
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory; move it away"
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to uid {status.st_uid}; run chown root on it"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o}); run chmod go-w on it"
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return "it cannot be written to; is the file system mounted read-only?"
    return None
