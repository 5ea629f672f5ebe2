# SPDX-License-Identifier: GPL-3.0-or-later
"""How the daemon and `ctdb event` ask the event daemon to run scripts, and what it answers.

Its own protocol on its own socket: a header of length, version and reqid, then a command, nothing padded.
Source: Samba's ctdb/event/event_protocol.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, Self

from ctdbpy.errors import ProtocolError
from ctdbpy.wire.buffers import Buffer, Reader, Writer, encode_text, unpack_numbers
from ctdbpy.wire.nodes import Timeval

#: Upstream defines version 1, but no program of it writes or reads the field: all send 0.
VERSION: Final = 0
HEADER_SIZE: Final = 12

#: Our own limit: a status carries the whole output of every script, which no sane script takes to megabytes.
MAX_PACKET_SIZE: Final = 16 * 1024 * 1024

#: Flag of a run: go on with the next script when one fails.
RUN_ALL: Final = 1

_HEADER: Final = struct.Struct("=III")


class Command(IntEnum):
    RUN = 1
    STATUS = 2
    SCRIPT = 3


class ScriptAction(IntEnum):
    DISABLE = 0
    ENABLE = 1


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Run an event's scripts; `args` is one string, split at spaces, and a timeout of 0 is none."""

    COMMAND: ClassVar[Command] = Command.RUN

    component: str
    event: str
    args: str | None = None
    timeout_s: int = 0
    flags: int = 0

    def write(self, writer: Writer) -> None:
        _write_text(writer, self.component, "component")
        _write_text(writer, self.event, "event")
        _write_text(writer, self.args, "args")
        writer.u32(self.timeout_s, "timeout").u32(self.flags, "flags")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        component, event = _read_name(reader, "component"), _read_name(reader, "event")
        return cls(component, event, _read_text(reader, "args"), reader.u32("timeout"), reader.u32("flags"))


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Tell how the scripts of an event ended when it last ran."""

    COMMAND: ClassVar[Command] = Command.STATUS

    component: str
    event: str

    def write(self, writer: Writer) -> None:
        _write_text(writer, self.component, "component")
        _write_text(writer, self.event, "event")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(_read_name(reader, "component"), _read_name(reader, "event"))


@dataclass(frozen=True, slots=True)
class ScriptRequest:
    """Enable or disable a script."""

    COMMAND: ClassVar[Command] = Command.SCRIPT

    component: str
    script: str
    action: ScriptAction

    def write(self, writer: Writer) -> None:
        _write_text(writer, self.component, "component")
        _write_text(writer, self.script, "script")
        writer.u32(self.action, "action")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        component, script = _read_name(reader, "component"), _read_name(reader, "script")
        action = reader.u32("action")
        if action not in _ACTIONS:
            raise reader.error("action", f"{action} is neither 0 (disable) nor 1 (enable)")
        return cls(component, script, ScriptAction(action))


Request = RunRequest | StatusRequest | ScriptRequest


@dataclass(frozen=True, slots=True)
class ScriptStatus:
    """How a script ended: 0, its exit status, or an errno, negative where it is about running it at all."""

    SIZE_MIN: ClassVar[int] = 44

    name: str
    begin: Timeval
    end: Timeval
    result: int = 0
    output: str | None = None

    def write(self, writer: Writer) -> None:
        _write_text(writer, self.name, "name")
        self.begin.write(writer)
        self.end.write(writer)
        writer.i32(self.result, "result")
        _write_text(writer, self.output, "output")

    @classmethod
    def read(cls, reader: Reader) -> Self:
        name, begin, end = _read_name(reader, "name"), Timeval.read(reader), Timeval.read(reader)
        return cls(name, begin, end, reader.i32("result"), _read_text(reader, "output"))


@dataclass(frozen=True, slots=True)
class EventStatus:
    """How an event ended, and its scripts one by one."""

    summary: int
    scripts: tuple[ScriptStatus, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.i32(self.summary, "summary").i32(len(self.scripts), "num")
        for script in self.scripts:
            script.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        summary, number = reader.i32("summary"), reader.i32("num")
        reader.check_count(number, ScriptStatus.SIZE_MIN, "num")
        return cls(summary, tuple(ScriptStatus.read(reader) for _ in range(number)))


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: 0 or an errno, and a status only if one was asked for and the result is 0."""

    command: Command
    result: int = 0
    status: EventStatus | None = None


