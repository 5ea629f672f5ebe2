# SPDX-License-Identifier: GPL-3.0-or-later
"""A blocking connection to the local daemon: controls, messages, attaching, transactions, traverses.

For tools and tests. One request at a time; messages that arrive meanwhile are kept.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from ctdbpy.errors import ClientError
from ctdbpy.wire import controls, packets
from ctdbpy.wire.constants import CURRENT_NODE, HEADER_SIZE, CallFlag, CallId, ControlFlag, DbFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.databases import TraverseStartExt
from ctdbpy.wire.records import RecBuffer, RecData

DEFAULT_SOCKET: Final = "/run/ctdb/ctdbd.socket"

VOLATILE: Final = DbFlag(0)

_ATTACH: Final = {
    VOLATILE: Control.DB_ATTACH,
    DbFlag.PERSISTENT: Control.DB_ATTACH_PERSISTENT,
    DbFlag.REPLICATED: Control.DB_ATTACH_REPLICATED,
}


class NoDaemon(ClientError):
    """No daemon answers at the socket, or it closed the connection."""


class TimeUp(ClientError):
    """No answer came in time."""


class Refused(ClientError):
    """A daemon answered a control with a `status` that is not 0."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Connection:
    """A connection to the daemon behind a Unix socket. `timeout_s` bounds every wait for an answer."""

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_SOCKET, *, timeout_s: float = 30.0) -> None:
        self.timeout_s = timeout_s
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = bytearray()
        self._reqid = 0
        self.messages: deque[packets.ReqMessage] = deque()
        try:
            # The kernel's time limit, not Python's: with that a full backlog is an error and not a wait.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
            self._socket.connect(self._path)
            self._socket.settimeout(timeout_s)
            self.pnn = self.control(Control.GET_PNN).status
        except BlockingIOError as error:
            self._socket.close()
            raise TimeUp(
                f"cannot connect to the daemon at '{self._path}': it has not taken the connection within "
                f"{timeout_s:g} s; it hangs, or too many clients wait for it"
            ) from error
        except OSError as error:
            self._socket.close()
            raise NoDaemon(
                f"cannot connect to the daemon at '{self._path}': {error.strerror}; is ctdbpyd running?"
            ) from error
        except ClientError:
            self._socket.close()
            raise

    def close(self) -> None:
        """End the connection; the daemon forgets what belonged to it."""
        self._socket.close()

    def detach_fd(self) -> int:
        """Give the descriptor away to somebody who reads and writes packets himself."""
        self._socket.settimeout(None)
        return self._socket.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- packets -----------------------------------------------------------------

    def send(self, packet: packets.Packet) -> None:
        """Send one packet as it is."""
        try:
            self._socket.settimeout(self.timeout_s)
            self._socket.sendall(packet.encode(padded=False))
        except TimeoutError:
            raise TimeUp(f"cannot send to the daemon at '{self._path}': it reads nothing") from None
        except OSError as error:
            raise NoDaemon(f"cannot send to the daemon at '{self._path}': {error.strerror}") from error

    def receive(self, timeout_s: float | None = None) -> packets.Packet:
        """The next packet. Raises ClientError when none comes in time or the daemon is gone."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            if len(self._received) >= HEADER_SIZE:
                (length,) = struct.unpack_from("=I", self._received)
                if len(self._received) >= length:
                    data = bytes(self._received[:length])
                    del self._received[:length]
                    return packets.decode(data)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeUp(f"cannot get an answer from the daemon at '{self._path}': time is up")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                raise NoDaemon(
                    f"cannot get an answer from the daemon at '{self._path}': it closed the connection"
                )
            self._received += data

    def next_message(self, timeout_s: float | None = None) -> packets.ReqMessage:
        """The next message, kept or new."""
        while not self.messages:
            packet = self.receive(timeout_s)
            if isinstance(packet, packets.ReqMessage):
                self.messages.append(packet)
        return self.messages.popleft()

    def message_to(self, *srvids: int, timeout_s: float) -> packets.ReqMessage | None:
        """The next message to one of these numbers, None when time is up; messages to others are kept."""
        for kept in self.messages:
            if kept.srvid in srvids:
                self.messages.remove(kept)
                return kept
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                packet = self.receive(max(0.0, deadline - time.monotonic()))
            except TimeUp:
                return None
            if not isinstance(packet, packets.ReqMessage):
                continue
            if packet.srvid in srvids:
                return packet
            self.messages.append(packet)

    def _answer(self, reqid: int, timeout_s: float | None = None) -> packets.Packet:
        # Messages, such as the leader's each second, do not make the time any longer.
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            packet = self.receive(max(0.0, deadline - time.monotonic()))
            if isinstance(packet, packets.ReqMessage):
                self.messages.append(packet)
            elif packet.reqid == reqid:
                return packet

    # -- requests ------------------------------------------------------------------

    def control(
        self,
        opcode: Control,
        value: object = None,
        *,
        destnode: int = CURRENT_NODE,
        srvid: int = 0,
        flags: int = 0,
        timeout_s: float | None = None,
    ) -> packets.ReplyControl:
        """Send a control and wait for its reply, whatever its status is."""
        reply = self._answer(self._send_control(opcode, value, destnode, srvid, flags), timeout_s)
        if not isinstance(reply, packets.ReplyControl):
            raise ClientError(
                f"cannot use the answer to control {opcode.name}: it is a {type(reply).__name__}"
            )
        return reply

    def controls(
        self,
        opcode: Control,
        value: object = None,
        *,
        nodes: Iterable[int],
        timeout_s: float | None = None,
    ) -> dict[int, packets.ReplyControl]:
        """Ask several nodes at a time. Who has not answered when time is up is missing."""
        asked = {self._send_control(opcode, value, pnn, 0, 0): pnn for pnn in nodes}
        replies: dict[int, packets.ReplyControl] = {}
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while asked:
            try:
                packet = self.receive(max(0.0, deadline - time.monotonic()))
            except TimeUp:
                break
            if isinstance(packet, packets.ReqMessage):
                self.messages.append(packet)
            elif packet.reqid in asked:
                pnn = asked.pop(packet.reqid)
                if isinstance(packet, packets.ReplyControl):
                    replies[pnn] = packet
        return replies

    def ask(
        self,
        opcode: Control,
        value: object = None,
        *,
        destnode: int = CURRENT_NODE,
        srvid: int = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Send a control and return what its reply carries. Raises Refused unless its status is 0."""
        return answer_of(
            opcode, self.control(opcode, value, destnode=destnode, srvid=srvid, timeout_s=timeout_s)
        )

    def tell(self, opcode: Control, value: object = None, *, destnode: int = CURRENT_NODE) -> None:
        """Send a control that nobody answers."""
        self._send_control(opcode, value, destnode, 0, ControlFlag.NOREPLY)

    def _send_control(self, opcode: Control, value: object, destnode: int, srvid: int, flags: int) -> int:
        self._reqid += 1
        data = controls.encode_request(opcode, value)
        self.send(packets.ReqControl(0, destnode, 0, self._reqid, opcode, srvid, 0, flags, data))
        return self._reqid

    def listen(self, srvid: int) -> None:
        """Have messages to `srvid` sent here."""
        self.ask(Control.REGISTER_SRVID, srvid=srvid)

    def call(
        self, db_id: int, key: bytes, callid: int = CallId.NULL, flags: int = CallFlag.IMMEDIATE_MIGRATION
    ) -> bytes:
        """Have a record migrate here (NULL), or see it (FETCH)."""
        self._reqid += 1
        self.send(packets.ReqCall(0, 0, 0, self._reqid, flags, db_id, callid, 0, key, b""))
        reply = self._answer(self._reqid)
        if not isinstance(reply, packets.ReplyCall):
            raise ClientError(f"cannot use the answer to a call: it is a {type(reply).__name__}")
        return reply.data

    def message(self, destnode: int, srvid: int, data: bytes) -> None:
        """Send a message; nobody answers it."""
        self.send(packets.ReqMessage(0, destnode, self.pnn, 0, srvid, data))

    # -- databases --------------------------------------------------------------------

    def attach(self, name: str, flags: DbFlag = VOLATILE) -> tuple[int, str, int]:
        """Attach a database: (db_id, path of its file, libtdb's flags to open it with)."""
        db_id = self.ask(_ATTACH[flags], name)
        return db_id, self.ask(Control.GETDBPATH, db_id), self.ask(Control.DB_OPEN_FLAGS, db_id)

    def commit(self, db_id: int, records: tuple[RecData, ...]) -> int:
        """Commit records of a persistent database on every node; the status of TRANS3_COMMIT."""
        return self.control(Control.TRANS3_COMMIT, RecBuffer(db_id, records), srvid=db_id).status

    def start_traverse(self, db_id: int, srvid: int, *, with_empty: bool = False) -> None:
        """Have every record sent here as messages to srvid; an empty one ends them."""
        self.ask(Control.REGISTER_SRVID, srvid=srvid)
        self._reqid += 1
        self.ask(Control.TRAVERSE_START_EXT, TraverseStartExt(db_id, self._reqid, srvid, with_empty))

    def traverse(self, db_id: int, *, with_empty: bool = False) -> Iterator[RecData]:
        """Every record of a database in the whole cluster, headers included."""
        srvid = 0xBE << 56 | os.getpid()
        self.start_traverse(db_id, srvid, with_empty=with_empty)
        while True:
            message = self.next_message()
            if message.srvid != srvid:
                continue
            record = RecData.unpack(message.data)
            if not record.key and not record.data:
                self.control(Control.DEREGISTER_SRVID, srvid=srvid)
                return
            yield record


def answer_of(opcode: Control, reply: packets.ReplyControl) -> Any:
    """What a reply carries. Raises Refused unless its status is 0."""
    if reply.status != 0:
        reason = reply.error or f"status {reply.status}"
        raise Refused(f"cannot do {opcode.name}: {reason}", reply.status)
    return controls.decode_reply(opcode, reply.data)


def _timeval(duration_s: float) -> bytes:
    """The kernel's `struct timeval`; at least a microsecond, since 0 would be for ever."""
    seconds, microseconds = divmod(max(round(duration_s * 1_000_000), 1), 1_000_000)
    return struct.pack("@ll", seconds, microseconds)
