# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Heartbeats: who is heard, who confirms that it hears us, and how long this node may serve for that.

Pure: datagrams and `now_us` in, datagrams, notices and `serve_until_us` out. The guard drives it without
Python, the simulator through the methods below. docs/decisions/005-leases.md says why it is as it is.

The rule that everything here serves: a node that this one declares silent has no lease from it any more.
A lease runs from the moment the confirmed heartbeat was *sent*, by the clock of its sender, for
interval*(limit-1); silence is counted from the moment it was *heard*, later, for interval*limit.

`now_us` never goes back; for `receive` it was read after the datagram was taken from the socket, for
`tick` before what it returns is sent.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp cimport bool as cbool

from ctdbpy.net.notices import decode

cdef extern from "<algorithm>" namespace "std" nogil:
    void nth_element(int64_t *first, int64_t *nth, int64_t *last)

cdef enum:
    NOBODY = 0xFFFFFFFF
    MAGIC = 0x42485443      # "CTHB" as the bytes lie
    VERSION = 1
    LINKED = 1
    STILL = 2
    STALLED = 4
    GONE = 8
    # Of a notice: kind, sight and reason, as ctdbpy.net.notices decodes them.
    SEEN = 1
    LEASE_LOST = 2
    LEASE_HELD = 3
    PAUSED = 4
    SIGHT_UNKNOWN = 0
    SIGHT_LIVE = 1
    SIGHT_STILL = 2
    SIGHT_STALLED = 3
    SIGHT_GONE = 4
    SIGHT_SILENT = 5
    WHY_HEARD = 0
    WHY_UNHEARD = 1
    WHY_NEW_LINK = 2
    WHY_ONE_WAY = 3
    WHY_TOO_FEW = 0
    WHY_LEADER = 1
    WHY_STALLED = 2
    WHY_GONE = 3
    NAMED = 5
    GOODBYES = 3
    GOODBYE_US = 20000
    PAUSE_INTERVALS = 3
    # No promise of another node is believed for longer.
    PROMISE_MS_MAX = 600000

cdef int64_t NEVER_US = 0x7FFFFFFFFFFFFFFF
cdef int64_t AGE_NEVER = 0xFFFFFFFF
cdef int64_t AGE_MS_MAX = 0xFFFFFFFE
# Passed long ago; 0 would mean that there is no limit.
cdef int64_t EXPIRED_US = 1


cdef packed struct Datagram:
    uint32_t magic
    uint8_t version
    uint8_t flags
    uint16_t sender
    uint16_t target
    uint16_t reserved
    # So long is the lease that a confirmation of this node's is worth.
    uint32_t lease_ms
    uint64_t boot
    uint32_t sequence
    # The last sequence heard from the target, 0 if nothing is confirmed.
    uint32_t echo
    # The boot of the target that this node heard last, 0 if it does not hear it.
    uint64_t echo_boot
    uint32_t generation
    uint32_t progress
    char authenticator[16]