def encode_request(reqid: int, request: Request) -> bytes:
    writer = Writer(type(request).__name__).u32(request.COMMAND, "command")
    request.write(writer)
    return _with_header(reqid, writer)


def decode_request(data: Buffer) -> tuple[int, Request]:
    """The reqid and the request of a whole packet.

    Raises:
        ProtocolError: not one whole packet of this protocol, or an unknown command.
    """
    reqid, reader = _without_header(data, "event request")
    match _read_command(reader):
        case Command.RUN:
            return reqid, RunRequest.read(reader)
        case Command.STATUS:
            return reqid, StatusRequest.read(reader)
        case Command.SCRIPT:
            return reqid, ScriptRequest.read(reader)


def encode_reply(reqid: int, reply: Reply) -> bytes:
    writer = Writer("event reply").u32(reply.command, "command").i32(reply.result, "result")
    if _has_status(reply.command, reply.result):
        (reply.status or EventStatus(0)).write(writer)
    return _with_header(reqid, writer)


def decode_reply(data: Buffer) -> tuple[int, Reply]:
    """The reqid and the reply of a whole packet.

    Raises:
        ProtocolError: not one whole packet of this protocol, or an unknown command.
    """
    reqid, reader = _without_header(data, "event reply")
    command, result = _read_command(reader), reader.i32("result")
    status = EventStatus.read(reader) if _has_status(command, result) else None
    return reqid, Reply(command, result, status)


def peek_length(buf: Buffer) -> int | None:
    """How many bytes the packet at the front of `buf` has, or None while that cannot be told yet.

    Raises:
        ProtocolError: shorter than a header or longer than `MAX_PACKET_SIZE`: the stream cannot be followed.
    """
    if len(buf) < 4:
        return None
    length = Reader(buf, "event packet").u32("length")
    if not HEADER_SIZE <= length <= MAX_PACKET_SIZE:
        raise ProtocolError(
            f"cannot read event packet: its length {length} is not from {HEADER_SIZE} to {MAX_PACKET_SIZE}"
        )
    return length


_COMMANDS: Final = frozenset(int(command) for command in Command)
_ACTIONS: Final = frozenset(int(action) for action in ScriptAction)


def _has_status(command: Command, result: int) -> bool:
    return command is Command.STATUS and result == 0


def _read_command(reader: Reader) -> Command:
    command = reader.u32("command")
    if command not in _COMMANDS:
        raise reader.error("command", f"{command} is unknown")
    return Command(command)


def _with_header(reqid: int, body: Writer) -> bytes:
    length = HEADER_SIZE + len(body)
    if length > MAX_PACKET_SIZE:
        raise body.error("length", f"{length} is more than {MAX_PACKET_SIZE}")
    return Writer("event packet").u32(length).u32(VERSION).u32(reqid, "reqid").raw(body.getvalue()).getvalue()


def _without_header(data: Buffer, what: str) -> tuple[int, Reader]:
    length, _version, reqid = unpack_numbers(_HEADER, data, 0, what)
    if length != len(data):
        raise ProtocolError(f"cannot decode {what!r}: its length is {length}, but {len(data)} bytes are here")
    return reqid, Reader(memoryview(data)[HEADER_SIZE:], what)


def _write_text(writer: Writer, text: str | None, field: str) -> None:
    """Text with its NUL behind a length of both; None is no bytes at all."""
    writer.counted(b"" if text is None else encode_text(text, field) + b"\0", field)


def _read_text(reader: Reader, field: str) -> str | None:
    length = reader.u32(field)
    return reader.string(length, field) if length else None


def _read_name(reader: Reader, field: str) -> str:
    return _read_text(reader, field) or ""
