# SPDX-License-Identifier: GPL-3.0-or-later
"""Node links: two one-way TCP connections per pair of nodes, kept up for as long as they are wanted.

Each node connects to every other one (that connection carries what it sends) and is
connected to by every other one (that carries what it hears). A link is up when both stand.
Descriptors are handed to `on_connection` and not touched any more here.
Source: upstream's TCP transport; a peer is known by its address, so outgoing sockets bind to ours.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ctdbpy.errors import HostError

CONNECT_TIMEOUT_S: Final = 1.0
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 1.0
BACKLOG: Final = 128

_LIKELY_CAUSE: Final = {
    errno.ECONNREFUSED: "daemon not running?",
    errno.ETIMEDOUT: "host down, or is TCP {port} blocked?",
    errno.EHOSTUNREACH: "host down, or private network cut?",
    errno.ENETUNREACH: "no route: private network down here?",
    errno.EADDRNOTAVAIL: "own private address is gone",
    errno.ECONNRESET: "daemon ended",
}


def explain(number: int, port: int) -> str:
    """An errno in words with its likely cause, for a line in the log."""
    name = errno.errorcode.get(number, str(number))
    cause = _LIKELY_CAUSE.get(number, "").format(port=port)
    return f"{name} {os.strerror(number)}" + (f" ({cause})" if cause else "")


def listen(address: str, port: int) -> socket.socket:
    """Listen for node links on one private address. Raises OSError as bind does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def listen_as_one_of(addresses: dict[int, str], port: int, wanted: str | None) -> tuple[int, socket.socket]:
    """Find which node this is: the first whose address can be listened on. Returns (pnn, listener).

    addresses: pnn -> address of the nodes that are not deleted; wanted: the configured node address.
    Raises HostError saying what each address answered.
    """
    refusals = []
    for pnn, address in addresses.items():
        if wanted is not None and address != wanted:
            continue
        try:
            return pnn, listen(address, port)
        except OSError as error:
            refusals.append(f"'{address}': {os.strerror(error.errno or 0)}")
    raise HostError(
        f"cannot find this machine in the nodes file: no address can be listened on at port {port} "
        f"({'; '.join(refusals) or 'no address listed'}); add this machine's private address, or stop the "
        "other daemon"
    )


@dataclass(slots=True)
class _Peer:
    address: str
    connector: asyncio.Task[None] | None = None
    outgoing: int = 0
    incoming: int = 0
    last_refusal: str = ""


