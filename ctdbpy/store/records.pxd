# SPDX-License-Identifier: GPL-3.0-or-later
# Records under their header: databases, chain locks, the store rule, the deletion queue.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from ctdbpy.store.engine_types cimport Buffer, Db, Header
from ctdbpy.store.routing cimport Routing

cdef enum RecordFlag:
    MIGRATED_WITH_DATA = 0x00010000
    VACUUM_MIGRATED = 0x00020000
    AUTOMATIC = 0x00040000
    RO_HAVE_DELEGATIONS = 0x01000000
    RO_HAVE_READONLY = 0x02000000
    RO_REVOKING = 0x04000000
    RO_REVOKE_COMPLETE = 0x08000000
    RO_FLAGS = 0x0F000000

cdef enum DbFlag:
    DB_PERSISTENT = 1
    DB_READONLY = 2
    DB_STICKY = 4
    DB_REPLICATED = 8
    # Every node has a full copy and writes go through transactions.
    DB_EVERYWHERE = 9

# Beyond this many, vacuuming finds empty records by looking at all of them.
cdef enum:
    DELETIONS_MAX = 1000000

cdef enum Found:
    RECORD_ABSENT = 0
    RECORD_FOUND = 1
    RECORD_UNREADABLE = 2

cdef class RecordStore(Routing):
    cdef unordered_map[uint32_t, Db *] dbs
    cdef vector[uint32_t] lmasters
    cdef Buffer record               # the record read last, header and data; empty when there was none
    cdef string keybuf               # a key as a map wants it, without allocating each time
    cdef uint64_t write_errors

    cdef Db *db(self, uint32_t db_id) noexcept nogil
    cdef uint32_t lmaster(self, const char *key, uint32_t keylen) noexcept nogil
    cdef cbool lock(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef void unlock(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef int read(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil
    cdef int read_as_dmaster(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil
    cdef int taken(self, Db *db, int status, Header *header) noexcept nogil
    cdef const char *data(self) noexcept nogil
    cdef uint32_t datalen(self) noexcept nogil
    cdef cbool store_raw(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                         uint32_t datalen) noexcept nogil
    cdef cbool erase(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef cbool store(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                     uint32_t datalen) noexcept nogil
    cdef cbool read_or_create(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil
