# SPDX-License-Identifier: GPL-3.0-or-later
"""The few Linux calls the lab needs that Python 3.11 does not offer: namespaces and mounts.

Everything here acts on the calling process alone and raises `LabError` with the errno's own words.
"""

from __future__ import annotations

import ctypes
import os
import struct

from ctdbpy.errors import LabError

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_MNT_DETACH = 2
_SYS_MOUNT_SETATTR = 442  # The same number on every architecture.
_MOUNT_ATTR_RDONLY = 0x1
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`; CLONE_NEWPID takes effect for the next child only."""
    _check(
        _libc.unshare(flags), "leave the machine's namespaces", "root and namespaces in the kernel are needed"
    )


def mount(source: str, target: str, fstype: str = "none", flags: int = 0, options: str = "") -> None:
    """Mount `source` on `target` as mount(2) does."""
    result = _libc.mount(source.encode(), target.encode(), fstype.encode(), flags, options.encode())
    _check(result, f"mount '{source}' on '{target}'", f"type '{fstype}', flags {flags:#x}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Bind the tree `source` with all that is mounted in it on `target`, all of it read-only if asked."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        wish = struct.pack("=4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0)
        result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, wish, len(wish))
        _check(result, f"make '{target}' read-only", "mount_setattr, Linux 5.12 or newer")


def make_mounts_private() -> None:
    """Cut this mount namespace off: nothing mounted from here on is seen outside."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def enter_root(new_root: str) -> None:
    """Make `new_root` (a mount point) the root directory and let go of the old one."""
    os.chdir(new_root)
    # With "." twice the old root lands on top of the new one and needs no directory of its own.
    _check(_libc.pivot_root(b".", b"."), f"make '{new_root}' the root directory", "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "let go of the old root directory", "umount2")
    os.chdir("/")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when its parent ends, however that ends."""
    _check(
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "ask for the parent's death signal", "prctl"
    )


def _check(result: int, deed: str, detail: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise LabError(f"cannot {deed}: {os.strerror(number)} ({detail})")
