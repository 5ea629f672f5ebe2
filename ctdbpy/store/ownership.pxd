# SPDX-License-Identifier: GPL-3.0-or-later
# Ownership of records: calls and migration between nodes.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool

from ctdbpy.store.engine_types cimport Db, Header, Pending
from ctdbpy.store.waiting cimport Waiting

cdef class Ownership(Waiting):
    cdef cbool not_serving(self, Db *db) noexcept nogil
    cdef int client_call(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil
    cdef int node_call(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef int req_dmaster(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef int reply_dmaster(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef int reply_call(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef void reply_error(self, char *p, size_t n) noexcept nogil
    cdef int become_dmaster(self, Db *db, const char *key, uint32_t keylen, const char *data, uint32_t datalen,
                            uint64_t rsn, uint32_t flags, uint32_t reqid) noexcept nogil
    cdef int give_away(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t requester,
                       uint32_t reqid) noexcept nogil
    cdef void answer(self, uint32_t client_id, uint32_t reqid, uint32_t callid, int status, Header *header,
                     const char *data, uint32_t datalen) noexcept nogil
    cdef cbool send_dmaster(self, uint32_t operation, uint32_t destnode, uint32_t reqid, uint32_t srcnode, Db *db,
                            Header *header, uint32_t dmaster, const char *key, uint32_t keylen, const char *data,
                            uint32_t datalen) noexcept nogil
    cdef uint32_t send_call(self, Db *db, uint32_t dmaster, uint32_t client_id, char *p, size_t n,
                            const char *key, uint32_t keylen) noexcept nogil
    cdef void finish_pending(self, Db *db, uint32_t reqid) noexcept nogil
    cdef void note_arrival(self, Db *db, const char *key, uint32_t keylen, const char *data,
                           uint32_t datalen) noexcept nogil
    cdef uint64_t held_until(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef void make_sticky(self, Db *db, const char *key, uint32_t keylen) noexcept nogil

    # read-only delegations, in delegation.pyx
    cdef int client_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                             uint32_t client_id, const char *p, size_t n) noexcept nogil
    cdef int node_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                           const char *p, size_t n) noexcept nogil
    cdef int take_delegation(self, Db *db, const char *key, uint32_t keylen, const char *data,
                             uint32_t datalen) noexcept nogil
    cdef int internal_packet(self, char *p, size_t n) noexcept nogil
