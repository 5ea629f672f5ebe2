# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that keeps this node's tgtds: one for each address that stands here and has targets.

`python -m ctdbpy.services.iscsi.keeper DIRECTORY SOCKET READY_FD`, started by the event script. It watches
the kernel's addresses itself: an address that goes takes its tgtd with it at once, before any script is
asked, and also when nobody asks any more because the daemon was killed. When the daemon's socket closes, or
the keeper dies, every tgtd ends.

In DIRECTORY: declared.json (what there is to serve), keeper (locked while one runs), control (its socket),
and for each address a note that its tgtd locks.

A line on the control socket, and one line of JSON comes back:

load              read declared.json again: only addresses that changed are served anew. All that stand here
                  are served, even if they were released.
take ADDRESS      serve it as soon as it stands here, though it was released
release ADDRESS   end its tgtd, and answer when it has gone; to be served again it is taken, or comes anew
status            every address: phase, reason, failures in a row, process, whether it stands here
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ctdbpy.client.connection import DEFAULT_SOCKET
from ctdbpy.client.connection import Connection as Client
from ctdbpy.daemon.tasks import Tasks
from ctdbpy.errors import CtdbpyError
from ctdbpy.host import netlink
from ctdbpy.host.children import Children
from ctdbpy.host.connections import FAMILY as SOCKET_FAMILY
from ctdbpy.host.connections import list_sockets
from ctdbpy.host.netlink import Netlink
from ctdbpy.services.iscsi.declaration import Declaration, Target
from ctdbpy.services.iscsi.posts import Phase, Post
from ctdbpy.services.iscsi.stgt import PORT
from ctdbpy.wire import controls, packets
from ctdbpy.wire.constants import CURRENT_NODE, HEADER_SIZE, ControlFlag
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import Connection, SockAddr

#: The kernel tells nobody of new connections: they are looked for so often, and more often as long as
#: initiators come back to an address, which may move again before they have been seen.
CONNECTIONS_INTERVAL_S: Final = 1.0
CONNECTIONS_INTERVAL_S_MIN: Final = 0.05
RUSH_S: Final = 5.0
#: Until the daemon has answered, nothing is served.
DAEMON_LIMIT_S: Final = 10.0
#: A daemon that leaves more unread than this stands still; what it was to be told is found again later.
UNREAD_BYTES_MAX: Final = 1 << 18
LINE_BYTES_MAX: Final = 4096
LOG_BYTES_MAX: Final = 1 << 20


