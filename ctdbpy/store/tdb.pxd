# SPDX-License-Identifier: GPL-3.0-or-later
# What the record engine sees of an open TDB: the bare handle and no more.

from ctdbpy.store.libtdb cimport tdb_context

ctypedef int (*Operation)(tdb_context *) noexcept nogil

cdef class Tdb:
    cdef tdb_context *ctx          # NULL once closed
    cdef readonly str path         # "" for an in-memory TDB
    cdef readonly int open_flags   # libtdb's flags as asked for
    cdef void *log                 # libtdb's messages since the last call through this class
    cdef readonly tuple identity   # (device, inode) of the file; None in memory
    cdef list locked_keys          # chain locks taken by methods of this class, not by the engine
    cdef int lockalls
    cdef object __weakref__

    cdef tdb_context *handle(self) except NULL
    cdef object failure(self, str verb)
    cdef str complaint(self)
    cdef int run(self, Operation operation, str verb, bint frozen=*) except -1
    cdef void unlock_everything(self)
