# SPDX-License-Identifier: GPL-3.0-or-later
# The record engine as its pump drives it.

from libc.stdint cimport uint32_t, uint64_t

from ctdbpy.store.engine_types cimport Conn
from ctdbpy.store.port cimport RecordsPort

cdef class Engine(RecordsPort):
    cdef void advance(self) noexcept nogil
    cdef void fill_control(self, char *p, uint32_t opcode, uint64_t srvid, uint32_t client_id, uint32_t flags,
                           uint32_t datalen) noexcept nogil
    cdef void send_traverse_record(self, uint32_t pnn, uint32_t traverse_id, const char *record,
                                   uint32_t n) noexcept nogil
    cdef Conn *link(self, uint32_t link_id)
    cdef feed_conn(self, Conn *conn, bytes data)
    cdef bytes take_conn(self, Conn *conn)
    cdef reply(self, Conn *conn, uint32_t reqid, int status, bytes data, bytes error)
