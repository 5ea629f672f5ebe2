# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's own helper processes: the same interpreter and the same package, over a socket pair."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import ctdbpy
from ctdbpy.errors import HostError
from ctdbpy.host.children import Child, Children


def start_helper(
    children: Children, module: str, *, death_signal: signal.Signals = signal.SIGKILL
) -> tuple[Child, socket.socket]:
    """Start `python -m module 0`; returns it and our end of its socket, non-blocking. Raises HostError.

    Its end is its standard input: a daemon with a thousand clients has no descriptor below 1024 to give,
    and `select` in the helper takes no other.
    """
    # -P: nothing from the working directory is imported; the package is found where we found it.
    argv = (sys.executable, "-P", "-m", module, "0")
    environ = {**os.environ, "PYTHONPATH": str(Path(ctdbpy.__file__).parent.parent)}
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise HostError(f"cannot start '{module}': {error.strerror}") from error
    with theirs:
        try:
            child = children.spawn(
                argv, environ=environ, stdin=theirs.fileno(), stdout=None, death_signal=death_signal
            )
        except OSError as error:
            ours.close()
            raise HostError(f"cannot start '{module}': {error.strerror}") from error
        except HostError:
            ours.close()
            raise
    ours.setblocking(False)
    return child, ours
