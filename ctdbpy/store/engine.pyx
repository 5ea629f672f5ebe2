# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The record engine as Python sees it: bytes and time in, bytes and upcalls out.

Its pump adds connections, moves bytes (`feed`, `take`, or compiled in `daemon.poller`), calls
`run` once per turn and carries up what `take_upcalls` returns. The core tells it map, flags and
tunables and asks it for counters. It decides nothing about the cluster and knows no socket, file
name or clock.
"""

import struct

from cython.operator cimport dereference
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ctdbpy.store.engine_types cimport (
    CONN_CLIENT, CONN_LINK_IN, CONN_LINK_OUT, Conn, Db, KeyWait, Traverse, Upcall, load32, store32, store64,
)
from ctdbpy.store.libtdb cimport TDB_DATA, tdb_chainlock_mark, tdb_chainlock_unmark
from ctdbpy.store.port cimport RecordsPort

# Kinds of upcall, first item of each tuple that `take_upcalls` returns; then two numbers and bytes.
CLIENT_CONTROL = 1    # client_id, 0, packet
NODE_CONTROL = 2      # pnn, 0, packet
NODE_REPLY = 3        # pnn, 0, packet
MESSAGE = 4           # pnn of the sender, srvid, data
CLIENT_CLOSED = 5     # client_id, 0, reason
LINK_CLOSED = 6       # link id, pnn, reason
LOCK_WAIT = 7         # db_id, 0, key: have a waiter process take this chain lock
COMPLAINT = 8         # db_id, pnn, what
KEEPALIVE = 9         # pnn, 0, packet
TRAVERSE_END = 10     # traverse id, pnn
REVOKE = 11           # db_id, generation, what `unpack_revoke` understands: have copies come back, then `revoked`
LOCK_DROPPED = 12     # db_id, 0, key: the waiter process is not needed any more
LEASE_LOST = 13       # 0, 0: no call is executed until a recovery ends with a lease

cdef enum:
    OP_REQ_CONTROL = 7
    OP_REPLY_CONTROL = 8
    OP_KEEPALIVE = 9
    CONTROL_DATA = 60
    REPLY_CONTROL_DATA = 44
    RECORD_DATA = 16
    CONTROL_TRAVERSE_DATA = 22
    CONTROL_NOREPLY = 1


cdef inline TDB_DATA as_data(bytes value):
    cdef TDB_DATA data
    data.dptr = <unsigned char *><char *>value
    data.dsize = len(value)
    return data


def unpack_revoke(bytes data not None):
    """(key, pnns of the nodes that have a copy, rec_buffer that each of them must store) of an upcall REVOKE."""
    keylen, count = struct.unpack_from("=II", data)
    nodes = struct.unpack_from(f"={count}I", data, 8 + keylen)
    return data[8:8 + keylen], nodes, data[8 + keylen + 4 * count:]


cdef class Engine(RecordsPort):
    """One node's records, messages and connections."""

    def __init__(self, uint32_t pnn):
        self.pnn = pnn

    # -- the pump's side ---------------------------------------------------------------------

    cdef void advance(self) noexcept nogil:
        """Everything due now: timers, packets to oneself, slots to free."""
        self.run_timers()
        self.turn()

    def run(self, double now_s):
        """One turn at a given time, for pumps that move bytes themselves."""
        cdef size_t i
        # Rounded: `deadline_s` given back must not come out a microsecond early.
        self.now_us = <uint64_t>(now_s * 1e6 + 0.5)
        with nogil:
            self.advance()
            self.release()
            for i in range(self.dirty.size()):
                self.slots[self.dirty[i]].dirty = False
            self.dirty.clear()

    @property
    def deadline_s(self):
        """When `run` has something to do by itself; None for never."""
        cdef uint64_t due = self.next_due_us()
        if not self.to_self.empty():
            return self.now_us / 1e6
        return due / 1e6 if due else None

    def add_client(self, int fd=-1):
        """Take a local program's connection; returns its client_id."""
        cdef Conn *conn = self.open_slot(CONN_CLIENT, fd)
        while self.next_client_id == 0 or self.clients.count(self.next_client_id):
            self.next_client_id += 1
        conn.id = self.next_client_id
        self.next_client_id += 1
        self.clients[conn.id] = conn.slot
        return conn.id

    def add_link(self, uint32_t link_id, uint32_t pnn, bint outgoing, int fd=-1):
        """Take one direction of the link to a node; link_id comes back when it closes."""
        cdef Conn *conn = self.open_slot(CONN_LINK_OUT if outgoing else CONN_LINK_IN, fd)
        conn.id = link_id
        conn.pnn = pnn
        if outgoing:
            while self.links_out.size() <= pnn:
                self.links_out.push_back(-1)
            self.links_out[pnn] = conn.slot

    cdef Conn *link(self, uint32_t link_id):
        cdef size_t i
        for i in range(self.slots.size()):
            if self.slots[i].kind in (CONN_LINK_IN, CONN_LINK_OUT) and self.slots[i].id == link_id:
                return self.slots[i]
        return NULL

    def close_client(self, uint32_t client_id, str reason):
        """End a client's connection; the upcall CLIENT_CLOSED follows."""
        cdef Conn *conn = self.client(client_id)
        cdef bytes why = reason.encode()
        if conn != NULL:
            self.end(conn, why)

    def close_link(self, uint32_t link_id, str reason):
        """End one direction of a link; the upcall LINK_CLOSED follows."""
        cdef Conn *conn = self.link(link_id)
        cdef bytes why = reason.encode()
        if conn != NULL:
            self.end(conn, why)

    cdef feed_conn(self, Conn *conn, bytes data):
        if conn == NULL or conn.closing:
            return
        if conn.kind == CONN_LINK_OUT:
            self.end(conn, b"data on the outgoing side of a link")
            return
        cdef char *room = conn.inbound.reserve(len(data))
        if room == NULL:
            self.end(conn, b"out of memory for what it sends")
            return
        memcpy(room, <char *>data, len(data))
        self.received(conn, len(data))

    def feed_client(self, uint32_t client_id, bytes data not None):
        """Bytes that a client sent, in any portions."""
        self.feed_conn(self.client(client_id), data)

    def feed_link(self, uint32_t link_id, bytes data not None):
        """Bytes that a node sent, in any portions."""
        self.feed_conn(self.link(link_id), data)

    cdef bytes take_conn(self, Conn *conn):
        if conn == NULL:
            return b""
        cdef bytes data = conn.out.data()[:conn.out.size()] if conn.out.size() else b""
        conn.out.clear()
        conn.dirty = False
        return data

    def take_client(self, uint32_t client_id):
        """Bytes for a client; they leave the engine."""
        return self.take_conn(self.client(client_id))

    def take_link(self, uint32_t link_id):
        """Bytes for a node; they leave the engine."""
        return self.take_conn(self.link(link_id))

    def client_backlog(self, uint32_t client_id):
        """Bytes waiting to be read by a client; 0 for one that is gone."""
        cdef Conn *conn = self.client(client_id)
        return conn.out.size() if conn != NULL else 0

    def take_upcalls(self):
        """What Python has to hear of, in order: (kind, number, number, bytes)."""
        cdef list taken = []
        cdef Upcall *call
        while not self.upcalls.empty():
            call = &self.upcalls.front()
            taken.append((call.kind, call.a, call.b, <bytes>call.bytes))
            self.upcalls.pop_front()
        return taken

    def lock_granted(self, uint32_t db_id, bytes key not None):
        """A waiter process holds this chain lock for us: handle what waits for it.

        The lock is borrowed for the time of this call; the waiter may let go afterwards.
        """
        cdef Db *db = self.db(db_id)
        cdef KeyWait *wait
        if db == NULL:
            return
        self.keybuf = key
        it = db.waits.find(self.keybuf)
        if it == db.waits.end():
            return
        wait = dereference(it).second
        self.lock_dropped(db, wait)
        tdb_chainlock_mark(db.tdb, as_data(key))
        with nogil:
            self.run_wait(db, wait)
        tdb_chainlock_unmark(db.tdb, as_data(key))

    def lock_failed(self, uint32_t db_id, bytes key not None):
        """No waiter process could be had for this key: keep trying here."""
        cdef Db *db = self.db(db_id)
        if db == NULL:
            return
        db.stats.lock_failed += 1
        self.counters.lock_failed += 1
        self.keybuf = key
        it = db.waits.find(self.keybuf)
        if it != db.waits.end():
            self.lock_dropped(db, dereference(it).second)

    # -- packets that the core sends ---------------------------------------------------------

    cdef reply(self, Conn *conn, uint32_t reqid, int status, bytes data, bytes error):
        cdef size_t datalen = len(data), errorlen = len(error)
        cdef char *p
        if conn == NULL:
            return
        p = self.packet_to(conn, OP_REPLY_CONTROL, REPLY_CONTROL_DATA + max(datalen + errorlen, <size_t>4), reqid,
                           conn.pnn if conn.kind != CONN_CLIENT else self.pnn, self.pnn)
        if p == NULL:
            return
        store32(p + 32, <uint32_t>status)
        store32(p + 36, <uint32_t>datalen)
        store32(p + 40, <uint32_t>errorlen)
        store32(p + 44, 0)
        memcpy(p + REPLY_CONTROL_DATA, <char *>data, datalen)
        memcpy(p + REPLY_CONTROL_DATA + datalen, <char *>error, errorlen)

    def reply_client(self, uint32_t client_id, uint32_t reqid, int status, bytes data=b"", str error=""):
        """Answer a client's control."""
        self.reply(self.client(client_id), reqid, status, data, error.encode())

    def reply_node(self, uint32_t pnn, uint32_t reqid, int status, bytes data=b"", str error=""):
        """Answer a node's control; lost when there is no link."""
        if pnn < self.links_out.size() and self.links_out[pnn] >= 0:
            self.reply(self.slots[self.links_out[pnn]], reqid, status, data, error.encode())

    def send_control(self, uint32_t pnn, uint32_t reqid, uint32_t opcode, uint64_t srvid, uint32_t client_id,
                     uint32_t flags, bytes data):
        """Send a control to another node; lost when there is no link."""
        cdef size_t n = len(data)
        cdef char *p = self.packet_to_node(pnn, OP_REQ_CONTROL, CONTROL_DATA + max(n, <size_t>4), reqid, self.pnn)
        if p != NULL:
            self.fill_control(p, opcode, srvid, client_id, flags, <uint32_t>n)
            memcpy(p + CONTROL_DATA, <char *>data, n)
            if n < 4:
                memset(p + CONTROL_DATA + n, 0, 4 - n)

    cdef void fill_control(self, char *p, uint32_t opcode, uint64_t srvid, uint32_t client_id, uint32_t flags,
                           uint32_t datalen) noexcept nogil:
        store32(p + 32, opcode)
        store32(p + 36, 0)
        store64(p + 40, srvid)
        store32(p + 48, client_id)
        store32(p + 52, flags)
        store32(p + 56, datalen)

    def send_message(self, uint32_t destnode, uint64_t srvid, bytes data):
        """Send a message to a node or a broadcast address."""
        self.message(destnode, srvid, self.pnn, <char *>data, <uint32_t>len(data))

    def send_keepalive(self, uint32_t pnn, uint32_t version, uint32_t uptime_s):
        """Send a keepalive; version is (major << 16) | minor."""
        cdef char *p = self.packet_to_node(pnn, OP_KEEPALIVE, 40, 0, self.pnn)
        if p != NULL:
            store32(p + 32, version)
            store32(p + 36, uptime_s)
            self.counters.keepalive_packets_sent += 1

    def packets_from(self, uint32_t pnn):
        """Packets received from a node on its present link, for keepalive counting."""
        cdef size_t i
        for i in range(self.slots.size()):
            if self.slots[i].kind == CONN_LINK_IN and self.slots[i].pnn == pnn:
                return self.slots[i].packets_in
        return 0

    def listen_for_core(self, uint64_t srvid):
        """Hand messages for srvid up as MESSAGE, besides delivering them."""
        self.core_srvids.insert(srvid)

    def unlisten_for_core(self, uint64_t srvid):
        """End `listen_for_core`."""
        self.core_srvids.erase(srvid)

    # -- clients and messages ----------------------------------------------------------------

    def register_srvid(self, uint32_t client_id, uint64_t srvid):
        cdef Conn *conn = self.client(client_id)
        if conn != NULL:
            self.listen(conn, srvid)

    def deregister_srvid(self, uint32_t client_id, uint64_t srvid):
        cdef Conn *conn = self.client(client_id)
        return conn != NULL and self.unlisten(conn, srvid)

    def has_srvid(self, uint32_t client_id, uint64_t srvid):
        cdef Conn *conn = self.client(client_id)
        cdef size_t i
        if conn == NULL:
            return False
        for i in range(conn.srvids.size()):
            if conn.srvids[i] == srvid:
                return True
        return False

    def register_tunnel(self, uint32_t client_id, uint64_t tunnel_id):
        cdef Conn *conn = self.client(client_id)
        if conn == NULL or self.tunnel_slots.count(tunnel_id) or conn.tunnels.size() >= 1024:
            return False
        self.tunnel_slots[tunnel_id] = conn.slot
        conn.tunnels.push_back(tunnel_id)
        return True

    def deregister_tunnel(self, uint32_t client_id, uint64_t tunnel_id):
        cdef Conn *conn = self.client(client_id)
        cdef size_t i
        if conn == NULL:
            return False
        for i in range(conn.tunnels.size()):
            if conn.tunnels[i] == tunnel_id:
                conn.tunnels[i] = conn.tunnels.back()
                conn.tunnels.pop_back()
                self.tunnel_slots.erase(tunnel_id)
                return True
        return False

    # -- traverses ---------------------------------------------------------------------------

    def open_traverse(self, uint32_t traverse_id, uint32_t client_id, uint64_t srvid, uint32_t reqid):
        cdef Traverse *traverse = &self.traverses[traverse_id]
        traverse.client_id = client_id
        traverse.srvid = srvid
        traverse.reqid = reqid

    def close_traverse(self, uint32_t traverse_id, bint finish):
        cdef char end[16]
        it = self.traverses.find(traverse_id)
        if it == self.traverses.end():
            return
        if finish:
            memset(end, 0, RECORD_DATA)
            store32(end, RECORD_DATA)
            self.traverse_record(&self.traverses[traverse_id], end, RECORD_DATA)
        self.traverses.erase(traverse_id)

    def forward_traverse(self, uint32_t traverse_id, bytes part):
        cdef const char *p = part
        cdef size_t left = len(part)
        cdef uint32_t length
        it = self.traverses.find(traverse_id)
        if it == self.traverses.end():
            return
        while left >= RECORD_DATA:
            length = load32(p)
            if length > left or not self.traverse_record(&self.traverses[traverse_id], p, length):
                return
            p += length
            left -= length

    def send_traverse(self, uint32_t pnn, uint32_t traverse_id, bytes part, bint last):
        cdef const char *p = part
        cdef size_t left = len(part)
        cdef uint32_t length
        cdef char end[16]
        while left >= RECORD_DATA:
            length = load32(p)
            if length > left or length < RECORD_DATA:
                break
            self.send_traverse_record(pnn, traverse_id, p, length)
            p += length
            left -= length
        if last:
            memset(end, 0, RECORD_DATA)
            store32(end, RECORD_DATA)
            self.send_traverse_record(pnn, traverse_id, end, RECORD_DATA)

    cdef void send_traverse_record(self, uint32_t pnn, uint32_t traverse_id, const char *record,
                                   uint32_t n) noexcept nogil:
        cdef char *p = self.packet_to_node(pnn, OP_REQ_CONTROL, CONTROL_DATA + n, 0, self.pnn)
        if p == NULL:
            return
        self.fill_control(p, CONTROL_TRAVERSE_DATA, 0, 0, CONTROL_NOREPLY, n)
        memcpy(p + CONTROL_DATA, record, n)
        store32(p + CONTROL_DATA + 4, traverse_id)
