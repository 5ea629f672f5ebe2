# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ownership of records: who is dmaster, and how that moves.

A client calls for a record; if another node owns it, the call goes to that node (as far
as known here), from there by way of the lmaster to the real owner, which gives the
record away: stored first, then sent. The lmaster notes the new dmaster, stored
first, and the record comes to rest where it was asked for.
Source: REQ_CALL, REQ_DMASTER and REPLY_DMASTER of the ctdb protocol.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool

from ctdbpy.store.calls cimport (
    CALL_DATA, CALL_FETCH_WITH_HEADER, CALL_VACUUM, CALL_WANT_READONLY, HEADER_BYTES, OP_REPLY_CALL,
    OP_REPLY_DMASTER, OP_REPLY_ERROR, OP_REQ_CALL, OP_REQ_DMASTER,
)
from ctdbpy.store.delegation cimport GO_ON, OP_INTERNAL, Delegation
from ctdbpy.store.engine_types cimport Conn, Db, Header, Pending, hop_bucket, load32, load64, store32, store64
from ctdbpy.store.records cimport DB_STICKY, MIGRATED_WITH_DATA, RO_FLAGS, VACUUM_MIGRATED
from ctdbpy.store.waiting cimport DONE, FAILED, HOLD, LOCKED

cdef enum:
    REQ_DMASTER_DATA = 60
    REPLY_DMASTER_DATA = 56
    # A call that has come this far round finds no owner: the record was lost with a link.
    HOPS_LOST = 10000


