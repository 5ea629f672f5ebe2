# SPDX-License-Identifier: GPL-3.0-or-later
"""An iSCSI initiator for lab hosts: Debian's libiscsi, which needs no kernel.

`python -m tests.cluster.initiator ADDRESS TARGET NAME`, then orders on standard input, a line each; `login`
comes first.

login [USER PASSWORD]   `in PORT`: its own port
write LBA COUNT WORD    WORD into so many blocks from there on: `done`
read LBA COUNT WORD     `done` if they are so, else `differs LBA`
fill COUNT              writes COUNT blocks again and again: `wrote N` for each tenth that was acknowledged,
                        `again REASON`, `back SECONDS` when it has to log in anew; ended by a line: `done`
verify                  reads what was acknowledged last, block by block: `done`, or `differs LBA`
identity                `identity HEX`: the pages 0x80 and 0x83 with which multipathing tells disks apart
cache                   `cache 0` or `cache 1`: whether the disk says that it has a write cache
reserve [aptpl]         a key is registered and the disk reserved: `done`
keys                    `keys N`: how many are registered
Whatever fails is `failed REASON`.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import time
from typing import Any, Final

BLOCK: Final = 512
LUN: Final = 1
#: No limit, as is libiscsi's default: it waits until somebody tells it that its server is gone.
COMMAND_LIMIT_S: Final = 0
LOGIN_LIMIT_S: Final = 30.0
LOGIN_PAUSE_S: Final = 0.05

_NORMAL: Final = 2
_CHECK_CONDITION: Final = 2
_UNIT_ATTENTION: Final = 6


class Sense(ctypes.Structure):
    _fields_ = (
        ("error_type", ctypes.c_ubyte),
        ("key", ctypes.c_int),
        ("ascq", ctypes.c_int),
        ("rest", ctypes.c_int),
    )


class Data(ctypes.Structure):
    _fields_ = (("size", ctypes.c_int), ("data", ctypes.POINTER(ctypes.c_ubyte)))


class Task(ctypes.Structure):
    """The first members of libiscsi's struct scsi_task (1.19)."""

    _fields_ = (
        ("status", ctypes.c_int),
        ("cdb_size", ctypes.c_int),
        ("direction", ctypes.c_int),
        ("expected", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_status", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("sense", Sense),
        ("data", Data),
    )


class ReserveOut(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_uint64),
        ("service_key", ctypes.c_uint64),
        ("spec_i_pt", ctypes.c_uint8),
        ("all_tg_pt", ctypes.c_uint8),
        ("aptpl", ctypes.c_uint8),
    )


class Failed(Exception):
    """What an order could not do."""


