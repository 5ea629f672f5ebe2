# SPDX-License-Identifier: GPL-3.0-or-later
"""Start of the guard: `python -m ctdbpy.guard FD` by the daemon, FD one end of a stream socket pair.

First comes an `orders.Hello` with three descriptors: the memory shared with the daemon, the bound UDP
socket, and the eventfd that wakes who holds addresses when the lease becomes shorter. Everything that
needs Python, the disk or memory happens here, before the loop begins. The guard ends when the daemon
does, after it has told the others.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import sys

from ctdbpy.guard.loop import Loop, survive_parent, write_back_free
from ctdbpy.host.realtime import lock_memory, raise_priority
from ctdbpy.net import orders
from ctdbpy.net.heartbeats import Heartbeats

#: Above the daemon: heartbeats go out while it is busy.
PRIORITY = 2


def main(descriptor: int) -> int:
    """Guard until the daemon's end of the socket closes."""
    # The daemon's death is what the others must hear of; its helpers are killed with it otherwise.
    survive_parent()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    data, descriptors, _flags, _address = socket.recv_fds(control, orders.HELLO.size, 3)
    if len(data) < orders.HELLO.size or len(descriptors) != 3:
        # The daemon ended before it said anything.
        return 0
    hello = orders.unpack_hello(data)
    page = mmap.mmap(descriptors[0], mmap.PAGESIZE)
    os.close(descriptors[0])
    datagrams = socket.socket(fileno=descriptors[1])
    heartbeats = Heartbeats(hello.pnn, int.from_bytes(os.urandom(8), "little") | 1)
    loop = Loop(heartbeats, control.fileno(), datagrams.fileno(), page, hello.port, descriptors[2])
    gc.collect()
    gc.freeze()
    gc.disable()
    if hello.realtime:
        for outcome in (lock_memory(), raise_priority(PRIORITY), write_back_free()):
            orders.send_words(control, outcome.done, outcome.text)
    loop.run()
    return 0


if __name__ == "__main__":
    # Without the interpreter's farewell: nothing is left to be written.
    os._exit(main(int(sys.argv[1])))
