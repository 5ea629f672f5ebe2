# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's keeper: the one process outside the lab, ends it when its owner dies and deletes its directory.

If the keeper itself is killed, the kernel kills the switch and with it every host; only the directory is
left, and `places.sweep` finds it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from types import FrameType

from ctdbpy.errors import LabError
from ctdbpy.lab import kernel, places, switch
from ctdbpy.lab.places import Actor, Keeping, Place


def main() -> None:
    """Keep the lab named on the command line; with owner pid 0 it stays up until told to go down."""
    name, root, nodes, clients, owner_pid, ready_fd = sys.argv[1:]
    place = Place(name, Path(root))
    ready = int(ready_fd)
    os.set_inheritable(ready, False)
    signal.signal(signal.SIGTERM, _leave)
    switch_pid: int | None = None
    try:
        owner = int(owner_pid)
        # Opened first: if the owner is gone already, the next line says so and nothing is built.
        watched = [os.pidfd_open(owner)] if owner else []
        place.write_keeping(Keeping(Actor.of(os.getpid()), Actor.of(owner) if owner else None))
        switch_pid = _start_switch(place, int(nodes), int(clients), ready)
        os.close(ready)
        # Whichever comes first: the switch was told to go down, or the owner died.
        select.select([os.pidfd_open(switch_pid), *watched], [], [])
    finally:
        if switch_pid is not None:
            os.kill(switch_pid, signal.SIGKILL)
            # Returns when every process of the lab is gone: process 1 is the last to go.
            os.waitpid(switch_pid, 0)
        places.remove(place)


def _start_switch(place: Place, nodes: int, clients: int, ready: int) -> int:
    kernel.unshare(kernel.CLONE_NEWPID)
    lifeline_read, lifeline_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(lifeline_read)
        return pid
    os.close(lifeline_write)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kernel.die_with_parent(signal.SIGKILL)
    if select.select([lifeline_read], [], [], 0)[0]:
        os._exit(1)  # The keeper died before the kernel knew that we want to go with it.
    try:
        switch.main(place, nodes, clients, ready)
    except (LabError, OSError) as error:
        print(f"switch: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
