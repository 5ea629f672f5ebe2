# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The guard's loop: one UDP socket, the daemon's socket, one page of shared memory, no Python, no allocation.

Order matters in three places. The clock is read after a datagram was received, never before: silence is
counted from there. What was received is handled before silence is looked for. And the lease that this
node has is written where the daemon sees it before others are told anything by which they may go on
without this node.
"""

import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset
from libcpp cimport bool as cbool

from ctdbpy.errors import HostError
from ctdbpy.host.realtime import Outcome
from ctdbpy.net.heartbeats cimport HEARTBEAT_BYTES, NOTICE_BYTES, NOTICES, PEERS, Heartbeats
from ctdbpy.net.kernel cimport (
    AF_INET, AF_INET6, CLOCK_BOOTTIME, MSG_DONTWAIT, MSG_NOSIGNAL, POLLIN, clock_gettime, htons, pollfd, ppoll,
    recv, recvfrom, send, sendto, sockaddr, sockaddr_in, sockaddr_in6, socklen_t, timespec,
)
from ctdbpy.net.lease_page cimport LeasePage, load_progress, store_hold, store_lease, store_looked

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long argument, ...)
    int PR_SET_PDEATHSIG

cdef extern from *:
    """
    #ifndef PR_SET_IO_FLUSHER
    #define PR_SET_IO_FLUSHER 57
    #endif
    """
    int PR_SET_IO_FLUSHER

cdef enum:
    # As ctdbpy.net.orders packs them.
    ORDER_PEERS = 1
    ORDER_GUARDED = 2
    ORDER_LIMITS = 3
    ORDER_TELL = 4
    # More than the longest order: 256 peers of 24 bytes.
    ORDER_BYTES = 16384
    DATAGRAMS_A_TURN = 512
    FRAME_BYTES = 68
    # The daemon sees at least so often that the guard looks.
    LOOK_US = 100000

cdef packed struct PeerOrder:
    uint32_t pnn
    uint16_t version
    uint16_t reserved
    char address[16]

cdef packed struct LimitsOrder:
    uint32_t kind
    uint32_t limit
    int64_t interval_us
    int64_t stall_us
    int64_t unguarded_us

cdef packed struct TellOrder:
    uint32_t kind
    uint32_t needed
    uint32_t leader
    uint32_t generation
    # Bit 0: still, bit 1: addresses are kept although the leader is lost.
    uint32_t bits

# Large enough for both families, which the kernel tells apart by the first field.
cdef struct Place:
    sockaddr_in6 address
    socklen_t length


cdef inline int64_t clock_us() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_BOOTTIME, &ts)
    return <int64_t>ts.tv_sec * 1000000 + <int64_t>ts.tv_nsec // 1000


def survive_parent():
    """Do not be killed when the daemon dies."""
    prctl(PR_SET_PDEATHSIG, 0)


def write_back_free():
    """Have the kernel never write pages back on this process's behalf when memory is short."""
    if prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:
        return Outcome(False, f"the guard may wait for disks when memory is short: {os.strerror(errno)}")
    return Outcome(True, "the guard never waits for disks (PR_SET_IO_FLUSHER)")


