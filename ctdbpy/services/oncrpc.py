# SPDX-License-Identifier: GPL-3.0-or-later
"""A small ONC-RPC client: one call over TCP or UDP, and the few shapes of XDR that NFS's helpers use.

Source: RFC 5531 (RPC), RFC 4506 (XDR), RFC 1833 (port mapper version 2).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import ServiceError

PORTMAPPER: Final = 100000
NFS: Final = 100003
MOUNT: Final = 100005
QUOTA: Final = 100011
LOCK_MANAGER: Final = 100021
STATUS: Final = 100024

PORTMAPPER_PORT: Final = 111

#: A reply that is longer is none of ours: the longest read of NFS, and its header.
REPLY_BYTES_MAX: Final = (1 << 20) + 1024
_CALL: Final = 0
_REPLY: Final = 1
_RPC_VERSION: Final = 2
_AUTH_NONE: Final = b"\0" * 8
_LAST_FRAGMENT: Final = 1 << 31
_UDP_FIRST_PAUSE_S: Final = 0.3
_NOBODY_THERE: Final = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
_PRIVILEGED: Final = range(1023, 599, -1)
_ACCEPT_ERRORS: Final = {
    1: "it does not serve that program",
    2: "it does not serve that version",
    3: "it does not know that procedure",
    4: "it did not understand the arguments",
    5: "it failed",
}


@dataclass(frozen=True, slots=True)
class Service:
    """A program that answers RPC. port: None asks the port mapper at the same address."""

    name: str
    program: int
    version: int
    port: int | None = None


# -- XDR ---------------------------------------------------------------------------------------


def uint(number: int) -> bytes:
    """An unsigned number of 32 bits."""
    return struct.pack(">I", number)


def opaque(data: bytes) -> bytes:
    """Bytes of variable length, padded."""
    return uint(len(data)) + data + b"\0" * (-len(data) % 4)


class Xdr:
    """Reads a reply. Every read raises ServiceError when the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Bytes of a length that is known."""
        if size > len(self._data) - self._at:
            raise ServiceError(f"cannot read an RPC reply: it ends at byte {len(self._data)}")
        self._at += size
        return self._data[self._at - size : self._at]

    def uint(self) -> int:
        """An unsigned number of 32 bits."""
        (number,) = struct.unpack(">I", self.take(4))
        return int(number)

    def hyper(self) -> int:
        """An unsigned number of 64 bits."""
        (number,) = struct.unpack(">Q", self.take(8))
        return int(number)

    def opaque(self) -> bytes:
        """Bytes of variable length."""
        size = self.uint()
        data = self.take(size)
        self.take(-size % 4)
        return data

    def rest(self) -> bytes:
        """What has not been read."""
        return self.take(len(self._data) - self._at)


# -- calls -------------------------------------------------------------------------------------


def null(address: str, service: Service, transport: str = "tcp", *, timeout_s: float) -> None:
    """Call procedure 0, which does nothing but answer. Raises ServiceError."""
    call(address, service, 0, transport=transport, timeout_s=timeout_s)


def call(
    address: str,
    service: Service,
    procedure: int,
    arguments: bytes = b"",
    *,
    transport: str = "tcp",
    timeout_s: float,
    source: str | None = None,
    credential: bytes = _AUTH_NONE,
) -> Xdr:
    """Call a procedure and return its result.

    source: the own address to call from, at a privileged port then, as status monitors expect of each other.
    Raises ServiceError that names program, address and reason.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        port = service.port
        if port is None:
            port = port_of(address, service, transport, timeout_s=_left_s(deadline_s))
            if port == 0:
                raise ServiceError(f"the port mapper knows no version {service.version} of it")
        xid = int.from_bytes(os.urandom(4), "big")
        message = encode_call(xid, service, procedure, arguments, credential)
        with _connect(address, port, transport, source, _left_s(deadline_s)) as connection:
            if transport == "tcp":
                return _over_tcp(connection, xid, message, deadline_s)
            return _over_udp(connection, xid, message, deadline_s)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except OSError as error:
        reason = error.strerror or str(error)
    except ServiceError as error:
        reason = str(error)
    raise ServiceError(f"cannot call {service.name} at '{address}' by {transport}: {reason}")


