# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that is never paged out and a processor that is always there: asked for, never insisted on."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from dataclasses import dataclass
from pathlib import Path

MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4
CAP_IPC_LOCK = 14
PRIORITY = 1
"""Lowest of the real-time priorities: above all ordinary work, below the kernel's own threads."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it worked, and the line for the log that says so or says why not and what to do."""

    done: bool
    text: str


def lock_memory() -> Outcome:
    """Lock what is mapped now, and later maps from their first touch on. Children do not inherit it."""
    limit = _raise_memory_limit()
    # Under a finite limit a lock on future memory would turn a later allocation into a crash: none then.
    if limit != resource.RLIM_INFINITY and not _has_capability(CAP_IPC_LOCK):
        return Outcome(
            False,
            f"cannot lock memory: RLIMIT_MEMLOCK is {_size(limit)} and CAP_IPC_LOCK is missing; "
            "set LimitMEMLOCK=infinity in the service or run as root",
        )
    # In two calls: the first brings everything in that is mapped now, the second does not force the whole
    # of a database file into memory when it is mapped later.
    for flags in (MCL_CURRENT, MCL_FUTURE | MCL_ONFAULT):
        code = _mlockall(flags)
        if code:
            return Outcome(
                False,
                f"cannot lock memory: {os.strerror(code)} (RLIMIT_MEMLOCK is {_size(limit)}; "
                "set LimitMEMLOCK=infinity in the service)",
            )
    return Outcome(True, "memory locked")


def unlock_memory() -> None:
    """Undo `lock_memory`."""
    ctypes.CDLL(None, use_errno=True).munlockall()


def raise_priority(priority: int = PRIORITY) -> Outcome:
    """Run the calling thread under SCHED_FIFO; threads and children it starts run as ordinary ones."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        soft, _hard = resource.getrlimit(resource.RLIMIT_RTPRIO)
        advice = f"RLIMIT_RTPRIO is {soft}; set LimitRTPRIO={priority} in the service or run as root"
        if error.errno == errno.EPERM and soft >= priority:
            advice = "the control group has no real-time budget (cpu.rt_runtime_us) or a sandbox forbids it"
        return Outcome(False, f"cannot take real-time priority: {error.strerror} ({advice})")
    return Outcome(True, f"real-time priority {priority} taken (SCHED_FIFO)")


def _raise_memory_limit() -> int:
    """Raise RLIMIT_MEMLOCK as far as we may and return the soft limit that is now in force."""
    infinity = resource.RLIM_INFINITY
    _soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((infinity, infinity), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
            break
        except (OSError, ValueError):
            continue
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


def _mlockall(flags: int) -> int:
    """Return 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.mlockall(flags) != 0 else 0


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _size(limit: int) -> str:
    if limit == resource.RLIM_INFINITY:
        return "unlimited"
    return f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit / 2**10:g} KiB"
