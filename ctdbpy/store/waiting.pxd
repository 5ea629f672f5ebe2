# SPDX-License-Identifier: GPL-3.0-or-later
# What has to wait: for a chain lock, for time, for a record in flight, for the end of a recovery.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.map cimport multimap
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from ctdbpy.store.engine_types cimport Conn, Db, Header, KeyWait, Pending, Queued
from ctdbpy.store.records cimport RecordStore

cdef enum Verdict:
    DONE = 0        # handled, or dropped for good
    LOCKED = 1      # somebody holds the chain lock: try again
    HOLD = 2        # not before self.hold_until_us
    FAILED = 3      # libtdb refused to store: nothing was sent, keep the packet

ctypedef KeyWait *KeyWait_ptr

cdef class Waiting(RecordStore):
    cdef vector[Pending] pending
    cdef vector[uint32_t] pending_free
    cdef multimap[uint64_t, KeyWait_ptr] timers
    cdef deque[Queued] late                  # calls to repeat at late_us
    cdef uint64_t late_us
    cdef uint64_t hold_until_us
    cdef cbool recovering
    cdef cbool inactive
    cdef cbool fetch_collapse
    cdef uint32_t hopcount_make_sticky
    cdef uint64_t sticky_us, pindown_us, hold_us

    cdef void submit(self, uint32_t client_id, const char *p, size_t n) noexcept nogil
    cdef int handle(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil
    cdef cbool must_wait(self, Db *db, const char *key, uint32_t keylen, cbool from_client, const char *p,
                         size_t n, uint32_t client_id) noexcept nogil
    cdef void enqueue(self, deque[Queued] *queue, uint32_t client_id, const char *p, size_t n) noexcept nogil
    cdef void dequeued(self, uint32_t client_id) noexcept nogil
    cdef void wait_for(self, Db *db, const char *key, uint32_t keylen, int verdict, uint32_t client_id,
                       const char *p, size_t n) noexcept nogil
    cdef void schedule(self, KeyWait *wait, int verdict) noexcept nogil
    cdef void unschedule(self, KeyWait *wait) noexcept nogil
    cdef void run_wait(self, Db *db, KeyWait *wait) noexcept nogil
    cdef void run_timers(self) noexcept nogil
    cdef uint64_t next_due_us(self) noexcept nogil
    cdef void unpark(self, Db *db) noexcept nogil
    cdef void restart_calls(self) noexcept nogil
    cdef void replay(self, deque[Queued] *queue) noexcept nogil

    cdef void complain(self, const char *what, Db *db, uint32_t pnn) noexcept nogil
    cdef Pending *pending_of(self, uint32_t reqid) noexcept nogil
    cdef void free_pending(self, uint32_t reqid) noexcept nogil