cdef class Loop:
    """The process's only loop, over its heartbeats."""

    cdef Heartbeats heartbeats
    cdef int control_fd
    cdef int datagrams_fd
    cdef uint16_t port
    cdef int wake_fd
    cdef int64_t published_us
    cdef LeasePage *page
    cdef object page_owner
    # The daemon has said what it needs: until then nothing is known about the lease.
    cdef cbool was_told
    cdef cbool is_broken
    cdef uint32_t highest
    cdef Place places[PEERS]
    cdef char orders[ORDER_BYTES]
    cdef size_t ordered
    cdef char frames[NOTICES * FRAME_BYTES]
    cdef size_t frame_bytes

    def __init__(self, Heartbeats heartbeats, int control_fd, int datagrams_fd, page, uint16_t port, int wake_fd=-1):
        """The descriptors stay the caller's.

        wake_fd: an eventfd for who holds addresses, and sleeps until the lease ends that was written before.
        """
        cdef char[::1] view = page
        if <size_t>view.shape[0] < sizeof(LeasePage):
            raise ValueError("the page shared with the daemon is too small")
        self.heartbeats = heartbeats
        self.control_fd = control_fd
        self.datagrams_fd = datagrams_fd
        self.port = port
        self.wake_fd = wake_fd
        self.page_owner = page
        self.page = <LeasePage *>&view[0]
        memset(self.places, 0, sizeof(self.places))

    def run(self):
        """Until the daemon has ended and the others have been told. Raises HostError at bad orders."""
        with nogil:
            self.loop()
        if self.is_broken:
            raise HostError("cannot understand the daemon's orders")

    cdef void loop(self) noexcept nogil:
        cdef pollfd fds[2]
        cdef timespec ts
        cdef int64_t now_us, wait_us
        cdef uint64_t turns
        fds[0].fd = self.datagrams_fd
        fds[0].events = POLLIN
        fds[1].fd = self.control_fd
        fds[1].events = POLLIN
        while True:
            now_us = clock_us()
            wait_us = self.heartbeats.due_us - now_us
            wait_us = 0 if wait_us < 0 else min(wait_us, <int64_t>LOOK_US)
            ts.tv_sec = 0
            ts.tv_nsec = wait_us * 1000
            fds[0].revents = 0
            fds[1].revents = 0
            if ppoll(fds, 2, &ts, NULL) < 0 and errno != EINTR:
                return
            if fds[0].revents:
                self.take_datagrams()
            if fds[1].revents and not self.heartbeats.is_gone:
                if not self.take_orders():
                    self.heartbeats.c_daemon_gone()
                    fds[1].fd = -1
            now_us = clock_us()
            turns = load_progress(self.page)
            if turns != 0:
                self.heartbeats.c_progress(now_us, <uint32_t>turns)
            if now_us >= self.heartbeats.due_us:
                self.heartbeats.c_tick(now_us)
            # First what this node may do, then what others hear of it.
            self.publish(now_us)
            self.send_datagrams()
            self.send_notices()
            if self.is_broken or (self.heartbeats.is_gone and self.heartbeats.goodbyes == 0):
                return

    cdef void publish(self, int64_t now_us) noexcept nogil:
        if self.was_told:
            store_lease(self.page, self.heartbeats.serve_us)
            store_hold(self.page, self.heartbeats.hold_us)
            if self.heartbeats.hold_us != 0 and (self.published_us == 0
                                                 or self.heartbeats.hold_us < self.published_us):
                eventfd_write(self.wake_fd, 1)
            self.published_us = self.heartbeats.hold_us
        store_looked(self.page, now_us)

    # -- datagrams ---------------------------------------------------------------------------

    cdef void take_datagrams(self) noexcept nogil:
        cdef char data[HEARTBEAT_BYTES + 1]
        cdef sockaddr_in6 source
        cdef socklen_t length
        cdef ssize_t got
        cdef int i, pnn
        for i in range(DATAGRAMS_A_TURN):
            length = sizeof(source)
            got = recvfrom(self.datagrams_fd, data, sizeof(data), MSG_DONTWAIT, <sockaddr *>&source,
                           &length)
            if got < 0:
                if errno == EAGAIN or errno == EINTR:
                    return
                # What the network answered to something that was sent: nothing to do with this.
                continue
            pnn = self.find(&source)
            if pnn < 0:
                self.heartbeats.ignored += 1
            else:
                self.heartbeats.c_receive(clock_us(), pnn, data, <size_t>got)

    cdef int find(self, const sockaddr_in6 *source) noexcept nogil:
        """Who sends from this address and port, -1 if it is none of the nodes."""
        cdef const sockaddr_in *short_source = <const sockaddr_in *>source
        cdef const sockaddr_in *short_place
        cdef uint32_t i
        for i in range(self.highest):
            if self.places[i].length == 0 or self.places[i].address.sin6_family != source.sin6_family:
                continue
            if source.sin6_port != self.places[i].address.sin6_port:
                continue
            if source.sin6_family == AF_INET:
                short_place = <const sockaddr_in *>&self.places[i].address
                if short_place.sin_addr.s_addr == short_source.sin_addr.s_addr:
                    return i
            elif memcmp(&source.sin6_addr, &self.places[i].address.sin6_addr, 16) == 0:
                return i
        return -1

    cdef void send_datagrams(self) noexcept nogil:
        cdef uint32_t i
        cdef Place *place
        for i in range(self.heartbeats.out_count):
            place = &self.places[self.heartbeats.out_pnn[i]]
            if place.length:
                # One that the network does not take is as one that got lost.
                sendto(self.datagrams_fd, &self.heartbeats.out[i * HEARTBEAT_BYTES], HEARTBEAT_BYTES,
                       MSG_DONTWAIT, <sockaddr *>&place.address, place.length)
        self.heartbeats.out_count = 0

    # -- the daemon ----------------------------------------------------------------------------

    cdef void send_notices(self) noexcept nogil:
        """Offer the daemon what happened; what it does not take now it gets later."""
        cdef uint32_t i = 0, length = NOTICE_BYTES
        cdef ssize_t put
        while i < self.heartbeats.notice_count and self.frame_bytes + FRAME_BYTES <= sizeof(self.frames):
            memcpy(&self.frames[self.frame_bytes], &length, 4)
            memcpy(&self.frames[self.frame_bytes + 4], &self.heartbeats.notices[i], NOTICE_BYTES)
            self.frame_bytes += FRAME_BYTES
            i += 1
        if i and i < self.heartbeats.notice_count:
            memmove(&self.heartbeats.notices[0], &self.heartbeats.notices[i],
                    (self.heartbeats.notice_count - i) * NOTICE_BYTES)
        self.heartbeats.notice_count -= i
        if self.frame_bytes == 0 or self.heartbeats.is_gone:
            return
        put = send(self.control_fd, self.frames, self.frame_bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
        if put > 0:
            self.frame_bytes -= <size_t>put
            memmove(self.frames, &self.frames[put], self.frame_bytes)

    cdef cbool take_orders(self) noexcept nogil:
        """Read what the daemon sent and act on it; False when it has ended."""
        cdef size_t at = 0, room = ORDER_BYTES - self.ordered
        cdef ssize_t got = recv(self.control_fd, &self.orders[self.ordered], room, MSG_DONTWAIT)
        cdef uint32_t length
        if got < 0:
            return errno == EAGAIN or errno == EINTR
        if got == 0:
            return False
        self.ordered += <size_t>got
        while self.ordered - at >= 4:
            memcpy(&length, &self.orders[at], 4)
            if length > ORDER_BYTES - 4:
                self.is_broken = True
                return True
            if self.ordered - at - 4 < length:
                break
            self.obey(&self.orders[at + 4], length)
            at += 4 + length
        self.ordered -= at
        memmove(self.orders, &self.orders[at], self.ordered)
        return True

    cdef void obey(self, const char *order, size_t n) noexcept nogil:
        cdef const LimitsOrder *limits = <const LimitsOrder *>order
        cdef const TellOrder *told = <const TellOrder *>order
        cdef const uint32_t *numbers = <const uint32_t *>order
        cdef size_t i
        if n >= 4 and numbers[0] == ORDER_PEERS and (n - 4) % sizeof(PeerOrder) == 0:
            self.set_peers(<const PeerOrder *>(order + 4), (n - 4) // sizeof(PeerOrder))
        elif n >= 4 and numbers[0] == ORDER_GUARDED and n % 4 == 0:
            for i in range(1, n // 4):
                self.heartbeats.c_guarded(numbers[i])
        elif n == sizeof(LimitsOrder) and limits.kind == ORDER_LIMITS:
            self.heartbeats.c_set_limits(limits.interval_us, limits.limit, limits.stall_us,
                                         limits.unguarded_us)
        elif n >= sizeof(TellOrder) and told.kind == ORDER_TELL and n % 4 == 0:
            self.heartbeats.c_tell(told.needed, told.leader, &numbers[sizeof(TellOrder) // 4],
                              <uint32_t>((n - sizeof(TellOrder)) // 4), (told.bits & 1) != 0, told.generation,
                              (told.bits & 2) != 0)
            self.was_told = True
        else:
            self.is_broken = True

    cdef void set_peers(self, const PeerOrder *wanted, size_t count) noexcept nogil:
        cdef cbool is_wanted[PEERS]
        cdef size_t i
        cdef uint32_t pnn
        memset(is_wanted, 0, sizeof(is_wanted))
        for i in range(count):
            pnn = wanted[i].pnn
            if pnn < PEERS:
                is_wanted[pnn] = True
                self.set_place(&self.places[pnn], &wanted[i])
                if pnn >= self.highest:
                    self.highest = pnn + 1
        for pnn in range(PEERS):
            if not is_wanted[pnn]:
                self.places[pnn].length = 0
            self.heartbeats.c_set_peer(pnn, is_wanted[pnn])

    cdef void set_place(self, Place *place, const PeerOrder *wanted) noexcept nogil:
        cdef sockaddr_in *short_place = <sockaddr_in *>&place.address
        memset(place, 0, sizeof(Place))
        if wanted.version == 4:
            short_place.sin_family = AF_INET
            short_place.sin_port = htons(self.port)
            memcpy(&short_place.sin_addr, wanted.address, 4)
            place.length = sizeof(sockaddr_in)
        else:
            place.address.sin6_family = AF_INET6
            place.address.sin6_port = htons(self.port)
            memcpy(&place.address.sin6_addr, wanted.address, 16)
            place.length = sizeof(sockaddr_in6)