cdef class Ownership(Delegation):
    """Calls of clients and nodes, and the packets that move records."""

    # -- dispatch --------------------------------------------------------------

    cdef void client_packet(self, Conn *conn, char *p, size_t n) noexcept nogil:
        if load32(p + 16) != OP_REQ_CALL:
            Delegation.client_packet(self, conn, p, n)
        elif n < CALL_DATA or load32(p + 48) == 0 or load32(p + 48) > n - CALL_DATA \
                or load32(p + 52) > n - CALL_DATA - load32(p + 48):
            self.end(conn, b"call shorter than its fields")
        elif self.may_wait(conn, n):
            self.counters.total_calls += 1
            self.handle(conn.id, p, n, False)

    cdef void node_packet(self, uint32_t pnn, char *p, size_t n) noexcept nogil:
        if load32(p + 16) > OP_REPLY_ERROR:
            Delegation.node_packet(self, pnn, p, n)
        elif self.inactive:
            self.counters.dropped += 1
        else:
            self.handle(0, p, n, False)

    cdef int handle(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil:
        cdef uint32_t operation = load32(p + 16)
        if client_id != 0:
            return self.client_call(client_id, p, n, queued)
        if load32(p + 12) != self.generation:
            self.counters.dropped += 1
            return DONE
        if operation == OP_REQ_CALL:
            return self.node_call(p, n, queued)
        if operation == OP_REQ_DMASTER or operation == OP_REPLY_DMASTER:
            return self.dmaster_packet(p, n, queued)
        if operation == OP_REPLY_CALL:
            return self.reply_call(p, n)
        if operation == OP_REPLY_ERROR:
            self.reply_error(p, n)
        elif operation == OP_INTERNAL:
            return self.revoked_packet(p, n, queued)
        return DONE

    # -- calls ---------------------------------------------------------------------

    cdef int client_call(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil:
        """A local program wants a record here (NULL), or wants to see it (FETCH)."""
        cdef uint32_t keylen = load32(p + 48)
        cdef const char *key = p + CALL_DATA
        cdef Db *db = self.db(load32(p + 36))
        cdef int verdict = LOCKED
        if db == NULL:
            return DONE
        if self.inactive or self.not_serving(db):
            self.enqueue(&db.parked, client_id, p, n)
            return DONE
        if self.collapse(db, key, keylen, client_id, p, n):
            return DONE
        if not queued and self.must_wait(db, key, keylen, client_id, p, n):
            return DONE
        if self.lock(db, key, keylen):
            verdict = self.serve_client(db, key, keylen, client_id, p, n)
            self.unlock(db, key, keylen)
        return self.waits(db, key, keylen, verdict, client_id, p, n, queued)

    cdef int serve_client(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, char *p,
                          size_t n) noexcept nogil:
        """The same, with the chain locked: answer it here, or send it to the dmaster."""
        cdef Header header
        cdef int verdict
        if not self.read_or_create(db, key, keylen, &header):
            return FAILED
        if header.flags & RO_FLAGS:
            verdict = self.client_readonly(db, key, keylen, &header,
                                           load32(p + 32) & CALL_WANT_READONLY and db.tracking != NULL,
                                           client_id, p, n)
            if verdict != GO_ON:
                return verdict
        if header.dmaster == self.pnn:
            # Executing a call counts as a change: the rsn grows, as it does with upstream.
            if not self.store(db, key, keylen, &header, self.data(), self.datalen()):
                return FAILED
            self.answer(client_id, load32(p + 28), load32(p + 40), 0, &header, self.data(), self.datalen())
            return DONE
        if header.dmaster >= self.node_flags.size():
            self.complain(b"dmaster", db, header.dmaster)
        self.send_call(db, header.dmaster, client_id, p, n, key, keylen)
        return DONE

    cdef int node_call(self, char *p, size_t n, cbool queued) noexcept nogil:
        """A node asks for a record: give it away, delegate it, or send the call where it belongs."""
        cdef uint32_t keylen, requester = load32(p + 24), reqid = load32(p + 28)
        cdef const char *key = p + CALL_DATA
        cdef Db *db
        cdef int verdict = LOCKED
        cdef char *q
        if n < CALL_DATA:
            return DONE
        keylen = load32(p + 48)
        if keylen == 0 or keylen > n - CALL_DATA or load32(p + 52) > n - CALL_DATA - keylen:
            return DONE
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
        if not queued and self.must_wait(db, key, keylen, 0, p, n):
            return DONE
        self.answered = False
        if self.lock(db, key, keylen):
            verdict = self.serve_node(db, key, keylen, p, n)
            self.unlock(db, key, keylen)
        if self.answered:
            self.finish_pending(reqid)
        return self.waits(db, key, keylen, verdict, 0, p, n, queued)

    cdef int serve_node(self, Db *db, const char *key, uint32_t keylen, char *p, size_t n) noexcept nogil:
        """The same, with the chain locked."""
        cdef uint32_t hopcount = load32(p + 44), requester = load32(p + 24), reqid = load32(p + 28)
        cdef cbool wants_readonly
        cdef Header header
        cdef Pending *pending
        cdef int verdict
        if not self.read_or_create(db, key, keylen, &header):
            return FAILED
        if header.dmaster != self.pnn:
            self.redirect(db, key, keylen, header.dmaster, p, n)
            return DONE
        if requester == self.pnn:
            # The record came here by itself while the call went round.
            pending = self.pending_for(reqid, db, key, keylen)
            if pending != NULL:
                self.answer_pending(pending, 0, &header, self.data(), self.datalen())
                self.answered = True
            return DONE
        if not header.flags & RO_FLAGS:
            self.hold_until_us = self.held_until(db, key, keylen)
            if self.hold_until_us > self.now_us:
                return HOLD
        wants_readonly = load32(p + 32) & CALL_WANT_READONLY and db.tracking != NULL \
            and load32(p + 40) == CALL_FETCH_WITH_HEADER
        if wants_readonly or header.flags & RO_FLAGS:
            verdict = self.node_readonly(db, key, keylen, &header, wants_readonly, p, n)
            if verdict != GO_ON:
                return verdict
        if hopcount > self.counters.max_hop_count:
            self.counters.max_hop_count = hopcount
        self.counters.hop_buckets[hop_bucket(hopcount)] += 1
        db.stats.hop_buckets[hop_bucket(hopcount)] += 1
        if db.flags & DB_STICKY and hopcount >= self.hopcount_make_sticky:
            self.make_sticky(db, key, keylen, self.sticky_us)
        return self.give_away(db, key, keylen, &header, requester, reqid)

    cdef void redirect(self, Db *db, const char *key, uint32_t keylen, uint32_t dmaster, char *p,
                       size_t n) noexcept nogil:
        """Send a call on to the lmaster, or as lmaster to the dmaster."""
        cdef uint32_t lmaster = self.lmaster(key, keylen), hopcount = load32(p + 44) + 1
        cdef uint32_t target = dmaster if lmaster == self.pnn else lmaster
        if target >= self.node_flags.size() or hopcount % HOPS_LOST == 0:
            self.complain(b"dmaster", db, target)
        store32(p + 44, hopcount)
        self.forward(target, p, n)

    # -- migration -------------------------------------------------------------------

    cdef int give_away(self, Db *db, const char *key, uint32_t keylen, Header *header, uint32_t requester,
                       uint32_t reqid) noexcept nogil:
        """Make another node dmaster: stored here first, then sent (to the lmaster, or as lmaster)."""
        cdef uint32_t lmaster = self.lmaster(key, keylen), datalen = self.datalen()
        cdef const char *data = self.data()
        if requester >= self.node_flags.size():
            return DONE
        if not self.reachable(requester if lmaster == self.pnn else lmaster):
            # It would be lost on the way. Here it can still be used until the recovery that must follow.
            self.counters.dropped += 1
            return DONE
        if datalen > 0:
            header.flags |= MIGRATED_WITH_DATA
        header.dmaster = requester
        if not self.store(db, key, keylen, header, data, datalen):
            return FAILED
        if lmaster == self.pnn:
            self.send_dmaster(OP_REPLY_DMASTER, requester, reqid, db, header, requester, self.pnn, key, keylen, data,
                              datalen)
        else:
            self.send_dmaster(OP_REQ_DMASTER, lmaster, reqid, db, header, requester, self.pnn, key, keylen, data,
                              datalen)
        return DONE

    cdef cbool send_dmaster(self, uint32_t operation, uint32_t destnode, uint32_t reqid, Db *db, Header *header,
                            uint32_t dmaster, uint32_t former, const char *key, uint32_t keylen, const char *data,
                            uint32_t datalen) noexcept nogil:
        """Send a record; its flags follow the data and are not counted in its length.

        The new dmaster is told who had it, in what is padding to upstream: pnn + 1, as upstream leaves 0 there.
        """
        cdef size_t at = REQ_DMASTER_DATA if operation == OP_REQ_DMASTER else REPLY_DMASTER_DATA
        cdef char *q = self.packet_to_node(destnode, operation, at + keylen + datalen + 4, reqid, self.pnn)
        if q == NULL:
            return False
        store32(q + 32, db.db_id)
        store32(q + 36, former + 1 if operation == OP_REPLY_DMASTER else 0)
        store64(q + 40, header.rsn)
        if operation == OP_REQ_DMASTER:
            store32(q + 48, dmaster)
            store32(q + 52, keylen)
            store32(q + 56, datalen)
        else:
            store32(q + 48, keylen)
            store32(q + 52, datalen)
        memcpy(q + at, key, keylen)
        if datalen > 0:
            memcpy(q + at + keylen, data, datalen)
        store32(q + at + keylen + datalen, header.flags)
        return True

    cdef int dmaster_packet(self, char *p, size_t n, cbool queued) noexcept nogil:
        """A record on its way: to its lmaster, which passes it on (REQ_DMASTER), or to its new dmaster here."""
        cdef uint32_t operation = load32(p + 16), reqid = load32(p + 28)
        cdef size_t at = REQ_DMASTER_DATA if operation == OP_REQ_DMASTER else REPLY_DMASTER_DATA
        cdef uint32_t keylen, datalen, flags = 0
        cdef const char *key = p + at
        cdef const char *data
        cdef Db *db
        cdef int verdict = LOCKED
        if n < at:
            return DONE
        keylen = load32(p + at - 8)
        datalen = load32(p + at - 4)
        if keylen == 0 or keylen > n - at or datalen > n - at - keylen:
            return DONE
        data = key + keylen
        if n - at - keylen - datalen >= 4:
            # Read-only flags say what the sender's copy was; nothing of that holds for its new dmaster.
            flags = load32(data + datalen) & ~<uint32_t>RO_FLAGS
        db = self.db(load32(p + 32))
        if db == NULL:
            return DONE
        if self.not_serving(db):
            self.enqueue(&db.parked, 0, p, n)
            return DONE
        if not queued and self.must_wait(db, key, keylen, 0, p, n):
            return DONE
        self.answered = False
        if self.lock(db, key, keylen):
            if operation == OP_REQ_DMASTER:
                verdict = self.serve_lmaster(db, key, keylen, data, datalen, load64(p + 40), flags, p)
            else:
                verdict = self.become_dmaster(db, key, keylen, data, datalen, load64(p + 40), flags, reqid,
                                              load32(p + 36) - 1)
            self.unlock(db, key, keylen)
        if self.answered:
            self.finish_pending(reqid)
        return self.waits(db, key, keylen, verdict, 0, p, n, queued)

    cdef int serve_lmaster(self, Db *db, const char *key, uint32_t keylen, const char *data, uint32_t datalen,
                           uint64_t rsn, uint32_t flags, char *p) noexcept nogil:
        """The lmaster's part (the chain is locked): note the new dmaster, stored first, and pass the record on."""
        cdef uint32_t sender = load32(p + 24), reqid = load32(p + 28), dmaster = load32(p + 48)
        cdef Header header
        if self.lmaster(key, keylen) != self.pnn or dmaster >= self.node_flags.size():
            self.complain(b"dmaster", db, sender)
            return DONE
        if not self.read_or_create(db, key, keylen, &header):
            return FAILED
        if header.dmaster != sender and not (header.rsn <= 1 and header.dmaster == self.pnn
                                             and self.datalen() == 0):
            # It gave away what it did not own: two nodes may think they are dmaster.
            self.complain(b"dmaster", db, sender)
            return DONE
        if dmaster == self.pnn:
            return self.become_dmaster(db, key, keylen, data, datalen, rsn, flags, reqid, sender)
        header.rsn = rsn
        header.flags = flags
        header.dmaster = dmaster
        if not self.store(db, key, keylen, &header, data, datalen):
            return FAILED
        self.send_dmaster(OP_REPLY_DMASTER, dmaster, reqid, db, &header, dmaster, sender, key, keylen, data, datalen)
        return DONE

    cdef int become_dmaster(self, Db *db, const char *key, uint32_t keylen, const char *data, uint32_t datalen,
                            uint64_t rsn, uint32_t flags, uint32_t reqid, uint32_t former) noexcept nogil:
        """Own a record (its chain is locked): store it, then answer the call that asked for it, if it still waits."""
        cdef Pending *pending = self.pending_for(reqid, db, key, keylen)
        cdef Header header
        header.rsn = rsn
        header.dmaster = self.pnn
        header.reserved = 0
        header.flags = flags
        if pending != NULL and load32(pending.packet.data() + 32) & CALL_VACUUM:
            header.flags |= VACUUM_MIGRATED
        if not self.store(db, key, keylen, &header, data, datalen):
            return FAILED
        self.settle(db, key, keylen, self.waiters(db, key, keylen))
        if pending == NULL:
            return DONE
        if pending.client_id != 0:
            self.note_arrival(db, key, keylen, data, datalen)
        self.learn(pending, former)
        self.answer_pending(pending, 0, &header, data, datalen)
        self.answered = True
        return DONE
