# SPDX-License-Identifier: GPL-3.0-or-later
"""A share as a patient client uses it: when its connection ends it connects anew and does the same again."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

from impacket import nmb, nt_errors, smb3, smb3structs
from impacket.nmb import NetBIOSError, NetBIOSTimeout
from impacket.smb3 import SessionError
from impacket.smbconnection import SMBConnection

from ctdbpy.errors import LabError

# A host that has just got its address may have lost the first SYN; the kernel repeats it after a second only.
_CONNECT_LIMIT_S: Final = 0.1
_RETRY_S: Final = 0.01
#: Only tickles and resets tell the client earlier that nobody will answer.
_ANSWER_LIMIT_S: Final = 20.0
_GIVE_UP_S: Final = 60.0
_READ_BYTES: Final = 65536
_ALL: Final = smb3structs.FILE_SHARE_READ | smb3structs.FILE_SHARE_WRITE | smb3structs.FILE_SHARE_DELETE
#: Answers about a session that is not there any more, or to a server that is about to end.
_STALE: Final = frozenset(
    {
        nt_errors.STATUS_USER_SESSION_DELETED,
        nt_errors.STATUS_NETWORK_SESSION_EXPIRED,
        nt_errors.STATUS_NETWORK_NAME_DELETED,
        nt_errors.STATUS_FILE_CLOSED,
        nt_errors.STATUS_INVALID_NETWORK_RESPONSE,
        nt_errors.STATUS_CONNECTION_DISCONNECTED,
        nt_errors.STATUS_IO_TIMEOUT,
        nt_errors.STATUS_INTERNAL_DB_CORRUPTION,
        nt_errors.STATUS_INSUFF_SERVER_RESOURCES,
        nt_errors.STATUS_UNEXPECTED_NETWORK_ERROR,
    }
)

_T = TypeVar("_T")


class Refused(Exception):
    """The server has answered no; `status` is its NT status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Share:
    """One address, one user, one share; at most one connection at a time."""

    def __init__(self, address: str, share: str, user: str, password: str) -> None:
        self.address = address
        self._share = share
        self._user = user
        self._password = password
        self._connection: SMBConnection | None = None
        self._tree = 0
        self._answered_ns = time.monotonic_ns()
        #: The longest time without an answer since this was set to 0, in microseconds.
        self.longest_us = 0
        self.reconnects = 0

    # -- deeds: each may be done again when nobody knows whether it was done ------------------------

    def make_directory(self, path: str) -> None:
        """Make a directory; one that is there is welcome."""

        def deed(smb: smb3.SMB3) -> None:
            self._close(
                smb, self._open(smb, path, smb3structs.FILE_OPEN_IF, options=smb3structs.FILE_DIRECTORY_FILE)
            )

        self._perform(deed)

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file, and have it flushed."""

        def deed(smb: smb3.SMB3) -> None:
            file = self._open(smb, path, smb3structs.FILE_OVERWRITE_IF)
            smb.writeFile(self._tree, file, data)
            smb.flush(self._tree, file)
            self._close(smb, file)

        self._perform(deed)

    def read(self, path: str) -> bytes:
        """Read a whole file. Raises Refused."""

        def deed(smb: smb3.SMB3) -> bytes:
            file = self._open(smb, path, smb3structs.FILE_OPEN)
            content = self._read_all(smb, file)
            self._close(smb, file)
            return content

        return self._perform(deed)

    def claim(self, path: str, content: bytes) -> bool:
        """Put this into a new file; False if the file is there with something else in it.

        Whoever has the file open has it alone, on all nodes, and an empty one belongs to nobody: its maker
        has lost its connection before it wrote. So a second attempt finds out what became of the first.
        """

        def deed(smb: smb3.SMB3) -> bool:
            file = self._open(smb, path, smb3structs.FILE_OPEN_IF, sharing=0)
            try:
                found = self._read_all(smb, file)
                if not found:
                    smb.writeFile(self._tree, file, content)
                    smb.flush(self._tree, file)
            finally:
                self._close(smb, file)
            return found in (b"", content)

        until_s = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                return self._perform(deed)
            except Refused as refusal:
                # Another writer is at it, or what is left of our own connection to a node that is gone.
                if refusal.status != nt_errors.STATUS_SHARING_VIOLATION or time.monotonic() > until_s:
                    raise
            time.sleep(_RETRY_S)

    def hold(self, path: str) -> Callable[[], None]:
        """Open a file for oneself alone, until what is returned is called. Raises Refused."""

        def deed(smb: smb3.SMB3) -> bytes:
            return self._open(smb, path, smb3structs.FILE_OPEN_IF, sharing=0)

        file = self._perform(deed)

        def let_go() -> None:
            self._perform(lambda smb: self._close(smb, file))

        return let_go

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            # The socket alone: a polite good-bye would wait for an answer.
            with contextlib.suppress(Exception):
                self._connection.getSMBServer().get_socket().close()
            self._connection = None

    # -- in detail --------------------------------------------------------------------------------

    def _perform(self, deed: Callable[[smb3.SMB3], _T]) -> _T:
        until_s = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                answer = deed(self._session())
            except SessionError as error:
                status = error.get_error_code()
                if status not in _STALE:
                    self._answered()
                    raise Refused(status, str(error).removeprefix("SMB SessionError: ")) from None
                trouble: Exception = error
            except (NetBIOSError, NetBIOSTimeout, OSError) as error:
                trouble = error
            else:
                self._answered()
                return answer
            self.close()
            self.reconnects += 1
            if time.monotonic() > until_s:
                raise LabError(
                    f"cannot reach '{self.address}' for {_GIVE_UP_S:g} s: {type(trouble).__name__}: {trouble}"
                )
            time.sleep(_RETRY_S)

    def _session(self) -> smb3.SMB3:
        if self._connection is None:
            made = SMBConnection(
                self.address,
                self.address,
                timeout=_ANSWER_LIMIT_S,
                preferredDialect=smb3structs.SMB2_DIALECT_30,
            )
            self._connection = made
            made.login(self._user, self._password)
            self._tree = made.connectTree(self._share)
        return self._connection.getSMBServer()

    def _answered(self) -> None:
        now_ns = time.monotonic_ns()
        self.longest_us = max(self.longest_us, (now_ns - self._answered_ns) // 1000)
        self._answered_ns = now_ns

    def rest(self, seconds: float) -> None:
        """Do nothing for a while, which is no interruption."""
        time.sleep(seconds)
        self._answered_ns = time.monotonic_ns()

    def _open(
        self, smb: smb3.SMB3, path: str, disposition: int, *, options: int = 0, sharing: int = _ALL
    ) -> bytes:
        access = (
            smb3structs.FILE_READ_DATA
            | smb3structs.FILE_WRITE_DATA
            | smb3structs.DELETE
            | smb3structs.FILE_READ_ATTRIBUTES
        )
        if options & smb3structs.FILE_DIRECTORY_FILE:
            access = smb3structs.FILE_READ_ATTRIBUTES
        file: bytes = smb.create(self._tree, _windows(path), access, sharing, options, disposition, 0)
        return file

    def _read_all(self, smb: smb3.SMB3, file: bytes) -> bytes:
        content = b""
        while True:
            try:
                part = smb.read(self._tree, file, len(content), _READ_BYTES)
            except SessionError as error:
                if error.get_error_code() != nt_errors.STATUS_END_OF_FILE:
                    raise
                part = b""
            if not part:
                return content
            content += part

    def _close(self, smb: smb3.SMB3, file: bytes) -> None:
        smb.close(self._tree, file)


def _windows(path: str) -> str:
    return path.replace("/", "\\")


def _connect_soon(_session: object, peer: tuple[str, int], timeout: float | None = None) -> socket.socket:
    """Instead of impacket's own way, whose one limit is for answers too."""
    made = socket.create_connection(peer, _CONNECT_LIMIT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(timeout)
    return made


nmb.NetBIOSTCPSession._setup_connection = _connect_soon
