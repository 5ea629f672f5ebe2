# SPDX-License-Identifier: GPL-3.0-or-later
# Routing of what is neither a record nor a decision: messages, tunnels, traverse data.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.unordered_map cimport unordered_map
from libcpp.unordered_set cimport unordered_set
from libcpp.vector cimport vector

from ctdbpy.store.connections cimport Connections
from ctdbpy.store.engine_types cimport Conn, Traverse

cdef class Routing(Connections):
    cdef unordered_map[uint64_t, vector[int]] srvids      # srvid -> slots of clients
    cdef unordered_set[uint64_t] core_srvids              # srvids that the core listens to
    cdef unordered_map[uint64_t, int] tunnel_slots
    cdef unordered_map[uint32_t, Traverse] traverses
    cdef vector[uint32_t] node_flags

    cdef cbool expand(self, uint32_t destnode, vector[uint32_t] *pnns) noexcept nogil
    cdef void deliver(self, uint64_t srvid, uint32_t srcnode, const char *data, uint32_t n) noexcept nogil
    cdef void deliver_to(self, vector[int] *slots, uint64_t srvid, uint32_t srcnode, const char *data,
                         uint32_t n) noexcept nogil
    cdef void message(self, uint32_t destnode, uint64_t srvid, uint32_t srcnode, const char *data,
                      uint32_t n) noexcept nogil
    cdef void client_message(self, Conn *conn, char *p, size_t n) noexcept nogil
    cdef void node_message(self, char *p, size_t n) noexcept nogil
    cdef void client_tunnel(self, Conn *conn, char *p, size_t n) noexcept nogil
    cdef void node_tunnel(self, char *p, size_t n) noexcept nogil
    cdef void client_control(self, Conn *conn, char *p, size_t n) noexcept nogil
    cdef void node_control(self, uint32_t pnn, char *p, size_t n) noexcept nogil
    cdef cbool traverse_record(self, Traverse *traverse, const char *record, uint32_t n) noexcept nogil
    cdef cbool listen(self, Conn *conn, uint64_t srvid) noexcept nogil
    cdef cbool unlisten(self, Conn *conn, uint64_t srvid) noexcept nogil
