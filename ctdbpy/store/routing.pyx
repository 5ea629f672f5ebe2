# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Routing: messages by srvid, tunnels, traverse data, and controls handed up.

Nothing here decides anything: a packet goes to the clients that registered, to the
nodes it is addressed to, or up to the core.
Source: REQ_MESSAGE, REQ_TUNNEL, REQ_CONTROL and TRAVERSE_DATA of the ctdb protocol.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from ctdbpy.store.connections cimport (
    UPCALL_CLIENT_CONTROL, UPCALL_KEEPALIVE, UPCALL_MESSAGE, UPCALL_NODE_CONTROL, UPCALL_NODE_REPLY,
    UPCALL_TRAVERSE_END, Connections,
)
from ctdbpy.store.engine_types cimport CONN_CLIENT, Conn, Traverse, load32, load64, store32, store64

cdef enum:
    OP_MESSAGE = 5
    OP_REQ_CONTROL = 7
    OP_REPLY_CONTROL = 8
    OP_KEEPALIVE = 9
    OP_TUNNEL = 10
    MESSAGE_DATA = 44
    CONTROL_DATA = 60
    TUNNEL_DATA = 48
    REPLY_CONTROL_DATA = 44
    RECORD_DATA = 16
    CONTROL_TRAVERSE_DATA = 22
    CONTROL_NOREPLY = 1
    NODE_DISCONNECTED = 0x01
    NODE_DELETED = 0x10
    NODE_INACTIVE = 0x39
    SRVIDS_PER_CLIENT = 65536

cdef uint32_t CURRENT_NODE = 0xF0000001
cdef uint32_t BROADCAST_ALL = 0xF0000002
cdef uint32_t BROADCAST_ACTIVE = 0xF0000003
cdef uint32_t BROADCAST_CONNECTED = 0xF0000004
cdef uint64_t SRVID_ALL = 0xFFFFFFFFFFFFFFFF


