# SPDX-License-Identifier: GPL-3.0-or-later
"""Bulk jobs on one database and how they travel between the daemon and a worker process.

Request, native byte order:

    u32 length (all of it)   u32 job id   u8 kind   u8 database bits   u16 path length
    u32 libtdb open flags    u32 db_id    path      body

    kind                            body
    TRAVERSE                        u32 reqid   u32 owner   u32 with empty   u32 chunk limit
    PULL                            u32 lmaster   u32 chunk limit   u32 n   n × u32 lmasters
    PUSH, UPDATE, STORE, MERGE      u32 pnn   u32 n   n × u32 lmasters   rec_buffer
    GATHER                          u32 pnn   u32 with own copy
    SPREAD                          u32 pnn   u32 chunk limit   u32 n   n × u32 lmasters
    VACUUM_SCAN                     u32 pnn   u32 chunk limit
    the others                      -

Answer: u32 length, u32 job id, i32 status (an errno), u32 last, data. Parts of an answer come with
last = 0; the end has last = 1 and carries a text when status is not 0, otherwise

    kind                            parts                            end
    TRAVERSE, VACUUM_SCAN           back-to-back rec_data            u32 number of records
    PULL, SPREAD                    one rec_buffer each              u32 number of records
    GATHER, MERGE                   -                                u32 number of records taken in
    PUSH                            -                                u32 number of records, then for each key
                                                                     to schedule for deletion: u32 length, key
    UPDATE, STORE                   -                                u32 number of records stored
    COUNT                           -                                u64 records, u64 records with data
    the others                      -                                -

Status: EEXIST record refused by its rsn, EPROTO malformed buffer, EIO libtdb failed, EINVAL not in this state
(no transaction, not frozen), ECANCELED stopped.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

from ctdbpy.errors import ProtocolError
from ctdbpy.store.bulk import LMASTER_ANY

_REQUEST: Final = struct.Struct("=IIBBHII")
_ANSWER: Final = struct.Struct("=IIiI")
_TRAVERSE: Final = struct.Struct("=IIII")
_PULL: Final = struct.Struct("=III")
_STORE: Final = struct.Struct("=II")
_SCAN: Final = struct.Struct("=II")
_U32: Final = struct.Struct("=I")
_COUNTS: Final = struct.Struct("=QQ")

#: No frame is larger: a rec_buffer holds RecBufferSizeLimit or one record, and packets end before this.
FRAME_SIZE_MAX: Final = 256 << 20

#: What may be on its way between daemon and worker, each way: several buffers of records. With the kernel's
#: 208 KiB each buffer costs both of them five turns on a processor that others want, too.
ON_THE_WAY_BYTES: Final = 4 << 20

NO_OWNER: Final = 0xFFFFFFFF

# Linux; the socket module has no name for it.
_SO_SNDBUFFORCE: Final = 32

_VOLATILE: Final = 1
_FROZEN: Final = 2


class Kind(IntEnum):
    """What a worker can be asked to do."""

    UPDATE = 1
    TRAVERSE = 2
    FREEZE = 3
    THAW = 4
    BEGIN = 5
    COMMIT = 6
    CANCEL = 7
    WIPE = 8
    PULL = 9
    PUSH = 10
    CHECK = 11
    VACUUM_SCAN = 12
    REPACK = 13
    COUNT = 14
    FORGET = 15
    STOP = 16
    STORE = 17
    GATHER = 18
    MERGE = 19
    SPREAD = 20


@dataclass(frozen=True, slots=True)
class Database:
    """The database a job works on, as the daemon has it open.

    is_frozen: a waiter holds all chains on our behalf, so the worker takes no lock. Not needed when the
    worker itself did FREEZE.
    """

    path: str
    tdb_flags: int
    db_id: int
    is_volatile: bool
    is_frozen: bool = False


@dataclass(frozen=True, slots=True)
class Traverse:
    """All records; of a volatile database those whose dmaster is `owner`, header-only ones `with_empty`."""

    kind: ClassVar[Kind] = Kind.TRAVERSE
    reqid: int
    owner: int = NO_OWNER
    with_empty: bool = False
    limit: int = 131072

    def pack(self) -> bytes:
        return _TRAVERSE.pack(self.reqid, self.owner, self.with_empty, self.limit)


@dataclass(frozen=True, slots=True)
class Pull:
    """All records for recovery, or those that the vnnmap gives to `lmaster`."""

    kind: ClassVar[Kind] = Kind.PULL
    lmaster: int = LMASTER_ANY
    lmasters: tuple[int, ...] = ()
    limit: int = 1000000

    def pack(self) -> bytes:
        return _PULL.pack(self.lmaster, self.limit, len(self.lmasters)) + _pack_map(self.lmasters)


@dataclass(frozen=True, slots=True)
class _Buffer:
    """A rec_buffer to be stored on node `pnn`."""

    buffer: bytes
    pnn: int
    lmasters: tuple[int, ...] = ()

    def pack(self) -> bytes:
        return self.head() + self.buffer

    def head(self) -> bytes:
        """What comes before the buffer."""
        return _STORE.pack(self.pnn, len(self.lmasters)) + _pack_map(self.lmasters)


@dataclass(frozen=True, slots=True)
class Push(_Buffer):
    """Store a rec_buffer in the transaction of a frozen database, by the rules of recovery."""

    kind: ClassVar[Kind] = Kind.PUSH


@dataclass(frozen=True, slots=True)
class Update(_Buffer):
    """Store a rec_buffer, all or nothing, by the rules of UPDATE_RECORD."""

    kind: ClassVar[Kind] = Kind.UPDATE


@dataclass(frozen=True, slots=True)
class Store(_Buffer):
    """Store each record unless `pnn` is dmaster of the one it would replace; then flush to disk."""

    kind: ClassVar[Kind] = Kind.STORE


@dataclass(frozen=True, slots=True)
class Gather:
    """Begin to bring every node's copies together; `with_own`: all records of this file are the first."""

    kind: ClassVar[Kind] = Kind.GATHER
    pnn: int
    with_own: bool

    def pack(self) -> bytes:
        return _SCAN.pack(self.pnn, self.with_own)


