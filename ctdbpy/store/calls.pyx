# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Calls that another node answers: sent on for a client, remembered, answered, repeated.

A call that is on its way stands in a table under its request id; further calls of clients for
the same record queue behind it (fetch collapse). Packets can be lost only with a link, and then a
recovery follows; its new generation voids whatever was on its way and every call starts again.
Source: REQ_CALL, REPLY_CALL and REPLY_ERROR of the ctdb protocol.
"""

from cython.operator cimport dereference, preincrement
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.deque cimport deque

from ctdbpy.store.engine_types cimport (
    CONN_CLIENT, Conn, Db, Header, Pending, Queued, hash64, load32, store32,
)
from ctdbpy.store.waiting cimport DONE, Waiting

cdef enum:
    SLOT_BITS = 20
    SLOTS_MAX = 1 << SLOT_BITS
    SLOT_MASK = SLOTS_MAX - 1
    TURN_MASK = (1 << (32 - SLOT_BITS)) - 1
    DOUBTS = 4096
    # Records that many want at random are seldom doubted so much, for they are where they went last more often than not.
    DOUBTED = 6
    DOUBT_MAX = 7


cdef class Calls(Waiting):
    """The table of calls under way."""

    cdef cbool collapse(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, const char *p,
                        size_t n) noexcept nogil:
        """Queue a client's call behind one for the same record that is under way; True if it was queued."""
        if not self.fetch_collapse or db.in_flight.empty():
            return False
        self.keybuf.assign(key, keylen)
        flight = db.in_flight.find(self.keybuf)
        if flight == db.in_flight.end():
            return False
        self.enqueue(&dereference(flight).second, client_id, p, n)
        return True

    cdef void send_call(self, Db *db, uint32_t dmaster, uint32_t client_id, const char *p, size_t n,
                        const char *key, uint32_t keylen) noexcept nogil:
        """Ask the node that seems to own the record; remember who asked (client_id 0: this node for itself)."""
        cdef uint32_t slot, flags = load32(p + 32)
        cdef Pending *pending
        cdef Conn *conn
        cdef char *q
        if self.pending_free.size() > 0:
            slot = self.pending_free.back()
            self.pending_free.pop_back()
        elif self.pending.size() < SLOTS_MAX:
            slot = <uint32_t>self.pending.size()
            self.pending.resize(slot + 1)
        else:
            if client_id != 0:
                self.enqueue(&self.late, client_id, p, n)
                self.replay_late()
            return
        pending = &self.pending[slot]
        pending.used = True
        pending.turn = (pending.turn + 1) & TURN_MASK
        pending.client_id = client_id
        pending.db_id = db.db_id
        pending.start_us = self.now_us
        pending.readonly = flags & CALL_WANT_READONLY and db.tracking != NULL
        pending.key.assign(key, keylen)
        pending.packet.assign(p, n)
        self.counters.pending_calls += 1
        conn = self.client(client_id) if client_id else NULL
        if conn != NULL:
            conn.waiting += 1
            conn.waiting_bytes += n
        if self.fetch_collapse:
            self.keybuf.assign(key, keylen)
            db.in_flight[self.keybuf]
        q = self.packet_to_node(self.whom_to_ask(db, pending, dmaster), OP_REQ_CALL, n, (pending.turn << SLOT_BITS) | slot, self.pnn)
        if q == NULL:
            # No link: the call stays pending. The node is about to be declared dead and the
            # recovery that follows repeats the call.
            return
        memcpy(q + 32, p + 32, n - 32)
        store32(q + 44, 0)
        if pending.readonly:
            store32(q + 40, CALL_FETCH_WITH_HEADER)
        else:
            store32(q + 32, flags & ~<uint32_t>CALL_WANT_READONLY)

    # -- whom to ask -----------------------------------------------------------------

    cdef uint32_t whom_to_ask(self, Db *db, Pending *pending, uint32_t dmaster) noexcept nogil:
        """The node that this one gave the record to, or its lmaster where the record has often moved on since.

        Asking the former in vain costs a packet, asking the lmaster in vain, too. Who really had the record is told with it.
        """
        cdef uint32_t lmaster = self.lmaster(pending.key.data(), <uint32_t>pending.key.size())
        pending.supposed = self.pnn
        if lmaster == self.pnn or lmaster == dmaster or pending.readonly:
            return dmaster
        pending.supposed = dmaster
        return lmaster if self.doubt(pending)[0] >= DOUBTED and self.reachable(lmaster) else dmaster

    cdef uint8_t *doubt(self, Pending *pending) noexcept nogil:
        if self.doubts.size() == 0:
            self.doubts.resize(DOUBTS)
        return &self.doubts[(hash64(pending.key.data(), pending.key.size()) ^ pending.db_id) % DOUBTS]

    cdef void learn(self, Pending *pending, uint32_t former) noexcept nogil:
        """The record has come, and `former` had it: whatever is no node's number says nothing."""
        cdef uint8_t *doubt
        if pending.supposed == self.pnn or former == self.pnn or former >= self.node_flags.size():
            return
        doubt = self.doubt(pending)
        if former != pending.supposed:
            doubt[0] = min(<int>doubt[0] + 1, <int>DOUBT_MAX)
        elif doubt[0] > 0:
            doubt[0] -= 1

    # -- answers ---------------------------------------------------------------------

    cdef void answer(self, uint32_t client_id, uint32_t reqid, uint32_t callid, int status, Header *header,
                     const char *data, uint32_t datalen) noexcept nogil:
        """Answer a client's call: nothing for NULL, the data for FETCH, header and data on request."""
        cdef Conn *conn = self.client(client_id) if client_id else NULL
        cdef size_t n = 0
        cdef char *q
        if conn == NULL:
            return
        if status == 0 and callid == CALL_FETCH:
            n = datalen
        elif status == 0 and callid == CALL_FETCH_WITH_HEADER:
            n = <size_t>datalen + HEADER_BYTES
        q = self.packet_to(conn, OP_REPLY_CALL, REPLY_CALL_DATA + n, reqid, self.pnn, self.pnn)
        if q == NULL:
            return
        store32(q + 32, <uint32_t>status)
        store32(q + 36, <uint32_t>n)
        if n == 0:
            return
        q += REPLY_CALL_DATA
        if callid == CALL_FETCH_WITH_HEADER:
            header.save(q)
            q += HEADER_BYTES
        if datalen > 0:
            memcpy(q, data, datalen)

    # -- the table -----------------------------------------------------------------

    cdef Pending *pending_of(self, uint32_t reqid) noexcept nogil:
        """The call that this request id belongs to; NULL for one that is over."""
        cdef uint32_t slot = reqid & SLOT_MASK
        if slot >= self.pending.size():
            return NULL
        if not self.pending[slot].used or self.pending[slot].turn != reqid >> SLOT_BITS:
            return NULL
        return &self.pending[slot]

    cdef Pending *pending_for(self, uint32_t reqid, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """The same, and only if it asked for this record."""
        cdef Pending *pending = self.pending_of(reqid)
        if pending == NULL or pending.db_id != db.db_id:
            return NULL
        self.keybuf.assign(key, keylen)
        return pending if pending.key == self.keybuf else NULL

    cdef uint32_t waiters(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """How many calls queue behind the one under way for a record."""
        if db.in_flight.empty():
            return 0
        self.keybuf.assign(key, keylen)
        it = db.in_flight.find(self.keybuf)
        return <uint32_t>dereference(it).second.size() if it != db.in_flight.end() else 0

    cdef void answer_pending(self, Pending *pending, int status, Header *header, const char *data,
                             uint32_t datalen) noexcept nogil:
        cdef const char *packet = pending.packet.data()
        self.counters.call_latency.add(<double>(self.now_us - pending.start_us) / 1e6)
        self.answer(pending.client_id, load32(packet + 28), load32(packet + 40), status, header, data, datalen)

    cdef void free_pending(self, uint32_t slot) noexcept nogil:
        cdef Pending *pending = &self.pending[slot]
        if pending.client_id != 0:
            self.dequeued(pending.client_id, pending.packet.size())
        pending.used = False
        self.pending_free.push_back(slot)
        self.counters.pending_calls -= 1

    cdef void finish_pending(self, uint32_t reqid) noexcept nogil:
        """A call is over: forget it, and repeat the calls that waited for the same record.

        Only with no chain lock held and nothing of self.record in use: the repeated calls read.
        """
        cdef Pending *pending = self.pending_of(reqid)
        cdef deque[Queued] packets
        cdef Db *db
        if pending == NULL:
            return
        self.keybuf.assign(pending.key)
        db = self.db(pending.db_id)
        self.free_pending(reqid & SLOT_MASK)
        if db == NULL:
            return
        it = db.in_flight.find(self.keybuf)
        if it == db.in_flight.end():
            return
        packets.swap(dereference(it).second)
        db.in_flight.erase(it)
        self.replay(&packets)

    # -- replies -----------------------------------------------------------------------

    cdef int reply_call(self, char *p, size_t n) noexcept nogil:
        """A node answered a call without giving the record away: a read-only copy, or an error."""
        cdef Pending *pending
        cdef uint32_t reqid = load32(p + 28), datalen
        cdef int32_t status
        cdef const char *data = p + REPLY_CALL_DATA
        cdef Header header
        cdef Db *db
        if n < REPLY_CALL_DATA:
            return DONE
        datalen = load32(p + 36)
        status = <int32_t>load32(p + 32)
        if datalen > n - REPLY_CALL_DATA:
            return DONE
        pending = self.pending_of(reqid)
        if pending == NULL:
            return DONE
        if status == 0 and (pending.readonly or load32(pending.packet.data() + 40) == CALL_FETCH_WITH_HEADER):
            if datalen < HEADER_BYTES:
                status = -1
            else:
                header.load(data)
                data += HEADER_BYTES
                datalen -= HEADER_BYTES
                db = self.db(pending.db_id)
                if pending.readonly and db != NULL:
                    self.take_copy(db, pending.key.data(), <uint32_t>pending.key.size(), &header, data, datalen)
        self.answer_pending(pending, status, &header, data, datalen)
        self.finish_pending(reqid)
        return DONE

    cdef void reply_error(self, char *p, size_t n) noexcept nogil:
        """A node does not know the database yet: its attach is on the way, so ask again soon."""
        cdef uint32_t reqid = load32(p + 28)
        cdef Pending *pending = self.pending_of(reqid)
        if pending == NULL:
            return
        if pending.client_id != 0:
            self.enqueue(&self.late, pending.client_id, pending.packet.data(), pending.packet.size())
            self.replay_late()
        self.finish_pending(reqid)

    cdef void take_copy(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                        uint32_t datalen) noexcept nogil:
        """Keep a read-only copy, if that is one."""

    # -- all at once, or all of a client -----------------------------------------------------------------------

    cdef void forget(self, Conn *conn) noexcept nogil:
        """A client is gone: what it sent is kept no longer. Calls under way stay, for the record that will come."""
        cdef size_t i
        cdef Db *db
        cdef Pending *pending
        Waiting.forget(self, conn)
        if conn.kind != CONN_CLIENT or conn.waiting == 0:
            return
        for i in range(self.pending.size()):
            pending = &self.pending[i]
            if pending.used and pending.client_id == conn.id:
                pending.client_id = 0
                pending.packet.resize(CALL_DATA)
                pending.packet.shrink_to_fit()
        self.purge(&self.late, conn.id)
        it = self.dbs.begin()
        while it != self.dbs.end():
            db = dereference(it).second
            self.purge(&db.parked, conn.id)
            flight = db.in_flight.begin()
            while flight != db.in_flight.end():
                self.purge(&dereference(flight).second, conn.id)
                preincrement(flight)
            flight = db.revoking.begin()
            while flight != db.revoking.end():
                self.purge(&dereference(flight).second, conn.id)
                preincrement(flight)
            wait = db.waits.begin()
            while wait != db.waits.end():
                self.purge(&dereference(wait).second.packets, conn.id)
                preincrement(wait)
            preincrement(it)

    cdef void purge(self, deque[Queued] *queue, uint32_t client_id) noexcept nogil:
        """Remove the packets of a client that is gone."""
        cdef deque[Queued] others
        cdef size_t i, count = 0
        for i in range(queue.size()):
            if queue[0][i].client_id == client_id:
                count += 1
        if count == 0:
            return
        while not queue.empty():
            if queue.front().client_id != client_id:
                others.emplace_back()
                others.back().client_id = queue.front().client_id
                others.back().bytes.swap(queue.front().bytes)
            queue.pop_front()
        queue.swap(others)

    cdef void restart_calls(self) noexcept nogil:
        """A new generation: whatever was on its way is void, so every waiting call starts again."""
        cdef size_t i
        cdef Db *db
        cdef Pending *pending
        for i in range(self.pending.size()):
            pending = &self.pending[i]
            if not pending.used:
                continue
            db = self.db(pending.db_id)
            self.free_pending(<uint32_t>i)
            if db != NULL and pending.client_id != 0:
                self.enqueue(&db.parked, pending.client_id, pending.packet.data(), pending.packet.size())
        it = self.dbs.begin()
        while it != self.dbs.end():
            db = dereference(it).second
            flight = db.in_flight.begin()
            while flight != db.in_flight.end():
                self.move_all(&dereference(flight).second, &db.parked)
                preincrement(flight)
            db.in_flight.clear()
            flight = db.revoking.begin()
            while flight != db.revoking.end():
                self.move_all(&dereference(flight).second, &db.parked)
                preincrement(flight)
            db.revoking.clear()
            preincrement(it)

    cdef void drop_calls(self, Db *db) noexcept nogil:
        """A database is about to be forgotten: answer the calls of clients that wait for it with an error."""
        cdef size_t i
        cdef Header header
        cdef const char *packet
        cdef deque[Queued] waiting
        for i in range(self.pending.size()):
            if self.pending[i].used and self.pending[i].db_id == db.db_id:
                self.answer_pending(&self.pending[i], -1, &header, NULL, 0)
                self.free_pending(<uint32_t>i)
        flight = db.in_flight.begin()
        while flight != db.in_flight.end():
            self.move_all(&dereference(flight).second, &waiting)
            preincrement(flight)
        flight = db.revoking.begin()
        while flight != db.revoking.end():
            self.move_all(&dereference(flight).second, &waiting)
            preincrement(flight)
        self.move_all(&db.parked, &waiting)
        while not db.waits.empty():
            self.move_all(&dereference(db.waits.begin()).second.packets, &waiting)
            self.drop_wait(db, dereference(db.waits.begin()).second)
        while not waiting.empty():
            packet = waiting.front().bytes.data()
            if waiting.front().client_id != 0:
                self.answer(waiting.front().client_id, load32(packet + 28), load32(packet + 40), -1, &header, NULL, 0)
            self.dequeued(waiting.front().client_id, waiting.front().bytes.size())
            waiting.pop_front()
