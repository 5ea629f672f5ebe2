# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Load on the record path, compiled so that the generator is not what is measured.

Each client is a connection that behaves as smbd does: lock the chain, read the record; if this
node is its dmaster, change it and unlock, else unlock, ask the daemon and try again when it has
answered. Every change adds one to a counter in the record, so that the sum over all records
afterwards must equal the number of changes.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from ctdbpy.net.kernel cimport (
    CLOCK_MONOTONIC, EPOLL_CTL_ADD, EPOLLIN, MSG_DONTWAIT, MSG_NOSIGNAL, clock_gettime, close, epoll_create1,
    epoll_ctl, epoll_event, epoll_wait, recv, send, timespec,
)
from ctdbpy.store.engine_types cimport load32, load64, store32, store64
from ctdbpy.store.libtdb cimport TDB_DATA, tdb_chainlock, tdb_chainunlock, tdb_parse_record, tdb_store
from ctdbpy.store.tdb cimport Tdb

cdef enum:
    HEADER_BYTES = 24
    KEY_BYTES = 32
    RECORD_MAX = 65536
    BUFFER = 1 << 16
    TRAVERSE_BUFFER = 4 << 20
    OP_REQ_CALL = 0
    OP_REPLY_CALL = 1
    OP_MESSAGE = 5
    OP_REPLY_CONTROL = 8
    CALL_DATA = 56
    MESSAGE_DATA = 44
    # How long a wait for packets lasts before the clock is looked at.
    LOOK_MS = 20
    # Waits are counted in buckets, 64 to each power of two of microseconds: 1.6 % wide.
    FINE_BITS = 6
    FINE = 1 << FINE_BITS
    BUCKETS = FINE * 32

cdef uint32_t MAGIC = 0x43544442
cdef uint32_t NULL_CALL = 0xFF000001
# A dmaster that has lent out read-only copies has to call them back first.
cdef uint32_t HAS_DELEGATIONS = 0x01000000


cdef struct Client:
    int fd
    char *buffer
    size_t have
    uint32_t key
    uint32_t reqid
    uint64_t begun_ns
    uint64_t done


cdef struct Copied:
    char *to
    size_t n


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec


cdef int copy_record(TDB_DATA key, TDB_DATA data, void *target) noexcept nogil:
    cdef Copied *copied = <Copied *>target
    if data.dsize > RECORD_MAX:
        return -1
    memcpy(copied.to, data.dptr, data.dsize)
    copied.n = data.dsize
    return 0


cdef int bucket_of(uint64_t wait_us) noexcept nogil:
    cdef int shift = 0
    while wait_us >> shift >= 2 * FINE:
        shift += 1
    return min(shift * FINE + <int>(wait_us >> shift), <int>BUCKETS - 1)


