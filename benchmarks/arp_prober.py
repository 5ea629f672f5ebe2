# SPDX-License-Identifier: GPL-3.0-or-later
"""Who answers for an address: a program in a host that asks by ARP all the time.

    python -m benchmarks.arp_prober pub0 10.78.0.200 10.78.0.201

A line is written when another host begins to answer, and when two have answered by turns for longer than
before: a JSON object with `at_ns`, the monotonic clock, `address`, `hardware`, and `double_us`, how long two
had been answering. It ends when its stdin does.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

ASK_EVERY_NS = 10_000_000
# A host that answers again after so long, and another in between, had lost the address.
TOGETHER_NS = 50_000_000
ETH_P_ARP = 0x0806
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_NOBODY = bytes(6)


class Seen:
    """Who has answered for one address, and when last."""

    def __init__(self) -> None:
        self._last_ns: dict[bytes, int] = {}
        self._owner = b""
        self._double_since_ns = 0
        self._double_last_ns = 0
        self._longest_ns = 0

    def note(self, hardware: bytes, now_ns: int) -> int | None:
        """How long two have been answering by turns, if that or the owner is news."""
        last_ns = self._last_ns.get(hardware, now_ns)
        between = [at_ns for at_ns in self._last_ns.values() if at_ns > last_ns]
        is_other, self._owner = hardware != self._owner, hardware
        self._last_ns[hardware] = now_ns
        if not between or now_ns - last_ns > TOGETHER_NS:
            # One alone, or one that has it back after a while.
            return 0 if is_other else None
        if not self._double_last_ns or now_ns - self._double_last_ns > TOGETHER_NS:
            self._double_since_ns, self._longest_ns = min(between), 0
        self._double_last_ns = now_ns
        length_ns = now_ns - self._double_since_ns
        # While two answer the owner changes all the time: only growth is worth a line.
        if length_ns < self._longest_ns + ASK_EVERY_NS:
            return None
        self._longest_ns = length_ns
        return length_ns


def main() -> None:
    """Ask until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("interface")
    parser.add_argument("addresses", nargs="+")
    given = parser.parse_args()
    own = bytes.fromhex(
        Path(f"/sys/class/net/{given.interface}/address").read_text().strip().replace(":", "")
    )
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    wire.bind((given.interface, ETH_P_ARP))
    wire.setblocking(False)
    asked = [socket.inet_aton(address) for address in given.addresses]
    seen = {address: Seen() for address in asked}
    next_ns = 0
    while True:
        now_ns = time.monotonic_ns()
        if now_ns >= next_ns:
            next_ns = now_ns + ASK_EVERY_NS
            for address in asked:
                # From no address, as a host asks that looks for duplicates: nobody's neighbour table changes.
                arp = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, own, bytes(4), _NOBODY, address)
                try:
                    wire.send(b"\xff" * 6 + own + ETH_P_ARP.to_bytes(2, "big") + arp)
                except BlockingIOError:
                    pass  # The next one will do.
        readable = select.select([sys.stdin, wire], [], [], max(0, next_ns - now_ns) / 1e9)[0]
        if sys.stdin in readable:
            return
        if wire in readable:
            frame = wire.recv(2048)
            if len(frame) < 14 + _ARP.size:
                continue
            *_kinds, operation, hardware, address, _to_hardware, _to = _ARP.unpack_from(frame, 14)
            if operation != _REPLY or address not in seen:
                continue
            now_ns = time.monotonic_ns()
            double_ns = seen[address].note(hardware, now_ns)
            if double_ns is not None:
                line = {
                    "at_ns": now_ns,
                    "address": socket.inet_ntoa(address),
                    "hardware": hardware.hex(":"),
                    "double_us": double_ns // 1000,
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
