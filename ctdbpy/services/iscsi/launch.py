# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes a tgtd: locks every backing file, however long that takes, and then turns into the program.

Run as a file by a bare interpreter (`python3 -I -S launch.py REQUEST`), which is there in a hundredth of a
second. REQUEST is JSON: note (a file of this host, locked as well, so that its lock tells who runs), report
(a descriptor), files (their paths), argv.

An fcntl lock belongs to the process and outlasts exec: from then on tgtd itself holds the locks, with all its
threads, and lets go only when the last of them has ended, also the one that hangs in a write. The files are
locked themselves, and not others beside them, so that no second name leads around the lock.

Lines on the report: `waiting PATH`, `locked`; or `failed REASON`, and the end with status 1.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys

#: A file that is replaced while it is locked is locked anew so often.
_TRIES = 5
_BLOCK_BYTES = 512


class Refused(Exception):
    """Why a file cannot be served."""


def main() -> None:
    """Lock the files of the request and become its program."""
    request = json.loads(sys.argv[1])
    report = request["report"]
    try:
        _lock_note(request["note"])
        seen: dict[tuple[int, int], str] = {}
        for path in sorted(request["files"]):
            status = os.fstat(lock(path, report))
            look(path, status)
            other = seen.setdefault((status.st_dev, status.st_ino), path)
            if other != path:
                raise Refused(f"cannot serve '{path}': it is the same file as '{other}'; a file is one LUN")
        _say(report, "locked")
        os.set_inheritable(report, False)
        os.execvp(request["argv"][0], request["argv"])
    except Refused as refused:
        _say(report, f"failed {refused}")
    except OSError as error:
        _say(report, f"failed cannot start '{request['argv'][0]}': {error.strerror}")
    sys.exit(1)


def lock(path: str, report: int) -> int:
    """Lock a backing file, waiting for whoever has it; its descriptor stays open over exec."""
    for _ in range(_TRIES):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError as error:
            raise Refused(f"cannot open '{path}': {error.strerror}") from None
        os.set_inheritable(fd, True)
        try:
            _wait_for_lock(fd, path, report)
            # It may have been replaced meanwhile, and another node have locked the new one.
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return fd
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Refused(f"cannot lock '{path}': {error.strerror}") from None
        os.close(fd)
    raise Refused(f"cannot lock '{path}': somebody keeps replacing it")


def _wait_for_lock(fd: int, path: str, report: int) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        _say(report, f"waiting {path}")
        fcntl.lockf(fd, fcntl.LOCK_EX)


def look(path: str, status: os.stat_result) -> None:
    """See whether a file can be a disk. Raises Refused."""
    if not stat.S_ISREG(status.st_mode):
        raise Refused(
            f"cannot serve '{path}': it is no plain file, which alone can be locked for the whole cluster; "
            "put the LUN into a file of the cluster file system"
        )
    if status.st_size < _BLOCK_BYTES or status.st_size % _BLOCK_BYTES:
        raise Refused(
            f"cannot serve '{path}': its {status.st_size} bytes are not whole blocks of {_BLOCK_BYTES}; "
            "make it with 'fallocate -l SIZE'"
        )


def _lock_note(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(fd, True)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise Refused(f"cannot lock '{path}': the tgtd before this one has not ended") from None


def _say(report: int, line: str) -> None:
    os.write(report, f"{line}\n".encode(errors="replace"))


if __name__ == "__main__":
    main()
