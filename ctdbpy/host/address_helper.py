# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that holds the node's public addresses on this host, so that they go when the daemon goes.

Started as `python -m ctdbpy.host.address_helper FD`; FD is one end of a stream socket pair. What it asks of
the kernel may wait for whoever else changes the network: the daemon's loop must not. When the socket closes,
and when the lease is over that the daemon serves under (a daemon that stands still cannot see that), every
address that was put here is removed at once. If this process stands still too, the kernel uses them no more.

Lines from the daemon                                   answers
put ID ADDRESS PREFIX INTERFACE                         `done ID`, or `done ID TEXT` with what is wrong
remove ID ADDRESS [INTERFACE]                           the same
hold ADDRESS INTERFACE                                  none: an earlier helper put it there
announce ADDRESS INTERFACE [SERVER PORT CLIENT PORT]…   none
hush ADDRESS                                            none
tickle [SERVER PORT CLIENT PORT]…                       none
kill ADDRESS                                            none
lease GRACE_US|-                                        none: serve under a lease, or without; with the first
                                                        line come descriptors of the memory that the guard
                                                        writes it to, and of the eventfd that it writes to
                                                        when it has made it shorter
priority                                                none: take a real-time priority, lock memory

By itself it says `seen NAME=UP… ADDRESS/PREFIX/NAME…` at the start and soon after each change, and
`said TEXT` for the log.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Final

from ctdbpy.errors import HostError
from ctdbpy.host.addresses import HostAddresses
from ctdbpy.host.announcements import Announcer, Ends, bytes_of, text_of
from ctdbpy.host.dead_man import DeadMan
from ctdbpy.host.realtime import lock_memory, raise_priority

READ_BYTES: Final = 1 << 18
#: Changes come in rows: they are told so long after the first.
SEEN_DELAY_S: Final = 0.01
#: And what cannot be told, or read, is tried again so much later.
LATER_S: Final = 1.0
#: Words for the log are lost while so much waits.
UNSENT_BYTES_MAX: Final = 1 << 20
#: Where in the shared memory the guard writes until when the node may hold addresses, in words of 8 bytes.
_HOLD_UNTIL: Final = 3
_MICRO: Final = 1_000_000


class Lease:
    """Until when addresses may be held, as the guard writes it; times are CLOCK_BOOTTIME in microseconds."""

    def __init__(self) -> None:
        self._page: memoryview | None = None
        self._is_wanted = False
        self._granted_us = 0

    def share(self, fd: int) -> None:
        """Read it from this memory; the descriptor is ours. Raises OSError."""
        try:
            page = mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._page = memoryview(page).cast("q")

    def want(self, grace_us: int | None) -> None:
        """Be without one (None), or have so long until the guard has written the first."""
        if grace_us is not None and not self._is_wanted:
            self._granted_us = _now_us() + grace_us
        self._is_wanted = grace_us is not None

    @property
    def left_s(self) -> float | None:
        """How long it still runs, not above zero when it is over; None if there is no limit."""
        until_us = self._page[_HOLD_UNTIL] if self._page is not None else 0
        if until_us == 0 and self._is_wanted:
            until_us = self._granted_us
        return (until_us - _now_us()) / _MICRO if until_us else None


