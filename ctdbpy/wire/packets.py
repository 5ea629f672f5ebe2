# SPDX-License-Identifier: GPL-3.0-or-later
"""The packets between nodes and between client and daemon, and their common header.

Every packet begins with the same fields: `generation`, `destnode`, `srcnode` and `reqid`; its operation is
its type, its length its bytes. Source: Samba's ctdb/include/ctdb_protocol.h, ctdb/protocol/protocol_call.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Buffer, Reader, encode_text, pack_numbers, unpack_numbers
from ctdbpy.wire.constants import (
    HEADER_SIZE,
    MAGIC,
    MAX_PACKET_SIZE,
    PACKET_ALIGNMENT,
    VERSION,
    Operation,
)

_HEADER: Final = struct.Struct("=8I")


@dataclass(frozen=True, slots=True)
class Header:
    """What every packet begins with, read without its body."""

    length: int
    operation: int
    generation: int
    destnode: int
    srcnode: int
    reqid: int


@dataclass(frozen=True, slots=True)
class _Packet:
    """The fields of the header that a sender chooses, and the way to bytes."""

    OPERATION: ClassVar[Operation]

    generation: int
    destnode: int
    srcnode: int
    reqid: int

    def encode(self, padded: bool = True) -> bytes:
        """The packet's bytes; `padded` rounds up as upstream's daemon does, and says so in the header.

        Raises:
            ProtocolError: a field does not fit, or the packet is longer than `MAX_PACKET_SIZE`.
        """
        body = self._body()
        length = HEADER_SIZE + len(body)
        padding = -length % PACKET_ALIGNMENT if padded else 0
        length += padding
        if length > MAX_PACKET_SIZE:
            raise self._error(f"its length {length} is more than {MAX_PACKET_SIZE}")
        numbers = (self.generation, self.OPERATION, self.destnode, self.srcnode, self.reqid)
        head = pack_numbers(_HEADER, (length, MAGIC, VERSION, *numbers), type(self).__name__)
        return b"".join((head, body, bytes(padding)))

    def _body(self) -> bytes:
        raise NotImplementedError

    def _pack(self, layout: struct.Struct, *numbers: int) -> bytes:
        return pack_numbers(layout, numbers, type(self).__name__)

    def _error(self, reason: str) -> ProtocolError:
        return ProtocolError(f"cannot encode {type(self).__name__!r}: {reason}")


@dataclass(frozen=True, slots=True)
class ReqCall(_Packet):
    """Ask for a record: on its way to the dmaster it is passed on, `hopcount` times so far."""

    OPERATION: ClassVar[Operation] = Operation.REQ_CALL

    flags: int
    db_id: int
    callid: int
    hopcount: int
    key: bytes
    calldata: bytes = b""

    def _body(self) -> bytes:
        lengths = len(self.key), len(self.calldata)
        head = self._pack(_REQ_CALL, self.flags, self.db_id, self.callid, self.hopcount, *lengths)
        return head + self.key + self.calldata

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        flags, db_id = body.u32("flags"), body.u32("db_id")
        callid, hopcount = body.u32("callid"), body.u32("hopcount")
        keylen, calldatalen = body.u32("keylen"), body.u32("calldatalen")
        key, calldata = body.take(keylen, "key"), body.take(calldatalen, "calldata")
        return cls(*header, flags, db_id, callid, hopcount, key, calldata)


@dataclass(frozen=True, slots=True)
class ReplyCall(_Packet):
    OPERATION: ClassVar[Operation] = Operation.REPLY_CALL

    status: int
    data: bytes = b""

    def _body(self) -> bytes:
        return self._pack(_STATUS_LENGTH, self.status, len(self.data)) + self.data

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        return cls(*header, body.i32("status"), body.counted("data"))


@dataclass(frozen=True, slots=True)
class ReplyError(_Packet):
    """A call that failed."""

    OPERATION: ClassVar[Operation] = Operation.REPLY_ERROR

    status: int
    message: str = ""

    def _body(self) -> bytes:
        text = encode_text(self.message, "message") + b"\0"
        return self._pack(_STATUS_LENGTH, self.status, len(text)) + text

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        return cls(*header, body.i32("status"), body.string(body.u32("msglen"), "message"))


@dataclass(frozen=True, slots=True)
class ReqDmaster(_Packet):
    """The dmaster gives a record up: the lmaster notes `dmaster` and passes the record on to it."""

    OPERATION: ClassVar[Operation] = Operation.REQ_DMASTER

    db_id: int
    rsn: int
    dmaster: int
    key: bytes
    data: bytes = b""
    record_flags: int = 0

    def _body(self) -> bytes:
        head = self._pack(_REQ_DMASTER, self.db_id, self.rsn, self.dmaster, len(self.key), len(self.data))
        return head + self.key + self.data + self._pack(_U32, self.record_flags)

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        db_id = body.u32("db_id")
        body.skip(4)
        rsn, dmaster = body.u64("rsn"), body.u32("dmaster")
        keylen, datalen = body.u32("keylen"), body.u32("datalen")
        key, data = body.take(keylen, "key"), body.take(datalen, "data")
        return cls(*header, db_id, rsn, dmaster, key, data, _read_record_flags(body))


@dataclass(frozen=True, slots=True)
class ReplyDmaster(_Packet):
    """The record arrives at its new dmaster.

    `former` is the pnn of the dmaster before, plus one; 0 for not told. To upstream it is padding.
    """

    OPERATION: ClassVar[Operation] = Operation.REPLY_DMASTER

    db_id: int
    rsn: int
    key: bytes
    data: bytes = b""
    record_flags: int = 0
    former: int = 0

    def _body(self) -> bytes:
        head = self._pack(_REPLY_DMASTER, self.db_id, self.former, self.rsn, len(self.key), len(self.data))
        return head + self.key + self.data + self._pack(_U32, self.record_flags)

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        db_id, former = body.u32("db_id"), body.u32("former")
        rsn, keylen, datalen = body.u64("rsn"), body.u32("keylen"), body.u32("datalen")
        key, data = body.take(keylen, "key"), body.take(datalen, "data")
        return cls(*header, db_id, rsn, key, data, _read_record_flags(body), former)


@dataclass(frozen=True, slots=True)
class ReqMessage(_Packet):
    OPERATION: ClassVar[Operation] = Operation.REQ_MESSAGE

    srvid: int
    data: bytes = b""

    def _body(self) -> bytes:
        return self._pack(_REQ_MESSAGE, self.srvid, len(self.data)) + self.data

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        return cls(*header, body.u64("srvid"), body.counted("data"))


@dataclass(frozen=True, slots=True)
class ReqControl(_Packet):
    """A request to a daemon; `client_id` is 0 unless a daemon passes on what its client asked."""

    OPERATION: ClassVar[Operation] = Operation.REQ_CONTROL

    opcode: int
    srvid: int = 0
    client_id: int = 0
    flags: int = 0
    data: bytes = b""

    def _body(self) -> bytes:
        numbers = self.opcode, self.srvid, self.client_id, self.flags, len(self.data)
        return self._pack(_REQ_CONTROL, *numbers) + self.data

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        opcode = body.u32("opcode")
        body.skip(4)
        srvid, client_id, flags = body.u64("srvid"), body.u32("client_id"), body.u32("flags")
        return cls(*header, opcode, srvid, client_id, flags, body.counted("data"))


@dataclass(frozen=True, slots=True)
class ReplyControl(_Packet):
    """The answer to a control; the error's text travels without a NUL, and may arrive with one."""

    OPERATION: ClassVar[Operation] = Operation.REPLY_CONTROL

    status: int
    data: bytes = b""
    error: str = ""

    def _body(self) -> bytes:
        error = encode_text(self.error, "error")
        return self._pack(_REPLY_CONTROL, self.status, len(self.data), len(error)) + self.data + error

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        status, datalen, errorlen = body.i32("status"), body.u32("datalen"), body.u32("errorlen")
        return cls(*header, status, body.take(datalen, "data"), body.string(errorlen, "error"))


