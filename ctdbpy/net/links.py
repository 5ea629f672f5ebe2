# SPDX-License-Identifier: GPL-3.0-or-later
"""Node links: two one-way TCP connections per pair of nodes, kept up for as long as they are wanted.

Each node connects to every other one (that connection carries what it sends) and is
connected to by every other one (that carries what it hears). A link is up when both stand; until then
nothing is read from it, for there would be no way to answer.
Descriptors are handed to `on_connection` and not touched any more here.
Source: upstream's TCP transport; a peer is known by its address, so outgoing sockets bind to ours.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ctdbpy.errors import HostError

CONNECT_TIMEOUT_S: Final = 1.0
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 1.0
#: A link that stood for so long is built again at once; one that breaks sooner only after a delay.
STEADY_S: Final = 1.0
BACKLOG: Final = 128
#: Without a descriptor for the next connection, the listener is looked at again so much later.
ACCEPT_AGAIN_S: Final = 0.2
#: The same refusal is said again so much later.
SAY_AGAIN_S: Final = 60.0
SAID_MAX: Final = 100

#: A peer whose machine acknowledges nothing for so long is gone. The core's keepalives notice a daemon that
#: hangs on a machine that lives.
SILENCE_MS: Final = 10_000
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 3),
    (socket.TCP_KEEPINTVL, 2),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, SILENCE_MS),
)

_LIKELY_CAUSE: Final = {
    errno.ECONNREFUSED: "daemon not running?",
    errno.ETIMEDOUT: "host down, or is TCP {port} blocked?",
    errno.EHOSTUNREACH: "host down, or private network cut?",
    errno.ENETUNREACH: "no route: private network down here?",
    errno.EADDRNOTAVAIL: "own private address is gone",
    errno.ECONNRESET: "daemon ended, or host started anew",
    errno.EPIPE: "daemon ended",
    errno.EMFILE: "raise LimitNOFILE of the service",
}
#: The engine reports an end in words.
_NUMBERS: Final = {os.strerror(number): number for number in errno.errorcode}


def explain(number: int, port: int) -> str:
    """An errno in words with its likely cause, for a line in the log."""
    name = errno.errorcode.get(number, str(number))
    cause = _LIKELY_CAUSE.get(number, "").format(port=port)
    return f"{name} {os.strerror(number)}" + (f" ({cause})" if cause else "")


def explain_end(reason: str, port: int) -> str:
    """Why a connection ended, as the engine put it, with errno's name and the likely cause."""
    number = _NUMBERS.get(reason)
    return reason if number is None else explain(number, port)


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
    #: The node's connection to us, while ours to it does not stand.
    accepted: socket.socket | None = None
    #: When the two directions came to stand.
    outgoing_since_s: float = 0.0
    incoming_since_s: float = 0.0
    last_refusal: str = ""
    #: When to try to connect next, what to add then, and a reason not to wait for it.
    next_try_s: float = 0.0
    retry_s: float = RETRY_FIRST_S
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_up(self) -> bool:
        return bool(self.outgoing and self.incoming)

    def let_go(self) -> None:
        """Close what was accepted and not used."""
        if self.accepted is not None:
            self.accepted.close()
            self.accepted = None


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
        self._accept_again: asyncio.TimerHandle | None = None
        #: Refusals by their text: when they may be said again.
        self._said: dict[str, float] = {}

    def start(self) -> None:
        """Begin to accept; once it has begun this does nothing."""
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Stop accepting and connecting; standing connections are the engine's to close."""
        if self._accept_again is not None:
            self._accept_again.cancel()
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for peer in self._peers.values():
            peer.let_go()
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
        if peer is not None and link_id == (peer.outgoing if outgoing else peer.incoming):
            which = "to" if outgoing else "from"
            why = explain_end(reason, self._port)
            if outgoing and not peer.incoming:
                self._say(
                    f"node {pnn} at {peer.address} port {self._port} took our connection and made none "
                    f"itself before that ended: {why}; has its nodes file {self._own_address}?"
                )
            self._tear_down(pnn, peer, f"connection {which} {peer.address} port {self._port}: {why}")

    def _tear_down(self, pnn: int, peer: _Peer, reason: str) -> None:
        """End both directions: one alone is of no use, and the other node sees that it has to begin anew."""
        was_up, standing = peer.is_up, (peer.outgoing, peer.incoming)
        if was_up and self._now_s() - max(peer.outgoing_since_s, peer.incoming_since_s) >= STEADY_S:
            peer.next_try_s, peer.retry_s = 0.0, RETRY_FIRST_S
        peer.outgoing = peer.incoming = 0
        peer.let_go()
        for link_id in standing:
            if link_id:
                self._close(link_id, reason)
        if was_up:
            self._on_down(pnn, reason)
        if self._peers.get(pnn) is peer:
            self._connect_soon(pnn)

    # -- connecting ---------------------------------------------------------------

    def _connect_soon(self, pnn: int) -> None:
        peer = self._peers[pnn]
        if peer.connector is None or peer.connector.done():
            peer.connector = self._spawn(f"link to node {pnn}", self._connect(pnn, peer))

    async def _connect(self, pnn: int, peer: _Peer) -> None:
        while self._peers.get(pnn) is peer and not peer.outgoing:
            wait_s = peer.next_try_s - self._now_s()
            if wait_s > 0:
                if await _comes(peer.hurry, wait_s):
                    peer.next_try_s = 0.0
                continue
            # Counted whether it works or not: a link that breaks at once must not be built without pause.
            peer.next_try_s = self._now_s() + peer.retry_s
            peer.retry_s = min(peer.retry_s * 2, RETRY_LAST_S)
            number = await self._try_connect(pnn, peer)
            if number:
                refusal = explain(number, self._port)
                if refusal != peer.last_refusal:
                    peer.last_refusal = refusal
                    self._log(f"cannot connect to node {pnn} at {peer.address} port {self._port}: {refusal}")

    async def _try_connect(self, pnn: int, peer: _Peer) -> int:
        """Connect once, within its time; 0 or the errno."""
        family = socket.AF_INET6 if ":" in peer.address else socket.AF_INET
        try:
            connection = socket.socket(
                family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        except OSError as error:
            return error.errno or errno.EIO
        try:
            connection.bind((self._own_address, 0))
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, (peer.address, self._port))
            peer.last_refusal = ""
            peer.outgoing = self._hand_over(pnn, True, connection)
        except TimeoutError:
            connection.close()
            return errno.ETIMEDOUT
        except HostError as error:
            self._say(f"cannot use the connection to node {pnn}: {error}")
            return errno.ENOBUFS
        except OSError as error:
            connection.close()
            return error.errno or errno.EIO
        except asyncio.CancelledError:
            connection.close()
            raise
        peer.outgoing_since_s = self._now_s()
        if peer.accepted is not None:
            accepted, peer.accepted = peer.accepted, None
            self._use(pnn, peer, accepted)
        return 0

    # -- accepting -----------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._say(f"cannot accept a node's connection: {explain(error.errno or 0, self._port)}")
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener.fileno())
                self._accept_again = loop.call_later(ACCEPT_AGAIN_S, self.start)
                return
            self._take(connection, address[0])

    def _take(self, connection: socket.socket, address: str) -> None:
        pnn = next((pnn for pnn, peer in self._peers.items() if peer.address == address), None)
        if pnn is None:
            self._say(f"refused a connection from '{address}': no node of the nodes file has this address")
            connection.close()
            return
        peer = self._peers[pnn]
        if peer.incoming:
            self._replace(pnn, peer)
        connection.setblocking(False)
        if peer.outgoing:
            self._use(pnn, peer, connection)
            return
        peer.let_go()
        peer.accepted = connection
        # It is there: no reason to wait any longer before connecting to it.
        peer.hurry.set()

    def _use(self, pnn: int, peer: _Peer, connection: socket.socket) -> None:
        """Our own connection stands: with this one the link is up."""
        try:
            peer.incoming = self._hand_over(pnn, False, connection)
        except OSError as error:
            # It is gone already.
            self._say(f"cannot take node {pnn}'s connection: {explain(error.errno or 0, self._port)}")
            connection.close()
            return
        except HostError as error:
            self._say(f"cannot use node {pnn}'s connection: {error}")
            return
        peer.incoming_since_s = self._now_s()
        self._on_up(pnn)

    def _replace(self, pnn: int, peer: _Peer) -> None:
        """The node connected anew, and the end of what stood has not reached us: that is void."""
        if self._now_s() - peer.incoming_since_s >= STEADY_S:
            self._tear_down(pnn, peer, f"{peer.address} connected anew")
            return
        # Both began anew at the same time, perhaps: our own connection may be as young as this one, and
        # tearing it down would make the other node tear down this one, and so on.
        old, was_up = peer.incoming, peer.is_up
        peer.incoming = 0
        self._close(old, "the node connected anew")
        if was_up:
            self._on_down(pnn, f"{peer.address} connected anew")

    def _say(self, text: str) -> None:
        """Log what may happen again and again, once a minute."""
        now_s = self._now_s()
        if now_s < self._said.get(text, 0.0):
            return
        if len(self._said) >= SAID_MAX:
            self._said.clear()
        self._said[text] = now_s + SAY_AGAIN_S
        self._log(text)

    def _hand_over(self, pnn: int, outgoing: bool, connection: socket.socket) -> int:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Bytes go one way only on each of the two connections. Without this the kernel acknowledges every
        # packet before it wakes us, and with it every other one when we have read it.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        link_id = self._next_link_id
        self._next_link_id += 1
        self._owners[link_id] = (pnn, outgoing)
        self._on_connection(link_id, pnn, outgoing, connection.detach())
        return link_id

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


async def _comes(event: asyncio.Event, limit_s: float) -> bool:
    """Wait for an event from now on; False if it does not come in time."""
    event.clear()
    try:
        async with asyncio.timeout(limit_s):
            return await event.wait()
    except TimeoutError:
        return False
