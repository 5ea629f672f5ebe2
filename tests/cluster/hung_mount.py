# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.cluster.hung_mount DIRECTORY`: mount a file system there that answers nobody.

Whoever asks it for anything waits where no signal reaches him, as for a disk or a server that is gone. It
speaks just enough of the kernel's FUSE protocol to come that far. When it ends, those who wait get an error.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_IN_HEADER = struct.Struct("=IIQQIIII")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_INIT = 26
_READ_SIZE = 1 << 17


def mount(directory: str) -> int:
    """Mount it; the descriptor on which the kernel asks."""
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hung", directory.encode(), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    return device


def answer_nobody(device: int) -> None:
    """Agree on the protocol, then take requests and keep them; ends when it is unmounted."""
    while True:
        try:
            request = os.read(device, _READ_SIZE)
        except OSError:
            return
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(request)
        if opcode == _INIT:
            said = _INIT_OUT.pack(7, 12, 0, 0, 0, 0, 4096, 0, 0, 0, 0)
            os.write(device, _OUT_HEADER.pack(_OUT_HEADER.size + len(said), 0, unique) + said)


if __name__ == "__main__":
    answer_nobody(mount(sys.argv[1]))