@dataclass(frozen=True, slots=True)
class Merge(_Buffer):
    """Take a rec_buffer of node `pnn` into what `Gather` has begun."""

    kind: ClassVar[Kind] = Kind.MERGE


@dataclass(frozen=True, slots=True)
class Spread:
    """Give the merged records with `pnn` as dmaster, to be stored everywhere, and store them here."""

    kind: ClassVar[Kind] = Kind.SPREAD
    pnn: int
    lmasters: tuple[int, ...] = ()
    limit: int = 1000000

    def pack(self) -> bytes:
        return _PULL.pack(self.pnn, self.limit, len(self.lmasters)) + _pack_map(self.lmasters)


@dataclass(frozen=True, slots=True)
class VacuumScan:
    """Keys and headers of the empty records whose dmaster is `pnn`."""

    kind: ClassVar[Kind] = Kind.VACUUM_SCAN
    pnn: int
    limit: int = 131072

    def pack(self) -> bytes:
        return _SCAN.pack(self.pnn, self.limit)


@dataclass(frozen=True, slots=True)
class Plain:
    """A job without parameters; STOP stops the job with the request's id."""

    kind: Kind

    def pack(self) -> bytes:
        return b""


Task = Traverse | Pull | Push | Update | Store | Gather | Merge | Spread | VacuumScan | Plain

_BUFFERS: Final[dict[Kind, type[Push] | type[Update] | type[Store] | type[Merge]]] = {
    each.kind: each for each in (Push, Update, Store, Merge)
}


@dataclass(frozen=True, slots=True)
class Request:
    """A job for a worker."""

    job_id: int
    database: Database
    task: Task

    def pack(self) -> bytes:
        """The request's bytes."""
        return b"".join(self.pieces())

    def pieces(self) -> tuple[bytes, bytes]:
        """The same in two: a buffer of records, which may be large, is not copied."""
        path = os.fsencode(self.database.path)
        task = self.task
        body, buffer = (task.head(), task.buffer) if isinstance(task, _Buffer) else (task.pack(), b"")
        bits = _VOLATILE * self.database.is_volatile | _FROZEN * self.database.is_frozen
        size = _REQUEST.size + len(path) + len(body) + len(buffer)
        head = _REQUEST.pack(
            size, self.job_id, self.task.kind, bits, len(path), self.database.tdb_flags, self.database.db_id
        )
        return head + path + body, buffer


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of a job's answer, or its end."""

    job_id: int
    status: int
    is_last: bool
    data: bytes = b""

    def pack(self) -> bytes:
        """The answer's bytes."""
        size = _ANSWER.size + len(self.data)
        return _ANSWER.pack(size, self.job_id, self.status, self.is_last) + self.data

    @property
    def count(self) -> int:
        """Number of records, of a last answer that carries one. Raises ProtocolError."""
        return int(_unpack(_U32, self.data)[0])

    @property
    def counts(self) -> tuple[int, int]:
        """(records, records with data), of COUNT. Raises ProtocolError."""
        records, with_data = _unpack(_COUNTS, self.data)
        return records, with_data

    @property
    def scheduled(self) -> tuple[bytes, ...]:
        """Keys to be scheduled for deletion, of PUSH. Raises ProtocolError."""
        keys, at = [], _U32.size
        while at < len(self.data):
            (size,) = _unpack(_U32, self.data[at:])
            at += _U32.size
            if size > len(self.data) - at:
                raise ProtocolError(
                    f"cannot decode an answer: a key of {size} bytes, {len(self.data) - at} are left"
                )
            keys.append(self.data[at : at + size])
            at += size
        return tuple(keys)