cdef class Routing(Connections):
    """Messages, tunnels and traverse data between clients and nodes."""

    cdef void client_packet(self, Conn *conn, char *p, size_t n) noexcept nogil:
        cdef uint32_t operation = load32(p + 16)
        if operation == OP_MESSAGE:
            self.client_message(conn, p, n)
        elif operation == OP_REQ_CONTROL:
            self.client_control(conn, p, n)
        elif operation == OP_TUNNEL:
            self.client_tunnel(conn, p, n)
        else:
            self.end(conn, b"packet of a kind that clients do not send")

    cdef void node_packet(self, uint32_t pnn, char *p, size_t n) noexcept nogil:
        cdef uint32_t operation = load32(p + 16)
        if operation == OP_MESSAGE:
            self.node_message(p, n)
        elif operation == OP_REQ_CONTROL:
            self.node_control(pnn, p, n)
        elif operation == OP_REPLY_CONTROL:
            if n >= REPLY_CONTROL_DATA:
                self.upcall(UPCALL_NODE_REPLY, pnn, 0, p, n)
        elif operation == OP_KEEPALIVE:
            self.counters.keepalive_packets_recv += 1
            self.upcall(UPCALL_KEEPALIVE, pnn, 0, p, n)
        elif operation == OP_TUNNEL:
            self.node_tunnel(p, n)

    cdef void forget(self, Conn *conn) noexcept nogil:
        cdef size_t i
        if conn.kind != CONN_CLIENT:
            return
        while conn.srvids.size() > 0:
            self.unlisten(conn, conn.srvids.back())
        for i in range(conn.tunnels.size()):
            self.tunnel_slots.erase(conn.tunnels[i])

    # -- messages ------------------------------------------------------------

    cdef cbool expand(self, uint32_t destnode, vector[uint32_t] *pnns) noexcept nogil:
        """Fill pnns with the nodes a broadcast address means, oneself included; False if it is none."""
        cdef uint32_t i, mask
        if destnode == BROADCAST_ALL:
            mask = NODE_DELETED
        elif destnode == BROADCAST_ACTIVE:
            mask = NODE_INACTIVE
        elif destnode == BROADCAST_CONNECTED:
            mask = NODE_DISCONNECTED | NODE_DELETED
        else:
            return False
        for i in range(<uint32_t>self.node_flags.size()):
            if not self.node_flags[i] & mask:
                pnns.push_back(i)
        return True

    cdef void deliver_to(self, vector[int] *slots, uint64_t srvid, uint32_t srcnode, const char *data,
                         uint32_t n) noexcept nogil:
        cdef size_t i
        cdef char *p
        for i in range(slots.size()):
            p = self.packet_to(self.slots[slots[0][i]], OP_MESSAGE, MESSAGE_DATA + n, 0, self.pnn, srcnode)
            if p == NULL:
                continue
            store64(p + 32, srvid)
            store32(p + 40, n)
            memcpy(p + MESSAGE_DATA, data, n)

    cdef void deliver(self, uint64_t srvid, uint32_t srcnode, const char *data, uint32_t n) noexcept nogil:
        """Give a message to every client here that registered srvid, to those who want all, to the core."""
        it = self.srvids.find(srvid)
        if it != self.srvids.end():
            self.deliver_to(&self.srvids[srvid], srvid, srcnode, data, n)
        if srvid != SRVID_ALL:
            it = self.srvids.find(SRVID_ALL)
            if it != self.srvids.end():
                self.deliver_to(&self.srvids[SRVID_ALL], srvid, srcnode, data, n)
        if self.core_srvids.count(srvid):
            self.upcall(UPCALL_MESSAGE, srcnode, srvid, data, n)

    cdef void message(self, uint32_t destnode, uint64_t srvid, uint32_t srcnode, const char *data,
                      uint32_t n) noexcept nogil:
        """Send a message to a node or a broadcast address; to oneself it is delivered at once."""
        cdef vector[uint32_t] pnns
        cdef size_t i
        cdef char *p
        if destnode == CURRENT_NODE:
            destnode = self.pnn
        if not self.expand(destnode, &pnns):
            pnns.push_back(destnode)
        for i in range(pnns.size()):
            if pnns[i] == self.pnn:
                self.deliver(srvid, srcnode, data, n)
                continue
            p = self.packet_to_node(pnns[i], OP_MESSAGE, MESSAGE_DATA + n, 0, srcnode)
            if p == NULL:
                continue
            store64(p + 32, srvid)
            store32(p + 40, n)
            memcpy(p + MESSAGE_DATA, data, n)

    cdef void client_message(self, Conn *conn, char *p, size_t n) noexcept nogil:
        cdef uint32_t length
        if n < MESSAGE_DATA:
            self.end(conn, b"message shorter than its fields")
            return
        length = load32(p + 40)
        if length > n - MESSAGE_DATA:
            self.end(conn, b"message whose data is longer than its packet")
            return
        self.message(load32(p + 20), load64(p + 32), self.pnn, p + MESSAGE_DATA, length)

    cdef void node_message(self, char *p, size_t n) noexcept nogil:
        cdef uint32_t length
        if n < MESSAGE_DATA:
            return
        length = load32(p + 40)
        if length <= n - MESSAGE_DATA:
            self.deliver(load64(p + 32), load32(p + 24), p + MESSAGE_DATA, length)

    cdef cbool listen(self, Conn *conn, uint64_t srvid) noexcept nogil:
        """Register a client for srvid, once more if it is registered already; False at the limit."""
        if conn.srvids.size() >= SRVIDS_PER_CLIENT:
            self.end(conn, b"it registered more than 65536 srvids")
            return False
        conn.srvids.push_back(srvid)
        self.srvids[srvid].push_back(conn.slot)
        return True

    cdef cbool unlisten(self, Conn *conn, uint64_t srvid) noexcept nogil:
        """End one registration of a client; False if there is none."""
        cdef size_t i = conn.srvids.size()
        cdef vector[int] *slots
        # From the end: a client that goes ends its registrations last one first.
        while i > 0 and conn.srvids[i - 1] != srvid:
            i -= 1
        if i == 0:
            return False
        conn.srvids[i - 1] = conn.srvids.back()
        conn.srvids.pop_back()
        slots = &self.srvids[srvid]
        i = slots.size()
        while i > 0 and slots[0][i - 1] != conn.slot:
            i -= 1
        if i > 0:
            slots[0][i - 1] = slots.back()
            slots.pop_back()
        if slots.empty():
            self.srvids.erase(srvid)
        return True

    # -- tunnels -----------------------------------------------------------------

    cdef void client_tunnel(self, Conn *conn, char *p, size_t n) noexcept nogil:
        cdef uint32_t destnode
        cdef uint64_t tunnel_id
        cdef vector[uint32_t] pnns
        cdef size_t i
        if n < TUNNEL_DATA or load32(p + 44) > n - TUNNEL_DATA:
            self.end(conn, b"tunnel packet shorter than its fields")
            return
        tunnel_id = load64(p + 32)
        it = self.tunnel_slots.find(tunnel_id)
        if it == self.tunnel_slots.end() or self.tunnel_slots[tunnel_id] != conn.slot:
            return
        destnode = load32(p + 20)
        if destnode == CURRENT_NODE:
            destnode = self.pnn
        store32(p + 24, self.pnn)
        if not self.expand(destnode, &pnns):
            pnns.push_back(destnode)
        for i in range(pnns.size()):
            self.forward(pnns[i], p, n)

    cdef void node_tunnel(self, char *p, size_t n) noexcept nogil:
        cdef uint64_t tunnel_id
        cdef char *q
        if n < TUNNEL_DATA or load32(p + 44) > n - TUNNEL_DATA:
            return
        tunnel_id = load64(p + 32)
        it = self.tunnel_slots.find(tunnel_id)
        if it == self.tunnel_slots.end():
            return
        q = self.packet_to(self.slots[self.tunnel_slots[tunnel_id]], OP_TUNNEL, n, load32(p + 28), self.pnn,
                           load32(p + 24))
        if q != NULL:
            memcpy(q + 32, p + 32, n - 32)

    # -- controls and traverses -----------------------------------------------------

    cdef void client_control(self, Conn *conn, char *p, size_t n) noexcept nogil:
        if n < CONTROL_DATA or load32(p + 56) > n - CONTROL_DATA:
            self.end(conn, b"control shorter than its fields")
            return
        self.upcall(UPCALL_CLIENT_CONTROL, conn.id, 0, p, n)

    cdef void node_control(self, uint32_t pnn, char *p, size_t n) noexcept nogil:
        cdef uint32_t length, traverse_id
        if n < CONTROL_DATA or load32(p + 56) > n - CONTROL_DATA:
            return
        if load32(p + 32) != CONTROL_TRAVERSE_DATA:
            self.upcall(UPCALL_NODE_CONTROL, pnn, 0, p, n)
            return
        length = load32(p + 56)
        if length < RECORD_DATA:
            return
        traverse_id = load32(p + CONTROL_DATA + 4)
        it = self.traverses.find(traverse_id)
        if it == self.traverses.end():
            return
        if load32(p + CONTROL_DATA + 8) == 0 and load32(p + CONTROL_DATA + 12) == 0:
            self.upcall(UPCALL_TRAVERSE_END, traverse_id, pnn, NULL, 0)
            return
        self.traverse_record(&self.traverses[traverse_id], p + CONTROL_DATA, length)

    cdef cbool traverse_record(self, Traverse *traverse, const char *record, uint32_t n) noexcept nogil:
        """Deliver one rec_data of n bytes to the client of a traverse; False if it is malformed."""
        cdef uint32_t length
        cdef Conn *conn
        cdef char *p
        if n < RECORD_DATA:
            return False
        length = load32(record)
        if length > n or length < RECORD_DATA:
            return False
        if <uint64_t>load32(record + 8) + load32(record + 12) > length - RECORD_DATA:
            return False
        conn = self.client(traverse.client_id)
        if conn == NULL:
            return True
        p = self.packet_to(conn, OP_MESSAGE, MESSAGE_DATA + length, 0, self.pnn, self.pnn)
        if p == NULL:
            return True
        store64(p + 32, traverse.srvid)
        store32(p + 40, length)
        memcpy(p + MESSAGE_DATA, record, length)
        store32(p + MESSAGE_DATA + 4, traverse.reqid)
        return True