class Helper:
    """Serves one daemon until its end."""

    def __init__(self, connection: socket.socket) -> None:
        """Raises HostError."""
        connection.setblocking(False)
        self._connection = connection
        self._received = b""
        self._host = HostAddresses(self._log)
        self._announcer = Announcer()
        self._lease = Lease()
        self._dead_man = DeadMan(self._log)
        self._shortened = -1
        #: What was put here: the interface by address.
        self._held: dict[bytes, str] = {}
        self._told = ""
        self._tell_s: float | None = 0.0
        #: A daemon that stands still reads nothing, and must not hold us up.
        self._unsent = bytearray()

    def serve(self) -> None:
        """Work until the socket closes, then leave nothing behind."""
        poll = select.poll()
        poll.register(self._host, select.POLLIN)
        try:
            while True:
                if self._shortened >= 0:
                    poll.register(self._shortened, select.POLLIN)
                wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
                poll.register(self._connection, wanted)
                ready = [fd for fd, _events in poll.poll(self._wait_ms())]
                if self._shortened in ready:
                    os.eventfd_read(self._shortened)
                if self._unsent:
                    self._flush()
                self._look_at_lease()
                if self._host.fileno() in ready:
                    self._host.take_events()
                    if self._tell_s is None:
                        self._tell_s = time.monotonic() + SEEN_DELAY_S
                if self._connection.fileno() in ready and not self._take():
                    return
                now_s = time.monotonic()
                for trouble in self._announcer.send_due(now_s):
                    self._log(trouble)
                if self._tell_s is not None and self._tell_s <= now_s:
                    self._tell()
                self._dead_man.watch(self._held, self._lease.left_s)
        finally:
            self._drop_all()
            self._dead_man.close()

    def _wait_ms(self) -> float | None:
        now_s = time.monotonic()
        moments = (self._announcer.deadline_s, self._tell_s, self._dead_man.deadline_s)
        waits = [due - now_s for due in moments if due is not None]
        if self._held and (left_s := self._lease.left_s) is not None:
            waits.append(left_s)
        # Rounded up, or the last millisecond would be spent asking.
        return max(0.0, min(waits)) * 1000 + 1 if waits else None

    def _look_at_lease(self) -> None:
        left_s = self._lease.left_s
        if self._held and left_s is not None and left_s <= 0:
            count = len(self._held)
            self._drop_all()
            self._log(f"the lease is over: {count} addresses are removed from this host")

    def _drop_all(self) -> None:
        held, self._held = self._held, {}
        # The last first: an interface that loses its first address arranges all others anew.
        for address in reversed(held):
            self._announcer.stop(address)
            try:
                self._host.remove(address)
            except HostError as error:
                self._log(str(error))
        if held and self._host.can_destroy:
            self._end_connections(*held)

    # -- what the daemon wants ------------------------------------------------------------------

    def _take(self) -> bool:
        """Do what has come; False when the daemon is gone."""
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._connection, READ_BYTES, 2)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if descriptors:
            page, self._shortened = descriptors
            self._lease.share(page)
        if not data:
            return False
        *lines, self._received = (self._received + data).split(b"\n")
        removed: list[tuple[str, bytes]] = []
        for line in lines:
            verb, *words = os.fsdecode(line).split(" ")
            if verb != "remove":
                self._removed(removed)
            self._do(verb, words, removed)
        self._removed(removed)
        return True

    def _do(self, verb: str, words: list[str], removed: list[tuple[str, bytes]]) -> None:
        match verb, words:
            case "put", [deed, address, prefix, interface]:
                self._put(deed, bytes_of(address), int(prefix), interface)
            case "remove", [deed, address, *interface]:
                self._remove(deed, bytes_of(address), "".join(interface), removed)
            case "hold", [address, interface]:
                self._held[bytes_of(address)] = interface
            case "announce", [address, interface, *ends]:
                self._announce(bytes_of(address), interface, tuple(_ends(ends)))
            case "hush", [address]:
                self._announcer.stop(bytes_of(address))
            case "tickle", ends:
                self._log(self._announcer.tickle(_ends(ends)))
            case "kill", [address]:
                self._end_connections(bytes_of(address))
            case "lease", [grace_us]:
                self._lease.want(None if grace_us == "-" else int(grace_us))
            case "priority", []:
                for outcome in (lock_memory(), raise_priority()):
                    self._log("" if outcome.done else outcome.text)
            case _:
                raise AssertionError(f"unknown line '{verb}'")

    def _put(self, deed: str, address: bytes, prefix: int, interface: str) -> None:
        left_s = self._lease.left_s
        if left_s is not None and left_s <= 0:
            self._send(f"done {deed} cannot put '{text_of(address)}' on '{interface}': the lease is over")
            return
        try:
            self._host.put(address, prefix, interface)
        except HostError as error:
            self._send(f"done {deed} {error}")
            if not self._host.carries(address):
                return
        else:
            self._send(f"done {deed}")
        # One half done, too, goes with the others.
        self._held[address] = interface

    def _remove(self, deed: str, address: bytes, interface: str, removed: list[tuple[str, bytes]]) -> None:
        if not interface or self._held.get(address) == interface:
            self._announcer.stop(address)
        if not self._host.can_destroy:
            self._end_connections(address)
        try:
            is_gone = self._host.remove(address, interface)
        except HostError as error:
            self._send(f"done {deed} {error}")
            return
        if is_gone:
            self._held.pop(address, None)
            removed.append((deed, address))
        else:
            self._send(f"done {deed}")

    def _removed(self, removed: list[tuple[str, bytes]]) -> None:
        """The connections of many addresses are ended in one go: all sockets have to be looked at."""
        if removed and self._host.can_destroy:
            self._end_connections(*(address for _deed, address in removed))
        for deed, _address in removed:
            self._send(f"done {deed}")
        removed.clear()

    def _announce(self, address: bytes, interface: str, connections: tuple[Ends, ...]) -> None:
        try:
            link = self._host.link(interface)
        except HostError as error:
            self._log(str(error))
        else:
            self._log(self._announcer.announce(time.monotonic(), address, link, connections))

    def _end_connections(self, *addresses: bytes) -> None:
        try:
            self._host.end_connections(addresses, self._announcer.sender)
        except HostError as error:
            self._log(str(error))

    # -- what it says -----------------------------------------------------------------------------

    def _tell(self) -> None:
        self._tell_s = None
        if self._unsent:
            # What is true when it reads again is told then.
            self._tell_s = time.monotonic() + LATER_S
            return
        try:
            sight = self._host.look()
        except HostError as error:
            self._log(str(error))
            self._tell_s = time.monotonic() + LATER_S
            return
        words = [f"{link.name}={int(link.is_up)}" for link in sight.links.values()]
        for address, standing in sight.addresses.items():
            for each in standing:
                if each.index in sight.links:
                    words.append(f"{text_of(address)}/{each.prefix}/{sight.links[each.index].name}")
        text = " ".join(words)
        if text != self._told:
            self._told = text
            self._send(f"seen {text}")

    def _log(self, text: str) -> None:
        if text and len(self._unsent) < UNSENT_BYTES_MAX:
            self._send(f"said {text}")

    def _send(self, line: str) -> None:
        self._unsent += os.fsencode(f"{line}\n")
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # The daemon is gone: the next read tells, and what was asked for is undone then.
            self._unsent.clear()


def _ends(words: list[str]) -> Iterator[Ends]:
    for number in range(0, len(words) - 3, 4):
        server, server_port, client, client_port = words[number : number + 4]
        yield Ends(bytes_of(server), int(server_port), bytes_of(client), int(client_port))


def _now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    # It ends when its socket closes and by nothing else: who ends the daemon's family ends the daemon, too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        try:
            helper = Helper(connection)
        except HostError as error:
            connection.sendall(os.fsencode(f"said {error}\n"))
            os._exit(1)
        helper.serve()
        os._exit(0)


if __name__ == "__main__":
    main()
