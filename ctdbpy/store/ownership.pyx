# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ownership of records: who is dmaster, and how that moves.

A client calls for a record; if another node owns it, the call goes to that node (as far
as known here), from there by way of the lmaster to the real owner, which gives the
record away: stored first, then sent. The lmaster notes the new dmaster, stored
first, and the record comes to rest where it was asked for.
Source: REQ_CALL, REPLY_CALL, REQ_DMASTER and REPLY_DMASTER of the ctdb protocol.
"""

from cython.operator cimport dereference
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.string cimport string

from ctdbpy.store.engine_types cimport (
    Arrival, Conn, Db, Header, Pending, Queued, Sticky, hash64, hop_bucket, load32, load64, store32, store64,
)
from ctdbpy.store.records cimport (
    AUTOMATIC, DB_PERSISTENT, DB_STICKY, MIGRATED_WITH_DATA, RO_FLAGS, VACUUM_MIGRATED,
)
from ctdbpy.store.waiting cimport DONE, FAILED, HOLD, LOCKED, Waiting

cdef enum:
    OP_REQ_CALL = 0
    OP_REPLY_CALL = 1
    OP_REQ_DMASTER = 2
    OP_REPLY_DMASTER = 3
    OP_REPLY_ERROR = 4
    OP_INTERNAL = 100
    CALL_DATA = 56
    REPLY_CALL_DATA = 40
    REQ_DMASTER_DATA = 60
    REPLY_DMASTER_DATA = 56
    CALL_VACUUM = 2
    CALL_WANT_READONLY = 4
    HEADER_BYTES = 24
    SLOT_BITS = 20
    SLOT_MASK = (1 << SLOT_BITS) - 1
    ARRIVAL_SLOTS = 1024
    LATE_US = 100000

cdef uint32_t FETCH = 0xFF000002
cdef uint32_t FETCH_WITH_HEADER = 0xFF000003


cdef class Ownership(Waiting):
    """Calls of clients and nodes, and the packets that move records."""

    # -- dispatch --------------------------------------------------------------

    cdef void client_packet(self, Conn *conn, char *p, size_t n) noexcept nogil:
        if load32(p + 16) == OP_REQ_CALL:
            if n < CALL_DATA or load32(p + 48) == 0 or load32(p + 48) > n - CALL_DATA \
                    or load32(p + 52) > n - CALL_DATA - load32(p + 48):
                self.end(conn, b"call shorter than its fields")
                return
            self.counters.total_calls += 1
            self.handle(conn.id, p, n, False)
            return
        Waiting.client_packet(self, conn, p, n)

    cdef void node_packet(self, uint32_t pnn, char *p, size_t n) noexcept nogil:
        if load32(p + 16) > OP_REPLY_ERROR:
            Waiting.node_packet(self, pnn, p, n)
        elif load32(p + 12) != self.generation or self.inactive:
            self.counters.dropped += 1
        else:
            self.handle(0, p, n, False)

    cdef int handle(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil:
        cdef uint32_t operation = load32(p + 16)
        if operation == OP_REQ_CALL and client_id != 0:
            return self.client_call(client_id, p, n, queued)
        if operation == OP_INTERNAL:
            return self.internal_packet(p, n)
        if load32(p + 12) != self.generation:
            self.counters.dropped += 1
            return DONE
        if operation == OP_REQ_CALL:
            return self.node_call(p, n, queued)
        if operation == OP_REQ_DMASTER:
            return self.req_dmaster(p, n, queued)
        if operation == OP_REPLY_DMASTER:
            return self.reply_dmaster(p, n, queued)
        if operation == OP_REPLY_CALL:
            return self.reply_call(p, n, queued)
        if operation == OP_REPLY_ERROR:
            self.reply_error(p, n)
        return DONE

    cdef cbool not_serving(self, Db *db) noexcept nogil:
        """While a database is frozen or not recovered yet, packets for it are parked until it thaws."""
        return self.recovering or db.frozen or db.generation != self.generation

    # -- calls ---------------------------------------------------------------------

    cdef int client_call(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil:
        """A local program wants a record here (NULL), or wants to see it (FETCH)."""
        cdef uint32_t flags = load32(p + 32), callid = load32(p + 40), keylen = load32(p + 48)
        cdef const char *key = p + CALL_DATA
        cdef Db *db = self.db(load32(p + 36))
        cdef Header header
        cdef cbool wants_readonly
        cdef const char *data
        cdef uint32_t datalen
        cdef int verdict
        if db == NULL:
            return DONE
        if self.inactive or self.not_serving(db):
            self.enqueue(&db.parked, client_id, p, n)
            return DONE
        if self.fetch_collapse and not db.in_flight.empty():
            self.keybuf.assign(key, keylen)
            flight = db.in_flight.find(self.keybuf)
            if flight != db.in_flight.end():
                self.enqueue(&dereference(flight).second, client_id, p, n)
                return DONE
        if not queued and self.must_wait(db, key, keylen, True, p, n, client_id):
            return DONE
        if not self.lock(db, key, keylen):
            if not queued:
                self.wait_for(db, key, keylen, LOCKED, client_id, p, n)
            return LOCKED
        if not self.read_or_create(db, key, keylen, &header):
            self.unlock(db, key, keylen)
            if not queued:
                self.wait_for(db, key, keylen, FAILED, client_id, p, n)
            return FAILED
        wants_readonly = flags & CALL_WANT_READONLY and db.tracking != NULL
        if header.flags & RO_FLAGS:
            verdict = self.client_readonly(db, key, keylen, &header, wants_readonly, client_id, p, n)
            if verdict >= 0:
                self.unlock(db, key, keylen)
                if verdict != DONE and not queued:
                    self.wait_for(db, key, keylen, verdict, client_id, p, n)
                return verdict
        if header.dmaster == self.pnn:
            data = NULL
            datalen = 0
            if self.record.size() > HEADER_BYTES:
                data = self.record.data() + HEADER_BYTES
                datalen = <uint32_t>self.record.size() - HEADER_BYTES
            # Executing a call counts as a change: its rsn grows, as upstream's does.
            verdict = DONE if self.store(db, key, keylen, &header, data, datalen) else FAILED
            if verdict == DONE:
                self.answer(client_id, load32(p + 28), callid, 0, &header, data, datalen)
            self.unlock(db, key, keylen)
            if verdict != DONE and not queued:
                self.wait_for(db, key, keylen, verdict, client_id, p, n)
            return verdict
        if header.dmaster >= self.node_flags.size():
            self.complain(b"dmaster", db, header.dmaster)
        self.send_call(db, header.dmaster, client_id, p, n, key, keylen)
        self.unlock(db, key, keylen)
        return DONE

    cdef uint32_t send_call(self, Db *db, uint32_t dmaster, uint32_t client_id, char *p, size_t n,
                            const char *key, uint32_t keylen) noexcept nogil:
        """Ask the node that seems to own the record; remember who asked. Returns the request id."""
        cdef uint32_t slot, reqid
        cdef Pending *pending
        cdef Conn *conn
        cdef char *q
        if self.pending_free.size() > 0:
            slot = self.pending_free.back()
            self.pending_free.pop_back()
        else:
            slot = <uint32_t>self.pending.size()
            self.pending.resize(slot + 1)
        pending = &self.pending[slot]
        pending.used = True
        pending.turn = (pending.turn + 1) & ((1 << (32 - SLOT_BITS)) - 1)
        pending.client_id = client_id
        pending.db_id = db.db_id
        pending.generation = self.generation
        pending.start_us = self.now_us
        pending.key.assign(key, keylen)
        pending.packet.assign(p, n)
        reqid = (pending.turn << SLOT_BITS) | slot
        self.counters.pending_calls += 1
        conn = self.client(client_id) if client_id else NULL
        if conn != NULL:
            conn.waiting += 1
        if self.fetch_collapse:
            self.keybuf.assign(key, keylen)
            db.in_flight[self.keybuf]
        q = self.packet_to_node(dmaster, OP_REQ_CALL, n, reqid, self.pnn)
        if q == NULL:
            # No link: the call stays pending. The node is about to be declared dead and the
            # recovery that follows repeats the call.
            return reqid
        memcpy(q + 32, p + 32, n - 32)
        store32(q + 44, 0)
        if load32(p + 32) & CALL_WANT_READONLY:
            if db.tracking != NULL:
                store32(q + 40, FETCH_WITH_HEADER)
            else:
                store32(q + 32, load32(p + 32) & ~<uint32_t>CALL_WANT_READONLY)
        return reqid

    cdef void answer(self, uint32_t client_id, uint32_t reqid, uint32_t callid, int status, Header *header,
                     const char *data, uint32_t datalen) noexcept nogil:
        """Answer a client's call: nothing for NULL, the data for FETCH, header and data on request."""
        cdef Conn *conn = self.client(client_id) if client_id else NULL
        cdef uint32_t n = 0
        cdef char *q
        if conn == NULL:
            return
        if callid == FETCH:
            n = datalen
        elif callid == FETCH_WITH_HEADER:
            n = datalen + HEADER_BYTES
        q = self.packet_to(conn, OP_REPLY_CALL, REPLY_CALL_DATA + n, reqid, self.pnn, self.pnn)
        if q == NULL:
            return
        store32(q + 32, <uint32_t>status)
        store32(q + 36, n)
        if callid == FETCH_WITH_HEADER:
            header.save(q + REPLY_CALL_DATA)
            memcpy(q + REPLY_CALL_DATA + HEADER_BYTES, data, datalen)
        elif n > 0:
            memcpy(q + REPLY_CALL_DATA, data, n)

    cdef int node_call(self, char *p, size_t n, cbool queued) noexcept nogil:
        """A node asks for a record: give it away, delegate it, or send the call where it belongs."""
        cdef uint32_t flags, callid, hopcount, keylen, requester = load32(p + 24), reqid = load32(p + 28)
        cdef const char *key = p + CALL_DATA
        cdef Db *db
        cdef Header header
        cdef uint32_t target, lmaster
        cdef cbool wants_readonly
        cdef int verdict
        cdef char *q
        if n < CALL_DATA:
            return DONE
        keylen = load32(p + 48)
        if keylen == 0 or keylen > n - CALL_DATA or load32(p + 52) > n - CALL_DATA - keylen:
            return DONE
        flags = load32(p + 32)
        callid = load32(p + 40)
        hopcount = load32(p + 44)
        db = self.db(load32(p + 36))
        if db == NULL:
            q = self.packet_to_node(requester, OP_REPLY_ERROR, 40, reqid, self.pnn)
            if q != NULL:
                store32(q + 32, <uint32_t>-1)
                store32(q + 36, 0)
            return DONE
        if self.not_serving(db):
            self.enqueue(&db.parked, 0, p, n)
            return DONE
        if not queued and self.must_wait(db, key, keylen, False, p, n, 0):
            return DONE
        if not self.lock(db, key, keylen):
            if not queued:
                self.wait_for(db, key, keylen, LOCKED, 0, p, n)
            return LOCKED
        if not self.read_or_create(db, key, keylen, &header):
            self.unlock(db, key, keylen)
            if not queued:
                self.wait_for(db, key, keylen, FAILED, 0, p, n)
            return FAILED
        wants_readonly = flags & CALL_WANT_READONLY and db.tracking != NULL and callid == FETCH_WITH_HEADER
        if header.dmaster != self.pnn:
            lmaster = self.lmaster(key, keylen)
            target = header.dmaster if lmaster == self.pnn else lmaster
            self.unlock(db, key, keylen)
            if target >= self.node_flags.size():
                self.complain(b"dmaster", db, target)
                return DONE
            store32(p + 44, hopcount + 1)
            self.forward(target, p, n)
            return DONE
        verdict = -1
        if wants_readonly or header.flags & RO_FLAGS:
            verdict = self.node_readonly(db, key, keylen, &header, wants_readonly, p, n)
        if verdict < 0 and requester != self.pnn:
            self.hold_until_us = self.held_until(db, key, keylen)
            if self.hold_until_us > self.now_us:
                verdict = HOLD
        if verdict < 0:
            if hopcount > self.counters.max_hop_count:
                self.counters.max_hop_count = hopcount
            self.counters.hop_buckets[hop_bucket(hopcount)] += 1
            db.stats.hop_buckets[hop_bucket(hopcount)] += 1
            if db.flags & DB_STICKY and hopcount >= self.hopcount_make_sticky:
                self.make_sticky(db, key, keylen)
            if requester == self.pnn:
                # The record came here by itself while the call went round.
                verdict = self.become_dmaster(db, key, keylen, self.record.data() + HEADER_BYTES,
                                              <uint32_t>self.record.size() - HEADER_BYTES if self.record.size() else 0,
                                              header.rsn, header.flags, reqid)
            else:
                verdict = self.give_away(db, key, keylen, &header, requester, reqid)
        self.unlock(db, key, keylen)
        if verdict != DONE and not queued:
            self.wait_for(db, key, keylen, verdict, 0, p, n)
        elif verdict == DONE and requester == self.pnn:
            self.finish_pending(db, reqid)
        return verdict

    # -- migration -------------------------------------------------------------------

    cdef int give_away(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t requester,
                       uint32_t reqid) noexcept nogil:
        """Make another node dmaster: stored here first, then sent (to the lmaster, or as lmaster)."""
        cdef const char *data = self.record.data() + HEADER_BYTES
        cdef uint32_t datalen = 0, lmaster = self.lmaster(key, keylen)
        if self.record.size() > HEADER_BYTES:
            datalen = <uint32_t>self.record.size() - HEADER_BYTES
            header.flags |= MIGRATED_WITH_DATA
        header.dmaster = requester
        if requester >= self.node_flags.size():
            return DONE
        if not self.store(db, key, keylen, header, data, datalen):
            return FAILED
        if lmaster == self.pnn:
            self.send_dmaster(OP_REPLY_DMASTER, requester, reqid, self.pnn, db, header, requester, key, keylen,
                              data, datalen)
        else:
            self.send_dmaster(OP_REQ_DMASTER, lmaster, reqid, self.pnn, db, header, requester, key, keylen,
                              data, datalen)
        return DONE

    cdef cbool send_dmaster(self, uint32_t operation, uint32_t destnode, uint32_t reqid, uint32_t srcnode, Db *db,
                            Header *header, uint32_t dmaster, const char *key, uint32_t keylen, const char *data,
                            uint32_t datalen) noexcept nogil:
        """Send a record; its flags follow the data and are not counted in its length."""
        cdef size_t at = REQ_DMASTER_DATA if operation == OP_REQ_DMASTER else REPLY_DMASTER_DATA
        cdef char *q = self.packet_to_node(destnode, operation, at + keylen + datalen + 4, reqid, srcnode)
        if q == NULL:
            return False
        store32(q + 32, db.db_id)
        store32(q + 36, 0)
        store64(q + 40, header.rsn)
        if operation == OP_REQ_DMASTER:
            store32(q + 48, dmaster)
            store32(q + 52, keylen)
            store32(q + 56, datalen)
        else:
            store32(q + 48, keylen)
            store32(q + 52, datalen)
        memcpy(q + at, key, keylen)
        memcpy(q + at + keylen, data, datalen)
        store32(q + at + keylen + datalen, header.flags)
        return True

    cdef int req_dmaster(self, char *p, size_t n, cbool queued) noexcept nogil:
        """The lmaster's part: note the new dmaster, stored first, and pass the record on."""
        cdef uint32_t db_id, keylen, datalen, dmaster, flags, sender = load32(p + 24), reqid = load32(p + 28)
        cdef uint64_t rsn
        cdef const char *key = p + REQ_DMASTER_DATA
        cdef const char *data
        cdef Db *db
        cdef Header header
        cdef int verdict
        if n < REQ_DMASTER_DATA:
            return DONE
        db_id = load32(p + 32)
        rsn = load64(p + 40)
        dmaster = load32(p + 48)
        keylen = load32(p + 52)
        datalen = load32(p + 56)
        if keylen == 0 or keylen > n - REQ_DMASTER_DATA or datalen > n - REQ_DMASTER_DATA - keylen:
            return DONE
        data = key + keylen
        flags = load32(data + datalen) if n - REQ_DMASTER_DATA - keylen - datalen >= 4 else 0
        db = self.db(db_id)
        if db == NULL:
            return DONE
        if self.not_serving(db):
            self.enqueue(&db.parked, 0, p, n)
            return DONE
        if not queued and self.must_wait(db, key, keylen, False, p, n, 0):
            return DONE
        if self.lmaster(key, keylen) != self.pnn or dmaster >= self.node_flags.size():
            self.complain(b"lmaster", db, sender)
            return DONE
        if not self.lock(db, key, keylen):
            if not queued:
                self.wait_for(db, key, keylen, LOCKED, 0, p, n)
            return LOCKED
        verdict = DONE
        if not self.read_or_create(db, key, keylen, &header):
            verdict = FAILED
        elif header.dmaster != sender and not (header.rsn <= 1 and header.dmaster == self.pnn
                                               and self.record.size() <= HEADER_BYTES):
            # It gave away what it did not own: two nodes may think they are dmaster.
            self.complain(b"dmaster", db, sender)
        elif dmaster == self.pnn:
            verdict = self.become_dmaster(db, key, keylen, data, datalen, rsn, flags, reqid)
        else:
            header.rsn = rsn
            header.flags = flags
            header.dmaster = dmaster
            if self.store(db, key, keylen, &header, data, datalen):
                self.send_dmaster(OP_REPLY_DMASTER, dmaster, reqid, self.pnn, db, &header, dmaster, key, keylen,
                                  data, datalen)
            else:
                verdict = FAILED
        self.unlock(db, key, keylen)
        if verdict != DONE and not queued:
            self.wait_for(db, key, keylen, verdict, 0, p, n)
        elif verdict == DONE and dmaster == self.pnn:
            self.finish_pending(db, reqid)
        return verdict

    cdef int reply_dmaster(self, char *p, size_t n, cbool queued) noexcept nogil:
        """The lmaster has made this node dmaster."""
        cdef uint32_t keylen, datalen, flags
        cdef const char *key = p + REPLY_DMASTER_DATA
        cdef const char *data
        cdef Db *db
        cdef int verdict
        if n < REPLY_DMASTER_DATA:
            return DONE
        keylen = load32(p + 48)
        datalen = load32(p + 52)
        if keylen == 0 or keylen > n - REPLY_DMASTER_DATA or datalen > n - REPLY_DMASTER_DATA - keylen:
            return DONE
        data = key + keylen
        flags = load32(data + datalen) if n - REPLY_DMASTER_DATA - keylen - datalen >= 4 else 0
        db = self.db(load32(p + 32))
        if db == NULL:
            return DONE
        if self.not_serving(db):
            self.enqueue(&db.parked, 0, p, n)
            return DONE
        if not queued and self.must_wait(db, key, keylen, False, p, n, 0):
            return DONE
        if not self.lock(db, key, keylen):
            if not queued:
                self.wait_for(db, key, keylen, LOCKED, 0, p, n)
            return LOCKED
        verdict = self.become_dmaster(db, key, keylen, data, datalen, load64(p + 40), flags, load32(p + 28))
        self.unlock(db, key, keylen)
        if verdict != DONE and not queued:
            self.wait_for(db, key, keylen, verdict, 0, p, n)
        elif verdict == DONE:
            self.finish_pending(db, load32(p + 28))
        return verdict

    cdef int become_dmaster(self, Db *db, const char *key, uint32_t keylen, const char *data, uint32_t datalen,
                            uint64_t rsn, uint32_t flags, uint32_t reqid) noexcept nogil:
        """Own a record (its chain is locked): store it, then answer the call that asked for it."""
        cdef Pending *pending = self.pending_of(reqid)
        cdef Header header
        cdef Sticky *sticky
        if pending != NULL and (pending.db_id != db.db_id or pending.key.size() != keylen
                                or pending.key.compare(0, keylen, key, keylen) != 0):
            pending = NULL
        header.rsn = rsn
        header.dmaster = self.pnn
        header.reserved = 0
        header.flags = flags
        if pending != NULL and load32(<char *>pending.packet.data() + 32) & CALL_VACUUM:
            header.flags |= VACUUM_MIGRATED
        if pending != NULL and not db.flags & DB_PERSISTENT and datalen > 0:
            # The call that is answered below counts as a change too: one store for both.
            header.rsn += 1
        if not self.store(db, key, keylen, &header, data, datalen):
            return FAILED
        if db.flags & DB_STICKY and not db.sticky.empty():
            self.keybuf.assign(key, keylen)
            it = db.sticky.find(self.keybuf)
            if it != db.sticky.end():
                sticky = &dereference(it).second
                if self.now_us >= sticky.until_us:
                    db.sticky.erase(it)
                else:
                    sticky.pinned_until_us = self.now_us + self.pindown_us
        self.count_migration(db, key, keylen)
        if pending == NULL:
            return DONE
        self.note_arrival(db, key, keylen, data, datalen)
        self.counters.call_latency.add(<double>(self.now_us - pending.start_us) / 1e6)
        self.answer(pending.client_id, load32(<char *>pending.packet.data() + 28),
                    load32(<char *>pending.packet.data() + 40), 0, &header, data, datalen)
        return DONE

    cdef void finish_pending(self, Db *db, uint32_t reqid) noexcept nogil:
        """A call is answered: forget it, and repeat the calls that waited for the same record."""
        cdef Pending *pending = self.pending_of(reqid)
        cdef deque[Queued] packets
        if pending == NULL:
            return
        self.keybuf.assign(pending.key)
        self.free_pending(reqid)
        it = db.in_flight.find(self.keybuf)
        if it == db.in_flight.end():
            return
        packets.swap(dereference(it).second)
        db.in_flight.erase(it)
        self.replay(&packets)

    # -- replies -----------------------------------------------------------------------

    cdef int reply_call(self, char *p, size_t n, cbool queued) noexcept nogil:
        """A node answered a call without giving the record away: a read-only copy, or an error."""
        cdef Pending *pending
        cdef Db *db
        cdef uint32_t reqid = load32(p + 28), datalen, callid, client_reqid, client_id
        cdef int32_t status
        cdef const char *data = p + REPLY_CALL_DATA
        cdef Header header
        cdef string key
        cdef int verdict
        cdef cbool readonly
        if n < REPLY_CALL_DATA:
            return DONE
        datalen = load32(p + 36)
        status = <int32_t>load32(p + 32)
        if datalen > n - REPLY_CALL_DATA:
            return DONE
        pending = self.pending_of(reqid)
        if pending == NULL:
            return DONE
        db = self.db(pending.db_id)
        if db == NULL:
            self.free_pending(reqid)
            return DONE
        key = pending.key
        readonly = load32(<char *>pending.packet.data() + 32) & CALL_WANT_READONLY and db.tracking != NULL
        if readonly and status == 0 and datalen >= HEADER_BYTES:
            if not self.lock(db, key.data(), <uint32_t>key.size()):
                if not queued:
                    self.wait_for(db, key.data(), <uint32_t>key.size(), LOCKED, 0, p, n)
                return LOCKED
            self.take_delegation(db, key.data(), <uint32_t>key.size(), data, datalen)
            self.unlock(db, key.data(), <uint32_t>key.size())
            header.load(data)
            data += HEADER_BYTES
            datalen -= HEADER_BYTES
        callid = load32(<char *>pending.packet.data() + 40)
        client_reqid = load32(<char *>pending.packet.data() + 28)
        client_id = pending.client_id
        self.counters.call_latency.add(<double>(self.now_us - pending.start_us) / 1e6)
        self.answer(client_id, client_reqid, callid, status, &header, data, datalen)
        self.finish_pending(db, reqid)
        return DONE

    cdef void reply_error(self, char *p, size_t n) noexcept nogil:
        """A node does not know the database yet: its attach is on the way, so ask again soon."""
        cdef uint32_t reqid = load32(p + 28)
        cdef Pending *pending = self.pending_of(reqid)
        cdef Db *db
        if pending == NULL:
            return
        db = self.db(pending.db_id)
        if pending.client_id != 0:
            self.enqueue(&self.late, pending.client_id, pending.packet.data(), pending.packet.size())
            if self.late_us == 0:
                self.late_us = self.now_us + LATE_US
        if db != NULL:
            self.finish_pending(db, reqid)
        else:
            self.free_pending(reqid)

    # -- records that many want ----------------------------------------------------------

    cdef void note_arrival(self, Db *db, const char *key, uint32_t keylen, const char *data,
                           uint32_t datalen) noexcept nogil:
        """Remember a record that just arrived for a client here, to give that client a moment with it."""
        cdef Arrival *arrival
        cdef uint64_t hashed
        if self.hold_us == 0:
            return
        if db.arrivals.size() == 0:
            db.arrivals.resize(ARRIVAL_SLOTS)
        hashed = hash64(key, keylen)
        arrival = &db.arrivals[hashed & (ARRIVAL_SLOTS - 1)]
        arrival.hash = hashed
        arrival.at_us = self.now_us
        arrival.data_hash = hash64(data, datalen)

    cdef uint64_t held_until(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """Until when the record in self.record is not given away; 0 for not held.

        A record that arrived less than RecordHoldUs ago and is byte for byte what arrived has
        not been used yet: giving it away now would cost another round for nothing. A
        sticky record stays for StickyPindown.
        """
        cdef Arrival *arrival
        cdef uint64_t hashed, until = 0
        cdef size_t datalen
        if self.hold_us and db.arrivals.size() > 0:
            hashed = hash64(key, keylen)
            arrival = &db.arrivals[hashed & (ARRIVAL_SLOTS - 1)]
            if arrival.hash == hashed and self.now_us < arrival.at_us + self.hold_us:
                datalen = self.record.size() - HEADER_BYTES if self.record.size() > HEADER_BYTES else 0
                if arrival.data_hash == hash64(self.record.data() + HEADER_BYTES, datalen):
                    until = arrival.at_us + self.hold_us
                    db.stats.holds += 1
        if db.flags & DB_STICKY and not db.sticky.empty():
            self.keybuf.assign(key, keylen)
            it = db.sticky.find(self.keybuf)
            if it != db.sticky.end() and dereference(it).second.pinned_until_us > until:
                until = dereference(it).second.pinned_until_us
        return until

    cdef void make_sticky(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """This record bounces: for StickyDuration it stays StickyPindown wherever it arrives."""
        self.keybuf.assign(key, keylen)
        db.sticky[self.keybuf].until_us = self.now_us + self.sticky_us

    # -- read-only copies: overridden in delegation.pyx --------------------------------------

    cdef int client_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                             uint32_t client_id, const char *p, size_t n) noexcept nogil:
        return -1

    cdef int node_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                           const char *p, size_t n) noexcept nogil:
        return -1

    cdef int take_delegation(self, Db *db, const char *key, uint32_t keylen, const char *data,
                             uint32_t datalen) noexcept nogil:
        return DONE

    cdef int internal_packet(self, char *p, size_t n) noexcept nogil:
        return DONE
