# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Load on the record path, compiled so that the generator is not what is measured.

Each client is a connection that behaves as smbd does: lock the chain, read the record; if this
node is its dmaster, change it and unlock, else unlock and ask the daemon, then try again.
Every change adds one to a counter in the record, so that the sum over all records afterwards
must equal the number of changes.
"""

import os
import random
import socket

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from ctdbpy.store.engine_types cimport load32, load64, store32, store64
from ctdbpy.store.libtdb cimport (
    TDB_DATA, tdb_chainlock, tdb_chainunlock, tdb_fetch, tdb_parse_record, tdb_store,
)
from ctdbpy.store.tdb cimport Tdb

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int EPOLL_CTL_ADD
    uint32_t EPOLLIN

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    int CLOCK_MONOTONIC

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *buf, size_t n, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    HEADER_BYTES = 24
    KEY_BYTES = 32
    RECORD_MAX = 65536
    BUFFER = 1 << 20
    OP_REQ_CALL = 0
    OP_REPLY_CALL = 1
    OP_MESSAGE = 5


cdef struct Client:
    int fd
    char *buffer
    size_t have
    uint32_t key
    uint32_t reqid
    uint64_t begun_ns
    uint64_t done
    int tries


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec


cdef struct Copied:
    char *to
    size_t n


cdef int copy_record(TDB_DATA key, TDB_DATA data, void *target) noexcept nogil:
    cdef Copied *copied = <Copied *>target
    if data.dsize > RECORD_MAX:
        return -1
    memcpy(copied.to, data.dptr, data.dsize)
    copied.n = data.dsize
    return 0


cdef class Load:
    """Clients of one node, all in this process."""

    cdef Client *clients
    cdef int count
    cdef uint32_t pnn
    cdef uint32_t db_id
    cdef uint32_t keys
    cdef size_t size
    cdef Tdb tdb
    cdef int epfd
    cdef uint64_t seed
    cdef char record[RECORD_MAX]
    cdef char packet[4096]
    cdef uint64_t changes, local_changes, wasted
    cdef uint32_t *latencies_us
    cdef size_t latency_count, latency_room
    cdef bint failed

    def __cinit__(self, list fds, uint32_t pnn, uint32_t db_id, Tdb tdb, uint32_t keys, size_t size, uint64_t seed):
        cdef epoll_event event
        self.count = len(fds)
        self.clients = <Client *>malloc(self.count * sizeof(Client))
        memset(self.clients, 0, self.count * sizeof(Client))
        self.pnn = pnn
        self.db_id = db_id
        self.tdb = tdb
        self.keys = keys
        self.size = max(size, 8)
        self.seed = seed * 2 + 1
        self.epfd = epoll_create1(0)
        self.latency_room = 1 << 20
        self.latencies_us = <uint32_t *>malloc(self.latency_room * 4)
        for i in range(self.count):
            self.clients[i].fd = fds[i]
            self.clients[i].buffer = <char *>malloc(BUFFER)
            event.events = EPOLLIN
            event.data.u64 = i
            epoll_ctl(self.epfd, EPOLL_CTL_ADD, fds[i], &event)

    def __dealloc__(self):
        for i in range(self.count):
            free(self.clients[i].buffer)
        free(self.clients)
        free(self.latencies_us)
        close(self.epfd)

    def run(self, double duration_s):
        """Work for so long; returns what was done and how long changes waited, in microseconds."""
        cdef uint64_t end_ns = now_ns() + <uint64_t>(duration_s * 1e9)
        with nogil:
            for i in range(self.count):
                self.next_record(&self.clients[i], end_ns)
            self.loop(end_ns)
        if self.failed:
            raise RuntimeError("a daemon closed a client's connection or refused its packets")
        waits = sorted(self.latencies_us[i] for i in range(self.latency_count))
        return {
            "changes": self.changes,
            "local": self.local_changes,
            "wasted": self.wasted,
            "per_client": [self.clients[i].done for i in range(self.count)],
            "waits_us": waits,
        }

    cdef uint32_t random(self) noexcept nogil:
        self.seed ^= self.seed << 13
        self.seed ^= self.seed >> 7
        self.seed ^= self.seed << 17
        return <uint32_t>(self.seed >> 16)

    cdef void fill_key(self, char *key, uint32_t number) noexcept nogil:
        cdef int i
        memset(key, 0, KEY_BYTES)
        memcpy(key, b"load-record-", 12)
        for i in range(8):
            key[12 + i] = 48 + (number % 10)
            number //= 10

    cdef void next_record(self, Client *client, uint64_t end_ns) noexcept nogil:
        """Change records until one has to be asked for (or time is up)."""
        cdef int spins = 0
        while not self.failed:
            client.key = self.random() % self.keys
            client.begun_ns = now_ns()
            client.tries = 0
            if client.begun_ns >= end_ns:
                return
            if not self.try_change(client):
                self.ask(client)
                return
            self.local_changes += 1
            spins += 1
            if spins >= 16:
                # Everything happens to be here: let the others of this process have their turn.
                self.ask(client)
                return

    cdef bint try_change(self, Client *client) noexcept nogil:
        """Add one to the record if this node owns it."""
        cdef char key[KEY_BYTES]
        cdef TDB_DATA k, value
        cdef Copied copied
        cdef uint64_t counter = 0
        cdef bint is_ours = False
        self.fill_key(key, client.key)
        k.dptr = <unsigned char *>key
        k.dsize = KEY_BYTES
        copied.to = self.record
        copied.n = 0
        if tdb_chainlock(self.tdb.ctx, k) != 0:
            self.failed = True
            return False
        if tdb_parse_record(self.tdb.ctx, k, copy_record, &copied) == 0 and copied.n >= HEADER_BYTES \
                and load32(self.record + 8) == self.pnn and not load32(self.record + 16) & 0x01000000:
            if copied.n >= HEADER_BYTES + 8:
                counter = load64(self.record + HEADER_BYTES)
            else:
                memset(self.record + HEADER_BYTES, 0, self.size)
            store64(self.record + HEADER_BYTES, counter + 1)
            value.dptr = <unsigned char *>self.record
            value.dsize = HEADER_BYTES + self.size
            if tdb_store(self.tdb.ctx, k, value, 0) != 0:
                self.failed = True
            is_ours = True
            self.changes += 1
            client.done += 1
        tdb_chainunlock(self.tdb.ctx, k)
        return is_ours

    cdef void ask(self, Client *client) noexcept nogil:
        cdef char *p = self.packet
        cdef size_t n = 56 + KEY_BYTES
        memset(p, 0, n)
        client.reqid += 1
        store32(p, <uint32_t>n)
        store32(p + 4, 0x43544442)
        store32(p + 8, 1)
        store32(p + 16, OP_REQ_CALL)
        store32(p + 28, client.reqid)
        store32(p + 32, 1)
        store32(p + 36, self.db_id)
        store32(p + 40, 0xFF000001)
        store32(p + 48, KEY_BYTES)
        self.fill_key(p + 56, client.key)
        if send(client.fd, p, n, MSG_NOSIGNAL) != <ssize_t>n:
            self.failed = True

    cdef void note_wait(self, uint64_t begun_ns) noexcept nogil:
        if self.latency_count == self.latency_room:
            self.latency_room *= 2
            self.latencies_us = <uint32_t *>realloc(self.latencies_us, self.latency_room * 4)
        self.latencies_us[self.latency_count] = <uint32_t>((now_ns() - begun_ns) // 1000)
        self.latency_count += 1

    cdef void loop(self, uint64_t end_ns) noexcept nogil:
        cdef epoll_event events[64]
        cdef int n, i
        while not self.failed and now_ns() < end_ns:
            n = epoll_wait(self.epfd, events, 64, 20)
            for i in range(n):
                self.readable(&self.clients[events[i].data.u64], end_ns)

    cdef void readable(self, Client *client, uint64_t end_ns) noexcept nogil:
        cdef ssize_t got = recv(client.fd, client.buffer + client.have, BUFFER - client.have, MSG_DONTWAIT)
        cdef uint32_t length
        cdef size_t at = 0
        if got <= 0:
            if got == 0 or (errno != EAGAIN and errno != EINTR):
                self.failed = True
            return
        client.have += got
        while client.have - at >= 4:
            length = load32(client.buffer + at)
            if length < 32 or length > BUFFER:
                self.failed = True
                return
            if client.have - at < length:
                break
            if load32(client.buffer + at + 16) == OP_REPLY_CALL and load32(client.buffer + at + 28) == client.reqid:
                if self.try_change(client):
                    self.note_wait(client.begun_ns)
                    self.next_record(client, end_ns)
                else:
                    self.wasted += 1
                    self.ask(client)
            at += length
        if at:
            memmove(client.buffer, client.buffer + at, client.have - at)
            client.have -= at


def count_messages(int fd, double timeout_s):
    """Read the messages of a traverse from a blocking socket: (records, bytes of data) up to the end marker."""
    cdef char *buffer = <char *>malloc(4 << 20)
    cdef size_t have = 0, at
    cdef ssize_t got
    cdef uint32_t length, datalen
    cdef uint64_t records = 0, total = 0
    cdef bint done = False, broken = False
    cdef uint64_t end_ns = now_ns() + <uint64_t>(timeout_s * 1e9)
    with nogil:
        while not done and not broken and now_ns() < end_ns:
            got = recv(fd, buffer + have, (4 << 20) - have, 0)
            if got <= 0:
                broken = True
                break
            have += got
            at = 0
            while have - at >= 4:
                length = load32(buffer + at)
                if length < 32 or length > 4 << 20:
                    broken = True
                    break
                if have - at < length:
                    break
                if load32(buffer + at + 16) == OP_MESSAGE and length >= 60:
                    if load32(buffer + at + 52) == 0 and load32(buffer + at + 56) == 0:
                        done = True
                    else:
                        records += 1
                        total += load32(buffer + at + 56)
                at += length
            memmove(buffer, buffer + at, have - at)
            have -= at
    free(buffer)
    if not done:
        raise RuntimeError(f"the traverse ended after {records} records without its end marker")
    return records, total
