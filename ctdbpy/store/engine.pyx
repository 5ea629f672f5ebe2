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

from cython.operator cimport dereference, preincrement
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from ctdbpy.errors import StoreError
from ctdbpy.store.connections cimport UPCALL_LOCK_DROPPED
from ctdbpy.store.delegation cimport Delegation
from ctdbpy.store.engine_types cimport (
    CONN_CLIENT, CONN_LINK_IN, CONN_LINK_OUT, Conn, Counters, Db, DbStats, Header, KeyWait, Latency, Traverse, Upcall, load32, store32,
    store64,
)
from ctdbpy.store.libtdb cimport (
    TDB_DATA, tdb_chainlock_mark, tdb_chainlock_nonblock, tdb_chainlock_unmark, tdb_chainunlock, tdb_delete,
    tdb_enable_seqnum, tdb_get_flags, tdb_get_seqnum, tdb_increment_seqnum_nonblock,
)
from ctdbpy.store.tdb cimport Tdb

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
REVOKE = 11           # db_id, 0, record to revoke
LOCK_DROPPED = 12     # db_id, 0, key: the waiter process is not needed any more

NODE_OPERATIONS = (
    "req_call", "reply_call", "req_dmaster", "reply_dmaster", "reply_error", "req_message", "", "req_control",
    "reply_control", "", "req_tunnel",
)
# A call as a client would send it: the header, then flags, db_id, callid, hop count, lengths of key and data.
VACUUM_CALL = struct.Struct("=14I")
CLIENT_OPERATIONS = {0: "req_call", 5: "req_message", 7: "req_control", 10: "req_tunnel"}

cdef enum:
    OP_MESSAGE = 5
    OP_REQ_CONTROL = 7
    OP_REPLY_CONTROL = 8
    OP_KEEPALIVE = 9
    CONTROL_DATA = 60
    REPLY_CONTROL_DATA = 44
    MESSAGE_DATA = 44
    RECORD_DATA = 16
    CONTROL_TRAVERSE_DATA = 22
    CONTROL_NOREPLY = 1
    NODE_INACTIVE = 0x39
    HEADER_BYTES = 24


cdef inline TDB_DATA as_data(bytes value):
    cdef TDB_DATA data
    data.dptr = <unsigned char *><char *>value
    data.dsize = len(value)
    return data


cdef tuple latency_tuple(Latency *latency):
    return (latency.num, latency.min, latency.max, latency.total)


