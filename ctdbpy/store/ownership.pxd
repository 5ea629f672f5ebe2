# SPDX-License-Identifier: GPL-3.0-or-later
# Ownership of records: calls and migration between nodes.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool

from ctdbpy.store.delegation cimport Delegation
from ctdbpy.store.engine_types cimport Db, Header

cdef class Ownership(Delegation):
    cdef cbool answered              # become_dmaster has answered the call it was given

    cdef int client_call(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil
    cdef int serve_client(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, char *p,
                          size_t n) noexcept nogil
    cdef int node_call(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef int serve_node(self, Db *db, const char *key, uint32_t keylen, char *p, size_t n) noexcept nogil
    cdef void redirect(self, Db *db, const char *key, uint32_t keylen, uint32_t dmaster, char *p,
                       size_t n) noexcept nogil
    cdef int give_away(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t requester,
                       uint32_t reqid) noexcept nogil
    cdef cbool send_dmaster(self, uint32_t operation, uint32_t destnode, uint32_t reqid, Db *db, Header *header,
                            uint32_t dmaster, uint32_t former, const char *key, uint32_t keylen, const char *data,
                            uint32_t datalen) noexcept nogil
    cdef int dmaster_packet(self, char *p, size_t n, cbool queued) noexcept nogil
    cdef int serve_lmaster(self, Db *db, const char *key, uint32_t keylen, const char *data, uint32_t datalen,
                           uint64_t rsn, uint32_t flags, char *p) noexcept nogil
    cdef int become_dmaster(self, Db *db, const char *key, uint32_t keylen, const char *data, uint32_t datalen,
                            uint64_t rsn, uint32_t flags, uint32_t reqid, uint32_t former) noexcept nogil