class Session:
    """A session with one target, LUN 1; `again` makes a new one."""

    def __init__(self, address: str, target: str, name: str) -> None:
        self._portal = f"[{address}]:3260" if ":" in address else f"{address}:3260"
        self._target = target
        self._name = name
        self._login: tuple[str, ...] = ()
        self._context: int | None = None
        self._library = ctypes.CDLL("libiscsi.so.7")
        self._library.iscsi_create_context.restype = ctypes.c_void_p
        self._library.iscsi_get_error.restype = ctypes.c_char_p
        for call in ("write16", "read16", "inquiry", "modesense6", "testunitready", "synchronizecache16"):
            getattr(self._library, f"iscsi_{call}_sync").restype = ctypes.POINTER(Task)
        for call in ("in", "out"):
            getattr(self._library, f"iscsi_persistent_reserve_{call}_sync").restype = ctypes.POINTER(Task)

    def login(self, *login: str) -> None:
        """Log in once."""
        self._login = login
        self.close()
        context = ctypes.c_void_p(self._library.iscsi_create_context(self._name.encode()))
        self._context = context.value
        self._library.iscsi_set_targetname(context, self._target.encode())
        self._library.iscsi_set_session_type(context, _NORMAL)
        self._library.iscsi_set_noautoreconnect(context, 1)
        self._library.iscsi_set_timeout(context, COMMAND_LIMIT_S)
        if login:
            self._library.iscsi_set_initiator_username_pwd(context, *(word.encode() for word in login))
        # Not in one: that would also hear what the disk has to say about its past, and keep it to itself.
        if self._library.iscsi_connect_sync(context, self._portal.encode()) != 0:
            raise Failed(self._error())
        if self._library.iscsi_login_sync(context) != 0:
            raise Failed(self._error())

    @property
    def port(self) -> int:
        """The port of this end of the session."""
        fd = self._library.iscsi_get_fd(ctypes.c_void_p(self._context))
        with socket.socket(fileno=os.dup(fd)) as copy:
            return int(copy.getsockname()[1])

    def again(self) -> None:
        """Log in, trying until it succeeds."""
        until_s = time.monotonic() + LOGIN_LIMIT_S
        while True:
            try:
                self.login(*self._login)
                return
            except Failed:
                if time.monotonic() > until_s:
                    raise
            time.sleep(LOGIN_PAUSE_S)

    def close(self) -> None:
        if self._context is not None:
            self._library.iscsi_destroy_context(ctypes.c_void_p(self._context))
            self._context = None

    def write(self, lba: int, data: bytes) -> None:
        self._do("write16", ctypes.c_uint64(lba), data, len(data), BLOCK, 0, 0, 0, 0, 0)

    def read(self, lba: int, count: int) -> bytes:
        return self._do("read16", ctypes.c_uint64(lba), count * BLOCK, BLOCK, 0, 0, 0, 0, 0)

    def inquire(self, page: int) -> bytes:
        return self._do("inquiry", 1, page, 255)

    def has_cache(self) -> bool:
        # A header of 4 bytes, no block descriptors, then the page: WCE is a bit of its third byte.
        return bool(self._do("modesense6", 1, 0, 8, 0, 255)[6] & 0x04)

    def reserve(self, *, aptpl: bool) -> None:
        register, reserve, exclusive = 0, 1, 3
        key = 0x6374646270790001
        self._do("persistent_reserve_out", register, 0, 0, ctypes.byref(ReserveOut(0, key, 0, 0, aptpl)))
        self._do("persistent_reserve_out", reserve, 0, exclusive, ctypes.byref(ReserveOut(key, 0, 0, 0, 0)))

    def keys(self) -> int:
        return int.from_bytes(self._do("persistent_reserve_in", 0, 1024)[4:8], "big") // 8

    def _do(self, call: str, *arguments: Any) -> bytes:
        if self._context is None:
            raise Failed("not logged in")
        # A unit attention tells what happened before, and the command was not done: it is asked again.
        for _ in range(8):
            task = getattr(self._library, f"iscsi_{call}_sync")(
                ctypes.c_void_p(self._context), LUN, *arguments
            )
            if not task:
                raise Failed(self._error())
            try:
                found = task.contents
                if found.status == 0:
                    return ctypes.string_at(found.data.data, found.data.size) if found.data.size else b""
                if found.status != _CHECK_CONDITION or found.sense.key != _UNIT_ATTENTION:
                    raise Failed(f"status {found.status} key {found.sense.key} code 0x{found.sense.ascq:04x}")
                say(f"attention 0x{found.sense.ascq:04x}")
            finally:
                self._library.scsi_free_scsi_task(task)
        raise Failed("nothing but unit attentions")

    def _error(self) -> str:
        text: bytes = self._library.iscsi_get_error(ctypes.c_void_p(self._context))
        return " ".join(text.decode(errors="replace").split())


def pattern(word: str, count: int) -> bytes:
    """What `write` writes."""
    return (word.encode() * BLOCK)[:BLOCK] * count


class Filling:
    """Blocks that hold the number of their last write."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last: dict[int, int] = {}
        self._number = 0

    def fill(self, count: int) -> None:
        """Write until there is another line to read, over as many sessions as it takes."""
        while not select.select([sys.stdin], [], [], 0)[0]:
            self._write(self._number % count)
            self._number += 1
            if self._number % 10 == 0:
                say(f"wrote {self._number}")
        sys.stdin.readline()
        say("done")

    def _write(self, lba: int) -> None:
        began_s, is_first = time.monotonic(), True
        while True:
            try:
                self._session.write(lba, _block(self._number))
                self._last[lba] = self._number
                if not is_first:
                    say(f"back {time.monotonic() - began_s:.3f}")
                return
            except Failed as failed:
                is_first = False
                say(f"again {failed}")
                self._session.again()

    def verify(self) -> None:
        for lba, number in self._last.items():
            if self._session.read(lba, 1) != _block(number):
                say(f"differs {lba}")
                return
        say("done")


def _block(number: int) -> bytes:
    return f"write {number} ".encode().ljust(BLOCK, b".")


def obey(session: Session, filling: Filling, words: list[str]) -> None:
    """Do what one line says."""
    match words:
        case ["login", *login]:
            session.login(*login)
            say(f"in {session.port}")
        case ["write", lba, count, word]:
            session.write(int(lba), pattern(word, int(count)))
            say("done")
        case ["read", lba, count, word]:
            is_same = session.read(int(lba), int(count)) == pattern(word, int(count))
            say("done" if is_same else f"differs {lba}")
        case ["fill", count]:
            filling.fill(int(count))
        case ["verify"]:
            filling.verify()
        case ["identity"]:
            say(f"identity {(session.inquire(0x80) + session.inquire(0x83)).hex()}")
        case ["cache"]:
            say(f"cache {session.has_cache():d}")
        case ["reserve", *flags]:
            session.reserve(aptpl="aptpl" in flags)
            say("done")
        case ["keys"]:
            say(f"keys {session.keys()}")
        case _:
            raise Failed(f"no such order: {words}")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Obey until standard input ends."""
    session = Session(*sys.argv[1:4])
    filling = Filling(session)
    # Line by line: what is read ahead cannot be waited for.
    while line := sys.stdin.readline():
        try:
            obey(session, filling, line.split())
        except Failed as failed:
            say(f"failed {failed}")


if __name__ == "__main__":
    main()
