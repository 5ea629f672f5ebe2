# SPDX-License-Identifier: GPL-3.0-or-later
"""Public addresses on this host: effects become lines to the address helper, its answers become inputs.

The loop never waits for the kernel here. When the helper ends, another one takes over what stands; when the
daemon ends, however that happens, the helper removes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from ctdbpy.core import effects
from ctdbpy.core.inputs import AddressDone, HostAddress, HostSeen, Input, LinkState
from ctdbpy.daemon.processes import start_helper
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children
from ctdbpy.wire.addresses import Connection

log = logging.getLogger("ctdbpy.daemon")

READ_BYTES: Final = 1 << 16
#: Waits before it is started again; one that has lived for the last of them starts from the first.
WAITS_S: Final = (0.0, 0.1, 0.5, 2.0, 5.0)
#: A deed that has taken so long has failed, as far as the core is concerned.
DEED_LIMIT_S: Final = 10.0

Effect = (
    effects.PutAddress
    | effects.RemoveAddress
    | effects.AnnounceAddress
    | effects.StopAnnouncing
    | effects.SendTickles
    | effects.KillConnections
)


class Addresses(Protocol):
    """Who carries out the effects that are about addresses."""

    def start(self) -> None:
        """Begin to tell what stands on the host."""

    def stop(self) -> None:
        """Leave nothing behind."""

    def carry_out(self, effect: Effect) -> None:
        """Begin a deed; `AddressDone` tells its end."""

    def want_lease(self, wanted: bool, grace_us: int) -> None:
        """Hold addresses only under the lease that the guard writes down."""


class AddressHelper:
    """Keeps one helper process; `on_input` gets what it says, from the loop."""

    def __init__(
        self,
        children: Children,
        lease_fds: tuple[int, int],
        on_input: Callable[[Input], None],
        *,
        realtime: bool,
    ) -> None:
        """`lease_fds`: the memory in which the guard writes the lease, and the eventfd that it writes to when
        the lease became shorter. They stay the caller's.
        """
        self._children = children
        self._lease_fds = lease_fds
        self._on_input = on_input
        self._realtime = realtime
        self._loop = asyncio.get_running_loop()
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        self._received = b""
        self._unsent = bytearray()
        self._lease = "lease -"
        #: What was put and not removed: the interface by address.
        self._held: dict[str, str] = {}
        #: Deeds that nothing was heard of yet, in order, and until when that may be so.
        self._deeds: dict[int, tuple[effects.PutAddress | effects.RemoveAddress, float]] = {}
        self._overdue: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._started_s = 0.0
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """Its process, if one runs."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the process. Raises HostError if that is not possible at all."""
        self._started_s = self._loop.time()
        # It must live on after the daemon's death; to this signal it is deaf.
        self._child, self._socket = start_helper(
            self._children, "ctdbpy.host.address_helper", death_signal=signal.SIGTERM
        )
        self._received = b""
        self._unsent.clear()
        try:
            socket.send_fds(self._socket, [f"{self._lease}\n".encode()], self._lease_fds)
        except OSError as error:
            self._loop.call_soon(self._ended, os.strerror(error.errno or 0))
            return
        self._loop.add_reader(self._socket.fileno(), self._readable)
        if self._realtime:
            self._send("priority")
        for address, interface in self._held.items():
            self._send(f"hold {address} {interface}")
        for deed, _limit_s in self._deeds.values():
            self._send(_line_of(deed))

    def stop(self) -> None:
        """Close the socket: whatever still stands is removed."""
        for timer in (self._overdue, self._again):
            if timer is not None:
                timer.cancel()
        self._overdue = self._again = None
        self._close()

    def want_lease(self, wanted: bool, grace_us: int) -> None:
        """Hold addresses only under the lease; the guard has so long from now to write that there is one."""
        line = f"lease {grace_us}" if wanted else "lease -"
        if line != self._lease:
            self._lease = line
            self._send(line)

    def carry_out(self, effect: Effect) -> None:
        """Begin a deed."""
        if isinstance(effect, effects.PutAddress | effects.RemoveAddress):
            self._deeds[effect.deed_id] = (effect, self._loop.time() + DEED_LIMIT_S)
            self._watch_deeds()
        self._send(_line_of(effect))

    # -- deeds --------------------------------------------------------------------------------

    def _watch_deeds(self) -> None:
        if self._overdue is None and self._deeds:
            _deed, limit_s = next(iter(self._deeds.values()))
            self._overdue = self._loop.call_at(limit_s, self._give_up)

    def _give_up(self) -> None:
        self._overdue = None
        now_s = self._loop.time()
        for deed_id in [number for number, (_deed, limit_s) in self._deeds.items() if limit_s <= now_s]:
            self._done(
                deed_id, f"cannot change the host's addresses: nothing happened for {DEED_LIMIT_S:g} s"
            )
        self._watch_deeds()

    def _done(self, deed_id: int, error: str) -> None:
        known = self._deeds.pop(deed_id, None)
        if known is None:
            return
        match known[0]:
            case effects.PutAddress(_, address, _, interface) if not error:
                self._held[address] = interface
            case effects.RemoveAddress(_, address, _, interface) if not error:
                if interface in ("", self._held.get(address)):
                    self._held.pop(address, None)
            case _:
                pass
        self._on_input(AddressDone(deed_id, error))

    def _take(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        match verb:
            case "done":
                number, _, error = rest.partition(" ")
                self._done(int(number), error)
            case "seen":
                self._on_input(parse_seen(rest))
            case "said":
                log.warning("addresses: %s", rest)

    # -- the process ----------------------------------------------------------------------------

    def _ended(self, reason: str) -> None:
        """Start it again, at once the first time: while there is none, nobody removes what stands."""
        if self._socket is None:
            return
        self._close()
        if self._loop.time() - self._started_s >= WAITS_S[-1]:
            self._failures = 0
        wait_s = WAITS_S[min(self._failures, len(WAITS_S) - 1)]
        self._failures += 1
        log.error("the address helper has ended (%s); started again in %g s", reason, wait_s)
        self._again = self._loop.call_later(wait_s, self._start_again)

    def _start_again(self) -> None:
        self._again = None
        try:
            self.start()
        except HostError as error:
            log.error("%s; tried again in %g s", error, WAITS_S[-1])
            self._again = self._loop.call_later(WAITS_S[-1], self._start_again)

    def _close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
        self._socket = self._child = None

    # -- the socket -----------------------------------------------------------------------------

    def _send(self, line: str) -> None:
        if self._socket is None:
            # The next one is told what still counts.
            return
        is_waiting = bool(self._unsent)
        self._unsent += os.fsencode(f"{line}\n")
        if not is_waiting:
            self._writable()

    def _writable(self) -> None:
        assert self._socket is not None
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket.fileno(), self._writable)
            return
        except OSError as error:
            self._unsent.clear()
            self._loop.call_soon(self._ended, os.strerror(error.errno or 0))
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._ended(os.strerror(error.errno or 0))
            return
        if not data:
            self._ended("its process is gone")
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._take(os.fsdecode(line))


