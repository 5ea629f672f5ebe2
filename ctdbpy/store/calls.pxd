# SPDX-License-Identifier: GPL-3.0-or-later
# Calls of clients that another node answers: sent, remembered, answered, repeated.

from libc.stdint cimport uint8_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.vector cimport vector

from ctdbpy.store.engine_types cimport Db, Header, Pending, Queued
from ctdbpy.store.waiting cimport Waiting

cdef enum:
    OP_REQ_CALL = 0
    OP_REPLY_CALL = 1
    OP_REQ_DMASTER = 2
    OP_REPLY_DMASTER = 3
    OP_REPLY_ERROR = 4
    CALL_DATA = 56
    REPLY_CALL_DATA = 40
    HEADER_BYTES = 24
    CALL_VACUUM = 2
    CALL_WANT_READONLY = 4

cdef enum CallId:
    CALL_NULL = 0xFF000001
    CALL_FETCH = 0xFF000002
    CALL_FETCH_WITH_HEADER = 0xFF000003

cdef class Calls(Waiting):
    cdef vector[Pending] pending
    cdef vector[uint32_t] pending_free
    cdef cbool fetch_collapse
    cdef vector[uint8_t] doubts      # how often of late a record was not where it was supposed to be, by hash

    cdef cbool collapse(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, const char *p,
                        size_t n) noexcept nogil
    cdef void send_call(self, Db *db, uint32_t dmaster, uint32_t client_id, const char *p, size_t n,
                        const char *key, uint32_t keylen) noexcept nogil
    cdef uint32_t whom_to_ask(self, Db *db, Pending *pending, uint32_t dmaster) noexcept nogil
    cdef uint8_t *doubt(self, Pending *pending) noexcept nogil
    cdef void learn(self, Pending *pending, uint32_t former) noexcept nogil
    cdef void answer(self, uint32_t client_id, uint32_t reqid, uint32_t callid, int status, Header *header,
                     const char *data, uint32_t datalen) noexcept nogil
    cdef Pending *pending_of(self, uint32_t reqid) noexcept nogil
    cdef Pending *pending_for(self, uint32_t reqid, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef uint32_t waiters(self, Db *db, const char *key, uint32_t keylen) noexcept nogil
    cdef void answer_pending(self, Pending *pending, int status, Header *header, const char *data,
                             uint32_t datalen) noexcept nogil
    cdef void free_pending(self, uint32_t slot) noexcept nogil
    cdef void finish_pending(self, uint32_t reqid) noexcept nogil
    cdef int reply_call(self, char *p, size_t n) noexcept nogil
    cdef void reply_error(self, char *p, size_t n) noexcept nogil
    cdef void take_copy(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                        uint32_t datalen) noexcept nogil
    cdef void purge(self, deque[Queued] *queue, uint32_t client_id) noexcept nogil
    cdef void restart_calls(self) noexcept nogil
    cdef void drop_calls(self, Db *db) noexcept nogil
