# SPDX-License-Identifier: GPL-3.0-or-later
"""The event socket: how `ctdb event` and `ctdb scriptstatus` ask for scripts to be run and how they ended.

Source: wire.events; event/event_cmd.c of 4.17 for results.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from ctdbpy.daemon.events import EventRunner, LastRun, Order, Outcome
from ctdbpy.errors import ProtocolError
from ctdbpy.host.scripts import ScriptEnd
from ctdbpy.host.unix_socket import peer_credentials
from ctdbpy.wire import events as wire
from ctdbpy.wire.events import Command, EventStatus, Reply, Request, ScriptStatus
from ctdbpy.wire.nodes import Timeval

#: No request has more to say; a client that announces more is no client of ours.
REQUEST_BYTES_MAX = 64 * 1024


class EventSocket:
    """Serves the event protocol's clients on a listening socket."""

    def __init__(self, listener: socket.socket, runner: EventRunner, log: Callable[[str], None]) -> None:
        self._listener = listener
        self._runner = runner
        self._log = log
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()

    async def start(self) -> None:
        """Begin to serve."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._client, sock=self._listener)

    def stop(self) -> None:
        """Take no more clients, and leave those that are there."""
        if self._server is not None:
            self._server.close()
        for client in tuple(self._clients):
            client.close()

    def _client(self) -> _Client:
        return _Client(self._runner, self._log, self._clients)


class _Client(asyncio.Protocol):
    """A connection. Requests of one client run side by side, as far as events do."""

    def __init__(self, runner: EventRunner, log: Callable[[str], None], clients: set[_Client]) -> None:
        self._runner = runner
        self._log = log
        self._clients = clients
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        credentials = peer_credentials(transport.get_extra_info("socket"))
        if not credentials.is_trusted():
            self._log(f"refused a client of the event socket: {credentials} is neither root nor our user")
            transport.abort()
            return
        self._transport = transport
        self._clients.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._clients.discard(self)

    def close(self) -> None:
        """End the connection once what was answered has been sent."""
        if self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        """Answers pile up: nothing more is asked until they have been read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            self._take_requests()
        except ProtocolError as error:
            self._log(f"closed a connection of the event socket: {error}")
            self.close()
            self._received.clear()

    def _take_requests(self) -> None:
        while (length := wire.peek_length(self._received)) is not None:
            if length > REQUEST_BYTES_MAX:
                raise ProtocolError(f"cannot read event request: {length} bytes are too many")
            if length > len(self._received):
                return
            packet = bytes(self._received[:length])
            del self._received[:length]
            self._serve(*wire.decode_request(packet))

    def _serve(self, reqid: int, request: Request) -> None:
        match request:
            case wire.RunRequest(component, event, args, timeout_s, flags):
                words = tuple(word for word in (args or "").split(" ") if word)
                goes_on = bool(flags & wire.RUN_ALL)
                order = Order(event, words, float(timeout_s), goes_on, component)
                self._runner.run(order, lambda outcome: self._ran(reqid, outcome))
            case wire.StatusRequest(component, event):
                self._answer(reqid, _status(self._runner.last_run(component, event)))
            case wire.ScriptRequest(component, script, action):
                is_enabled = action is wire.ScriptAction.ENABLE
                result = self._runner.enable(component, script, is_enabled=is_enabled)
                self._answer(reqid, Reply(Command.SCRIPT, result))

    def _ran(self, reqid: int, outcome: Outcome) -> None:
        self._answer(reqid, Reply(Command.RUN, outcome.status))

    def _answer(self, reqid: int, reply: Reply) -> None:
        if self._transport is not None:
            self._transport.write(wire.encode_reply(reqid, reply))


def _status(last: LastRun | int) -> Reply:
    if isinstance(last, int):
        return Reply(Command.STATUS, last)
    scripts = tuple(_script_status(end) for end in last.scripts)
    return Reply(Command.STATUS, 0, EventStatus(last.summary, scripts))


def _script_status(end: ScriptEnd) -> ScriptStatus:
    output = end.output.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    times = (_timeval(end.begin_s), _timeval(end.end_s))
    return ScriptStatus(end.name, *times, end.result, output or None)


def _timeval(moment_s: float) -> Timeval:
    return Timeval(*divmod(int(moment_s * 1_000_000), 1_000_000))
