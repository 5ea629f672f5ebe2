# SPDX-License-Identifier: GPL-3.0-or-later
"""The listening Unix socket of the daemon, and who is at the other end of a connection."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from ctdbpy.errors import HostError
from ctdbpy.host.processes import describe_process

PATH_BYTES_MAX = 107
"""The kernel's limit for the path of a Unix socket, less the closing zero byte."""

BACKLOG = 1024
"""Many smbd processes may connect in one burst; the kernel cuts this to net.core.somaxconn."""

ANSWER_TIMEOUT_S = 2.0

_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who connected, as the kernel saw it when it happened. The pid is 0 for another pid namespace."""

    pid: int
    uid: int
    gid: int

    def is_trusted(self) -> bool:
        """Whether this peer may command the daemon: root, or the user the daemon itself runs as."""
        return self.uid in (0, os.geteuid())

    def __str__(self) -> str:
        return f"{describe_process(self.pid)} of uid {self.uid}"


class ListeningSocket:
    """The socket clients connect to. Non-blocking.

    `note` says what was found in its place when it had been left behind, else it is None.
    """

    def __init__(self, listener: socket.socket, path: Path, note: str | None) -> None:
        self.socket = listener
        self.path = path
        self.note = note
        self._pid = os.getpid()
        self._status = path.lstat()

    @classmethod
    def listen(cls, path: Path, *, mode: int = 0o600) -> ListeningSocket:
        """Bind and listen; a stale socket is removed first.

        Changes the umask for a moment: call it before other threads create files. Raises HostError when a
        daemon answers at `path` (says which), when something else is in the way, when the path is too long.
        """
        length = len(os.fsencode(path))
        if length > PATH_BYTES_MAX:
            raise HostError(
                f"cannot listen on '{path}': the path has {length} bytes, the kernel allows "
                f"{PATH_BYTES_MAX}; choose a shorter one"
            )
        note = _clear_way(path)
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            _bind(listener, path, mode)
            # From here on the path is ours to remove again.
            result = cls(listener, path, note)
        except OSError as error:
            listener.close()
            raise HostError(f"cannot listen on '{path}': {_why(error, path)}") from error
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            result.close()
            raise HostError(f"cannot listen on '{path}': {error.strerror}") from error
        return result

    def close(self) -> None:
        """Stop listening and remove the path if it is still ours. In a forked child, close only the copy."""
        self.socket.close()
        if os.getpid() != self._pid:
            return
        try:
            if os.path.samestat(self.path.lstat(), self._status):
                self.path.unlink()
        except FileNotFoundError:
            pass


def peer_credentials(connection: socket.socket) -> PeerCredentials:
    """Return who is at the other end of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(raw))


def _bind(listener: socket.socket, path: Path, mode: int) -> None:
    # The umask gives the mode at creation; a chmod afterwards would leave a gap for others to connect.
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)


def _clear_way(path: Path) -> str | None:
    """Remove a socket that nobody listens on and say so; raise HostError for anything else at `path`."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot listen on '{path}': {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise HostError(f"cannot listen on '{path}': it exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(ANSWER_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return f"the socket '{path}' was left behind, nobody answers there; removed"
        except FileNotFoundError:
            return None
        except (TimeoutError, BlockingIOError) as error:
            raise HostError(
                f"cannot listen on '{path}': a daemon listens there but does not answer; stop it first"
            ) from error
        except OSError as error:
            raise HostError(
                f"cannot listen on '{path}': the socket there cannot be tried: {error.strerror}"
            ) from error
        raise HostError(
            f"cannot listen on '{path}': {describe_process(peer_credentials(probe).pid)} answers there; "
            "a daemon is running already, stop it first"
        )


def _why(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"the directory '{path.parent}' does not exist"
        case errno.EADDRINUSE:
            return "another daemon was quicker to create it"
        case _:
            return error.strerror or str(error)