class PretendedAddresses:
    """Test mode, where many nodes share one host and its addresses: every deed succeeds, nothing is done."""

    def __init__(self, interfaces: Iterable[str], on_input: Callable[[Input], None]) -> None:
        self._links = tuple(LinkState(name, True) for name in sorted(set(interfaces)))
        self._on_input = on_input
        self._loop = asyncio.get_running_loop()
        self._standing: dict[str, HostAddress] = {}

    def start(self) -> None:
        """Tell of interfaces that are all up, without addresses."""
        self._loop.call_soon(self._tell)

    def stop(self) -> None:
        """Nothing was done."""

    def want_lease(self, wanted: bool, grace_us: int) -> None:
        """Nothing is held."""

    def carry_out(self, effect: Effect) -> None:
        """Remember an address, or forget it."""
        match effect:
            case effects.PutAddress(deed_id, address, prefix, interface):
                self._standing[address] = HostAddress(address, prefix, interface)
            case effects.RemoveAddress(deed_id, address, _, interface):
                standing = self._standing.get(address)
                if standing is not None and interface in ("", standing.interface):
                    del self._standing[address]
            case _:
                return
        self._loop.call_soon(self._on_input, AddressDone(deed_id))
        self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._on_input(HostSeen(self._links, tuple(self._standing.values())))


def parse_seen(text: str) -> HostSeen:
    """What a helper's line `seen` tells."""
    links: list[LinkState] = []
    addresses: list[HostAddress] = []
    for word in text.split():
        # No interface has a slash in its name.
        if "/" in word:
            address, prefix, interface = word.split("/")
            addresses.append(HostAddress(address, int(prefix), interface))
        else:
            name, _, is_up = word.rpartition("=")
            links.append(LinkState(name, is_up == "1"))
    return HostSeen(tuple(links), tuple(addresses))


def _line_of(effect: Effect) -> str:
    match effect:
        case effects.PutAddress(deed_id, address, prefix, interface):
            return f"put {deed_id} {address} {prefix} {interface}"
        case effects.RemoveAddress(deed_id, address, _, interface):
            return f"remove {deed_id} {address} {interface}".rstrip()
        case effects.AnnounceAddress(address, interface, connections):
            return " ".join(("announce", address, interface, *_ends(connections)))
        case effects.StopAnnouncing(address):
            return f"hush {address}"
        case effects.SendTickles(connections):
            return " ".join(("tickle", *_ends(connections)))
        case effects.KillConnections(address):
            return f"kill {address}"


def _ends(connections: Iterable[Connection]) -> Iterable[str]:
    for each in connections:
        yield f"{each.dst.host} {each.dst.port} {each.src.host} {each.src.port}"
