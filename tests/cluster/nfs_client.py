# SPDX-License-Identifier: GPL-3.0-or-later
"""An NFSv3 client with locks, in user space, for lab hosts: `python -m tests.cluster.nfs_client MACHINE`.

It takes commands as lines of JSON, ["verb", arguments …], and answers each with one line. It is also
what a client's host has besides: a port mapper and a status monitor, whose SM_NOTIFY calls it keeps for
the verb `notices`.

    mount ADDRESS PATH            a file handle as hex
    create ADDRESS HANDLE NAME    the same, of a file in that directory
    write ADDRESS HANDLE OFFSET TEXT, read ADDRESS HANDLE OFFSET COUNT
    lock ADDRESS HANDLE OFFSET LENGTH RECLAIM, unlock ADDRESS HANDLE OFFSET LENGTH     NLM's status word
    notices                       [[mon_name, state, from] …] since the last time; waits for one
    forget_notices                those that have come so far
    wait_for_lock ADDRESS HANDLE OFFSET LENGTH     "blocked" while another has it
    granted                       waits for NLM's GRANTED call; where it came from
    restart ADDRESS               tell the server that this machine has restarted, as its status monitor would
    over PROTOCOL                 speak NLM by "udp" (from one port for ever) or "tcp" from now on
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final

from ctdbpy.errors import ServiceError
from ctdbpy.services import oncrpc
from ctdbpy.services.oncrpc import Service, Xdr, opaque, uint

_NFS: Final = Service("nfs", oncrpc.NFS, 3, 2049)
_MOUNT: Final = Service("mountd", oncrpc.MOUNT, 3)
_LOCKS: Final = Service("nlockmgr", oncrpc.LOCK_MANAGER, 4)
_STATUS: Final = Service("status", oncrpc.STATUS, 1)
_STATES: Final = (
    "granted",
    "denied",
    "no locks",
    "blocked",
    "grace",
    "deadlock",
    "read-only",
    "stale",
    "too big",
    "failed",
)
_LIMIT_S: Final = 10.0
_OWN_PORT: Final = 4045
_STATE: Final = 1
#: As a call, and as a message that is not answered.
_GRANTED: Final = (5, 10)


class Client:
    """One client machine, known to lock managers as `machine`."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._credential = oncrpc.unix_credential(machine=machine)
        self._protocol = "udp"
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("0.0.0.0", 0))
        self._tcp: dict[str, socket.socket] = {}
        self._xid = 1
        self._granted: queue.Queue[str] = queue.Queue()
        self._notices: queue.Queue[tuple[str, int, str]] = queue.Queue()

    # -- verbs -------------------------------------------------------------------------------

    def mount(self, address: str, path: str) -> str:
        reply = oncrpc.call(
            address, _MOUNT, 1, opaque(path.encode()), timeout_s=_LIMIT_S, credential=self._credential
        )
        _expect(reply)
        return reply.opaque().hex()

    def create(self, address: str, handle: str, name: str) -> str:
        unchanged = uint(1) + uint(0o666) + uint(0) * 5
        reply = self._nfs(
            address, 8, opaque(bytes.fromhex(handle)) + opaque(name.encode()) + uint(0) + unchanged
        )
        assert reply.uint() == 1, "it gives a handle"
        return reply.opaque().hex()

    def write(self, address: str, handle: str, offset: int, text: str) -> int:
        data = text.encode()
        place = opaque(bytes.fromhex(handle)) + offset.to_bytes(8, "big") + uint(len(data))
        reply = self._nfs(address, 7, place + uint(2) + opaque(data))
        _skip_change(reply)
        return reply.uint()

    def read(self, address: str, handle: str, offset: int, count: int) -> str:
        place = opaque(bytes.fromhex(handle)) + offset.to_bytes(8, "big") + uint(count)
        reply = self._nfs(address, 6, place)
        if reply.uint():
            reply.take(84)
        reply.take(8)
        return reply.opaque().decode()

    def lock(self, address: str, handle: str, offset: int, length: int, reclaim: bool) -> str:
        now = uint(0) + uint(1)  # do not block; exclusive
        lock = self._lock(handle, offset, length)
        return self._nlm(address, 2, opaque(b"c") + now + lock + uint(int(reclaim)) + uint(_STATE))

    def wait_for_lock(self, address: str, handle: str, offset: int, length: int) -> str:
        blocking = uint(1) + uint(1)
        lock = self._lock(handle, offset, length)
        return self._nlm(address, 2, opaque(b"w") + blocking + lock + uint(0) + uint(_STATE))

    def granted(self) -> str:
        try:
            return self._granted.get(timeout=30)
        except queue.Empty:
            return ""

    def unlock(self, address: str, handle: str, offset: int, length: int) -> str:
        return self._nlm(address, 4, opaque(b"c") + self._lock(handle, offset, length))

    def restart(self, address: str) -> str:
        own = socket.gethostbyname(os.uname().nodename)
        restarted = opaque(own.encode()) + uint(_STATE + 2)
        oncrpc.call(address, _STATUS, 6, restarted, transport="udp", timeout_s=_LIMIT_S, source=own)
        return own

    def over(self, protocol: str) -> str:
        self._protocol = protocol
        return protocol

    def notices(self) -> list[tuple[str, int, str]]:
        found = []
        try:
            found.append(self._notices.get(timeout=30))
            while True:
                found.append(self._notices.get_nowait())
        except queue.Empty:
            return found

    # -- calls -------------------------------------------------------------------------------

    def forget_notices(self) -> bool:
        while not self._notices.empty():
            self._notices.get()
        return True

    def _nfs(self, address: str, procedure: int, arguments: bytes) -> Xdr:
        reply = oncrpc.call(
            address, _NFS, procedure, arguments, timeout_s=_LIMIT_S, credential=self._credential
        )
        _expect(reply)
        return reply

    def _lock(self, handle: str, offset: int, length: int) -> bytes:
        who = opaque(self._machine.encode()) + opaque(bytes.fromhex(handle)) + opaque(b"owner") + uint(7)
        return who + offset.to_bytes(8, "big") + length.to_bytes(8, "big")

    def _nlm(self, address: str, procedure: int, arguments: bytes) -> str:
        """As kernels do it: one socket for ever, for a connection of their own to each server."""
        self._xid += 1
        message = oncrpc.encode_call(self._xid, _LOCKS, procedure, arguments, self._credential)
        reply = (
            self._over_udp(address, message) if self._protocol == "udp" else self._over_tcp(address, message)
        )
        reply.opaque()
        return _STATES[reply.uint()]

    def _over_udp(self, address: str, message: bytes) -> Xdr:
        deadline_s = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline_s:
            self._udp.sendto(message, (address, 599))
            self._udp.settimeout(0.2)
            try:
                while True:
                    data, sender = self._udp.recvfrom(1 << 16)
                    reply = oncrpc.decode_reply(self._xid, data)
                    if reply is not None and sender[0] == address:
                        return reply
            except TimeoutError:
                continue
        raise ServiceError(f"no answer from the lock manager at '{address}' by udp")

    def _over_tcp(self, address: str, message: bytes) -> Xdr:
        deadline_s = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline_s:
            try:
                if address not in self._tcp:
                    self._tcp[address] = socket.create_connection((address, 599), timeout=1)
                connection = self._tcp[address]
                connection.sendall(oncrpc.record(message))
                reply = oncrpc.decode_reply(self._xid, oncrpc.read_record(connection, time.monotonic() + 1))
            except (OSError, ServiceError):
                if address in self._tcp:
                    self._tcp.pop(address).close()
                continue
            if reply is not None:
                return reply
        raise ServiceError(f"no answer from the lock manager at '{address}' by tcp")

    # -- what a client's host has besides ------------------------------------------------------

    def serve(self, port: int) -> None:
        """Answer calls of the port mapper, the status monitor and the lock manager at a port."""
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("0.0.0.0", port))
        listener = socket.create_server(("0.0.0.0", port))

        def answer() -> None:
            while True:
                data, sender = datagrams.recvfrom(1 << 16)
                datagrams.sendto(self._answer(data, sender[0]), sender)

        def accept() -> None:
            while True:
                connection, sender = listener.accept()
                threading.Thread(target=talk, args=(connection, sender[0]), daemon=True).start()

        def talk(connection: socket.socket, sender: str) -> None:
            with connection, suppress(OSError, ServiceError):
                while True:
                    data = oncrpc.read_record(connection, time.monotonic() + 60)
                    connection.sendall(oncrpc.record(self._answer(data, sender)))

        threading.Thread(target=answer, daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()

    def _answer(self, data: bytes, sender: str) -> bytes:
        call = Xdr(data)
        xid, _call, _rpc, program, version, procedure = (call.uint() for _ in range(6))
        for _ in ("credential", "verifier"):
            call.uint()
            call.opaque()
        result = b""
        if program == oncrpc.PORTMAPPER and procedure == 3:
            port = _OWN_PORT if call.uint() in (oncrpc.STATUS, oncrpc.LOCK_MANAGER) else 0
            if version == 2:
                result = uint(port)
            else:
                result = opaque(f"0.0.0.0.{port >> 8}.{port & 255}".encode() if port else b"")
        elif program == oncrpc.LOCK_MANAGER and procedure in _GRANTED:
            if procedure == _GRANTED[0]:
                result = opaque(call.opaque()) + uint(0)
            self._granted.put(sender)
        elif program == oncrpc.STATUS and procedure == 6:
            self._notices.put((call.opaque().decode(), call.uint(), sender))
        return uint(xid) + uint(1) + uint(0) * 4 + result


def _expect(reply: Xdr) -> None:
    status = reply.uint()
    if status != 0:
        raise ServiceError(f"NFS status {status}")


def _skip_change(reply: Xdr) -> None:
    """Over what a reply says of a file before and after."""
    if reply.uint():
        reply.take(24)
    if reply.uint():
        reply.take(84)


def main() -> None:
    """Take commands until there are no more."""
    client = Client(sys.argv[1])
    client.serve(oncrpc.PORTMAPPER_PORT)
    client.serve(_OWN_PORT)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        answer: Any
        try:
            answer = getattr(client, verb)(*arguments)
        except (ServiceError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
