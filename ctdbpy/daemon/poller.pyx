# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The wait loop: moves bytes between descriptors and the record engine without Python.

asyncio's selector calls `Poller.wait`. Records and messages are handled inside, with the GIL
released; it returns when asyncio's own descriptors are ready (its epoll is nested in ours), when
the engine has upcalls, or when time is up. Many packets a read, one write per connection and turn.
"""

from libc.errno cimport EAGAIN, EINTR, ENOSYS, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport strerror
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from ctdbpy.errors import HostError
from ctdbpy.net.kernel cimport (
    CLOCK_BOOTTIME, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP,
    EPOLLIN, EPOLLOUT, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME,
    clock_gettime, close, epoll_create1, epoll_ctl, epoll_event, epoll_pwait2, epoll_wait, itimerspec, recv,
    sched_yield, send, timerfd_create, timerfd_settime, timespec,
)
from ctdbpy.net.lease_page cimport LeasePage, load_lease, store_progress
from ctdbpy.store.connections cimport UPCALL_LEASE_LOST
from ctdbpy.store.engine cimport Engine
from ctdbpy.store.engine_types cimport CONN_CLIENT, CONN_FREE, CONN_LINK_IN, CONN_LINK_OUT, Conn

# Upcalls of the poller's own, for a connection that is slow to read what is sent to it.
BEHIND = 100    # client_id: more than BEHIND_BYTES wait for it
DRAINED = 101   # client_id, 0 for a link: most has been read, or it is gone

BEHIND_BYTES = 8 << 20

cdef enum:
    UPCALL_BEHIND = 100
    UPCALL_DRAINED = 101
    BEHIND_AT = 8 << 20
    # Its producers go on before there is nothing left to send.
    DRAINED_AT = 4 << 20
    EVENTS_A_TURN = 128
    READ_BYTES = 65536
    READS_A_TURN = 4
    # What is more comes in a stream, and is read as one.
    PEEK_BYTES = 4096
    # After so many turns with one packet each somebody waits for every one; before, there is work enough.
    LONELY_TURNS = 8
    # After this long without traffic a spin would only burn the processor.
    SPIN_IDLE_US = 20000
    # A processor given away and not had back for so long is wanted by somebody else.
    YIELD_US = 50
    # An idle loop turns so often, for whoever watches that it does.
    PROGRESS_US = 200000
    # How often to sleep at once when spinning has not paid, before it is tried again.
    SPIN_REST = 1000
    # Waits from here on leave it to the timer to end them: one timer for thousands of waits. A time limit
    # of the wait itself has the kernel set its clock before each sleep and again after it.
    TIMER_FROM_US = 1000

cdef uint64_t INNER = 0xFFFFFFFFFFFFFFFF
cdef uint64_t TIMER = 0xFFFFFFFFFFFFFFFE


cdef inline uint64_t clock_us() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_BOOTTIME, &ts)
    return <uint64_t>ts.tv_sec * 1000000 + <uint64_t>ts.tv_nsec // 1000


cdef class Poller:
    """Descriptors of clients and links, and the loop that serves them."""

    cdef Engine engine
    cdef int epfd
    cdef int inner_fd
    cdef int timer_fd
    # When the timer rings, 0 when it has.
    cdef uint64_t rings_us
    cdef cbool inner_ready
    cdef cbool interrupted
    cdef uint64_t last_traffic_us
    cdef uint64_t progress
    # What the guard shares with us, NULL without one.
    cdef LeasePage *page
    cdef object page_owner
    # A lease is wanted; until the guard has said how long it runs, this counts.
    cdef cbool wants_lease
    cdef int64_t granted_us
    cdef uint32_t spin_us
    cdef int spin_score
    cdef int spin_rest
    cdef vector[int] behind
    # How many turns in a row had but one connection to read, and no stream, up to LONELY_TURNS.
    cdef int lonely_turns
    # What was handled in this turn but still has to be taken from the kernel.
    cdef Conn *peeked
    cdef size_t peeked_bytes
    cdef char taken[PEEK_BYTES]
    cdef epoll_event events[EVENTS_A_TURN]

    def __init__(self, Engine engine):
        self.engine = engine
        self.inner_fd = -1
        self.timer_fd = -1
        self.peeked = NULL
        self.lonely_turns = 0
        self.rings_us = 0
        self.spin_us = 0
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise HostError(f"cannot create an epoll descriptor: {strerror(errno).decode()}")
        self.timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK)
        if self.timer_fd < 0:
            raise HostError(f"cannot create a timer: {strerror(errno).decode()}")
        # Told once each time it rings; so nobody has to read it.
        self.watch(self.timer_fd, TIMER, EPOLLIN | EPOLLET)
        engine.now_us = clock_us()

    def close(self):
        """Close the descriptors of all connections and the poller's own."""
        cdef size_t i
        cdef Conn *conn
        for i in range(self.engine.slots.size()):
            conn = self.engine.slots[i]
            if conn.kind != CONN_FREE and conn.fd >= 0:
                close(conn.fd)
                conn.fd = -1
        if self.timer_fd >= 0:
            close(self.timer_fd)
            self.timer_fd = -1
        if self.epfd >= 0:
            close(self.epfd)
            self.epfd = -1

    def nest(self, int fd):
        """Also wait for this epoll descriptor: asyncio's own."""
        self.inner_fd = fd
        self.watch(fd, INNER, EPOLLIN)

    def set_spin(self, uint32_t spin_us):
        """Busy-poll up to so long before sleeping while traffic is recent; 0 for never."""
        if spin_us == self.spin_us:
            return
        self.spin_us = spin_us
        self.spin_score = 0
        self.spin_rest = 0

    @property
    def turns(self):
        """Turns of the loop so far: whoever watches the daemon sees by it that it lives."""
        return self.progress

    def set_page(self, page):
        """Look each turn at what the guard writes to this mapping, and show it there that we turn."""
        cdef char[::1] view = page
        if <size_t>view.shape[0] < sizeof(LeasePage):
            raise ValueError("the page shared with the guard is too small")
        self.page_owner = page
        self.page = <LeasePage *>&view[0]

    def want_lease(self, bint wanted, int64_t grace_us):
        """Serve only under a lease; the guard has so long from now to say that there is one."""
        if wanted and not self.wants_lease:
            self.granted_us = <int64_t>clock_us() + grace_us
        self.wants_lease = wanted

    @property
    def has_lease(self):
        """Whether the lease, if one is wanted, runs at this moment."""
        return self.page == NULL or not self.has_expired(<int64_t>clock_us())

    def add_client(self, int fd):
        """Take over the descriptor of an accepted client; returns its client_id."""
        client_id = self.engine.add_client(fd)
        self.watch_conn(self.engine.client(client_id))
        return client_id

    def add_link(self, uint32_t link_id, uint32_t pnn, bint outgoing, int fd):
        """Take over the descriptor of one direction of the link to a node."""
        self.engine.add_link(link_id, pnn, outgoing, fd)
        self.watch_conn(self.engine.link(link_id))

    def backlog(self, uint32_t client_id, int pnn):
        """Bytes that wait to be read by a client, or by a node when pnn is not negative; 0 if it is gone."""
        cdef Conn *conn = self.reader(client_id, pnn)
        return conn.out.size() if conn != NULL and not conn.closing else 0

    def await_drained(self, uint32_t client_id, int pnn):
        """Have one upcall DRAINED when little waits for this client or node, or when it is gone."""
        cdef Conn *conn = self.reader(client_id, pnn)
        if conn == NULL:
            self.engine.upcall(UPCALL_DRAINED, client_id, 0, NULL, 0)
        elif not self.is_behind(conn):
            self.behind.push_back(conn.slot)

    cdef cbool is_behind(self, Conn *conn) noexcept nogil:
        cdef size_t i
        for i in range(self.behind.size()):
            if self.behind[i] == conn.slot:
                return True
        return False

    cdef Conn *reader(self, uint32_t client_id, int pnn) noexcept:
        if pnn < 0:
            return self.engine.client(client_id)
        if <size_t>pnn >= self.engine.links_out.size() or self.engine.links_out[pnn] < 0:
            return NULL
        return self.engine.slots[self.engine.links_out[pnn]]

    cdef watch_conn(self, Conn *conn):
        try:
            self.watch(conn.fd, <uint64_t>conn.slot, EPOLLIN)
        except HostError:
            # Nothing would ever be heard of it; the next turn closes the descriptor.
            self.engine.end(conn, b"it cannot be watched")
            raise

    cdef watch(self, int fd, uint64_t data, uint32_t mask):
        cdef epoll_event event
        event.events = mask
        event.data.u64 = data
        if epoll_ctl(self.epfd, EPOLL_CTL_ADD, fd, &event) != 0:
            raise HostError(f"cannot watch descriptor {fd}: {strerror(errno).decode()}")

    def wait(self, double timeout_s):
        """Serve until something is left to Python; negative timeout: no limit.

        Returns (inner descriptor ready, engine has upcalls).
        """
        cdef int64_t timeout_us = -1 if timeout_s < 0 else <int64_t>(timeout_s * 1e6)
        with nogil:
            self.serve(timeout_us)
        return self.inner_ready, not self.engine.upcalls.empty()

    # -- without the GIL -----------------------------------------------------------

    cdef void serve(self, int64_t timeout_us) noexcept nogil:
        cdef uint64_t deadline_us = 0, due_us
        cdef int64_t left_us
        cdef int n
        cdef cbool asked_once = False
        self.inner_ready = False
        self.begin_turn()
        if timeout_us >= 0:
            deadline_us = self.engine.now_us + <uint64_t>timeout_us
        while True:
            self.engine.advance()
            self.flush()
            if not self.engine.upcalls.empty() or self.inner_ready:
                # Descriptors of asyncio that are ready now go up together with the upcalls.
                if not asked_once:
                    n = epoll_wait(self.epfd, self.events, EVENTS_A_TURN, 0)
                    self.handle(n)
                    self.engine.advance()
                    self.flush()
                return
            left_us = -1
            if timeout_us >= 0:
                left_us = <int64_t>(deadline_us - self.engine.now_us) if deadline_us > self.engine.now_us else 0
            due_us = self.engine.next_due_us()
            if not self.engine.to_self.empty():
                left_us = 0
            elif due_us != 0:
                if due_us <= self.engine.now_us:
                    left_us = 0
                elif left_us < 0 or <int64_t>(due_us - self.engine.now_us) < left_us:
                    left_us = <int64_t>(due_us - self.engine.now_us)
            if self.page != NULL:
                left_us = self.until_lease_ends(left_us)
            n = self.poll(left_us)
            asked_once = True
            self.begin_turn()
            if n < 0:
                return
            self.handle(n)
            # Also while packets keep coming: timers of the loop must not wait for a pause in them.
            if timeout_us >= 0 and self.engine.now_us >= deadline_us:
                self.engine.advance()
                self.flush()
                return

    cdef void begin_turn(self) noexcept nogil:
        """Take the time; before anything is served, see that there still is a lease; then show progress.

        In this order: who sees progress after a stall may take it that the loss of the lease was seen.
        """
        self.engine.now_us = clock_us()
        self.progress += 1
        if self.page == NULL:
            return
        self.engine.expired = self.has_expired(<int64_t>self.engine.now_us)
        if self.engine.expired and not self.engine.withheld:
            self.engine.withheld = True
            self.engine.upcall(UPCALL_LEASE_LOST, 0, 0, NULL, 0)
        store_progress(self.page, self.progress)

    cdef cbool has_expired(self, int64_t now_us) noexcept nogil:
        cdef int64_t until_us = self.lease_end_us()
        return until_us != 0 and now_us >= until_us

    cdef int64_t lease_end_us(self) noexcept nogil:
        cdef int64_t until_us = load_lease(self.page)
        if until_us == 0 and self.wants_lease:
            until_us = self.granted_us
        return until_us

    cdef int64_t until_lease_ends(self, int64_t left_us) noexcept nogil:
        """How long to wait at most: the guard wakes us when a lease ends, unless it has died or hangs."""
        cdef int64_t until_us = self.lease_end_us() - <int64_t>self.engine.now_us
        if left_us < 0 or left_us > PROGRESS_US:
            left_us = PROGRESS_US
        # A lease that has ended was seen at the beginning of this turn.
        return until_us if 0 < until_us < left_us else left_us

    cdef int poll(self, int64_t timeout_us) noexcept nogil:
        """Wait for events; with recent traffic look a while without sleeping. -1 when a signal came."""
        cdef timespec ts
        cdef uint64_t start_us = self.engine.now_us
        cdef int n
        if self.spin_us and timeout_us != 0 and start_us < self.last_traffic_us + SPIN_IDLE_US:
            if self.spin_rest > 0:
                self.spin_rest -= 1
            else:
                n = self.spin(start_us, timeout_us)
                if n != 0:
                    return n
                if timeout_us > 0:
                    timeout_us += <int64_t>start_us
                    start_us = clock_us()
                    timeout_us = max(timeout_us - <int64_t>start_us, 0)
        if timeout_us < 0 or (timeout_us >= TIMER_FROM_US and self.ring_at(start_us + <uint64_t>timeout_us)):
            n = epoll_wait(self.epfd, self.events, EVENTS_A_TURN, -1)
        elif timeout_us == 0:
            n = epoll_wait(self.epfd, self.events, EVENTS_A_TURN, 0)
        else:
            ts.tv_sec = timeout_us // 1000000
            ts.tv_nsec = (timeout_us % 1000000) * 1000
            n = epoll_pwait2(self.epfd, self.events, EVENTS_A_TURN, &ts, NULL)
            if n < 0 and errno == ENOSYS:
                n = epoll_wait(self.epfd, self.events, EVENTS_A_TURN, <int>((timeout_us + 999) // 1000))
        return n

    cdef cbool ring_at(self, uint64_t due_us) noexcept nogil:
        """Have the timer ring then, or before: whom it wakes early asks for it again."""
        cdef itimerspec when
        if self.rings_us != 0 and self.rings_us <= due_us:
            return True
        when.it_interval.tv_sec = when.it_interval.tv_nsec = 0
        when.it_value.tv_sec = due_us // 1000000
        when.it_value.tv_nsec = (due_us % 1000000) * 1000
        if timerfd_settime(self.timer_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0:
            return False
        self.rings_us = due_us
        return True

    cdef int spin(self, uint64_t start_us, int64_t timeout_us) noexcept nogil:
        """Look for events without sleeping; 0 when none came, or when the processor is wanted elsewhere."""
        cdef uint64_t at_us, looked_us = start_us, until_us = start_us + self.spin_us
        cdef int n
        if timeout_us > 0 and start_us + <uint64_t>timeout_us < until_us:
            until_us = start_us + <uint64_t>timeout_us
        while True:
            n = epoll_wait(self.epfd, self.events, EVENTS_A_TURN, 0)
            if n != 0:
                self.spin_score = min(self.spin_score + 4, 16)
                return n
            sched_yield()
            at_us = clock_us()
            if at_us - looked_us > YIELD_US:
                self.spin_score -= 16
                break
            if at_us >= until_us:
                self.spin_score -= 1
                break
            looked_us = at_us
        if self.spin_score <= -64:
            self.spin_score = 0
            self.spin_rest = SPIN_REST
        return 0

    cdef void handle(self, int n) noexcept nogil:
        cdef int i
        cdef Conn *conn
        cdef uint32_t mask
        if n > 1:
            self.lonely_turns = 0
        elif n == 1 and self.lonely_turns < LONELY_TURNS:
            self.lonely_turns += 1
        for i in range(n):
            if self.events[i].data.u64 == INNER:
                self.inner_ready = True
                continue
            if self.events[i].data.u64 == TIMER:
                self.rings_us = 0
                continue
            conn = self.engine.slots[self.events[i].data.u64]
            mask = self.events[i].events
            if conn.closing or conn.kind == CONN_FREE:
                continue
            self.last_traffic_us = self.engine.now_us
            if mask & EPOLLOUT:
                self.write(conn)
            if mask & (EPOLLIN | EPOLLHUP | EPOLLERR) and not conn.closing:
                self.read(conn)

    cdef void read(self, Conn *conn) noexcept nogil:
        """Handle what a connection has sent.

        Where packets of nodes come one at a time, each is only looked at, and taken from the kernel when the answers
        are under way: taking has the kernel acknowledge every other one, and somebody waits for the answer.
        """
        cdef int i
        cdef ssize_t got
        cdef cbool peeks = self.lonely_turns == LONELY_TURNS and conn.kind == CONN_LINK_IN
        cdef char *room
        for i in range(READS_A_TURN):
            room = conn.inbound.reserve(READ_BYTES)
            if room == NULL:
                self.engine.end(conn, b"out of memory for what it sends")
                return
            if peeks:
                got = recv(conn.fd, room, PEEK_BYTES, MSG_DONTWAIT | MSG_PEEK)
            else:
                got = recv(conn.fd, room, READ_BYTES, MSG_DONTWAIT)
            if got < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.engine.end(conn, strerror(errno))
                return
            if got == 0:
                self.engine.end(conn, b"closed by the other side")
                return
            if conn.kind == CONN_LINK_OUT:
                self.engine.end(conn, b"data on the outgoing side of a link")
                return
            if peeks:
                peeks = False
                if got == PEEK_BYTES:
                    self.lonely_turns = 0
                    continue
                self.peeked = conn
                self.peeked_bytes = <size_t>got
            self.engine.received(conn, <size_t>got)
            # Controls take Python's time: no more of them in one turn than one read has.
            if conn.closing or got < READ_BYTES or not self.engine.upcalls.empty():
                return

    cdef void take_peeked(self) noexcept nogil:
        """Take from the kernel what was handled already."""
        if recv(self.peeked.fd, self.taken, self.peeked_bytes, MSG_DONTWAIT) != <ssize_t>self.peeked_bytes:
            # Or it would be handled once more.
            self.engine.end(self.peeked, b"what it has sent cannot be taken")
        self.peeked = NULL

    cdef void write(self, Conn *conn) noexcept nogil:
        cdef ssize_t put
        cdef epoll_event event
        cdef cbool full = False
        while conn.out.size() > 0:
            put = send(conn.fd, conn.out.data(), conn.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
            if put < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.engine.end(conn, strerror(errno))
                    return
                full = True
                break
            conn.out.consume(<size_t>put)
        if full != conn.blocked:
            conn.blocked = full
            event.events = EPOLLIN | EPOLLOUT if full else EPOLLIN
            event.data.u64 = <uint64_t>conn.slot
            epoll_ctl(self.epfd, EPOLL_CTL_MOD, conn.fd, &event)

    cdef void flush(self) noexcept nogil:
        """Offer the kernel what the turn has produced, take what it still has; then let go of ended connections."""
        cdef size_t i
        cdef Conn *conn
        for i in range(self.engine.dirty.size()):
            conn = self.engine.slots[self.engine.dirty[i]]
            conn.dirty = False
            if conn.kind != CONN_FREE and conn.fd >= 0 and not conn.blocked:
                self.write(conn)
            if conn.kind == CONN_CLIENT and conn.out.size() > BEHIND_AT and not self.is_behind(conn):
                self.behind.push_back(conn.slot)
                self.engine.upcall(UPCALL_BEHIND, conn.id, 0, NULL, 0)
        self.engine.dirty.clear()
        if self.peeked != NULL:
            self.take_peeked()
        if self.behind.size():
            self.look_behind()
        if self.engine.ended.size() == 0:
            return
        for i in range(self.engine.ended.size()):
            conn = self.engine.slots[self.engine.ended[i]]
            if conn.fd >= 0:
                epoll_ctl(self.epfd, EPOLL_CTL_DEL, conn.fd, NULL)
                close(conn.fd)
                conn.fd = -1
        self.engine.release()

    cdef void look_behind(self) noexcept nogil:
        """Tell of connections that have caught up. Called before slots are freed, so that none is missed."""
        cdef size_t i = 0
        cdef Conn *conn
        while i < self.behind.size():
            conn = self.engine.slots[self.behind[i]]
            if conn.closing or conn.kind == CONN_FREE or conn.out.size() <= DRAINED_AT:
                self.behind[i] = self.behind.back()
                self.behind.pop_back()
                self.engine.upcall(UPCALL_DRAINED, conn.id if conn.kind == CONN_CLIENT else 0, 0, NULL, 0)
            else:
                i += 1