def port_of(address: str, service: Service, transport: str, *, timeout_s: float) -> int:
    """The port that the port mapper at an address knows for a service; 0 for none. Raises ServiceError."""
    protocol = socket.IPPROTO_TCP if transport == "tcp" else socket.IPPROTO_UDP
    mapper = Service("the port mapper", PORTMAPPER, 2, PORTMAPPER_PORT)
    asked = uint(service.program) + uint(service.version) + uint(protocol) + uint(0)
    return call(address, mapper, 3, asked, transport=transport, timeout_s=timeout_s).uint()


def encode_call(
    xid: int, service: Service, procedure: int, arguments: bytes, credential: bytes = _AUTH_NONE
) -> bytes:
    """A call as it is sent, without the mark that TCP puts before it."""
    head = struct.pack(">6I", xid, _CALL, _RPC_VERSION, service.program, service.version, procedure)
    return head + credential + _AUTH_NONE + arguments


def decode_reply(xid: int, data: bytes) -> Xdr | None:
    """The result in a reply; None if it answers another call. Raises ServiceError when it was refused."""
    reply = Xdr(data)
    if reply.uint() != xid or reply.uint() != _REPLY:
        return None
    if reply.uint() != 0:
        raise ServiceError("it refuses the call: " + ("RPC version" if reply.uint() == 0 else "credentials"))
    reply.uint()
    reply.opaque()
    status = reply.uint()
    if status != 0:
        raise ServiceError(_ACCEPT_ERRORS.get(status, f"status {status}"))
    return reply


def record(message: bytes) -> bytes:
    """A message as TCP carries it."""
    return uint(_LAST_FRAGMENT | len(message)) + message


def unix_credential(uid: int = 0, gid: int = 0, machine: str = "localhost") -> bytes:
    """AUTH_SYS: who calls, as the caller says."""
    return uint(1) + opaque(uint(0) + opaque(machine.encode()) + uint(uid) + uint(gid) + uint(0))


def _connect(address: str, port: int, transport: str, source: str | None, timeout_s: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    connection = socket.socket(family, kind)
    try:
        connection.settimeout(timeout_s)
        if source is not None:
            _bind_privileged(connection, source)
        connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _bind_privileged(connection: socket.socket, source: str) -> None:
    for port in _PRIVILEGED:
        try:
            connection.bind((source, port))
        except OSError:
            if port == _PRIVILEGED[-1]:
                raise
        else:
            return


def _over_tcp(connection: socket.socket, xid: int, message: bytes, deadline_s: float) -> Xdr:
    connection.sendall(record(message))
    while True:
        reply = decode_reply(xid, read_record(connection, deadline_s))
        if reply is not None:
            return reply


def read_record(connection: socket.socket, deadline_s: float) -> bytes:
    """The next message of a TCP connection. Raises OSError, TimeoutError, ServiceError."""
    message = b""
    while True:
        mark = int.from_bytes(_read(connection, 4, deadline_s), "big")
        size = mark & ~_LAST_FRAGMENT
        if size + len(message) > REPLY_BYTES_MAX:
            raise ServiceError(f"it answers with {size} bytes, more than {REPLY_BYTES_MAX}")
        message += _read(connection, size, deadline_s)
        if mark & _LAST_FRAGMENT:
            return message


def _read(connection: socket.socket, size: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        connection.settimeout(_left_s(deadline_s))
        part = connection.recv(size - len(data))
        if not part:
            raise ServiceError("it closed the connection")
        data += part
    return bytes(data)


def _over_udp(connection: socket.socket, xid: int, message: bytes, deadline_s: float) -> Xdr:
    """Sent again after 0.3 s, 0.6 s …: a datagram may be lost, and who refuses it may just be starting."""
    pause_s = _UDP_FIRST_PAUSE_S
    while True:
        with _nobody_there():
            connection.send(message)
        until_s = time.monotonic() + min(pause_s, _left_s(deadline_s))
        pause_s *= 2
        while (left_s := until_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            data = b""
            with suppress(TimeoutError), _nobody_there():
                data = connection.recv(1 << 16)
            reply = decode_reply(xid, data) if data else None
            if reply is not None:
                return reply


@contextmanager
def _nobody_there() -> Iterator[None]:
    """Pass over what the kernel says of an earlier datagram: the next may find somebody."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno not in _NOBODY_THERE:
            raise


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
