# SPDX-License-Identifier: GPL-3.0-or-later
"""How scripts find the keeper, start it, ask it, and end what it does not end itself."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from ctdbpy.errors import ServiceError

#: How long a keeper may take to start, and to answer.
START_LIMIT_S: Final = 15.0
ANSWER_LIMIT_S: Final = 5.0
#: Longer than the keeper itself waits for a killed tgtd.
END_LIMIT_S: Final = 8.0
_ANSWER_BYTES_MAX: Final = 1 << 20

#: struct flock: type, whence, start, length, pid.
_FLOCK: Final = "hhqqi"


def holder(path: Path) -> int:
    """The process that has a file locked; 0 if none, or if there is no such file; below 0 on another node.

    Some cluster file systems give a number below 0 for processes of this node as well.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, wanted)[: len(wanted)])
    finally:
        os.close(fd)
    return 0 if found[0] == fcntl.F_UNLCK else int(found[4])


def declare(directory: Path, text: str) -> None:
    """Note what is to be served, as the keeper reads it."""
    draft = directory / "declared.json.new"
    draft.unlink(missing_ok=True)
    # There may be passwords in it.
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(directory / "declared.json")


def noted(directory: Path) -> str:
    """What the keeper has been told to serve, as it was written."""
    try:
        return (directory / "declared.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def ensure(directory: Path) -> bool:
    """Have a keeper run; whether it had to be started. Raises ServiceError."""
    if holder(directory / "keeper"):
        return False
    log = directory / "log"
    reading, writing = os.pipe()
    with log.open("ab") as out, os.fdopen(reading, "rb", buffering=0) as ready:
        daemon = os.environ.get("CTDB_SOCKET", "")
        argv = [sys.executable, "-m", "ctdbpy.services.iscsi.keeper", str(directory), daemon, str(writing)]
        # In a session of its own: the event's processes are killed together when it takes too long.
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=[writing],
            start_new_session=True,
            cwd="/",
        ).returncode = 0  # not ours to wait for: without it the interpreter warns at exit
        os.close(writing)
        if not select.select([ready], [], [], START_LIMIT_S)[0]:
            raise ServiceError(
                f"cannot wait for the keeper of iSCSI: it is not ready after {START_LIMIT_S:g} s"
            )
        if not ready.read():
            raise ServiceError(
                f"cannot start the keeper of iSCSI: it ended at once; '{log}' ends {_end(log)}"
            )
    return True


def ask(directory: Path, order: str, *, timeout_s: float = ANSWER_LIMIT_S) -> dict[str, Any]:
    """What the keeper answers to an order. Raises ServiceError when it does not, or cannot do it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(directory / "control"))
            connection.sendall(f"{order}\n".encode())
            with connection.makefile("rb") as answers:
                line = answers.readline(_ANSWER_BYTES_MAX)
    except TimeoutError:
        raise ServiceError(
            f"cannot ask the keeper of iSCSI: no answer to '{order}' within {timeout_s:g} s"
        ) from None
    except OSError as error:
        raise ServiceError(f"cannot ask the keeper of iSCSI: {error.strerror}") from None
    if not line:
        raise ServiceError(
            f"cannot ask the keeper of iSCSI: it ended over '{order}', see '{directory / 'log'}'"
        )
    answer: dict[str, Any] = json.loads(line)
    if problem := answer.get("error"):
        raise ServiceError(str(problem))
    return answer


def kill(note: Path, what: str, *, limit_s: float = END_LIMIT_S) -> None:
    """End the process that has a note locked, if any. Raises ServiceError when it does not go."""
    deadline_s = time.monotonic() + limit_s
    while (pid := holder(note)) > 0:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue  # Its lock ends with it.
        try:
            # The number may have changed hands since; the lock tells.
            if holder(note) != pid:
                continue
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([pidfd], [], [], left_s)[0]:
                raise ServiceError(
                    f"cannot end {what} (process {pid}): it hangs in the kernel, see /proc/{pid}/stack; "
                    "until it has ended no other node can serve its LUNs"
                )
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)


def notes(directory: Path) -> dict[str, Path]:
    """The addresses that had a tgtd at some time, each with the note that a living one has locked."""
    return {path.name.removesuffix(".note"): path for path in sorted(directory.glob("*.note"))}


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"'{lines[-1].strip()}'" if lines else "with nothing"