@dataclass(frozen=True, slots=True)
class ReqKeepalive(_Packet):
    """A sign of life; `version` is major << 16 | minor, or 0 from a node too old to tell."""

    OPERATION: ClassVar[Operation] = Operation.REQ_KEEPALIVE

    version: int = 0
    uptime_s: int = 0

    def _body(self) -> bytes:
        return self._pack(_REQ_KEEPALIVE, self.version, self.uptime_s)

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        if not body.remaining:
            return cls(*header)
        return cls(*header, body.u32("version"), body.u32("uptime"))


@dataclass(frozen=True, slots=True)
class ReqTunnel(_Packet):
    OPERATION: ClassVar[Operation] = Operation.REQ_TUNNEL

    tunnel_id: int
    flags: int = 0
    data: bytes = b""

    def _body(self) -> bytes:
        return self._pack(_REQ_TUNNEL, self.tunnel_id, self.flags, len(self.data)) + self.data

    @classmethod
    def _read(cls, header: Common, body: Reader) -> Self:
        return cls(*header, body.u64("tunnel_id"), body.u32("flags"), body.counted("data"))


Packet = (
    ReqCall
    | ReplyCall
    | ReplyError
    | ReqDmaster
    | ReplyDmaster
    | ReqMessage
    | ReqControl
    | ReplyControl
    | ReqKeepalive
    | ReqTunnel
)

