# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that holds locks for its parent must not outlive it."""

from __future__ import annotations

import os
import signal

from libc.errno cimport errno

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long argument, ...)
    int PR_SET_PDEATHSIG

from ctdbpy.errors import StoreError


def die_with_parent(int parent_pid):
    """Have the kernel kill this process when the parent's thread that started it ends; exit if it has already.

    Works in the middle of a lock wait too. parent_pid: the pid expected, as seen before this process started.
    """
    if prctl(PR_SET_PDEATHSIG, <unsigned long>signal.SIGKILL) != 0:
        raise StoreError(f"cannot tie this process to its parent: {os.strerror(errno)}")
    if os.getppid() != parent_pid:
        os._exit(1)
