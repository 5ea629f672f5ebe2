# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's own helper processes: the same interpreter and the same package, over a socket pair."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import ctdbpy
from ctdbpy.host.children import Child, Children


def spawn_module(children: Children, module: str, theirs: socket.socket, *arguments: str) -> Child:
    """Start `python -m module FD arguments…` with its end of a socket pair. Raises HostError."""
    # -P: nothing from the working directory is imported; the package is found where we found it.
    environ = {**os.environ, "PYTHONPATH": str(Path(ctdbpy.__file__).parent.parent)}
    return children.spawn(
        (sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments),
        environ=environ,
        stdout=None,
        pass_fds=(theirs.fileno(),),
    )
