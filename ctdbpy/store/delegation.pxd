# SPDX-License-Identifier: GPL-3.0-or-later
# Read-only delegations: copies of a record on nodes that only read it.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from ctdbpy.store.calls cimport Calls
from ctdbpy.store.engine_types cimport Buffer, Db, Header

cdef enum Course:
    GO_ON = -1      # nothing stands in the way: handle the call as usual

cdef enum:
    OP_INTERNAL = 100

cdef class Delegation(Calls):
    cdef Buffer bitmap               # the tracking record read last: bit n stands for pnn n

    cdef int client_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                             uint32_t client_id, const char *p, size_t n) noexcept nogil
    cdef int node_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                           const char *p, size_t n) noexcept nogil
    cdef int delegate(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t requester,
                      uint32_t reqid) noexcept nogil
    cdef int revoke(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t client_id,
                    const char *p, size_t n) noexcept nogil
    cdef cbool clear_revoked(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil
    cdef void defer(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, const char *p,
                    size_t n) noexcept nogil
    cdef cbool read_bitmap(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef cbool holders(self, Db *db, const char *key, uint32_t keylen, vector[uint32_t] *pnns) noexcept nogil
    cdef void ask_revoke(self, Db *db, const char *key, uint32_t keylen, Header *header,
                         vector[uint32_t] *pnns) noexcept nogil
    cdef void submit_revoked(self, uint32_t db_id, const char *key, uint32_t keylen, cbool good) noexcept nogil
    cdef int revoked_packet(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef cbool client_writes(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef void repeat_deferred(self, Db *db, const char *key, uint32_t keylen, cbool good) noexcept nogil
    cdef void forget_copies(self, Db *db) noexcept nogil
