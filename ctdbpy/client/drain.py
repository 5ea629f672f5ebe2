# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a node out of service without anybody noticing much: addresses away, clients away, then stopped.

    with Connection() as connection:
        drain(connection, 2, on_progress=lambda progress: print(progress.text))
        resume(connection, 2)

It is told to any daemon of the cluster. A node that is being drained is disabled; when its addresses and
clients have gone it is stopped, and only that remains: `ctdb continue` brings all of it back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Final

from ctdbpy.client.connection import Connection, TimeUp
from ctdbpy.errors import ClientError
from ctdbpy.wire.constants import BROADCAST_CONNECTED, ControlFlag, NodeFlag
from ctdbpy.wire.controls import Control, decode_reply
from ctdbpy.wire.packets import ReplyControl
from ctdbpy.wire.srvids import SRVID_TAKEOVER_RUN, SRVID_TOOL_RANGE
from ctdbpy.wire.structures import NodeEntry, PublicIp, PublicIpList, ServedConnections, SrvidMessage

#: By default clients have so long to leave.
CLIENTS_LIMIT_S: Final = 60.0
#: Moving addresses away, and stopping, take less than a second; a busy cluster may need longer.
STEP_LIMIT_S: Final = 30.0
_NAMES_MAX: Final = 5
#: A number of connections that nobody has: asked with it, a node answers at once.
_UNKNOWN: Final = 0xFFFFFFFF

_serial = count(1)


class Step(Enum):
    """Where draining, or resuming, is."""

    CHECKED = "checked"
    ADDRESSES = "addresses"
    CLIENTS = "clients"
    STOPPING = "stopping"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Progress:
    """What has just happened. `left`: addresses, or clients' connections, that are still there."""

    step: Step
    text: str
    left: int = 0


_OnProgress = Callable[[Progress], None]


def drain(
    connection: Connection,
    pnn: int,
    *,
    clients_limit_s: float = CLIENTS_LIMIT_S,
    force: bool = False,
    on_progress: _OnProgress = lambda _progress: None,
) -> None:
    """Move all addresses away from a node, wait for its clients to leave, and stop it.

    Args:
        force: Go on although some address can be served nowhere else, or clients stay beyond their limit.

    Raises:
        ClientError: It cannot be done, and why. Before the node was touched nothing has changed; after that
            it stays disabled, without addresses, and its clients are served.
    """
    Drain(connection, pnn, on_progress).run(clients_limit_s, force=force)


def resume(connection: Connection, pnn: int, *, on_progress: _OnProgress = lambda _progress: None) -> None:
    """Undo a drain, finished or not: the node is continued, enabled, and serves addresses again.

    Raises ClientError.
    """
    Drain(connection, pnn, on_progress).undo()


