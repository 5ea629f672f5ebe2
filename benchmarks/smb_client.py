# SPDX-License-Identifier: GPL-3.0-or-later
"""An SMB client that writes all the time and says how long it could not: a program in a host.

    python -m benchmarks.smb_client 10.78.0.200 share FILE ACKNOWLEDGED USER PASSWORD

It writes a numbered block, has it flushed, reads it back; only then does the block count as written, and the
attempt that it took is noted in the local file ACKNOWLEDGED. It connects anew when its connection ends, as
often as it takes, and writes the same block in another attempt. It does not guess that a connection is dead:
like a patient program it learns that from the server, or from whoever has its address now. Each line is a
JSON object: `at_ns`, the monotonic clock; `longest_us`, the longest time without a block since the line
before, and `course`, what happened meanwhile, when that was long. It ends when its stdin does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import sys
import time
from typing import IO

from impacket import nmb, smb3structs
from impacket.smbconnection import SMBConnection

from benchmarks.blocks import ATTEMPT, BLOCK_BYTES, block

LINE_EVERY_NS = 100_000_000
LONG_NS = 150_000_000
# A host that has just got its address may have lost the first SYN; the kernel repeats it after a second only.
CONNECT_LIMIT_S = 0.1
RETRY_S = 0.01
# Longer than the slowest failover: only tickles and resets tell the client earlier.
ANSWER_LIMIT_S = 60.0
PAUSE_S = 0.02


class Client:
    """One client and its file."""

    def __init__(
        self, address: str, share: str, path: str, acknowledged: IO[bytes], user: str, password: str
    ) -> None:
        self._address = address
        self._share = share
        self._path = path
        self._acknowledged = acknowledged
        self._user = user
        self._password = password
        self._smb: SMBConnection | None = None
        self._tree = 0
        self._file = b""
        self._written = 0
        self._attempt = 0
        self._last_ns = time.monotonic_ns()
        self._course: list[tuple[int, str]] = []

    def run(self) -> None:
        """Until stdin ends."""
        said_ns, longest_ns = 0, 0
        course: list[tuple[int, str]] = []
        while not select.select([sys.stdin], [], [], PAUSE_S if self._smb else RETRY_S)[0]:
            try:
                self._write()
            except Exception as error:  # impacket raises whatever befalls it
                self._note(f"{type(error).__name__} {error}")
                self._hang_up()
                self._attempt += 1
                continue
            now_ns = time.monotonic_ns()
            if now_ns - self._last_ns > longest_ns:
                longest_ns = now_ns - self._last_ns
                course = self._course if longest_ns >= LONG_NS else []
            since_ns, self._last_ns, self._course = self._last_ns, now_ns, []
            if now_ns - said_ns >= LINE_EVERY_NS or course:
                line: dict[str, object] = {"at_ns": now_ns, "longest_us": longest_ns // 1000}
                if course:
                    line["course"] = [f"{(at_ns - since_ns) / 1e9:.3f} {what}" for at_ns, what in course[:40]]
                print(json.dumps(line), flush=True)
                said_ns, longest_ns, course = now_ns, 0, []

    def _write(self) -> None:
        if self._smb is None:
            self._connect()
        smb = self._smb
        assert smb is not None, "connected"
        data, at = block(self._written, self._attempt), self._written * BLOCK_BYTES
        smb.writeFile(self._tree, self._file, data, at)
        smb.getSMBServer().flush(self._tree, self._file)
        if smb.readFile(self._tree, self._file, at, BLOCK_BYTES) != data:
            raise ValueError(f"block {self._written} is not what was written")
        self._acknowledged.write(ATTEMPT.pack(self._attempt))
        self._written += 1

    def _connect(self) -> None:
        smb = SMBConnection(
            self._address,
            self._address,
            timeout=ANSWER_LIMIT_S,
            preferredDialect=smb3structs.SMB2_DIALECT_30,
        )
        try:
            self._note("connected")
            smb.login(self._user, self._password)
            self._note("logged in")
            self._tree = smb.connectTree(self._share)
            self._file = smb.openFile(
                self._tree,
                self._path,
                desiredAccess=smb3structs.FILE_READ_DATA | smb3structs.FILE_WRITE_DATA,
                shareMode=smb3structs.FILE_SHARE_READ | smb3structs.FILE_SHARE_WRITE,
                creationDisposition=smb3structs.FILE_OPEN_IF,
            )
            self._note("file is open")
        except BaseException:
            self._drop(smb)
            raise
        self._smb = smb

    def _hang_up(self) -> None:
        if self._smb is not None:
            self._drop(self._smb)
            self._smb = None

    @staticmethod
    def _drop(smb: SMBConnection) -> None:
        # The socket alone: a polite good-bye would wait for an answer.
        with contextlib.suppress(Exception):
            smb.getSMBServer().get_socket().close()

    def _note(self, what: str) -> None:
        if not self._course or self._course[-1][1] != what:
            self._course.append((time.monotonic_ns(), what))


def _connect_soon(_session: object, peer: tuple[str, int], timeout: float | None = None) -> socket.socket:
    """Instead of impacket's own way, whose one limit is for answers too."""
    made = socket.create_connection(peer, CONNECT_LIMIT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(timeout)
    return made


def main() -> None:
    """Be a client."""
    parser = argparse.ArgumentParser()
    for name in ("address", "share", "path", "acknowledged", "user", "password"):
        parser.add_argument(name)
    given = parser.parse_args()
    nmb.NetBIOSTCPSession._setup_connection = _connect_soon
    with open(given.acknowledged, "wb", buffering=0) as acknowledged:
        Client(given.address, given.share, given.path, acknowledged, given.user, given.password).run()


if __name__ == "__main__":
    main()
