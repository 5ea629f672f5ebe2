# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What has to wait: for a chain lock, for a moment, for the end of a recovery.

Packets for one key that met a lock queue in the order they came and are tried
again after 50 µs, then less often, up to every millisecond; a lock that is still taken
after some milliseconds is handed to a waiter process (upcall LOCK_WAIT). Every queue
counts towards its client, so that one client cannot fill the memory; what nodes sent has one limit
for all of them.
"""

from cython.operator cimport dereference, preincrement
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

from ctdbpy.store.connections cimport UPCALL_COMPLAINT, UPCALL_LOCK_DROPPED, UPCALL_LOCK_WAIT
from ctdbpy.store.engine_types cimport Conn, Db, KeyWait, Queued, lock_bucket
from ctdbpy.store.relief cimport Relief

cdef enum:
    CALLS_PER_CLIENT = 20000
    FIRST_RETRY_US = 50
    LAST_RETRY_US = 1000
    ASK_WAITER_AFTER_US = 4000
    RETRY_ASKED_US = 20000
    FAILED_RETRY_US = 1000000
    LATE_US = 100000
    # What a queued packet takes besides its bytes, so that small ones count too.
    PACKET_OVERHEAD = 256

cdef size_t BYTES_PER_CLIENT = 256 << 20
cdef size_t BYTES_OF_NODES = 512 << 20


cdef class Waiting(Relief):
    """Queues of packets and their timers."""

    cdef cbool not_serving(self, Db *db) noexcept nogil:
        """While a database is frozen or not recovered yet, packets for it are parked until it thaws."""
        return self.recovering or self.withheld or db.frozen or db.generation != self.generation

    # -- queues --------------------------------------------------------------

    cdef cbool may_wait(self, Conn *conn, size_t n) noexcept nogil:
        """True if a client may have one more call of n bytes waiting; otherwise it is ended."""
        if conn.waiting >= CALLS_PER_CLIENT:
            self.end(conn, b"it has more than 20000 calls waiting")
            return False
        if conn.waiting_bytes + n > BYTES_PER_CLIENT:
            self.end(conn, b"its waiting calls are longer than the limit of 256 MiB")
            return False
        return True

    cdef void enqueue(self, deque[Queued] *queue, uint32_t client_id, const char *p, size_t n) noexcept nogil:
        """Keep a packet for later, within the limits."""
        cdef Conn *conn
        if client_id != 0:
            conn = self.client(client_id)
            if conn == NULL or not self.may_wait(conn, n):
                return
            conn.waiting += 1
            conn.waiting_bytes += n
        else:
            if self.node_waiting_bytes + n + PACKET_OVERHEAD > BYTES_OF_NODES:
                # A record may be among what is lost. The recovery that the complaint brings finds it again.
                self.counters.dropped += 1
                if self.now_us >= self.complained_us:
                    self.complained_us = self.now_us + 1000000
                    self.upcall(UPCALL_COMPLAINT, 0, self.pnn, b"dmaster", 7)
                return
            self.node_waiting_bytes += n + PACKET_OVERHEAD
        queue.emplace_back()
        queue.back().client_id = client_id
        queue.back().bytes.assign(p, n)

    cdef void dequeued(self, uint32_t client_id, size_t n) noexcept nogil:
        """A packet of n bytes waits no more, or is about to wait elsewhere."""
        cdef Conn *conn
        if client_id == 0:
            self.node_waiting_bytes -= n + PACKET_OVERHEAD
            return
        conn = self.client(client_id)
        if conn != NULL and conn.waiting > 0:
            conn.waiting -= 1
            conn.waiting_bytes -= n

    cdef void move_all(self, deque[Queued] *source, deque[Queued] *target) noexcept nogil:
        """Let packets wait elsewhere, in order."""
        while not source.empty():
            target.emplace_back()
            target.back().client_id = source.front().client_id
            target.back().bytes.swap(source.front().bytes)
            source.pop_front()

    cdef void drop_all(self, deque[Queued] *queue) noexcept nogil:
        while not queue.empty():
            self.dequeued(queue.front().client_id, queue.front().bytes.size())
            queue.pop_front()

    cdef void replay(self, deque[Queued] *queue) noexcept nogil:
        """Handle again what waited, in order; whatever must still wait queues anew."""
        cdef deque[Queued] packets
        cdef Queued *first
        packets.swap(queue[0])
        while not packets.empty():
            first = &packets.front()
            self.dequeued(first.client_id, first.bytes.size())
            if first.client_id == 0 or self.client(first.client_id) != NULL:
                self.handle(first.client_id, <char *>first.bytes.data(), first.bytes.size(), False)
            packets.pop_front()

    cdef void replay_late(self) noexcept nogil:
        """See to it that what is in self.late is repeated soon."""
        if self.late_us == 0 and not self.late.empty():
            self.late_us = self.now_us + LATE_US

    # -- one packet --------------------------------------------------------------

    cdef int handle(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil:
        """Handle a packet (client_id 0: of a node). Unless it is queued already it keeps itself when it must wait."""
        return DONE

    cdef cbool must_wait(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, const char *p,
                         size_t n) noexcept nogil:
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
        if wait.holding and client_id != 0:
            return False
        self.enqueue(&wait.packets, client_id, p, n)
        return True

    cdef int waits(self, Db *db, const char *key, uint32_t keylen, int verdict, uint32_t client_id,
                   const char *p, size_t n, cbool queued) noexcept nogil:
        """Return the verdict on a packet; one that is not DONE and not queued yet starts a queue for its key."""
        cdef KeyWait *wait
        if verdict == DONE or queued:
            return verdict
        self.keybuf.assign(key, keylen)
        it = db.waits.find(self.keybuf)
        if it != db.waits.end():
            self.enqueue(&dereference(it).second.packets, client_id, p, n)
            return verdict
        wait = new KeyWait()
        wait.db_id = db.db_id
        wait.key = self.keybuf
        self.enqueue(&wait.packets, client_id, p, n)
        db.waits[wait.key] = wait
        self.schedule(db, wait, verdict)
        return verdict

    cdef void schedule(self, Db *db, KeyWait *wait, int verdict) noexcept nogil:
        """Set when to try a queue again, by why it waits."""
        self.unschedule(wait)
        wait.holding = verdict == HOLD
        if verdict == LOCKED:
            self.lock_wanted(db, wait)
        else:
            self.lock_had(db, wait)
            if verdict == HOLD:
                wait.due_us = self.hold_until_us
                db.stats.holds += 1
            else:
                wait.due_us = self.now_us + FAILED_RETRY_US
                if self.now_us >= self.complained_us:
                    self.complained_us = self.now_us + 1000000
                    self.complain(b"unstorable", db, self.pnn)
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

    # -- the wait for one lock ------------------------------------------------------

    cdef void lock_wanted(self, Db *db, KeyWait *wait) noexcept nogil:
        """The chain was locked, once more: try again soon, later ask for a waiter process."""
        cdef uint64_t delay_us
        if wait.attempts == 0:
            wait.since_us = self.now_us
            self.counters.lock_calls += 1
            self.counters.lock_pending += 1
            db.stats.lock_calls += 1
            db.stats.lock_pending += 1
        delay_us = <uint64_t>FIRST_RETRY_US << (wait.attempts if wait.attempts < 6 else 6)
        if delay_us > LAST_RETRY_US:
            delay_us = LAST_RETRY_US
        wait.attempts += 1
        if not wait.asked and self.now_us - wait.since_us >= ASK_WAITER_AFTER_US:
            wait.asked = True
            self.counters.lock_current += 1
            db.stats.lock_current += 1
            self.upcall(UPCALL_LOCK_WAIT, wait.db_id, 0, wait.key.data(), wait.key.size())
        wait.due_us = self.now_us + (RETRY_ASKED_US if wait.asked else delay_us)

    cdef void lock_had(self, Db *db, KeyWait *wait) noexcept nogil:
        """The lock could be taken (or is not wanted any more): count how long that took."""
        cdef double waited_s
        if wait.asked:
            self.lock_dropped(db, wait)
            self.upcall(UPCALL_LOCK_DROPPED, wait.db_id, 0, wait.key.data(), wait.key.size())
        if wait.attempts == 0:
            return
        wait.attempts = 0
        waited_s = <double>(self.now_us - wait.since_us) / 1e6
        self.counters.lock_pending -= 1
        self.counters.lock_latency.add(waited_s)
        self.counters.lock_buckets[lock_bucket(waited_s)] += 1
        db.stats.lock_pending -= 1
        db.stats.lock_latency.add(waited_s)
        db.stats.lock_buckets[lock_bucket(waited_s)] += 1

    cdef void lock_dropped(self, Db *db, KeyWait *wait) noexcept nogil:
        """No waiter process is at work for this key any more."""
        if wait.asked:
            wait.asked = False
            self.counters.lock_current -= 1
            db.stats.lock_current -= 1

    cdef void run_wait(self, Db *db, KeyWait *wait) noexcept nogil:
        """Handle the queue of one key as far as it goes; free it when it is empty."""
        cdef int verdict
        cdef Queued packet
        self.unschedule(wait)
        while not wait.packets.empty():
            # Its place in the queue stays: whatever comes for this key meanwhile waits behind it.
            packet.client_id = wait.packets.front().client_id
            packet.bytes.swap(wait.packets.front().bytes)
            verdict = DONE
            if packet.client_id == 0 or self.client(packet.client_id) != NULL:
                verdict = self.handle(packet.client_id, <char *>packet.bytes.data(), packet.bytes.size(), True)
            if verdict != DONE:
                wait.packets.front().bytes.swap(packet.bytes)
                self.schedule(db, wait, verdict)
                return
            wait.packets.pop_front()
            self.dequeued(packet.client_id, packet.bytes.size())
            self.lock_had(db, wait)
        self.drop_wait(db, wait)

    cdef void drop_wait(self, Db *db, KeyWait *wait) noexcept nogil:
        """Forget the queue of a key with whatever is still in it."""
        self.unschedule(wait)
        self.lock_had(db, wait)
        self.drop_all(&wait.packets)
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

    cdef void complain(self, const char *what, Db *db, uint32_t pnn) noexcept nogil:
        """Tell the core of something that should not be."""
        cdef string text
        text.assign(what)
        self.upcall(UPCALL_COMPLAINT, db.db_id, pnn, text.data(), text.size())