class Drain:
    """One node on its way out of service, or back."""

    def __init__(self, connection: Connection, pnn: int, on_progress: _OnProgress) -> None:
        self._connection = connection
        self._pnn = pnn
        self._on_progress = on_progress

    # -- out ------------------------------------------------------------------------------------------

    def run(self, clients_limit_s: float, *, force: bool) -> None:
        """All of it, in order."""
        node = self._node()
        if node.flags & NodeFlag.INACTIVE:
            self._say(Step.DONE, f"node {self._pnn} is out of service already")
            return
        self._check_others(force=force)
        was_disabled = bool(node.flags & NodeFlag.PERMANENTLY_DISABLED)
        if not was_disabled:
            self._ask(Control.DISABLE_NODE)
        self._wait_flags(NodeFlag.PERMANENTLY_DISABLED, NodeFlag.PERMANENTLY_DISABLED)
        self._move_addresses(force=force)
        self._wait_clients(clients_limit_s, force=force)
        self._say(Step.STOPPING, f"node {self._pnn} is being stopped")
        self._ask(Control.STOP_NODE)
        self._wait_flags(NodeFlag.STOPPED, NodeFlag.STOPPED)
        if not was_disabled:
            # Only what is not undone by itself when it is continued.
            self._ask(Control.ENABLE_NODE)
        self._reallocate()
        self._say(Step.DONE, f"node {self._pnn} is stopped, out of service")

    def _check_others(self, *, force: bool) -> None:
        """Every address of the node can be served elsewhere."""
        here = self._addresses()
        others = [
            node.pnn
            for node in self._connection.ask(Control.GET_NODEMAP).nodes
            if node.pnn != self._pnn and not node.flags
        ]
        if not others and not force:
            raise ClientError(
                f"cannot drain node {self._pnn}: no other node is healthy; it would end service"
            )
        elsewhere: set[str] = set()
        for other in others:
            reply = self._connection.control(
                Control.GET_PUBLIC_IPS, destnode=other, flags=ControlFlag.PUBLIC_IP_ONLY_AVAILABLE
            )
            elsewhere |= {ip.address.host for ip in self._ips(reply)}
        stranded = sorted(here - elsewhere)
        if stranded and not force:
            raise ClientError(
                f"cannot drain node {self._pnn}: no other node can serve {_some(stranded)}; "
                "it would be nowhere (force it if it may be)"
            )
        self._say(Step.CHECKED, f"node {self._pnn} serves {len(here)} addresses", len(here))

    def _move_addresses(self, *, force: bool) -> None:
        """A takeover run has taken them away; one that could not is repeated."""
        moved = self._addresses()
        until_s = time.monotonic() + STEP_LIMIT_S
        while left := self._addresses():
            if time.monotonic() >= until_s:
                raise ClientError(
                    f"cannot drain node {self._pnn}: it still serves {_some(sorted(left))} after "
                    f"{STEP_LIMIT_S:g} s; it stays disabled. The leader's log says why"
                )
            self._say(Step.ADDRESSES, f"{len(left)} addresses are leaving node {self._pnn}", len(left))
            self._reallocate()
        nowhere = sorted(moved - self._served()) if not force else []
        if nowhere:
            raise ClientError(
                f"cannot drain node {self._pnn}: nobody serves {_some(nowhere)} now; the node stays disabled"
            )
        self._say(Step.ADDRESSES, f"node {self._pnn} serves no addresses any more")

    def _wait_clients(self, limit_s: float, *, force: bool) -> None:
        """Connections end when their address goes; the programs behind them take a moment to notice."""
        until_s = time.monotonic() + limit_s
        told = _UNKNOWN
        # The node answers when the number changes, or after a second.
        while (served := self._connections(told)) is not None and served.count:
            if served.count != told:
                told = served.count
                self._say(Step.CLIENTS, f"{told} clients' connections are left on node {self._pnn}", told)
            if time.monotonic() >= until_s:
                names = _some([f"{each.src.host} to {each.dst.host}" for each in served.first])
                text = f"{served.count} clients' connections ({names}) are left after {limit_s:g} s"
                if force:
                    self._say(Step.CLIENTS, f"{text}; they end now", served.count)
                    return
                raise ClientError(
                    f"cannot drain node {self._pnn}: {text}; it stays disabled, without addresses "
                    "(force it if they may be cut off)"
                )
        if served is None:
            text = f"node {self._pnn} does not tell its clients' connections: it is not ctdbpyd"
            self._say(Step.CLIENTS, text)
        else:
            self._say(Step.CLIENTS, f"node {self._pnn} has no clients any more")

    # -- back -----------------------------------------------------------------------------------------

    def undo(self) -> None:
        """Continue, enable, and have it serve."""
        node = self._node()
        if node.flags & NodeFlag.STOPPED:
            self._ask(Control.CONTINUE_NODE)
        if node.flags & NodeFlag.PERMANENTLY_DISABLED:
            self._ask(Control.ENABLE_NODE)
        self._wait_flags(NodeFlag.STOPPED | NodeFlag.PERMANENTLY_DISABLED, NodeFlag(0))
        self._say(Step.STOPPING, f"node {self._pnn} is in service again")
        self._reallocate()
        self._say(Step.DONE, f"node {self._pnn} serves {len(self._addresses())} addresses")

    # -- asking -----------------------------------------------------------------------------------------

    def _node(self) -> NodeEntry:
        for node in self._connection.ask(Control.GET_NODEMAP).nodes:
            if node.pnn == self._pnn and not node.flags & NodeFlag.DELETED:
                if node.flags & NodeFlag.DISCONNECTED:
                    raise ClientError(f"cannot reach node {self._pnn}: it is disconnected")
                return NodeEntry(node.pnn, node.flags, node.address)
        raise ClientError(f"cannot find node {self._pnn}: there is none")

    def _ask(self, opcode: Control) -> None:
        self._connection.ask(opcode, destnode=self._pnn)

    def _wait_flags(self, mask: NodeFlag, wanted: NodeFlag) -> None:
        """Until the daemon that is asked knows that the node wears these flags."""
        until_s = time.monotonic() + STEP_LIMIT_S
        while (flags := NodeFlag(self._node().flags) & mask) != wanted:
            if time.monotonic() >= until_s:
                raise ClientError(f"cannot wait longer for node {self._pnn}: its flags are {flags!r}")
            # It says so on the way to its answer; who hears it later has heard it after a takeover run.
            self._reallocate()

    def _ips(self, reply: ReplyControl) -> tuple[PublicIp, ...]:
        if reply.status != 0:
            raise ClientError(f"cannot do GET_PUBLIC_IPS: {reply.error or f'status {reply.status}'}")
        ips: PublicIpList = decode_reply(Control.GET_PUBLIC_IPS, reply.data)
        return ips.ips

    def _addresses(self) -> set[str]:
        """What the node itself says it serves."""
        ips = self._ips(self._connection.control(Control.GET_PUBLIC_IPS, destnode=self._pnn))
        return {ip.address.host for ip in ips if ip.pnn == self._pnn}

    def _served(self) -> set[str]:
        """What healthy nodes say that they serve."""
        served: set[str] = set()
        for node in self._connection.ask(Control.GET_NODEMAP).nodes:
            if not node.flags:
                ips = self._ips(self._connection.control(Control.GET_PUBLIC_IPS, destnode=node.pnn))
                served |= {ip.address.host for ip in ips if ip.pnn == node.pnn}
        return served

    def _connections(self, known: int) -> ServedConnections | None:
        reply = self._connection.control(Control.GET_CONNECTIONS, known, destnode=self._pnn)
        if reply.status != 0:
            return None
        served: ServedConnections = decode_reply(Control.GET_CONNECTIONS, reply.data)
        return served

    def _reallocate(self) -> None:
        """Have the leader make a takeover run, and wait for its end."""
        srvid = SRVID_TOOL_RANGE | (os.getpid() & 0xFFFFFF) << 32 | next(_serial) & 0xFFFFFFFF
        connection = self._connection
        connection.ask(Control.REGISTER_SRVID, srvid=srvid)
        try:
            until_s = time.monotonic() + STEP_LIMIT_S
            request = SrvidMessage(connection.pnn, srvid).pack()
            connection.message(BROADCAST_CONNECTED, SRVID_TAKEOVER_RUN, request)
            while (left_s := until_s - time.monotonic()) > 0:
                try:
                    message = connection.next_message(left_s)
                except TimeUp:
                    break
                if message.srvid == srvid:
                    # Whether it has worked is seen by its result.
                    return
            raise ClientError(
                f"cannot wait longer for a takeover run: none has ended within {STEP_LIMIT_S:g} s; node "
                f"{self._pnn} stays as it is now. The leader's log says why"
            )
        finally:
            connection.ask(Control.DEREGISTER_SRVID, srvid=srvid)

    def _say(self, step: Step, text: str, left: int = 0) -> None:
        self._on_progress(Progress(step, text, left))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more