cdef class Heartbeats:
    """What one node sends to the others and hears from them."""

    def __cinit__(self):
        memset(self.peers, 0, sizeof(self.peers))
        self.held = -1
        self.leader = NOBODY
        self.highest = 0

    def __init__(self, uint32_t pnn, uint64_t boot_id):
        """boot_id: any number but 0 that an earlier guard of this node never had."""
        if pnn >= PEERS or boot_id == 0:
            raise ValueError(f"no heartbeats for node {pnn} with boot id {boot_id}")
        self.pnn = pnn
        self.boot = boot_id
        self.c_set_limits(100000, 5, 2000000, 60000000)

    def set_peers(self, tuple pnns):
        """Hear and send to these nodes (this one among them is passed over), and to no others."""
        cdef uint32_t pnn
        wanted = set(pnns)
        if any(not 0 <= each < PEERS for each in wanted):
            raise ValueError(f"cannot watch nodes {sorted(wanted)}: their numbers end at {PEERS - 1}")
        for pnn in range(PEERS):
            self.c_set_peer(pnn, pnn in wanted)

    def set_guarded(self, tuple pnns):
        """Nodes that an earlier guard of the same daemon heard: their links alone are no confirmation."""
        for pnn in pnns:
            self.c_guarded(pnn)

    def set_limits(self, int64_t interval_us, uint32_t limit, int64_t stall_us, int64_t unguarded_us=60000000):
        """unguarded_us: a node not heard for so long although its link stands has no guard any more.

        That has to be more than twice what a broken link needs to be noticed without heartbeats.
        """
        if interval_us < 1000 or limit < 2 or stall_us <= 0:
            raise ValueError(f"heartbeats each {interval_us} us, silence after {limit}: too few to live by")
        self.c_set_limits(interval_us, limit, stall_us, unguarded_us)

    def tell(self, uint32_t needed, uint32_t leader, tuple linked, bint still, uint32_t generation,
             bint keeps=False):
        """What `effects.TellGuard` says; `tick` is due at once."""
        cdef uint32_t nodes[PEERS]
        cdef uint32_t count = 0
        for pnn in linked:
            if 0 <= pnn < PEERS and count < PEERS:
                nodes[count] = pnn
                count += 1
        self.c_tell(needed, leader, nodes, count, still, generation, keeps)

    def progress(self, int64_t now_us, uint32_t count):
        """The daemon's loop has turned so often; whether it turned at all is what matters."""
        self.c_progress(now_us, count)

    def daemon_gone(self):
        """The daemon has ended: say so to everybody; three ticks are due, then no more."""
        self.c_daemon_gone()

    def tick(self, int64_t now_us):
        """Send what is due; notice silence, stalls, an own pause and the end of the lease."""
        self.c_tick(now_us)

    def receive(self, int64_t now_us, uint32_t pnn, bytes data):
        """A datagram came from the address of this node."""
        self.c_receive(now_us, pnn, data, len(data))

    def take_datagrams(self):
        """What is to be sent now: (pnn, datagram)."""
        cdef uint32_t i
        taken = []
        for i in range(self.out_count):
            taken.append((self.out_pnn[i], self.out[i * HEARTBEAT_BYTES:(i + 1) * HEARTBEAT_BYTES]))
        self.out_count = 0
        return taken

    def take_notices(self):
        """What happened, each as the guard sends it to the daemon (`notices.decode`)."""
        cdef uint32_t i
        taken = []
        for i in range(self.notice_count):
            taken.append((<char *>&self.notices[i])[:NOTICE_BYTES])
        self.notice_count = 0
        return taken

    def take_events(self):
        """What happened: ("seen", pnn, sight, text), ("lease_lost", text), ("lease_held",), ("paused", s)."""
        return [decode(notice) for notice in self.take_notices()]

    @property
    def deadline_us(self):
        """When `tick` is due next, 0 for at once."""
        return self.due_us

    @property
    def serve_until_us(self):
        """This node may serve until then; 0: without limit."""
        return self.serve_us

    @property
    def hold_until_us(self):
        """This node may hold its public addresses until then; 0: without limit."""
        return self.hold_us

    def lease_until_us(self, uint32_t pnn):
        """Until when this node's lease from a peer runs, 0 if it has none."""
        if pnn >= PEERS:
            return 0
        return self.lease(&self.peers[pnn], self.now_us)

    # -- what the daemon says ------------------------------------------------------------

    cdef void c_set_peer(self, uint32_t pnn, cbool used) noexcept nogil:
        cdef Peer *peer = &self.peers[pnn]
        if pnn == self.pnn or peer.used == used:
            return
        memset(peer, 0, sizeof(Peer))
        peer.used = used
        if used and pnn >= self.highest:
            self.highest = pnn + 1
        self.due_us = 0

    cdef void c_guarded(self, uint32_t pnn) noexcept nogil:
        if pnn < PEERS and self.peers[pnn].used:
            self.peers[pnn].guarded = True
            # Not known when; `look_at` sets it on the next tick.
            self.peers[pnn].heard_us = 0

    cdef void c_set_limits(self, int64_t interval_us, uint32_t limit, int64_t stall_us,
                           int64_t unguarded_us) noexcept nogil:
        cdef int64_t patience_us = interval_us * limit
        cdef int64_t kept_us = self.patience(self.now_us)
        if patience_us < kept_us:
            # Others may hold leases by what was promised until now.
            self.old_patience_us = kept_us
            self.old_until_us = self.now_us + kept_us
        self.interval_us = interval_us
        self.limit = limit
        self.patience_us = patience_us
        self.stall_us = stall_us
        self.unguarded_us = unguarded_us
        self.due_us = 0

    cdef void c_tell(self, uint32_t needed, uint32_t leader, const uint32_t *linked, uint32_t count, cbool still,
                     uint32_t generation, cbool keeps) noexcept nogil:
        cdef cbool is_linked[PEERS]
        cdef uint32_t i
        cdef Peer *peer
        memset(is_linked, 0, sizeof(is_linked))
        for i in range(count):
            if linked[i] < PEERS:
                is_linked[linked[i]] = True
        for i in range(self.highest):
            peer = &self.peers[i]
            if not peer.used or peer.linked == is_linked[i]:
                continue
            peer.linked = is_linked[i]
            peer.heard_on_link = False
            peer.counted_out = False
            peer.told_unheard = False
            peer.linked_us = 0
            peer.lease_us = 0
            self.send_now = True
            if peer.linked and (peer.sight == SIGHT_SILENT or peer.sight == SIGHT_GONE):
                self.see(i, SIGHT_UNKNOWN, WHY_NEW_LINK, self.now_us)
        if still != self.still:
            self.send_now = True
        self.still = still
        self.keeps = keeps
        self.needed = needed
        self.leader = leader
        self.generation = generation
        self.settle(self.now_us)
        self.due_us = 0

    cdef void c_progress(self, int64_t now_us, uint32_t count) noexcept nogil:
        if self.watches_daemon and count == self.progress_count:
            return
        self.watches_daemon = True
        self.progress_count = count
        self.progress_us = now_us
        if self.stalled:
            self.stalled = False
            self.send_now = True
            self.due_us = 0

    cdef void c_daemon_gone(self) noexcept nogil:
        if not self.is_gone:
            self.is_gone = True
            self.goodbyes = GOODBYES
            self.send_us = 0
            self.due_us = 0

    # -- time passes -----------------------------------------------------------------------

    cdef void c_tick(self, int64_t now_us) noexcept nogil:
        cdef uint32_t i
        now_us = self.awake(now_us)
        self.ticked_us = now_us
        if self.watches_daemon and not self.stalled and now_us - self.progress_us >= self.stall_us:
            self.stalled = True
            self.send_now = True
        for i in range(self.highest):
            if self.peers[i].used:
                self.look_at(i, now_us)
        # The lease ends before anybody is told of a stall: who is told goes on without this node.
        self.settle(now_us)
        if self.is_gone:
            if self.goodbyes > 0 and now_us >= self.send_us:
                self.goodbyes -= 1
                self.send_us = now_us + GOODBYE_US
                self.send_all(now_us)
        elif self.send_now or now_us >= self.send_us:
            if now_us >= self.send_us:
                self.send_us += self.interval_us
                if self.send_us <= now_us:
                    self.send_us = now_us + self.interval_us
            self.send_all(now_us)
        self.set_due(now_us)

    cdef int64_t awake(self, int64_t now_us) noexcept nogil:
        """Take the time, and notice first of all that this node itself stood still."""
        cdef Notice *notice
        self.now_us = max(self.now_us, now_us)
        if self.ticked_us != 0 and self.now_us - self.ticked_us > PAUSE_INTERVALS * self.interval_us:
            notice = self.note(PAUSED)
            if notice != NULL:
                notice.first = self.now_us - self.ticked_us
            # Who was not heard meanwhile may have been talking: each gets two intervals to be heard anew.
            self.resumed_us = self.now_us
            self.progress_us = self.now_us
            self.ticked_us = self.now_us
        return self.now_us

    cdef int64_t patience(self, int64_t now_us) noexcept nogil:
        """So long a node is waited for that was heard; never less than what it was promised."""
        if now_us < self.old_until_us and self.old_patience_us > self.patience_us:
            return self.old_patience_us
        return self.patience_us

    cdef void look_at(self, uint32_t pnn, int64_t now_us) noexcept nogil:
        """Whether a node that was heard is silent now, or one that should be heard never was."""
        cdef Peer *peer = &self.peers[pnn]
        cdef int64_t patience_us = self.patience(now_us)
        if peer.guarded and peer.heard_us == 0:
            peer.heard_us = now_us
        if peer.linked and peer.linked_us == 0:
            peer.linked_us = now_us
        if SIGHT_LIVE <= peer.sight <= SIGHT_STALLED:
            if now_us < max(peer.heard_us + patience_us, self.resumed_us + 2 * self.interval_us):
                return
            if peer.hears_us and (peer.heard_on_link or not peer.linked):
                peer.counted_out = peer.linked
                self.see(pnn, SIGHT_SILENT, WHY_UNHEARD, now_us)
            else:
                # It may hold its link alone for a confirmation: only the link's end can end that.
                peer.told_unheard = True
                self.see(pnn, SIGHT_UNKNOWN, WHY_ONE_WAY, now_us)
        elif (peer.sight == SIGHT_UNKNOWN and peer.linked and not peer.told_unheard
              and now_us >= max(peer.linked_us + 2 * patience_us, self.resumed_us + 2 * self.interval_us)):
            peer.told_unheard = True
            self.see(pnn, SIGHT_UNKNOWN, WHY_UNHEARD, now_us)

    cdef void set_due(self, int64_t now_us) noexcept nogil:
        """The next moment at which `c_tick` would do something."""
        cdef uint32_t i
        cdef Peer *peer
        cdef int64_t due_us, patience_us = self.patience(now_us)
        if self.is_gone:
            self.due_us = self.send_us if self.goodbyes > 0 else NEVER_US
            return
        due_us = self.send_us
        if self.watches_daemon and not self.stalled:
            due_us = min(due_us, self.progress_us + self.stall_us)
        if self.held == 1:
            due_us = min(due_us, self.serve_us)
        for i in range(self.highest):
            peer = &self.peers[i]
            if peer.used and SIGHT_LIVE <= peer.sight <= SIGHT_STALLED:
                due_us = min(due_us, max(peer.heard_us + patience_us, self.resumed_us + 2 * self.interval_us))
        self.due_us = due_us

    # -- datagrams -------------------------------------------------------------------------

    cdef void send_all(self, int64_t now_us) noexcept nogil:
        """One heartbeat to each node; one that was not taken yet is replaced."""
        cdef uint32_t i
        cdef Peer *peer
        cdef Datagram datagram
        cdef cbool hears
        self.send_now = False
        self.out_count = 0
        for i in range(self.highest):
            peer = &self.peers[i]
            if not peer.used:
                continue
            peer.sent += 1
            peer.sent_us[peer.sent % RING] = now_us
            # Said only half as long as it takes until its link alone would do again (`is_unguarded`).
            hears = peer.guarded and peer.boot != 0 and now_us - peer.heard_us < self.unguarded_us // 2
            memset(&datagram, 0, sizeof(datagram))
            datagram.magic = MAGIC
            datagram.version = VERSION
            datagram.sender = <uint16_t>self.pnn
            datagram.target = <uint16_t>i
            datagram.lease_ms = <uint32_t>(self.interval_us * (self.limit - 1) // 1000)
            datagram.boot = self.boot
            datagram.sequence = peer.sent
            datagram.generation = self.generation
            datagram.progress = self.progress_count
            if hears:
                datagram.echo_boot = peer.boot
            if peer.linked and not peer.counted_out:
                datagram.flags |= LINKED
                if hears and peer.heard_on_link:
                    datagram.echo = peer.sequence
            if self.still:
                datagram.flags |= STILL
            if self.stalled:
                datagram.flags |= STALLED
            if self.is_gone:
                datagram.flags |= GONE
            memcpy(&self.out[self.out_count * HEARTBEAT_BYTES], &datagram, HEARTBEAT_BYTES)
            self.out_pnn[self.out_count] = i
            self.out_count += 1

    cdef void c_receive(self, int64_t now_us, uint32_t pnn, const char *data, size_t n) noexcept nogil:
        cdef const Datagram *datagram = <const Datagram *>data
        cdef Peer *peer
        cdef uint8_t sight
        now_us = self.awake(now_us)
        if (n != HEARTBEAT_BYTES or pnn >= PEERS or not self.peers[pnn].used or datagram.magic != MAGIC
                or datagram.version != VERSION or datagram.sender != pnn or datagram.target != self.pnn
                or datagram.boot == 0 or datagram.sequence == 0):
            self.ignored += 1
            return
        peer = &self.peers[pnn]
        # Late words of an earlier guard may have come last: if the later one is never heard again, it was the other.
        if ((datagram.boot == peer.boot_before and now_us - peer.heard_us <= self.patience(now_us))
                or (datagram.boot == peer.boot and datagram.sequence <= peer.sequence)):
            self.outdated += 1
            return
        if datagram.boot != peer.boot:
            peer.boot_before = peer.boot
            peer.boot = datagram.boot
            peer.progress_us = now_us
        if datagram.progress != peer.progress:
            peer.progress_us = now_us
        peer.progress = datagram.progress
        peer.sequence = datagram.sequence
        peer.flags = datagram.flags
        peer.heard_us = now_us
        if peer.linked and not peer.heard_on_link:
            # The first on this link: confirmed at once, for a node may wait for it with its service.
            peer.heard_on_link = True
            self.send_now = True
            self.due_us = 0
        peer.hears_us = datagram.echo_boot == self.boot
        # After a good-bye whatever daemon comes next may have no guard.
        peer.guarded = not datagram.flags & GONE
        self.take_echo(peer, data)
        if datagram.flags & GONE:
            sight = SIGHT_GONE
        elif datagram.flags & STALLED:
            sight = SIGHT_STALLED
        elif datagram.flags & STILL:
            sight = SIGHT_STILL
        else:
            sight = SIGHT_LIVE
        if sight != peer.sight:
            self.see(pnn, sight, WHY_HEARD, now_us)
        self.settle(now_us)
        if self.due_us != 0:
            self.set_due(now_us)

    cdef void take_echo(self, Peer *peer, const char *data) noexcept nogil:
        """Renew the lease by what the node confirms."""
        cdef const Datagram *datagram = <const Datagram *>data
        cdef int64_t sent_us, promised_us
        if not datagram.flags & LINKED:
            # It goes on without us, now.
            peer.lease_us = 0
            return
        if not peer.linked or not peer.hears_us or datagram.flags & (STALLED | GONE):
            return
        if datagram.echo == 0 or datagram.echo > peer.sent or peer.sent - datagram.echo >= RING:
            return
        sent_us = peer.sent_us[datagram.echo % RING]
        if sent_us >= peer.confirmed_us:
            peer.confirmed_us = sent_us
            promised_us = <int64_t>min(datagram.lease_ms, <uint32_t>PROMISE_MS_MAX) * 1000
            peer.lease_us = max(peer.lease_us, sent_us + promised_us)

    # -- the lease --------------------------------------------------------------------------

    cdef cbool is_unguarded(self, const Peer *peer, int64_t now_us) noexcept nogil:
        """A node of which only the link is known: upstream's daemons have no guard, a port may be blocked."""
        if peer.heard_on_link:
            return False
        return not peer.guarded or (peer.heard_us != 0 and now_us - peer.heard_us >= self.unguarded_us)

    cdef int64_t lease(self, const Peer *peer, int64_t now_us) noexcept nogil:
        """Until when this node confirmed that it hears us; one without a guard does as long as it is linked."""
        if not peer.used or not peer.linked:
            return 0
        if self.is_unguarded(peer, now_us):
            return now_us + self.interval_us * (self.limit - 1)
        return peer.lease_us

    cdef void settle(self, int64_t now_us) noexcept nogil:
        """Compute until when this node may serve, and notice that it may no more, or again.

        The leader's lease is not counted for addresses that it keeps: to take them over, a new leader
        needs nodes that give this one no lease any more.
        """
        cdef uint32_t i, count = 0
        cdef int64_t until_us = NEVER_US
        cdef int64_t hold_us = 0
        cdef cbool holds
        if self.needed == 0 and (self.leader == NOBODY or self.leader == self.pnn):
            until_us = 0
        elif self.stalled or self.is_gone:
            until_us = EXPIRED_US
        else:
            if self.needed > 0:
                for i in range(self.highest):
                    if self.peers[i].used and self.peers[i].linked:
                        self.leases[count] = self.lease(&self.peers[i], now_us)
                        count += 1
                if self.needed > count:
                    until_us = EXPIRED_US
                else:
                    nth_element(self.leases, self.leases + (count - self.needed), self.leases + count)
                    until_us = self.leases[count - self.needed]
                if self.keeps:
                    hold_us = max(until_us, EXPIRED_US)
            if self.leader != NOBODY and self.leader != self.pnn:
                until_us = min(until_us, self.lease(&self.peers[self.leader], now_us) if self.leader < PEERS else 0)
            until_us = max(until_us, EXPIRED_US)
        self.serve_us = until_us
        self.hold_us = hold_us if hold_us != 0 else until_us
        # Before the first tick there is no clock to compare with.
        if self.ticked_us == 0:
            return
        holds = until_us == 0 or until_us > now_us
        if not holds and self.held != 0:
            self.note_lost(now_us)
        elif holds and (self.held == 0 or (self.held < 0 and until_us != 0)):
            self.note(LEASE_HELD)
        # Where no lease is needed there is nothing to say; once one is, how it stands is said anew.
        self.held = -1 if until_us == 0 else holds

    # -- what happened ------------------------------------------------------------------------

    cdef Notice *note(self, uint8_t kind) noexcept nogil:
        cdef Notice *notice
        if self.notice_count == NOTICES:
            self.notices_lost += 1
            return NULL
        notice = &self.notices[self.notice_count]
        self.notice_count += 1
        memset(notice, 0, sizeof(Notice))
        notice.kind = kind
        return notice

    cdef void see(self, uint32_t pnn, uint8_t sight, uint8_t reason, int64_t now_us) noexcept nogil:
        """first: us since it was heard, -1 if never; second: us since its daemon's last progress, as heard."""
        cdef Peer *peer = &self.peers[pnn]
        cdef Notice *notice = self.note(SEEN)
        peer.sight = sight
        if notice == NULL:
            return
        notice.sight = sight
        notice.reason = reason
        notice.pnn = pnn
        notice.first = now_us - peer.heard_us if peer.boot != 0 else -1
        notice.second = now_us - peer.progress_us if peer.boot != 0 else -1
        notice.more[0] = self.limit
        notice.more[1] = <uint32_t>self.interval_us
        notice.more[2] = <uint32_t>((now_us - peer.linked_us) // 1000) if peer.linked_us != 0 else 0

    cdef void note_lost(self, int64_t now_us) noexcept nogil:
        """first: nodes needed, second: nodes that confirm; then who does not, and for how many ms."""
        cdef Notice *notice = self.note(LEASE_LOST)
        cdef Peer *peer
        cdef uint32_t i
        cdef int64_t age_ms
        if notice == NULL:
            return
        notice.pnn = self.leader
        notice.first = self.needed
        for i in range(self.highest):
            peer = &self.peers[i]
            if not peer.used:
                continue
            if self.lease(peer, now_us) > now_us:
                notice.second += 1
            elif notice.count < NAMED:
                age_ms = min((now_us - peer.confirmed_us) // 1000, AGE_MS_MAX) if peer.confirmed_us else AGE_NEVER
                notice.more[2 * notice.count] = i
                notice.more[2 * notice.count + 1] = <uint32_t>age_ms
                notice.count += 1
        if self.is_gone:
            notice.reason = WHY_GONE
        elif self.stalled:
            notice.reason = WHY_STALLED
            notice.first = now_us - self.progress_us
        elif notice.second < notice.first:
            notice.reason = WHY_TOO_FEW
        else:
            notice.reason = WHY_LEADER