cdef class Engine(Delegation):
    """One node's records, messages and connections."""

    def __init__(self, uint32_t pnn):
        self.pnn = pnn
        self.tdbs = {}
        self.trackings = {}
        self.recovering = True
        self.fetch_collapse = True
        self.hopcount_make_sticky = 50
        self.sticky_us = 600 * 1000000
        self.pindown_us = 200 * 1000
        self.hold_us = 500

    def __dealloc__(self):
        it = self.dbs.begin()
        while it != self.dbs.end():
            del dereference(it).second
            preincrement(it)

    # -- the pump's side ---------------------------------------------------------

    cdef void advance(self) noexcept nogil:
        """Everything due now: timers, packets to oneself, slots to free."""
        self.run_timers()
        self.turn()

    def run(self, double now_s):
        """One turn at a given time, for pumps that move bytes themselves."""
        self.now_us = <uint64_t>(now_s * 1e6)
        with nogil:
            self.advance()
            self.release()

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
        cdef char *room = conn.inbound.reserve(len(data))
        if room == NULL:
            self.end(conn, b"out of memory for what it sends")
            return
        memcpy(room, <char *>data, len(data))
        self.received(conn, len(data))

    def feed_client(self, uint32_t client_id, bytes data):
        """Bytes that a client sent, in any portions."""
        self.feed_conn(self.client(client_id), data)

    def feed_link(self, uint32_t link_id, bytes data):
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

    def lock_granted(self, uint32_t db_id, bytes key):
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
        tdb_chainlock_mark(db.tdb, as_data(key))
        wait.asked = False
        with nogil:
            self.run_wait(db, wait)
        tdb_chainlock_unmark(db.tdb, as_data(key))

    def lock_failed(self, uint32_t db_id, bytes key):
        """No waiter process could be had for this key: keep trying here."""
        cdef Db *db = self.db(db_id)
        if db == NULL:
            return
        db.stats.lock_failed += 1
        self.counters.lock_failed += 1
        self.keybuf = key
        it = db.waits.find(self.keybuf)
        if it != db.waits.end():
            dereference(it).second.asked = False

    # -- packets that the core sends ------------------------------------------------

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

    # -- core.ports.Records: the cluster ----------------------------------------------

    def set_map(self, uint32_t generation, tuple lmasters):
        cdef cbool changed = generation != self.generation
        self.generation = generation
        self.lmasters.clear()
        for pnn in lmasters:
            self.lmasters.push_back(pnn)
        if changed:
            self.restart_calls()

    def set_nodes(self, tuple flags):
        self.node_flags.clear()
        for flag in flags:
            self.node_flags.push_back(flag)
        while self.links_out.size() < self.node_flags.size():
            self.links_out.push_back(-1)
        self.inactive = self.pnn < self.node_flags.size() and self.node_flags[self.pnn] & NODE_INACTIVE

    def set_tunables(self, tuple values):
        for name, value in values:
            if name == "FetchCollapse":
                self.fetch_collapse = value != 0
            elif name == "HopcountMakeSticky":
                self.hopcount_make_sticky = value
            elif name == "StickyDuration":
                self.sticky_us = value * 1000000
            elif name == "StickyPindown":
                self.pindown_us = value * 1000
            elif name == "RecordHoldUs":
                self.hold_us = value

    def set_recovery(self, cbool active):
        cdef cbool ended = self.recovering and not active
        self.recovering = active
        if ended:
            self.unpark_all()

    cdef unpark_all(self):
        cdef vector[uint32_t] ids
        cdef size_t i
        it = self.dbs.begin()
        while it != self.dbs.end():
            ids.push_back(dereference(it).first)
            preincrement(it)
        for i in range(ids.size()):
            self.thawed(self.db(ids[i]))

    cdef thawed(self, Db *db):
        """Repeat parked calls if the database serves now."""
        if db != NULL and not self.not_serving(db):
            self.unpark(db)

    # -- core.ports.Records: databases ----------------------------------------------------

    cdef Db *need(self, uint32_t db_id) except NULL:
        cdef Db *db = self.db(db_id)
        if db == NULL:
            raise StoreError(f"cannot use database 0x{db_id:08x}: it is not attached")
        return db

    def attach_tdb(self, uint32_t db_id, int flags, Tdb tdb):
        """Serve records from an open TDB; the engine keeps it until `detach`."""
        cdef Db *db
        if self.db(db_id) != NULL:
            raise StoreError(f"cannot attach database 0x{db_id:08x}: it is attached already")
        db = new Db()
        db.db_id = db_id
        db.flags = flags
        db.tdb = tdb.ctx
        db.generation = self.generation
        self.tdbs[db_id] = tdb
        self.dbs[db_id] = db

    def detach(self, uint32_t db_id):
        """Forget a database; its waiting calls are dropped, its TDB is closed."""
        cdef Db *db = self.need(db_id)
        cdef KeyWait *wait
        cdef size_t i
        for i in range(self.pending.size()):
            if self.pending[i].used and self.pending[i].db_id == db_id:
                self.free_pending((self.pending[i].turn << 20) | <uint32_t>i)
        it = db.waits.begin()
        while it != db.waits.end():
            wait = dereference(it).second
            self.unschedule(wait)
            if wait.asked:
                self.upcall(UPCALL_LOCK_DROPPED, db_id, 0, wait.key.data(), wait.key.size())
            del wait
            preincrement(it)
        self.dbs.erase(db_id)
        del db
        self.tdbs.pop(db_id).close()
        tracking = self.trackings.pop(db_id, None)
        if tracking is not None:
            tracking.close()

    def tdb(self, uint32_t db_id):
        """The open TDB of a database; StoreError if it is not attached."""
        self.need(db_id)
        return self.tdbs[db_id]

    def set_flags(self, uint32_t db_id, int flags, Tdb tracking=None):
        """Set the database flags; read-only needs the TDB that tracks who holds copies."""
        cdef Db *db = self.need(db_id)
        db.flags = flags
        if tracking is not None:
            self.trackings[db_id] = tracking
            db.tracking = tracking.ctx

    def set_db_generation(self, uint32_t db_id, uint32_t generation):
        cdef Db *db = self.need(db_id)
        db.generation = generation
        self.thawed(db)

    def set_frozen(self, uint32_t db_id, cbool frozen):
        cdef Db *db = self.need(db_id)
        db.frozen = frozen
        self.thawed(db)

    def try_fetch(self, uint32_t db_id, bytes key):
        """(True, record or None), or (False, None) when the chain is locked."""
        cdef Db *db = self.need(db_id)
        cdef Header header
        cdef char *p = key
        cdef object found = None
        if not self.lock(db, p, <uint32_t>len(key)):
            return False, None
        if self.read(db, p, <uint32_t>len(key), &header):
            found = self.record.data()[:self.record.size()]
        self.unlock(db, p, <uint32_t>len(key))
        return True, found

    def tdb_seqnum(self, uint32_t db_id):
        return <uint32_t>tdb_get_seqnum(self.need(db_id).tdb)

    def enable_seqnum(self, uint32_t db_id):
        tdb_enable_seqnum(self.need(db_id).tdb)

    def bump_seqnum(self, uint32_t db_id):
        tdb_increment_seqnum_nonblock(self.need(db_id).tdb)

    def open_flags(self, uint32_t db_id):
        return tdb_get_flags(self.need(db_id).tdb)

    # -- core.ports.Records: vacuuming --------------------------------------------------------

    def schedule_deletion(self, uint32_t db_id, bytes header, bytes key):
        cdef Db *db = self.need(db_id)
        if len(header) == HEADER_BYTES and not db.flags & 1:
            db.deletions[<string>key] = <string>header

    def take_deletions(self, uint32_t db_id, size_t limit):
        cdef Db *db = self.need(db_id)
        cdef list taken = []
        while not db.deletions.empty() and <size_t>len(taken) < limit:
            it = db.deletions.begin()
            taken.append((<bytes>dereference(it).first, <bytes>dereference(it).second))
            db.deletions.erase(it)
        return taken

    def delete_if_unchanged(self, uint32_t db_id, bytes key, bytes header):
        cdef Db *db = self.need(db_id)
        cdef Header now, wanted
        cdef char *p = key
        cdef cbool deleted = False
        if len(header) != HEADER_BYTES or self.not_serving(db):
            return False
        wanted.load(<char *>header)
        if not self.lock(db, p, <uint32_t>len(key)):
            return False
        if self.read(db, p, <uint32_t>len(key), &now) and self.record.size() == HEADER_BYTES \
                and now.dmaster == self.pnn and now.rsn == wanted.rsn and not now.flags & 0x0F000000:
            deleted = tdb_delete(db.tdb, as_data(key)) == 0
        self.unlock(db, p, <uint32_t>len(key))
        return deleted

    def try_delete(self, uint32_t db_id, bytes key, uint64_t rsn):
        cdef Db *db = self.need(db_id)
        cdef Header now
        cdef char *p = key
        cdef cbool deleted = False
        if self.not_serving(db) or not self.lock(db, p, <uint32_t>len(key)):
            return False
        if not self.read(db, p, <uint32_t>len(key), &now):
            # Nothing here, or a stump that is no record: gone either way.
            tdb_delete(db.tdb, as_data(key))
            deleted = True
        elif now.rsn <= rsn and now.dmaster != self.pnn and not now.flags & 0x0F000000:
            deleted = tdb_delete(db.tdb, as_data(key)) == 0
        self.unlock(db, p, <uint32_t>len(key))
        return deleted

    def vacuum_fetch(self, uint32_t db_id, bytes key):
        cdef Db *db = self.need(db_id)
        cdef Header now
        cdef char *p = key
        cdef uint32_t keylen = <uint32_t>len(key)
        cdef bytes packet
        if self.not_serving(db) or keylen == 0 or not self.lock(db, p, keylen):
            return
        if self.read(db, p, keylen, &now) and now.dmaster != self.pnn and now.dmaster < self.node_flags.size():
            packet = VACUUM_CALL.pack(64 + keylen, 0x43544442, 1, self.generation, 0, 0, self.pnn, 0, 1 | 2, db_id,
                                      0xFF000001, 0, keylen, 0) + key
            self.send_call(db, now.dmaster, 0, packet, len(packet), p, keylen)
        self.unlock(db, p, keylen)

    # -- core.ports.Records: clients and messages -----------------------------------------------

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

    # -- core.ports.Records: traverses --------------------------------------------------------------

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

    # -- core.ports.Records: counters ------------------------------------------------------------------

    def counters_by_name(self):
        """Counters by their name in upstream's statistics, groups with a dot."""
        c = {
            "client_packets_sent": self.counters.client_packets_sent,
            "client_packets_recv": self.counters.client_packets_recv,
            "node_packets_sent": self.counters.node_packets_sent,
            "node_packets_recv": self.counters.node_packets_recv,
            "keepalive_packets_sent": self.counters.keepalive_packets_sent,
            "keepalive_packets_recv": self.counters.keepalive_packets_recv,
            "timeouts.call": self.counters.timeouts_call,
            "locks.num_calls": self.counters.lock_calls,
            "locks.num_current": self.counters.lock_current,
            "locks.num_pending": self.counters.lock_pending,
            "locks.num_failed": self.counters.lock_failed,
            "total_calls": self.counters.total_calls,
            "pending_calls": self.counters.pending_calls,
            "max_hop_count": self.counters.max_hop_count,
            "total_ro_delegations": self.counters.total_ro_delegations,
            "total_ro_revokes": self.counters.total_ro_revokes,
            "dropped": self.counters.dropped,
            "write_errors": self.write_errors,
            "num_clients": self.clients.size(),
        }
        for operation, name in enumerate(NODE_OPERATIONS):
            if name:
                c["node." + name] = self.counters.node_op[operation]
        for operation, name in CLIENT_OPERATIONS.items():
            c["client." + name] = self.counters.client_op[operation]
        return c

    def latencies(self):
        return {
            "call": latency_tuple(&self.counters.call_latency),
            "lock": latency_tuple(&self.counters.lock_latency),
        }

    def buckets(self):
        return {
            "hop_count": tuple(self.counters.hop_buckets[i] for i in range(16)),
            "locks": tuple(self.counters.lock_buckets[i] for i in range(16)),
        }

    def db_counters(self, uint32_t db_id):
        cdef Db *db = self.need(db_id)
        return {
            "locks.num_calls": db.stats.lock_calls,
            "locks.num_current": db.stats.lock_current,
            "locks.num_pending": db.stats.lock_pending,
            "locks.num_failed": db.stats.lock_failed,
            "db_ro_delegations": db.stats.ro_delegations,
            "db_ro_revokes": db.stats.ro_revokes,
            "holds": db.stats.holds,
            "relieved": db.stats.relieved,
        }

    def db_latencies(self, uint32_t db_id):
        cdef Db *db = self.need(db_id)
        return {
            "lock": latency_tuple(&db.stats.lock_latency),
            "vacuum": latency_tuple(&db.stats.vacuum_latency),
        }

    def db_buckets(self, uint32_t db_id):
        cdef Db *db = self.need(db_id)
        return {
            "hop_count": tuple(db.stats.hop_buckets[i] for i in range(16)),
            "locks": tuple(db.stats.lock_buckets[i] for i in range(16)),
        }

    def hot_keys(self, uint32_t db_id):
        cdef Db *db = self.need(db_id)
        return [(db.hot[i].count, <bytes>db.hot[i].key) for i in range(db.hot.size())]

    def note_vacuum(self, uint32_t db_id, double duration_s):
        """Count a finished vacuum run of a database."""
        self.need(db_id).stats.vacuum_latency.add(duration_s)

    def reset_counters(self):
        cdef uint32_t pending = self.counters.pending_calls, waiting = self.counters.lock_pending
        self.counters = Counters()
        self.counters.pending_calls = pending
        self.counters.lock_pending = waiting
        it = self.dbs.begin()
        while it != self.dbs.end():
            waiting = dereference(it).second.stats.lock_pending
            dereference(it).second.stats = DbStats()
            dereference(it).second.stats.lock_pending = waiting
            dereference(it).second.hot.clear()
            preincrement(it)