class Keeper:
    """Posts, and what they depend on: the file, the kernel's addresses, the daemon."""

    def __init__(self, directory: Path, daemon: socket.socket) -> None:
        self._directory = directory
        self._daemon = daemon
        self._children = Children()
        self._tasks = Tasks(_crash)
        self._events = netlink.open_events()
        self._route = Netlink()
        self._posts: dict[str, Post] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._standing: frozenset[str] = frozenset()
        self._released: set[str] = set()
        self._ended = asyncio.Event()
        self._loading = asyncio.Lock()
        self._news = asyncio.Event()

    async def run(self, is_ready: Callable[[], None]) -> None:
        """Work until it is stopped or the daemon is gone."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _loop, context: _crash(context["message"], context.get("exception"))
        )
        loop.add_reader(self._events, self._addresses_changed)
        _, daemon = await loop.create_connection(lambda: _Daemon(self._ended), sock=self._daemon)
        control = self._directory / "control"
        control.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, control, limit=LINE_BYTES_MAX)
        await self._load()
        self._tasks.spawn("connections", self._watch_connections(daemon))
        is_ready()
        await self._ended.wait()
        server.close()
        await self._end_all()

    # -- what is wanted ----------------------------------------------------------------------------

    async def _load(self) -> None:
        async with self._loading:
            text = (self._directory / "declared.json").read_text(encoding="utf-8")
            await self._serve_declared(Declaration.from_json(text).by_address())

    async def _serve_declared(self, declared: Mapping[str, tuple[Target, ...]]) -> None:
        changed = [address for address, post in self._posts.items() if declared.get(address) != post.targets]
        for address in changed:
            await self._close(address)
        for address, targets in declared.items():
            if address not in self._posts:
                post = Post(self._directory, address, targets, self._children, self._heard)
                self._posts[address] = post
                self._runs[address] = self._tasks.spawn(address, post.run())
        self._look()

    async def _close(self, address: str) -> None:
        post = self._posts.pop(address)
        post.want(False)
        await post.ended()
        self._runs.pop(address).cancel()

    def _addresses_changed(self) -> None:
        netlink.drain(self._events)
        self._look()

    def _look(self) -> None:
        """See which addresses stand here, and want those."""
        found = (_text(each.address) for each in netlink.addresses(self._route))
        self._standing = frozenset(found)
        self._released &= self._standing
        for address, post in self._posts.items():
            post.want(address in self._standing and address not in self._released)

    async def _end_all(self) -> None:
        asyncio.get_running_loop().remove_reader(self._events)
        for post in self._posts.values():
            post.want(False)
        await self._children.end_all(grace_s=0.0)

    # -- what scripts ask --------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            line = (await reader.readline()).decode(errors="replace").strip()
            answer = await self._answer(line)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, line: str) -> dict[str, Any]:
        verb, _, address = line.partition(" ")
        match verb:
            case "load":
                self._released.clear()
                await self._load()
            case "take":
                self._released.discard(address)
                self._look()
            case "release":
                if address in self._posts:
                    if address in self._standing:
                        self._released.add(address)
                    self._look()
                    await self._posts[address].ended()
            case "status":
                return {address: self._status(post) for address, post in self._posts.items()}
            case _:
                return {"error": f"cannot do '{verb}': no such order"}
        return {}

    def _status(self, post: Post) -> dict[str, Any]:
        return {
            "phase": post.phase,
            "reason": post.reason,
            "failures": post.failures,
            "standing": post.address in self._standing,
            "pid": post.pid,
        }

    def _heard(self, text: str) -> None:
        """A post is about something else now."""
        _log(text)
        self._news.set()

    # -- connections, for the next node to wake their initiators -----------------------------------

    async def _watch_connections(self, daemon: _Daemon) -> None:
        sockets = Netlink(SOCKET_FAMILY)
        known: set[Connection] = set()
        before: set[str] = set()
        rush_until_s = 0.0
        while True:
            serving = {address for address, post in self._posts.items() if post.phase is Phase.SERVING}
            now_s = time.monotonic()
            if serving - before:
                rush_until_s = now_s + RUSH_S
            before = serving
            if not daemon.is_behind:
                # Those of an address that has gone are not taken back: its next node needs them.
                refused = daemon.take_refused()
                known = {each for each in known - refused if each.dst.host in self._standing}
                now = _connections(sockets, serving) if serving else set()
                if now - known - refused:
                    rush_until_s = now_s + RUSH_S
                for each in now - known:
                    daemon.tell_opened(each)
                for each in known - now:
                    daemon.tell_closed(each)
                known = now
            is_rush = now_s < rush_until_s
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECTIONS_INTERVAL_S_MIN if is_rush else CONNECTIONS_INTERVAL_S):
                    await self._news.wait()


class _Daemon(asyncio.Protocol):
    """Our connection to the daemon: it is told of initiators, and nothing is served when it closes."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended
        self._refused: set[Connection] = set()
        self._asked: dict[int, Connection] = {}
        self._reqid = 0
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    @property
    def is_behind(self) -> bool:
        """Whether it leaves unread what it is told."""
        return self._transport is None or self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX

    def take_refused(self) -> set[Connection]:
        """What it has refused since, as the address was not its own yet: it has to be told again."""
        refused, self._refused = self._refused, set()
        return refused

    def tell_opened(self, connection: Connection) -> None:
        """A connection is served here."""
        self._reqid += 1
        self._asked[self._reqid] = connection
        self._send(Control.TCP_CLIENT, connection, self._reqid)

    def tell_closed(self, connection: Connection) -> None:
        """It is no more."""
        # Daemons before 4.18.11 do not know the first, and keep to the second.
        self._send(Control.TCP_CLIENT_DISCONNECTED, connection)
        self._send(Control.TCP_REMOVE, connection)

    def _send(self, control: Control, connection: Connection, reqid: int = 0) -> None:
        assert self._transport is not None, "whoever asks has seen that it is not behind"
        flags = 0 if reqid else ControlFlag.NOREPLY
        data = controls.encode_request(control, connection)
        packet = packets.ReqControl(0, CURRENT_NODE, 0, reqid, control, 0, 0, flags, data)
        self._transport.write(packet.encode(padded=False))

    # -- of asyncio --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= HEADER_SIZE:
            length = int.from_bytes(self._received[:4], sys.byteorder)
            if len(self._received) < length:
                return
            answer = packets.decode(bytes(self._received[:length]))
            del self._received[:length]
            connection = self._asked.pop(answer.reqid, None)
            if connection and isinstance(answer, packets.ReplyControl) and answer.status != 0:
                self._refused.add(connection)

    def connection_lost(self, exc: Exception | None) -> None:
        _log("the daemon is gone: nothing is served any more")
        self._ended.set()


def _connections(sockets: Netlink, addresses: set[str]) -> set[Connection]:
    wanted = [socket.inet_pton(_family(address), address) for address in addresses]
    return {
        Connection(
            SockAddr(_text(each.client), each.client_port),
            SockAddr(_text(each.address), each.port),
        )
        for each in list_sockets(sockets, wanted, port=PORT)
        if each.is_established
    }


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _crash(name: str, error: BaseException | None) -> None:
    """What nobody expected ends the process, and with it every tgtd: another keeper begins anew."""
    _log(f"cannot go on: '{name}' failed: {error!r}")
    os._exit(1)


def _log(text: str) -> None:
    if os.fstat(1).st_size > LOG_BYTES_MAX:
        os.truncate(1, 0)
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def main() -> None:
    """Keep the tgtds of the directory on the command line."""
    # Nobody else is to ask for anything, or to read a password.
    os.umask(0o077)
    directory, daemon_socket, ready = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    lock = os.open(directory / "keeper", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("cannot keep tgtds: another keeper runs")
    try:
        client = Client(daemon_socket or DEFAULT_SOCKET, timeout_s=DAEMON_LIMIT_S)
    except CtdbpyError as error:
        sys.exit(str(error))
    connection = socket.socket(fileno=client.detach_fd())

    def is_ready() -> None:
        os.write(ready, b"ready\n")
        os.close(ready)

    async def keep() -> None:
        await Keeper(directory, connection).run(is_ready)

    asyncio.run(keep())
    # Whatever hangs in the kernel is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