def widen(connection: socket.socket) -> None:
    """Let `ON_THE_WAY_BYTES` be on their way from here to the other end, or as much as the machine allows."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, ON_THE_WAY_BYTES)
    except OSError:
        # Not root: net.core.wmem_max is the limit.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_THE_WAY_BYTES)


def pack_count(count: int, scheduled: list[bytes] | tuple[bytes, ...] = ()) -> bytes:
    """End of an answer that counts records."""
    return _U32.pack(count) + b"".join(_U32.pack(len(key)) + key for key in scheduled)


def pack_counts(records: int, with_data: int) -> bytes:
    """End of COUNT's answer."""
    return _COUNTS.pack(records, with_data)


def take_request(received: bytearray) -> Request | None:
    """Remove the first request from what was received; None while it is incomplete. Raises ProtocolError."""
    frame = _take_frame(received, _REQUEST.size)
    if frame is None:
        return None
    _, job_id, number, bits, path_size, tdb_flags, db_id = _REQUEST.unpack_from(frame)
    at = _REQUEST.size + path_size
    if at > len(frame):
        raise ProtocolError(f"cannot decode a job: a path of {path_size} bytes does not fit its frame")
    try:
        kind = Kind(number)
    except ValueError as error:
        raise ProtocolError(f"cannot decode a job: {error}") from error
    path = os.fsdecode(frame[_REQUEST.size : at])
    database = Database(path, tdb_flags, db_id, bool(bits & _VOLATILE), bool(bits & _FROZEN))
    return Request(job_id, database, _unpack_task(kind, frame[at:]))


def take_answer(received: bytearray) -> Answer | None:
    """Remove the first answer from what was received; None while it is incomplete. Raises ProtocolError."""
    frame = _take_frame(received, _ANSWER.size)
    if frame is None:
        return None
    _, job_id, status, last = _ANSWER.unpack_from(frame)
    return Answer(job_id, status, bool(last), frame[_ANSWER.size :])


def _take_frame(received: bytearray, size_min: int) -> bytes | None:
    if len(received) < _U32.size:
        return None
    (size,) = _U32.unpack_from(received)
    if not size_min <= size <= FRAME_SIZE_MAX:
        raise ProtocolError(
            f"cannot decode a job's frame: its length is {size}, not {size_min} to {FRAME_SIZE_MAX}"
        )
    if len(received) < size:
        return None
    with memoryview(received) as view:
        frame = bytes(view[:size])
    del received[:size]
    return frame


def _unpack_task(kind: Kind, body: bytes) -> Task:
    match kind:
        case Kind.TRAVERSE:
            reqid, owner, with_empty, limit = _unpack(_TRAVERSE, body)
            return Traverse(reqid, owner, bool(with_empty), limit)
        case Kind.PULL:
            lmaster, limit, size = _unpack(_PULL, body)
            lmasters, _ = _unpack_map(body, _PULL.size, size)
            return Pull(lmaster, lmasters, limit)
        case Kind.PUSH | Kind.UPDATE | Kind.STORE | Kind.MERGE:
            pnn, size = _unpack(_STORE, body)
            lmasters, at = _unpack_map(body, _STORE.size, size)
            return _BUFFERS[kind](body[at:], pnn, lmasters)
        case Kind.GATHER:
            pnn, with_own = _unpack(_SCAN, body)
            return Gather(pnn, bool(with_own))
        case Kind.SPREAD:
            pnn, limit, size = _unpack(_PULL, body)
            lmasters, _ = _unpack_map(body, _PULL.size, size)
            return Spread(pnn, lmasters, limit)
        case Kind.VACUUM_SCAN:
            return VacuumScan(*_unpack(_SCAN, body))
        case _:
            return Plain(kind)


def _unpack(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise ProtocolError(f"cannot decode a job: {len(data)} bytes left, {layout.size} needed")
    return layout.unpack_from(data)


def _pack_map(lmasters: tuple[int, ...]) -> bytes:
    return struct.pack(f"={len(lmasters)}I", *lmasters)


def _unpack_map(body: bytes, at: int, size: int) -> tuple[tuple[int, ...], int]:
    if size > (len(body) - at) // _U32.size:
        raise ProtocolError(f"cannot decode a job: a map of {size} lmasters, {len(body) - at} bytes left")
    return struct.unpack_from(f"={size}I", body, at), at + size * _U32.size
