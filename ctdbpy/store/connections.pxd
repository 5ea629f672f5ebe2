# SPDX-License-Identifier: GPL-3.0-or-later
# Connections of the record engine: who is connected, bytes in, packets out.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from ctdbpy.store.engine_types cimport Conn, Counters, Upcall

cdef enum UpcallKind:
    UPCALL_CLIENT_CONTROL = 1
    UPCALL_NODE_CONTROL = 2
    UPCALL_NODE_REPLY = 3
    UPCALL_MESSAGE = 4
    UPCALL_CLIENT_CLOSED = 5
    UPCALL_LINK_CLOSED = 6
    UPCALL_LOCK_WAIT = 7
    UPCALL_COMPLAINT = 8
    UPCALL_KEEPALIVE = 9
    UPCALL_TRAVERSE_END = 10
    UPCALL_REVOKE = 11
    UPCALL_LOCK_DROPPED = 12
    UPCALL_LEASE_LOST = 13

cdef class Connections:
    cdef vector[Conn *] slots
    cdef vector[int] free_slots
    cdef unordered_map[uint32_t, int] clients      # client_id -> slot
    cdef vector[int] links_out                     # pnn -> slot or -1
    cdef vector[int] dirty                         # slots with bytes to offer
    cdef vector[int] ended                         # slots to free at the end of the turn
    cdef deque[Upcall] upcalls
    cdef deque[string] to_self                     # packets from this node to itself
    cdef Counters counters
    cdef uint32_t pnn
    cdef uint32_t generation
    cdef uint32_t next_client_id
    cdef uint64_t now_us
    cdef size_t client_backlog_max
    cdef size_t link_backlog_max
    cdef size_t packet_max

    cdef Conn *open_slot(self, int kind, int fd) noexcept nogil
    cdef Conn *client(self, uint32_t client_id) noexcept nogil
    cdef void end(self, Conn *conn, const char *why) noexcept nogil
    cdef void forget(self, Conn *conn) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef void received(self, Conn *conn, size_t n) noexcept nogil
    cdef char *packet_to(self, Conn *conn, uint32_t operation, size_t n, uint32_t reqid,
                         uint32_t destnode, uint32_t srcnode) noexcept nogil
    cdef char *packet_to_node(self, uint32_t pnn, uint32_t operation, size_t n, uint32_t reqid,
                              uint32_t srcnode) noexcept nogil
    cdef cbool reachable(self, uint32_t pnn) noexcept nogil
    cdef void forward(self, uint32_t pnn, const char *packet, size_t n) noexcept nogil
    cdef void sent(self, Conn *conn, size_t n) noexcept nogil
    cdef void upcall(self, int kind, uint32_t a, uint64_t b, const char *p, size_t n) noexcept nogil
    cdef void client_packet(self, Conn *conn, char *p, size_t n) noexcept nogil
    cdef void node_packet(self, uint32_t pnn, char *p, size_t n) noexcept nogil
    cdef void turn(self) noexcept nogil
