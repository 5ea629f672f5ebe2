# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs for lab hosts that say on standard output, a line each, what happens to them.

serve PORT             `ready`; `accepted`; then `closed` or the errno's name for how a connection ended
connect HOST PORT      `connected PORT`; then how it ended
sniff INTERFACE        `ready`; `TIME HEX` of each frame, without those of the host itself
reset ADDRESS          `reset COUNT`: the connections at the address, by raw packets
hold ADDRESS PREFIX INTERFACE…   a daemon's part that holds addresses: `held PID` of its helper,
                                 `held PID` of each later one that sees them all

The first two take IPv4 and IPv6.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from typing import Final

from ctdbpy.core import inputs
from ctdbpy.core.effects import PutAddress
from ctdbpy.daemon.addresses import AddressHelper
from ctdbpy.host import connections
from ctdbpy.host.announcements import bytes_of
from ctdbpy.host.children import Children
from ctdbpy.host.netlink import Netlink

_ALL_FRAMES: Final = 3


def serve(port: str) -> None:
    """Accept one connection after the other and tell how each ends."""
    with socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        say("ready")
        while True:
            connection, _address = listener.accept()
            say("accepted")
            end_of(connection)


def connect(host: str, port: str) -> None:
    """Connect once and tell how it ends."""
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.settimeout(None)
    say(f"connected {connection.getsockname()[1]}")
    end_of(connection)


def end_of(connection: socket.socket) -> None:
    """Read to the end, whatever it is."""
    with connection:
        try:
            while connection.recv(4096):
                pass
            say("closed")
        except OSError as error:
            say(errno.errorcode[error.errno or 0])


def sniff(interface: str) -> None:
    """Tell every frame that comes in."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES)) as ear:
        ear.bind((interface, _ALL_FRAMES))
        say("ready")
        while True:
            frame, (_name, _protocol, kind, *_rest) = ear.recvfrom(4096)
            if kind != socket.PACKET_OUTGOING:
                say(f"{time.monotonic():.6f} {frame.hex()}")


def reset(address: str) -> None:
    """End connections as where the kernel does not."""
    netlink = Netlink(connections.FAMILY)
    found = connections.list_sockets(netlink, [bytes_of(address)])
    assert all(each.is_established for each in found)
    say(f"reset {connections.reset(connections.RawSender(), found)}")


def hold(*places: str) -> None:
    """Hold addresses until killed."""
    asyncio.run(_hold([places[first : first + 3] for first in range(0, len(places), 3)]))


async def _hold(places: list[tuple[str, ...]]) -> None:
    left = set(range(len(places)))
    wanted = {address for address, _prefix, _interface in places}
    told: list[int | None] = []
    lease = os.memfd_create("lease")
    os.ftruncate(lease, 4096)

    def happened(event: inputs.Input) -> None:
        match event:
            case inputs.AddressDone(deed, error):
                assert not error, event
                left.discard(deed)
            case inputs.HostSeen(_, addresses):
                if not left and helper.pid not in told and wanted <= {each.address for each in addresses}:
                    told.append(helper.pid)
                    say(f"held {helper.pid}")
            case _:
                raise AssertionError(event)

    shortened = os.eventfd(0)
    helper = AddressHelper(Children(), (lease, shortened), happened, realtime=False)
    helper.start()
    for number, (address, prefix, interface) in enumerate(places):
        helper.carry_out(PutAddress(number, address, int(prefix), interface))
    await asyncio.Event().wait()


def main(program: str, *words: str) -> None:
    """Run one of the programs."""
    match program:
        case "serve":
            serve(*words)
        case "connect":
            connect(*words)
        case "reset":
            reset(*words)
        case "sniff":
            sniff(*words)
        case "hold":
            hold(*words)


def say(line: str) -> None:
    """A line, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
