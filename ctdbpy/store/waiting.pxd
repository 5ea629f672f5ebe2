# SPDX-License-Identifier: GPL-3.0-or-later
# What has to wait: for a chain lock, for time, for the end of a recovery.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.map cimport multimap

from ctdbpy.store.engine_types cimport Conn, Db, KeyWait, Queued
from ctdbpy.store.relief cimport Relief

cdef enum Verdict:
    DONE = 0        # handled, or dropped for good
    LOCKED = 1      # somebody holds the chain lock: try again
    HOLD = 2        # not before self.hold_until_us
    FAILED = 3      # libtdb refused: nothing was sent, keep the packet

ctypedef KeyWait *KeyWait_ptr

cdef class Waiting(Relief):
    cdef multimap[uint64_t, KeyWait_ptr] timers
    cdef deque[Queued] late                  # packets to repeat at late_us
    cdef uint64_t late_us
    cdef uint64_t hold_until_us
    cdef size_t node_waiting_bytes           # what keeping packets of nodes takes
    cdef uint64_t complained_us
    cdef cbool recovering
    # The lease of this node has run out, as its loop saw last; and no call is executed since it did.
    cdef cbool expired
    cdef cbool withheld
    cdef cbool inactive

    cdef cbool not_serving(self, Db *db) noexcept nogil
    cdef cbool may_wait(self, Conn *conn, size_t n) noexcept nogil
    cdef void enqueue(self, deque[Queued] *queue, uint32_t client_id, const char *p, size_t n) noexcept nogil
    cdef void dequeued(self, uint32_t client_id, size_t n) noexcept nogil
    cdef void move_all(self, deque[Queued] *source, deque[Queued] *target) noexcept nogil
    cdef void drop_all(self, deque[Queued] *queue) noexcept nogil
    cdef void replay(self, deque[Queued] *queue) noexcept nogil
    cdef void replay_late(self) noexcept nogil

    cdef int handle(self, uint32_t client_id, char *p, size_t n, cbool queued) noexcept nogil
    cdef cbool must_wait(self, Db *db, const char *key, uint32_t keylen, uint32_t client_id, const char *p,
                         size_t n) noexcept nogil
    cdef int waits(self, Db *db, const char *key, uint32_t keylen, int verdict, uint32_t client_id,
                   const char *p, size_t n, cbool queued) noexcept nogil
    cdef void schedule(self, Db *db, KeyWait *wait, int verdict) noexcept nogil
    cdef void unschedule(self, KeyWait *wait) noexcept nogil
    cdef void lock_wanted(self, Db *db, KeyWait *wait) noexcept nogil
    cdef void lock_had(self, Db *db, KeyWait *wait) noexcept nogil
    cdef void lock_dropped(self, Db *db, KeyWait *wait) noexcept nogil
    cdef void run_wait(self, Db *db, KeyWait *wait) noexcept nogil
    cdef void drop_wait(self, Db *db, KeyWait *wait) noexcept nogil
    cdef void run_timers(self) noexcept nogil
    cdef uint64_t next_due_us(self) noexcept nogil
    cdef void complain(self, const char *what, Db *db, uint32_t pnn) noexcept nogil