class Links:
    """Holds the links to all wanted peers. Every callback runs on the event loop.

    on_connection(link_id, pnn, outgoing, fd): a direction stands; the descriptor is the callee's now.
    on_up(pnn), on_down(pnn, reason): both directions stand; one of them broke.
    close(link_id, reason): end a direction whose descriptor was handed over.
    spawn(name, coroutine): the daemon's one way to start a task.
    """

    def __init__(
        self,
        listener: socket.socket,
        own_address: str,
        port: int,
        *,
        on_connection: Callable[[int, int, bool, int], None],
        on_up: Callable[[int], None],
        on_down: Callable[[int, str], None],
        close: Callable[[int, str], None],
        log: Callable[[str], None],
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._listener = listener
        self._own_address = own_address
        self._port = port
        self._on_connection = on_connection
        self._on_up = on_up
        self._on_down = on_down
        self._close = close
        self._log = log
        self._spawn = spawn
        self._peers: dict[int, _Peer] = {}
        self._next_link_id = 1
        self._owners: dict[int, tuple[int, bool]] = {}

    def start(self) -> None:
        """Begin to accept."""
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Stop accepting and connecting; standing connections are the engine's to close."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for peer in self._peers.values():
            if peer.connector is not None:
                peer.connector.cancel()

    def want(self, pnn: int, address: str) -> None:
        """Keep a link to this node from now on."""
        if pnn in self._peers:
            self._peers[pnn].address = address
            return
        self._peers[pnn] = _Peer(address)
        self._connect_soon(pnn)

    def drop(self, pnn: int, reason: str, *, forget: bool) -> None:
        """Tear a link down; without `forget` it is built again."""
        peer = self._peers.get(pnn)
        if peer is None:
            return
        if forget:
            del self._peers[pnn]
            if peer.connector is not None:
                peer.connector.cancel()
        self._tear_down(pnn, peer, reason)

    def closed(self, link_id: int, reason: str) -> None:
        """The engine reports that a connection ended."""
        pnn, outgoing = self._owners.pop(link_id, (-1, False))
        peer = self._peers.get(pnn)
        if peer is None:
            return
        if (peer.outgoing if outgoing else peer.incoming) != link_id:
            return
        if outgoing:
            was_up = bool(peer.incoming)
            peer.outgoing = 0
        else:
            was_up = bool(peer.outgoing)
            peer.incoming = 0
        if was_up:
            self._on_down(pnn, reason)
        self._tear_down(pnn, peer, reason)

    def _tear_down(self, pnn: int, peer: _Peer, reason: str) -> None:
        for link_id in (peer.outgoing, peer.incoming):
            if link_id:
                self._close(link_id, reason)
        was_up = bool(peer.outgoing and peer.incoming)
        peer.outgoing = peer.incoming = 0
        if was_up:
            self._on_down(pnn, reason)
        if pnn in self._peers:
            self._connect_soon(pnn)

    # -- connecting ---------------------------------------------------------------

    def _connect_soon(self, pnn: int) -> None:
        peer = self._peers[pnn]
        if peer.connector is None or peer.connector.done():
            peer.connector = self._spawn(f"link to node {pnn}", self._connect(pnn, peer))

    async def _connect(self, pnn: int, peer: _Peer) -> None:
        retry_s = RETRY_FIRST_S
        while self._peers.get(pnn) is peer and not peer.outgoing:
            number = await self._try_connect(pnn, peer)
            if number == 0:
                return
            refusal = explain(number, self._port)
            if refusal != peer.last_refusal:
                peer.last_refusal = refusal
                self._log(f"cannot connect to node {pnn} at {peer.address} port {self._port}: {refusal}")
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, RETRY_LAST_S)

    async def _try_connect(self, pnn: int, peer: _Peer) -> int:
        """Connect once, within its time; 0 or the errno."""
        family = socket.AF_INET6 if ":" in peer.address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            connection.bind((self._own_address, 0))
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, (peer.address, self._port))
        except TimeoutError:
            connection.close()
            return errno.ETIMEDOUT
        except OSError as error:
            connection.close()
            return error.errno or errno.EIO
        except asyncio.CancelledError:
            connection.close()
            raise
        peer.last_refusal = ""
        peer.outgoing = self._hand_over(pnn, True, connection)
        if peer.incoming:
            self._on_up(pnn)
        return 0

    # -- accepting -----------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._log(f"cannot accept a node's connection: {explain(error.errno or 0, self._port)}")
                return
            self._take(connection, address[0])

    def _take(self, connection: socket.socket, address: str) -> None:
        pnn = next((pnn for pnn, peer in self._peers.items() if peer.address == address), None)
        if pnn is None:
            self._log(f"refused a connection from '{address}': no node of the nodes file has this address")
            connection.close()
            return
        peer = self._peers[pnn]
        if peer.incoming:
            # The peer began anew and we have not noticed its end yet: what stood is void.
            self._tear_down(pnn, peer, "the node connected anew")
        connection.setblocking(False)
        peer.incoming = self._hand_over(pnn, False, connection)
        if peer.outgoing:
            self._on_up(pnn)

    def _hand_over(self, pnn: int, outgoing: bool, connection: socket.socket) -> int:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link_id = self._next_link_id
        self._next_link_id += 1
        self._owners[link_id] = (pnn, outgoing)
        self._on_connection(link_id, pnn, outgoing, connection.detach())
        return link_id
