# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What has to wait: for a chain lock, for a moment, for a record in flight, for a recovery.

Packets for one key that met a lock queue in the order they came and are tried
again after 50 µs, then less often, up to every millisecond; a lock that is still taken
after some milliseconds is handed to a waiter process (upcall LOCK_WAIT). Every queue
counts towards its client, so that one client cannot fill the memory.
"""

from cython.operator cimport dereference, postincrement, preincrement
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.map cimport multimap
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from ctdbpy.store.connections cimport UPCALL_COMPLAINT, UPCALL_LOCK_DROPPED, UPCALL_LOCK_WAIT
from ctdbpy.store.engine_types cimport Conn, Db, KeyWait, Pending, Queued, load32, lock_bucket, store32

cdef enum:
    OP_REQ_CALL = 0
    CALLS_PER_CLIENT = 20000
    FIRST_RETRY_US = 50
    LAST_RETRY_US = 1000
    ASK_WAITER_AFTER_US = 4000
    RETRY_ASKED_US = 20000
    FAILED_RETRY_US = 1000000
    SLOT_BITS = 20
    SLOT_MASK = (1 << SLOT_BITS) - 1


cdef class Waiting(RecordStore):
    """Queues of packets and their timers."""

    # -- queues --------------------------------------------------------------

    cdef void enqueue(self, deque[Queued] *queue, uint32_t client_id, const char *p, size_t n) noexcept nogil:
        """Keep a packet for later. A client with too many waiting calls is ended instead."""
        cdef Conn *conn
        if client_id != 0:
            conn = self.client(client_id)
            if conn == NULL:
                return
            if conn.waiting >= CALLS_PER_CLIENT:
                self.end(conn, b"it has more than 20000 calls waiting")
                return
            conn.waiting += 1
        queue.emplace_back()
        queue.back().client_id = client_id
        queue.back().bytes.assign(p, n)

    cdef void dequeued(self, uint32_t client_id) noexcept nogil:
        cdef Conn *conn = self.client(client_id) if client_id else NULL
        if conn != NULL and conn.waiting > 0:
            conn.waiting -= 1

    cdef void replay(self, deque[Queued] *queue) noexcept nogil:
        """Handle again what waited, in order; whatever must still wait queues anew."""
        cdef deque[Queued] packets
        cdef Queued *first
        packets.swap(queue[0])
        while not packets.empty():
            first = &packets.front()
            self.dequeued(first.client_id)
            if first.client_id == 0 or self.client(first.client_id) != NULL:
                self.submit(first.client_id, first.bytes.data(), first.bytes.size())
            packets.pop_front()

    cdef void unpark(self, Db *db) noexcept nogil:
        """A database serves again: repeat the calls that arrived meanwhile."""
        self.replay(&db.parked)

    # -- one packet --------------------------------------------------------------

    cdef void submit(self, uint32_t client_id, const char *p, size_t n) noexcept nogil:
        """Handle a packet; it keeps itself (in a queue) when it has to wait."""
        self.handle(client_id, <char *>p, n, False)

    cdef int handle(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil:
        return 0

    cdef cbool must_wait(self, Db *db, const char *key, uint32_t keylen, cbool from_client, const char *p,
                         size_t n, uint32_t client_id) noexcept nogil:
        """Queue a packet behind others for its key; True if it was queued.

        A local client need not wait behind a remote request that is only being held back:
        the hold is there for its sake.
        """
        cdef KeyWait *wait
        if db.waits.empty():
            return False
        self.keybuf.assign(key, keylen)
        it = db.waits.find(self.keybuf)
        if it == db.waits.end():
            return False
        wait = dereference(it).second
        if wait.holding and from_client:
            return False
        self.enqueue(&wait.packets, client_id, p, n)
        return True

    cdef void wait_for(self, Db *db, const char *key, uint32_t keylen, int verdict, uint32_t client_id,
                       const char *p, size_t n) noexcept nogil:
        """Start a queue for a key whose packet could not be handled now."""
        cdef KeyWait *wait
        self.keybuf.assign(key, keylen)
        it = db.waits.find(self.keybuf)
        if it != db.waits.end():
            self.enqueue(&dereference(it).second.packets, client_id, p, n)
            return
        wait = new KeyWait()
        wait.db_id = db.db_id
        wait.key = self.keybuf
        wait.since_us = self.now_us
        self.enqueue(&wait.packets, client_id, p, n)
        db.waits[wait.key] = wait
        self.schedule(wait, verdict)

    cdef void schedule(self, KeyWait *wait, int verdict) noexcept nogil:
        """Set when to try a queue again, by why it waits."""
        cdef uint64_t delay_us
        cdef Db *db = self.db(wait.db_id)
        self.unschedule(wait)
        wait.holding = verdict == HOLD
        if verdict == HOLD:
            wait.due_us = self.hold_until_us
            wait.attempts = 0
            wait.since_us = self.now_us
        elif verdict == FAILED:
            wait.due_us = self.now_us + FAILED_RETRY_US
        else:
            if wait.attempts == 0:
                wait.since_us = self.now_us
                self.counters.lock_calls += 1
                self.counters.lock_pending += 1
                if db != NULL:
                    db.stats.lock_calls += 1
                    db.stats.lock_pending += 1
            delay_us = <uint64_t>FIRST_RETRY_US << (wait.attempts if wait.attempts < 6 else 6)
            if delay_us > LAST_RETRY_US:
                delay_us = LAST_RETRY_US
            wait.attempts += 1
            if not wait.asked and self.now_us - wait.since_us >= ASK_WAITER_AFTER_US:
                wait.asked = True
                self.upcall(UPCALL_LOCK_WAIT, wait.db_id, 0, wait.key.data(), wait.key.size())
            wait.due_us = self.now_us + (RETRY_ASKED_US if wait.asked else delay_us)
        self.timers.insert(pair[uint64_t, KeyWait_ptr](wait.due_us, wait))
        wait.in_timers = True

    cdef void unschedule(self, KeyWait *wait) noexcept nogil:
        if not wait.in_timers:
            return
        wait.in_timers = False
        it = self.timers.find(wait.due_us)
        while it != self.timers.end() and dereference(it).first == wait.due_us:
            if dereference(it).second == wait:
                self.timers.erase(it)
                return
            preincrement(it)

    cdef void run_wait(self, Db *db, KeyWait *wait) noexcept nogil:
        """Handle the queue of one key as far as it goes; free it when it is empty."""
        cdef int verdict
        cdef Queued packet
        cdef double waited_s
        self.unschedule(wait)
        while not wait.packets.empty():
            packet.client_id = wait.packets.front().client_id
            packet.bytes.swap(wait.packets.front().bytes)
            if packet.client_id != 0 and self.client(packet.client_id) == NULL:
                wait.packets.pop_front()
                continue
            verdict = self.handle(packet.client_id, <char *>packet.bytes.data(), packet.bytes.size(), True)
            if verdict != DONE:
                wait.packets.front().bytes.swap(packet.bytes)
                self.schedule(wait, verdict)
                return
            wait.packets.pop_front()
            self.dequeued(packet.client_id)
            if wait.attempts > 0:
                waited_s = <double>(self.now_us - wait.since_us) / 1e6
                wait.attempts = 0
                self.counters.lock_pending -= 1
                self.counters.lock_latency.add(waited_s)
                self.counters.lock_buckets[lock_bucket(waited_s)] += 1
                db.stats.lock_pending -= 1
                db.stats.lock_latency.add(waited_s)
                db.stats.lock_buckets[lock_bucket(waited_s)] += 1
        if wait.attempts > 0:
            self.counters.lock_pending -= 1
            db.stats.lock_pending -= 1
        if wait.asked:
            self.upcall(UPCALL_LOCK_DROPPED, wait.db_id, 0, wait.key.data(), wait.key.size())
        db.waits.erase(wait.key)
        del wait

    # -- timers ------------------------------------------------------------------

    cdef void run_timers(self) noexcept nogil:
        """Try again whatever is due; a queue that must still wait has been scheduled anew, later."""
        cdef KeyWait *wait
        cdef Db *db
        cdef vector[KeyWait_ptr] due
        cdef size_t i
        while not self.timers.empty():
            it = self.timers.begin()
            if dereference(it).first > self.now_us:
                break
            wait = dereference(it).second
            wait.in_timers = False
            self.timers.erase(it)
            due.push_back(wait)
        for i in range(due.size()):
            db = self.db(due[i].db_id)
            if db != NULL:
                self.run_wait(db, due[i])
        if not self.late.empty() and self.now_us >= self.late_us:
            self.late_us = 0
            self.replay(&self.late)

    cdef uint64_t next_due_us(self) noexcept nogil:
        """When run_timers has something to do; 0 for never."""
        cdef uint64_t due = 0
        if not self.timers.empty():
            due = dereference(self.timers.begin()).first
        if not self.late.empty() and (due == 0 or self.late_us < due):
            due = self.late_us
        return due

    # -- calls sent to other nodes -------------------------------------------------

    cdef Pending *pending_of(self, uint32_t reqid) noexcept nogil:
        """The call that this request id belongs to; NULL for one that is over."""
        cdef uint32_t slot = reqid & SLOT_MASK
        if slot >= self.pending.size():
            return NULL
        if not self.pending[slot].used or self.pending[slot].turn != reqid >> SLOT_BITS:
            return NULL
        return &self.pending[slot]

    cdef void free_pending(self, uint32_t reqid) noexcept nogil:
        cdef Pending *pending = self.pending_of(reqid)
        if pending == NULL:
            return
        self.dequeued(pending.client_id)
        pending.used = False
        self.pending_free.push_back(reqid & SLOT_MASK)
        self.counters.pending_calls -= 1

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
            self.dequeued(pending.client_id)
            if db != NULL and pending.client_id != 0:
                self.enqueue(&db.parked, pending.client_id, pending.packet.data(), pending.packet.size())
            pending.used = False
            self.pending_free.push_back(<uint32_t>i)
            self.counters.pending_calls -= 1
        it = self.dbs.begin()
        while it != self.dbs.end():
            db = dereference(it).second
            flight = db.in_flight.begin()
            while flight != db.in_flight.end():
                while not dereference(flight).second.empty():
                    db.parked.push_back(dereference(flight).second.front())
                    dereference(flight).second.pop_front()
                preincrement(flight)
            db.in_flight.clear()
            preincrement(it)

    cdef void complain(self, const char *what, Db *db, uint32_t pnn) noexcept nogil:
        """Tell the core of something that should not be."""
        cdef string text
        text.assign(what)
        self.upcall(UPCALL_COMPLAINT, db.db_id, pnn, text.data(), text.size())