def bucket_us(int bucket):
    """The wait in microseconds that a bucket of `Load.run` stands for: its lower end."""
    shift = max(0, bucket // FINE - 1)
    return (bucket - shift * FINE) << shift


cdef class Load:
    """The clients of one node, all in this process, on connected sockets that it takes over."""

    cdef Client *clients
    cdef int count
    cdef uint32_t pnn
    cdef uint32_t db_id
    cdef uint32_t keys
    cdef size_t size
    cdef Tdb tdb
    cdef int epfd
    cdef uint64_t seed
    cdef uint64_t end_ns
    # A walk changes each key from `next_key` to `last_key` once; otherwise keys are drawn.
    cdef bint walks
    cdef uint32_t next_key, left
    cdef int busy
    cdef char record[RECORD_MAX]
    cdef char packet[512]
    cdef uint64_t changes, migrations, wasted
    cdef uint64_t waits[BUCKETS]
    cdef bint failed
    # A ring passes a message on and, with fetching, changes one record each time.
    cdef bint rings, fetches
    cdef uint32_t next_pnn
    cdef uint64_t srvid
    cdef uint64_t passes

    def __cinit__(self, list fds, uint32_t pnn, uint32_t db_id, Tdb tdb, uint32_t keys, size_t size, uint64_t seed):
        cdef epoll_event event
        self.count = len(fds)
        self.clients = <Client *>malloc(self.count * sizeof(Client))
        memset(self.clients, 0, self.count * sizeof(Client))
        self.pnn = pnn
        self.db_id = db_id
        self.tdb = tdb
        self.keys = keys
        self.size = min(max(size, <size_t>8), <size_t>(RECORD_MAX - HEADER_BYTES))
        self.seed = seed * 2 + 1
        self.epfd = epoll_create1(0)
        for i in range(self.count):
            self.clients[i].fd = fds[i]
            self.clients[i].buffer = <char *>malloc(BUFFER)
            event.events = EPOLLIN
            event.data.u64 = i
            epoll_ctl(self.epfd, EPOLL_CTL_ADD, fds[i], &event)

    def __dealloc__(self):
        for i in range(self.count):
            close(self.clients[i].fd)
            free(self.clients[i].buffer)
        free(self.clients)
        close(self.epfd)

    # -- what a program asks for -------------------------------------------------------

    def run(self, double duration_s):
        """Change random records for so long, all clients at once."""
        return self.work(duration_s)

    def walk(self, uint32_t first, uint32_t count, double timeout_s):
        """Change each of `count` records once, from `first` on and round to 0."""
        self.walks = True
        self.next_key = first
        self.left = count
        result = self.work(timeout_s)
        self.walks = False
        if self.left or self.busy:
            raise RuntimeError(f"{self.left + self.busy} of {count} records were not had within {timeout_s:g} s")
        return result

    def ring(self, uint32_t next_pnn, uint64_t srvid, bint starts, bint fetches, double duration_s):
        """Pass one message round the nodes for so long; with `fetches` change record 0 each time it comes.

        One client, which has registered srvid. Whoever `starts` sends the first message.
        """
        self.rings = True
        self.fetches = fetches
        self.next_pnn = next_pnn
        self.srvid = srvid
        self.passes = 0
        if starts:
            self.pass_on(&self.clients[0])
        result = self.work(duration_s)
        self.rings = False
        result["passes"] = self.passes
        return result

    cdef work(self, double duration_s):
        self.changes = self.migrations = self.wasted = 0
        memset(self.waits, 0, sizeof(self.waits))
        self.end_ns = now_ns() + <uint64_t>(duration_s * 1e9)
        self.busy = 0
        for i in range(self.count):
            self.clients[i].done = 0
        with nogil:
            if not self.rings:
                for i in range(self.count):
                    self.next_record(&self.clients[i])
            self.loop()
        if self.failed:
            raise RuntimeError("a daemon closed a client's connection or sent what is no packet")
        return {
            "changes": self.changes,
            "migrations": self.migrations,
            "wasted": self.wasted,
            "unanswered": self.busy,
            "per_client": [self.clients[i].done for i in range(self.count)],
            "waits": {i: self.waits[i] for i in range(BUCKETS) if self.waits[i]},
        }

    # -- a client's steps --------------------------------------------------------------

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

    cdef void next_record(self, Client *client) noexcept nogil:
        """Change records that are here until one has to be asked for, or all is done."""
        while not self.failed:
            client.begun_ns = now_ns()
            if client.begun_ns >= self.end_ns:
                return
            if self.walks:
                if self.left == 0:
                    return
                client.key = self.next_key
                self.next_key = (self.next_key + 1) % self.keys
                self.left -= 1
            else:
                client.key = self.random() % self.keys
            if not self.try_change(client):
                self.busy += 1
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
                and load32(self.record + 8) == self.pnn and not load32(self.record + 16) & HAS_DELEGATIONS:
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

    cdef void put(self, Client *client, uint32_t operation, uint32_t destnode, size_t n) noexcept nogil:
        store32(self.packet, <uint32_t>n)
        store32(self.packet + 4, MAGIC)
        store32(self.packet + 8, 1)
        store32(self.packet + 12, 0)
        store32(self.packet + 16, operation)
        store32(self.packet + 20, destnode)
        store32(self.packet + 24, self.pnn)
        store32(self.packet + 28, client.reqid)
        if send(client.fd, self.packet, n, MSG_NOSIGNAL) != <ssize_t>n:
            self.failed = True

    cdef void ask(self, Client *client) noexcept nogil:
        memset(self.packet + 32, 0, CALL_DATA - 32)
        client.reqid += 1
        store32(self.packet + 32, 1)
        store32(self.packet + 36, self.db_id)
        store32(self.packet + 40, NULL_CALL)
        store32(self.packet + 48, KEY_BYTES)
        self.fill_key(self.packet + CALL_DATA, client.key)
        self.put(client, OP_REQ_CALL, 0, CALL_DATA + KEY_BYTES)

    cdef void pass_on(self, Client *client) noexcept nogil:
        memset(self.packet + 32, 0, MESSAGE_DATA + 4 - 32)
        store64(self.packet + 32, self.srvid)
        store32(self.packet + 40, 4)
        self.put(client, OP_MESSAGE, self.next_pnn, MESSAGE_DATA + 4)
        self.passes += 1

    cdef void fetched(self, Client *client) noexcept nogil:
        """The daemon has answered: the record is here, or was and is gone again."""
        if not self.try_change(client):
            self.wasted += 1
            self.ask(client)
            return
        self.busy -= 1
        self.migrations += 1
        self.waits[bucket_of((now_ns() - client.begun_ns) // 1000)] += 1
        if self.rings:
            self.pass_on(client)
        else:
            self.next_record(client)

    cdef void come_round(self, Client *client) noexcept nogil:
        if not self.fetches:
            self.pass_on(client)
            return
        client.begun_ns = now_ns()
        client.key = 0
        if self.try_change(client):
            self.pass_on(client)
        else:
            self.busy += 1
            self.ask(client)

    # -- packets -----------------------------------------------------------------------

    cdef void loop(self) noexcept nogil:
        """Until time is up; a walk until it is done. Calls under way at the end are let go to their end."""
        cdef epoll_event events[64]
        cdef int n, i
        cdef uint64_t now = now_ns(), limit_ns = self.end_ns + 2000000000
        while not self.failed and now < limit_ns:
            if self.walks and not self.left and not self.busy:
                return
            if now >= self.end_ns and not self.busy:
                return
            n = epoll_wait(self.epfd, events, 64, LOOK_MS)
            for i in range(n):
                self.readable(&self.clients[events[i].data.u64])
            now = now_ns()

    cdef void readable(self, Client *client) noexcept nogil:
        cdef ssize_t got = recv(client.fd, client.buffer + client.have, BUFFER - client.have, MSG_DONTWAIT)
        cdef uint32_t length, operation
        cdef size_t at = 0
        if got <= 0:
            if got == 0 or (errno != EAGAIN and errno != EINTR):
                self.failed = True
            return
        client.have += got
        while client.have - at >= 32:
            length = load32(client.buffer + at)
            if length < 32 or length > BUFFER:
                self.failed = True
                return
            if client.have - at < length:
                break
            operation = load32(client.buffer + at + 16)
            if operation == OP_REPLY_CALL and load32(client.buffer + at + 28) == client.reqid:
                self.fetched(client)
            elif operation == OP_MESSAGE and self.rings and load64(client.buffer + at + 32) == self.srvid:
                if now_ns() < self.end_ns:
                    self.come_round(client)
            at += length
        if at:
            memmove(client.buffer, client.buffer + at, client.have - at)
            client.have -= at


def repeat_control(int fd, bytearray packet, tuple counters, double duration_s):
    """Send one control again and again, each when the one before is answered; how long each took, in ns.

    `counters` are offsets of 64-bit numbers in the packet, which grow by one each time; its request id
    does so too. Raises RuntimeError when an answer's status is not 0.
    """
    cdef char *p = packet
    cdef char buffer[BUFFER]
    cdef size_t n = len(packet), have
    cdef ssize_t got
    cdef int status = 0
    cdef uint64_t begun_ns, done_ns = now_ns(), end_ns = done_ns + <uint64_t>(duration_s * 1e9)
    cdef list took = []
    while done_ns < end_ns:
        for offset in counters:
            store64(p + <size_t>offset, load64(p + <size_t>offset) + 1)
        store32(p + 28, load32(p + 28) + 1)
        begun_ns = now_ns()
        with nogil:
            have = 0
            got = send(fd, p, n, MSG_NOSIGNAL)
            while got > 0 and (have < 44 or have < load32(buffer)):
                got = recv(fd, buffer + have, BUFFER - have, 0)
                have += got if got > 0 else 0
        if got <= 0 or load32(buffer + 16) != OP_REPLY_CONTROL or load32(buffer + 28) != load32(p + 28):
            raise RuntimeError("the daemon did not answer a control")
        status = <int>load32(buffer + 32)
        if status != 0:
            raise RuntimeError(f"the daemon refused control {len(took)}: status {status}")
        done_ns = now_ns()
        took.append(done_ns - begun_ns)
    return took


def count_messages(int fd, double timeout_s):
    """Read the messages of a traverse from a blocking socket: (records, bytes of data) up to the end marker."""
    cdef char *buffer = <char *>malloc(TRAVERSE_BUFFER)
    cdef size_t have = 0, at
    cdef ssize_t got
    cdef uint32_t length
    cdef uint64_t records = 0, total = 0
    cdef bint done = False, broken = False
    cdef uint64_t end_ns = now_ns() + <uint64_t>(timeout_s * 1e9)
    with nogil:
        while not done and not broken and now_ns() < end_ns:
            got = recv(fd, buffer + have, TRAVERSE_BUFFER - have, 0)
            if got <= 0:
                broken = True
                break
            have += got
            at = 0
            while have - at >= 32:
                length = load32(buffer + at)
                if length < 32 or length > TRAVERSE_BUFFER:
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
