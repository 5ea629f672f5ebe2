# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients' TCP connections to public addresses: all nodes know them, for the next one to wake the clients.

Whoever serves an address tells new connections at once (TCP_ADD) and the whole list when it has changed,
each TickleUpdateInterval, and to a node that has just started or was out of reach.

Source: reference/ctdb.md 5.6 (44, 45, 46, 47, 55, 56, 126, 159, 160), 7.15.
"""

from __future__ import annotations

from typing import Final

from ctdbpy.core.effects import LogLevel
from ctdbpy.core.failover.table import Entry, Table
from ctdbpy.core.procedures import Promise
from ctdbpy.core.routing import Routing
from ctdbpy.core.state import Client, State
from ctdbpy.wire.constants import BROADCAST_CONNECTED
from ctdbpy.wire.controls import Control
from ctdbpy.wire.structures import Connection, SockAddr, TickleList

#: A client with more connections than this has lost count, or is none.
CLIENT_MAX: Final = 10_000
#: Connections to one address that are kept: more than these are not woken.
ADDRESS_MAX: Final = 20_000


class Connections:
    """The lists are in the table's entries; here is who may change them, and telling other nodes."""

    def __init__(self, state: State, routing: Routing, table: Table) -> None:
        self._state = state
        self._routing = routing
        self._table = table
        self._update_s: float | None = None
        self._change: Promise[None] = Promise()

    # -- programs of this node ------------------------------------------------------------------

    def opened(self, client: Client, connection: Connection) -> str:
        """A program serves this connection; says why it must not."""
        if not self._table.entries:
            # Nobody would ever wake it.
            return ""
        connection = canonical(connection)
        entry = self._table.find(connection.dst.host)
        if entry is None:
            self._state.log(
                LogLevel.INFO, f"{connection.dst.host} is not a public address: no tickles for it"
            )
            return ""
        if not self._is_ours(entry):
            # smbd ends the connection on hearing this.
            return f"{entry.address} is not on this node"
        if len(client.connections) >= CLIENT_MAX:
            return f"this client has {CLIENT_MAX} connections"
        client.connections.append(connection)
        self._change.resolve(None)
        self._routing.tell(BROADCAST_CONNECTED, Control.TCP_ADD, connection.pack())
        return ""

    def closed(self, client: Client, connection: Connection) -> str:
        """A program's connection has ended; says so if it had no such connection."""
        connection = canonical(connection)
        if problem := self.passed(client, connection):
            return problem
        self._ended(connection)
        return ""

    def passed(self, client: Client, connection: Connection) -> str:
        """Another program serves the connection from now on; says so if this one did not."""
        if not self._table.entries:
            return ""
        try:
            client.connections.remove(canonical(connection))
        except ValueError:
            return "this client has no such connection"
        self._change.resolve(None)
        return ""

    def client_gone(self, client: Client) -> None:
        """Its connections have ended; those to an address that is going its next node will wake."""
        for connection in client.connections:
            self._ended(connection)
        client.connections.clear()
        self._change.resolve(None)

    def served(self) -> list[Connection]:
        """Connections to public addresses that programs of this node serve."""
        return [each for client in self._state.clients.values() for each in client.connections]

    def changes(self) -> Promise[None]:
        """Done when there is one more, or one less."""
        if self._change.done:
            self._change = Promise()
        return self._change

    def _ended(self, connection: Connection) -> None:
        entry = self._table.find(connection.dst.host)
        if entry is not None and self._is_ours(entry) and not entry.is_releasing:
            self.remove(connection)

    def _is_ours(self, entry: Entry) -> bool:
        return entry.pnn == self._state.pnn

    # -- the lists --------------------------------------------------------------------------------

    def add(self, connection: Connection, *, tell_later: bool) -> str:
        """A connection to a public address; says why it cannot be kept."""
        if not self._table.entries:
            return ""
        connection = canonical(connection)
        entry = self._table.find(connection.dst.host)
        if entry is None:
            return f"{connection.dst.host} is not a public address of this node"
        if connection in entry.connections:
            return ""
        if len(entry.connections) >= ADDRESS_MAX:
            return f"{ADDRESS_MAX} connections to {entry.address} are known"
        entry.connections[connection] = None
        if tell_later and self._is_ours(entry):
            self._table.news.add(entry.address)
        return ""

    def remove(self, connection: Connection) -> None:
        """A connection is no more."""
        connection = canonical(connection)
        entry = self._table.find(connection.dst.host)
        if entry is not None and connection in entry.connections:
            del entry.connections[connection]
            if self._is_ours(entry):
                self._table.news.add(entry.address)

    def tickles(self, address: SockAddr) -> TickleList | None:
        """The connections to an address, with a port those to it; None if it is no public address here."""
        entry = self._table.find(address.canonical().host)
        if entry is None:
            return None
        port = address.port
        return TickleList(address, tuple(each for each in entry.connections if port in (0, each.dst.port)))

    def replace(self, tickles: TickleList) -> bool:
        """Whoever serves the address tells all its connections; False if it is no public address here."""
        entry = self._table.find(tickles.address.canonical().host)
        if entry is None:
            return False
        if not self._is_ours(entry):
            kept = tickles.connections[:ADDRESS_MAX]
            entry.connections = {canonical(each): None for each in kept}
        return True

    # -- telling other nodes ------------------------------------------------------------------------

    def tell_all(self) -> None:
        """A node has started: it knows no connections yet."""
        for entry in self._table.here.values():
            self._tell(entry)

    def link_up(self, pnn: int) -> None:
        """A node can be reached again: it has not heard of the connections made meanwhile."""
        for entry in self._table.here.values():
            self._tell(entry, pnn)

    def _tell(self, entry: Entry, destnode: int = BROADCAST_CONNECTED) -> None:
        if destnode == BROADCAST_CONNECTED:
            self._table.news.discard(entry.address)
        tickles = TickleList(SockAddr(entry.address), tuple(entry.connections))
        self._routing.tell(destnode, Control.SET_TCP_TICKLE_LIST, tickles.pack(), others_only=True)

    def settle(self) -> None:
        """See whether there is something to tell."""
        if self._update_s is None and self._table.news:
            interval_s = max(self._state.tunables.tickle_update_interval, 1)
            self._update_s = self._state.now_s + interval_s

    @property
    def deadline_s(self) -> float | None:
        """When other nodes are told."""
        return self._update_s

    def wake(self, now_s: float) -> None:
        """Tell them."""
        if self._update_s is not None and now_s >= self._update_s:
            self._update_s = None
            for address in sorted(self._table.news):
                self._tell(self._table.entries[address])


def canonical(connection: Connection) -> Connection:
    """An IPv4 connection as such, however it is written."""
    return Connection(connection.src.canonical(), connection.dst.canonical())
