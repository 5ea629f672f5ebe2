# SPDX-License-Identifier: GPL-3.0-or-later
# Relief for records that many want: hot keys, holds, sticky records.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool

from ctdbpy.store.engine_types cimport Db, Sticky
from ctdbpy.store.records cimport RecordStore

cdef class Relief(RecordStore):
    cdef uint64_t hold_us
    cdef uint64_t sticky_us, pindown_us
    cdef uint32_t hopcount_make_sticky
    cdef uint32_t relief_moves
    cdef uint64_t relief_us, relief_pindown_us

    cdef uint32_t count_migration(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef void note_hot(self, Db *db, const char *key, uint32_t keylen, uint32_t count) noexcept nogil
    cdef void note_arrival(self, Db *db, const char *key, uint32_t keylen, const char *data,
                           uint32_t datalen) noexcept nogil
    cdef void settle(self, Db *db, const char *key, uint32_t keylen, uint32_t waiters) noexcept nogil
    cdef uint64_t held_until(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef Sticky *make_sticky(self, Db *db, const char *key, uint32_t keylen, uint64_t duration_us) noexcept nogil
