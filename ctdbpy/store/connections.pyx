# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Connections of the record engine: framing, reply buffers, and calls up to Python.

Bytes come in through `received`, whole packets go on to `client_packet` and
`node_packet` of the classes below; packets leave through `packet_to`, which
writes the header in place and returns where the body goes. No sockets here:
`daemon.poller` moves the bytes, the simulator moves them itself.
Source: ctdb protocol header, 32 bytes in host order; lengths are padded to 8 on the way out.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp cimport bool as cbool
from libcpp.string cimport string

from ctdbpy.store.engine_types cimport (
    CONN_CLIENT, CONN_FREE, CONN_LINK_IN, CONN_LINK_OUT, Conn, Upcall, load32, store32,
)

cdef enum:
    MAGIC = 0x43544442
    VERSION = 1
    HEADER = 32
    OPERATIONS = 11
    # A call that two stale headers send round in circles must not hold the loop.
    SELF_PACKETS_A_TURN = 10000


cdef class Connections:
    """Slots of connections, their buffers, and the queue of calls up."""

    def __cinit__(self):
        self.pnn = 0
        self.generation = 1
        self.next_client_id = 1
        self.now_us = 0
        # One client that never reads must not eat the machine (MaxQueueDropMsg is upstream's measure).
        self.client_backlog_max = 256 << 20
        self.link_backlog_max = 512 << 20
        # Nothing legal comes near; a hostile length ends the connection instead of the memory.
        self.packet_max = 256 << 20

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.slots.size()):
            del self.slots[i]

    cdef Conn *open_slot(self, int kind, int fd) noexcept nogil:
        cdef Conn *conn
        if self.free_slots.size() > 0:
            conn = self.slots[self.free_slots.back()]
            self.free_slots.pop_back()
        else:
            conn = new Conn()
            conn.slot = <int>self.slots.size()
            self.slots.push_back(conn)
        conn.kind = kind
        conn.fd = fd
        conn.dirty = conn.blocked = conn.closing = False
        conn.packets_in = 0
        conn.waiting = 0
        conn.waiting_bytes = 0
        return conn

    cdef Conn *client(self, uint32_t client_id) noexcept nogil:
        it = self.clients.find(client_id)
        if it == self.clients.end():
            return NULL
        cdef Conn *conn = self.slots[self.clients[client_id]]
        if conn.closing:
            return NULL
        return conn

    cdef void end(self, Conn *conn, const char *why) noexcept nogil:
        """Stop using a connection; it is freed at the end of the turn, its owner told then."""
        if conn.closing or conn.kind == CONN_FREE:
            return
        conn.closing = True
        conn.why.assign(why)
        self.ended.push_back(conn.slot)

    cdef void release(self) noexcept nogil:
        """Free the slots ended in this turn. The poller closes the descriptors before."""
        cdef size_t i
        cdef Conn *conn
        for i in range(self.ended.size()):
            conn = self.slots[self.ended[i]]
            if conn.kind == CONN_CLIENT:
                self.clients.erase(conn.id)
                self.upcall(UPCALL_CLIENT_CLOSED, conn.id, 0, conn.why.data(), conn.why.size())
            else:
                if conn.kind == CONN_LINK_OUT and self.links_out[conn.pnn] == conn.slot:
                    self.links_out[conn.pnn] = -1
                self.upcall(UPCALL_LINK_CLOSED, conn.id, conn.pnn, conn.why.data(), conn.why.size())
            self.forget(conn)
            conn.kind = CONN_FREE
            conn.inbound.clear()
            conn.out.clear()
            conn.srvids.clear()
            conn.tunnels.clear()
            self.free_slots.push_back(conn.slot)
        self.ended.clear()

    cdef void forget(self, Conn *conn) noexcept nogil:
        """Drop what other rooms of the engine remember about a connection that is about to be freed."""

    cdef void received(self, Conn *conn, size_t n) noexcept nogil:
        """n more bytes stand behind the end of conn.inbound; handle every whole packet."""
        cdef uint32_t length, operation
        cdef char *p
        conn.inbound.end += n
        while not conn.closing and conn.inbound.size() >= 4:
            p = conn.inbound.data()
            length = load32(p)
            if length < HEADER:
                self.end(conn, b"packet shorter than its header")
                return
            if length > self.packet_max:
                self.end(conn, b"packet longer than the limit of 256 MiB")
                return
            if conn.inbound.size() < length:
                return
            operation = load32(p + 16)
            if load32(p + 4) != MAGIC or load32(p + 8) != VERSION:
                self.end(conn, b"packet with a wrong magic number or version")
                return
            conn.packets_in += 1
            if conn.kind == CONN_CLIENT:
                self.counters.client_packets_recv += 1
                if operation < OPERATIONS:
                    self.counters.client_op[operation] += 1
                self.client_packet(conn, p, length)
            else:
                if length & 7:
                    self.end(conn, b"packet of a length that is no multiple of 8")
                    return
                self.counters.node_packets_recv += 1
                if operation < OPERATIONS:
                    self.counters.node_op[operation] += 1
                self.node_packet(conn.pnn, p, length)
            conn.inbound.consume(length)

    cdef char *packet_to(self, Conn *conn, uint32_t operation, size_t n, uint32_t reqid,
                         uint32_t destnode, uint32_t srcnode) noexcept nogil:
        """Append a packet of n bytes (before padding) and return its start, or NULL.

        Header filled in, padding zeroed; the caller writes everything from byte 32 to n.
        """
        cdef size_t padded = (n + 7) & ~<size_t>7
        cdef char *p
        cdef size_t limit = self.client_backlog_max if conn.kind == CONN_CLIENT else self.link_backlog_max
        if conn.closing:
            return NULL
        if conn.out.size() + padded > limit:
            self.end(conn, b"it does not read what is sent to it: backlog over the limit")
            return NULL
        p = conn.out.reserve(padded)
        if p == NULL:
            self.end(conn, b"out of memory for its backlog")
            return NULL
        conn.out.end += padded
        store32(p, <uint32_t>padded)
        store32(p + 4, MAGIC)
        store32(p + 8, VERSION)
        store32(p + 12, self.generation)
        store32(p + 16, operation)
        store32(p + 20, destnode)
        store32(p + 24, srcnode)
        store32(p + 28, reqid)
        if padded != n:
            memset(p + n, 0, padded - n)
        self.sent(conn, padded)
        return p

    cdef void sent(self, Conn *conn, size_t n) noexcept nogil:
        if conn.kind == CONN_CLIENT:
            self.counters.client_packets_sent += 1
        else:
            self.counters.node_packets_sent += 1
        if not conn.dirty:
            conn.dirty = True
            self.dirty.push_back(conn.slot)

    cdef char *packet_to_node(self, uint32_t pnn, uint32_t operation, size_t n, uint32_t reqid,
                              uint32_t srcnode) noexcept nogil:
        """As packet_to, to a node; to oneself through a queue that this turn still empties.

        NULL when there is no link: the packet is lost, as on a wire; recovery resends calls.
        """
        cdef size_t padded = (n + 7) & ~<size_t>7
        cdef char *p
        if pnn == self.pnn:
            self.to_self.emplace_back()
            self.to_self.back().resize(padded)
            p = <char *>self.to_self.back().data()
            store32(p, <uint32_t>padded)
            store32(p + 4, MAGIC)
            store32(p + 8, VERSION)
            store32(p + 12, self.generation)
            store32(p + 16, operation)
            store32(p + 20, pnn)
            store32(p + 24, srcnode)
            store32(p + 28, reqid)
            return p
        if pnn >= self.links_out.size() or self.links_out[pnn] < 0:
            self.counters.dropped += 1
            return NULL
        return self.packet_to(self.slots[self.links_out[pnn]], operation, n, reqid, pnn, srcnode)

    cdef cbool reachable(self, uint32_t pnn) noexcept nogil:
        """True if a packet to this node would be sent now."""
        if pnn == self.pnn:
            return True
        if pnn >= self.links_out.size() or self.links_out[pnn] < 0:
            return False
        return not self.slots[self.links_out[pnn]].closing

    cdef void forward(self, uint32_t pnn, const char *packet, size_t n) noexcept nogil:
        """Send a whole packet on, its header kept but for destnode, generation and padding."""
        cdef char *p = self.packet_to_node(pnn, load32(packet + 16), n, load32(packet + 28), load32(packet + 24))
        if p != NULL:
            memcpy(p + HEADER, packet + HEADER, n - HEADER)

    cdef void upcall(self, int kind, uint32_t a, uint64_t b, const char *p, size_t n) noexcept nogil:
        self.upcalls.emplace_back()
        cdef Upcall *call = &self.upcalls.back()
        call.kind = kind
        call.a = a
        call.b = b
        if n:
            call.bytes.assign(p, n)

    cdef void client_packet(self, Conn *conn, char *p, size_t n) noexcept nogil:
        """One whole packet of a local program; valid until return."""

    cdef void node_packet(self, uint32_t pnn, char *p, size_t n) noexcept nogil:
        """One whole packet of a node (or of this one, to itself); valid until return."""

    cdef void turn(self) noexcept nogil:
        """Handle the packets this node sent itself; what these send is handled too, up to a bound."""
        cdef string packet
        cdef int left = SELF_PACKETS_A_TURN
        while left > 0 and not self.to_self.empty():
            left -= 1
            packet.swap(self.to_self.front())
            self.to_self.pop_front()
            self.node_packet(self.pnn, <char *>packet.data(), packet.size())