#: generation, destnode, srcnode, reqid: how every packet begins.
Common = tuple[int, int, int, int]

_PACKETS: Final[dict[int, type[Packet]]] = {
    kind.OPERATION: kind
    for kind in (
        ReqCall,
        ReplyCall,
        ReplyError,
        ReqDmaster,
        ReplyDmaster,
        ReqMessage,
        ReqControl,
        ReplyControl,
        ReqKeepalive,
        ReqTunnel,
    )
}

_U32: Final = struct.Struct("=I")
_STATUS_LENGTH: Final = struct.Struct("=iI")
_REQ_CALL: Final = struct.Struct("=6I")
_REQ_DMASTER: Final = struct.Struct("=I4xQIII")
_REPLY_DMASTER: Final = struct.Struct("=IIQII")
_REQ_MESSAGE: Final = struct.Struct("=QI")
_REQ_CONTROL: Final = struct.Struct("=I4xQIII")
_REPLY_CONTROL: Final = struct.Struct("=iII")
_REQ_KEEPALIVE: Final = struct.Struct("=II")
_REQ_TUNNEL: Final = struct.Struct("=QII")


def decode(data: Buffer) -> Packet:
    """The packet in `data`, already cut to its length; bytes behind its fields are padding.

    Raises:
        ProtocolError: not a whole packet of this protocol and version, an unknown operation, or a body whose
            lengths reach beyond its end.
    """
    header = decode_header(data)
    kind = _PACKETS.get(header.operation)
    if kind is None:
        raise ProtocolError(f"cannot decode packet: its operation {header.operation} is unknown")
    body = Reader(memoryview(data)[HEADER_SIZE:], kind.__name__)
    return kind._read((header.generation, header.destnode, header.srcnode, header.reqid), body)


def decode_header(data: Buffer) -> Header:
    """The header of a whole packet; the operation may be one we do not know.

    Raises:
        ProtocolError: `data` is not one whole packet of this protocol and version.
    """
    length, magic, version, generation, operation, destnode, srcnode, reqid = unpack_numbers(
        _HEADER, data, 0, "packet"
    )
    if length != len(data):
        raise ProtocolError(f"cannot decode packet: its length is {length}, but {len(data)} bytes are here")
    if magic != MAGIC:
        raise ProtocolError(f"cannot decode packet: its magic is {magic:#x}, not {MAGIC:#x}")
    if version != VERSION:
        raise ProtocolError(f"cannot decode packet: its version is {version}, not {VERSION}")
    return Header(length, operation, generation, destnode, srcnode, reqid)


def peek_length(buf: Buffer) -> int | None:
    """How many bytes the packet at the front of `buf` has, or None while that cannot be told yet.

    Raises:
        ProtocolError: shorter than a header or longer than `MAX_PACKET_SIZE`: the stream cannot be followed.
    """
    if len(buf) < _U32.size:
        return None
    length: int = _U32.unpack_from(buf)[0]
    if not HEADER_SIZE <= length <= MAX_PACKET_SIZE:
        raise ProtocolError(
            f"cannot read packet: its length {length} is not from {HEADER_SIZE} to {MAX_PACKET_SIZE}"
        )
    return length


def _read_record_flags(body: Reader) -> int:
    """The record flags behind a record's data: old senders leave them out, which only the length tells."""
    return body.u32("record_flags") if body.remaining >= _U32.size else 0
