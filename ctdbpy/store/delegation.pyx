# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Read-only delegations: copies of a record on nodes that only read it.

The dmaster of a record hands out copies and notes in a tracking TDB which nodes have one, before
it sends it. Before anybody writes, all copies come back: the record is marked as revoking, calls for it
are deferred, the core has every holder store a newer plain version (upcall REVOKE), then
`revoked` lets the calls go on. A recovery, which rewrites every record, ends all delegations.
Record versions: a copy has rsn+1 of the record before, its recall rsn+2, the record itself rsn+3.
Source: WANT_READONLY and FETCH_WITH_HEADER calls of the ctdb protocol.
"""

from cython.operator cimport dereference
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.string cimport string
from libcpp.vector cimport vector

from ctdbpy.store.calls cimport CALL_WANT_READONLY, HEADER_BYTES, OP_REPLY_CALL, REPLY_CALL_DATA, Calls
from ctdbpy.store.connections cimport UPCALL_REVOKE
from ctdbpy.store.engine_types cimport Buffer, Db, Header, Queued, load32, store32
from ctdbpy.store.libtdb cimport (
    TDB_DATA, TDB_ERR_NOEXIST, tdb_delete, tdb_error, tdb_parse_record, tdb_store, tdb_wipe_all,
)
from ctdbpy.store.records cimport (
    MIGRATED_WITH_DATA, RECORD_ABSENT, RECORD_FOUND, RECORD_UNREADABLE, RO_FLAGS, RO_HAVE_DELEGATIONS,
    RO_HAVE_READONLY, RO_REVOKE_COMPLETE, RO_REVOKING,
)
from ctdbpy.store.waiting cimport DONE, FAILED, LOCKED

cdef enum:
    NODE_DELETED = 0x10
    # An internal packet, which nobody can send: header, db_id, good, keylen, key.
    INTERNAL_DATA = 44
    RECORD_DATA = 16
    BUFFER_DATA = 8


cdef int copy_bits(TDB_DATA key, TDB_DATA data, void *target) noexcept nogil:
    return 0 if (<Buffer *>target).assign(data.dptr, data.dsize) else -1


cdef inline TDB_DATA as_data(const char *p, size_t n) noexcept nogil:
    cdef TDB_DATA data
    data.dptr = <unsigned char *>p
    data.dsize = n
    return data


cdef class Delegation(Calls):
    """Hands out copies and takes them back before somebody writes."""

    # -- what a call meets (its chain is locked, its record is in self.record) ----------------

    cdef int client_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                             uint32_t client_id, const char *p, size_t n) noexcept nogil:
        """A client's call for a record with read-only flags: a verdict, or GO_ON."""
        if header.flags & RO_REVOKE_COMPLETE and not self.clear_revoked(db, key, keylen, header):
            return FAILED
        if header.dmaster != self.pnn:
            if wants_readonly and header.flags & RO_HAVE_READONLY and not header.flags & RO_REVOKING:
                self.answer(client_id, load32(p + 28), load32(p + 40), 0, header, self.data(), self.datalen())
                return DONE
            return GO_ON
        if header.flags & RO_REVOKING or (header.flags & RO_FLAGS and not wants_readonly):
            return self.revoke(db, key, keylen, header, client_id, p, n)
        return GO_ON

    cdef int node_readonly(self, Db *db, const char *key, uint32_t keylen, Header *header, cbool wants_readonly,
                           const char *p, size_t n) noexcept nogil:
        """A node's call for a record owned here that is delegated, or may be: a verdict, or GO_ON."""
        if header.flags & RO_REVOKE_COMPLETE and not self.clear_revoked(db, key, keylen, header):
            return FAILED
        if header.flags & RO_REVOKING or (header.flags & RO_FLAGS and not wants_readonly):
            return self.revoke(db, key, keylen, header, 0, p, n)
        if wants_readonly:
            return self.delegate(db, key, keylen, header, load32(p + 24), load32(p + 28))
        return GO_ON

    # -- handing out ----------------------------------------------------------------------------

    cdef int delegate(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t requester,
                      uint32_t reqid) noexcept nogil:
        """Send a copy to a node; that it has one is stored before, and so are the record's flags."""
        cdef size_t byte = requester >> 3, size
        cdef uint32_t datalen = self.datalen()
        cdef Header copy
        cdef char *q
        if requester >= self.node_flags.size() or not self.reachable(requester):
            return DONE
        if not self.read_bitmap(db, key, keylen):
            return FAILED
        size = self.bitmap.size()
        if size <= byte:
            if self.bitmap.reserve(byte + 1 - size) == NULL:
                return FAILED
            memset(self.bitmap.data() + size, 0, byte + 1 - size)
            self.bitmap.end += byte + 1 - size
        self.bitmap.data()[byte] |= <char>(1 << (requester & 7))
        if tdb_store(db.tracking, as_data(key, keylen), as_data(self.bitmap.data(), self.bitmap.size()), 0) != 0:
            self.write_errors += 1
            return FAILED
        if not header.flags & RO_HAVE_DELEGATIONS:
            header.rsn += 3
            # From now on other nodes have data of this record, even if it never moves.
            header.flags |= RO_HAVE_DELEGATIONS | MIGRATED_WITH_DATA
            if not self.store_raw(db, key, keylen, header, self.data(), datalen):
                return FAILED
        q = self.packet_to_node(requester, OP_REPLY_CALL, <size_t>REPLY_CALL_DATA + HEADER_BYTES + datalen, reqid,
                                self.pnn)
        if q == NULL:
            return DONE
        store32(q + 32, 0)
        store32(q + 36, HEADER_BYTES + datalen)
        copy = header[0]
        copy.rsn -= 2
        copy.flags = (header.flags & ~<uint32_t>RO_FLAGS) | RO_HAVE_READONLY
        copy.save(q + REPLY_CALL_DATA)
        if datalen > 0:
            memcpy(q + REPLY_CALL_DATA + HEADER_BYTES, self.data(), datalen)
        self.counters.total_ro_delegations += 1
        db.stats.ro_delegations += 1
        return DONE

    cdef void take_copy(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                        uint32_t datalen) noexcept nogil:
        """Keep a delegated copy, at once or never: its recall may follow right behind.

        Whoever asked has its answer either way; without the copy the next reader asks again.
        """
        cdef Header here
        cdef int found
        if not header.flags & RO_HAVE_READONLY or header.dmaster == self.pnn or self.not_serving(db):
            return
        if header.dmaster >= self.node_flags.size():
            return
        self.keybuf.assign(key, keylen)
        if db.waits.count(self.keybuf) or not self.lock(db, key, keylen):
            return
        found = self.read(db, key, keylen, &here)
        if found == RECORD_ABSENT or (found == RECORD_FOUND and here.dmaster != self.pnn and here.rsn < header.rsn):
            header.flags &= ~<uint32_t>(RO_FLAGS & ~RO_HAVE_READONLY)
            self.store(db, key, keylen, header, data, datalen)
        self.unlock(db, key, keylen)

    cdef cbool read_bitmap(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """Read who has copies into self.bitmap, empty if nobody is noted. False when that cannot be read."""
        self.bitmap.clear()
        if db.tracking == NULL or tdb_parse_record(db.tracking, as_data(key, keylen), copy_bits, &self.bitmap) == 0:
            return True
        self.bitmap.clear()
        return tdb_error(db.tracking) == TDB_ERR_NOEXIST

    cdef cbool holders(self, Db *db, const char *key, uint32_t keylen, vector[uint32_t] *pnns) noexcept nogil:
        """The nodes that have a copy, oneself and nodes that are configured no more left out."""
        cdef uint32_t pnn, count
        if not self.read_bitmap(db, key, keylen):
            return False
        count = <uint32_t>min(self.bitmap.size() * 8, self.node_flags.size())
        for pnn in range(count):
            if self.bitmap.data()[pnn >> 3] & (1 << (pnn & 7)) and pnn != self.pnn \
                    and not self.node_flags[pnn] & NODE_DELETED:
                pnns.push_back(pnn)
        return True

    # -- taking back ------------------------------------------------------------------------------

    cdef int revoke(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t client_id,
                    const char *p, size_t n) noexcept nogil:
        """Have the copies of a record come back and defer a call until then; GO_ON if nobody has one."""
        cdef vector[uint32_t] pnns
        self.keybuf.assign(key, keylen)
        if db.revoking.count(self.keybuf):
            self.defer(db, key, keylen, client_id, p, n)
            return DONE
        if not self.holders(db, key, keylen, &pnns):
            return FAILED
        if pnns.empty():
            if not self.clear_revoked(db, key, keylen, header):
                return FAILED
            return GO_ON
        header.flags |= RO_REVOKING
        if not self.store_raw(db, key, keylen, header, self.data(), self.datalen()):
            return FAILED
        self.defer(db, key, keylen, client_id, p, n)
        self.ask_revoke(db, key, keylen, header, &pnns)
        return DONE

    cdef cbool clear_revoked(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil:
        """No copy is out any more: an ordinary record again. False when it could not be stored."""
        if header.dmaster != self.pnn:
            return True
        header.flags = (header.flags & ~<uint32_t>RO_FLAGS) | MIGRATED_WITH_DATA
        if not self.store(db, key, keylen, header, self.data(), self.datalen()):
            return False
        if db.tracking != NULL:
            tdb_delete(db.tracking, as_data(key, keylen))
        self.counters.total_ro_revokes += 1
        db.stats.ro_revokes += 1
        return True

    cdef void defer(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, const char *p,
                    size_t n) noexcept nogil:
        self.keybuf.assign(key, keylen)
        self.enqueue(&db.revoking[self.keybuf], client_id, p, n)

    cdef void ask_revoke(self, Db *db, const char *key, uint32_t keylen, Header *header,
                         vector[uint32_t] *pnns) noexcept nogil:
        """Upcall REVOKE: u32 keylen, u32 number of nodes, key, pnns, and the rec_buffer that they must store."""
        cdef string text
        cdef uint32_t datalen = HEADER_BYTES + self.datalen()
        cdef size_t at = 8 + <size_t>keylen
        cdef Header recall = header[0]
        cdef char *q
        cdef size_t i
        text.resize(at + 4 * pnns.size() + BUFFER_DATA + RECORD_DATA + keylen + datalen)
        q = <char *>text.data()
        store32(q, keylen)
        store32(q + 4, <uint32_t>pnns.size())
        memcpy(q + 8, key, keylen)
        q += at
        for i in range(pnns.size()):
            store32(q, pnns[0][i])
            q += 4
        store32(q, db.db_id)
        store32(q + 4, 1)
        q += BUFFER_DATA
        store32(q, RECORD_DATA + keylen + datalen)
        store32(q + 4, 0)
        store32(q + 8, keylen)
        store32(q + 12, datalen)
        memcpy(q + RECORD_DATA, key, keylen)
        q += RECORD_DATA + keylen
        recall.rsn -= 1
        recall.flags = (header.flags & ~<uint32_t>RO_FLAGS) | MIGRATED_WITH_DATA
        recall.save(q)
        if self.datalen() > 0:
            memcpy(q + HEADER_BYTES, self.data(), self.datalen())
        self.upcall(UPCALL_REVOKE, db.db_id, self.generation, text.data(), text.size())

    cdef void submit_revoked(self, uint32_t db_id, const char *key, uint32_t keylen, cbool good) noexcept nogil:
        """The core's answer goes through the queues as a packet of this node: its chain may be locked."""
        cdef string packet
        cdef char *p
        packet.resize(INTERNAL_DATA + keylen)
        p = <char *>packet.data()
        store32(p + 12, self.generation)
        store32(p + 16, OP_INTERNAL)
        store32(p + 32, db_id)
        store32(p + 36, good)
        store32(p + 40, keylen)
        memcpy(p + INTERNAL_DATA, key, keylen)
        self.handle(0, p, packet.size(), False)

    cdef int revoked_packet(self, char *p, size_t n, cbool queued) noexcept nogil:
        cdef Db *db = self.db(load32(p + 32))
        cdef cbool good = load32(p + 36)
        cdef uint32_t keylen = load32(p + 40)
        cdef const char *key = p + INTERNAL_DATA
        cdef Header header
        cdef int verdict = DONE, found
        if db == NULL:
            return DONE
        self.keybuf.assign(key, keylen)
        if not db.revoking.count(self.keybuf):
            return DONE
        if self.not_serving(db):
            self.enqueue(&db.parked, 0, p, n)
            return DONE
        if not queued and self.must_wait(db, key, keylen, 0, p, n):
            return DONE
        if not self.lock(db, key, keylen):
            return self.waits(db, key, keylen, LOCKED, 0, p, n, queued)
        found = self.read(db, key, keylen, &header)
        if found == RECORD_UNREADABLE:
            verdict = FAILED
        elif found == RECORD_FOUND and header.dmaster == self.pnn and header.flags & RO_REVOKING:
            if good:
                if not self.clear_revoked(db, key, keylen, &header):
                    verdict = FAILED
                elif self.client_writes(db, key, keylen):
                    self.note_arrival(db, key, keylen, self.data(), self.datalen())
            else:
                header.flags &= ~<uint32_t>RO_REVOKING
                if not self.store_raw(db, key, keylen, &header, self.data(), self.datalen()):
                    verdict = FAILED
        self.unlock(db, key, keylen)
        if verdict == DONE:
            self.repeat_deferred(db, key, keylen, good)
        return self.waits(db, key, keylen, verdict, 0, p, n, queued)

    cdef cbool client_writes(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """True if the first who waits to write is a client here: the record is as good as newly arrived for it."""
        cdef deque[Queued] *waited
        cdef size_t i
        self.keybuf.assign(key, keylen)
        waited = &db.revoking[self.keybuf]
        for i in range(waited.size()):
            if not load32(waited[0][i].bytes.data() + 32) & CALL_WANT_READONLY:
                return waited[0][i].client_id != 0
        return False

    cdef void repeat_deferred(self, Db *db, const char *key, uint32_t keylen, cbool good) noexcept nogil:
        """Writers go on at once, readers a little later: they would make copies again before anybody wrote."""
        cdef deque[Queued] waited, writers
        cdef cbool reads
        self.keybuf.assign(key, keylen)
        it = db.revoking.find(self.keybuf)
        if it == db.revoking.end():
            return
        waited.swap(dereference(it).second)
        db.revoking.erase(it)
        while not waited.empty():
            reads = load32(waited.front().bytes.data() + 32) & CALL_WANT_READONLY
            if good and not reads:
                writers.emplace_back()
                writers.back().client_id = waited.front().client_id
                writers.back().bytes.swap(waited.front().bytes)
            else:
                self.late.emplace_back()
                self.late.back().client_id = waited.front().client_id
                self.late.back().bytes.swap(waited.front().bytes)
            waited.pop_front()
        self.replay_late()
        self.replay(&writers)

    cdef void forget_copies(self, Db *db) noexcept nogil:
        """A recovery has rewritten every record everywhere: no copy is out any more."""
        if db.tracking != NULL:
            tdb_wipe_all(db.tracking)
