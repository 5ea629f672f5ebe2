# SPDX-License-Identifier: GPL-3.0-or-later
"""The UDP socket of heartbeats: bound by the daemon, so that each guard it starts finds it as it was."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

from ctdbpy.errors import HostError

#: As interactive traffic: before what fills the line.
PRIORITY: Final = 6
#: A guard outlives its daemon for a moment, to say good-bye.
FAREWELL_S: Final = 1.0
AGAIN_S: Final = 0.01


async def bind_datagrams(address: str, port: int) -> socket.socket:
    """Bind the node's private address. Raises HostError; a port in use is tried again for a second."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + FAREWELL_S
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
    while True:
        try:
            datagrams.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and loop.time() < until_s:
                # The kernel tells nobody that a port is free again.
                await asyncio.sleep(AGAIN_S)
                continue
            datagrams.close()
            raise HostError(
                f"cannot hear heartbeats on UDP '{address}' port {port}: {os.strerror(error.errno or 0)}; "
                "end the program that has the port ('ss -ulpn' names it), or give the cluster another port"
            ) from error
        return datagrams
