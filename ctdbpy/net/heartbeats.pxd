# SPDX-License-Identifier: GPL-3.0-or-later
# Heartbeats as the guard's loop drives them: without Python, without an allocation.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool

cdef enum:
    PEERS = 256
    RING = 64
    HEARTBEAT_BYTES = 64
    NOTICE_BYTES = 64
    NOTICES = 1024

cdef struct Peer:
    # -- what the daemon says of it
    cbool used
    cbool linked
    # Declared silent on this link: nothing is confirmed to it until it has a new one.
    cbool counted_out
    # -- what was heard of it
    # It has a guard: one of its heartbeats was heard, and it has not said good-bye since.
    cbool guarded
    cbool heard_on_link
    # Its last heartbeat says that it hears us: it counts on our heartbeats, never on the link alone.
    cbool hears_us
    cbool told_unheard
    uint8_t sight
    uint8_t flags
    uint32_t sequence
    uint32_t progress
    uint64_t boot
    uint64_t boot_before
    int64_t heard_us
    int64_t progress_us
    int64_t linked_us
    # -- what it confirmed
    int64_t confirmed_us
    int64_t lease_us
    # -- what was sent to it
    uint32_t sent
    int64_t sent_us[RING]

cdef struct Notice:
    uint8_t kind
    uint8_t sight
    uint8_t reason
    uint8_t count
    uint32_t pnn
    int64_t first
    int64_t second
    uint32_t more[10]

cdef class Heartbeats:
    cdef uint32_t pnn
    cdef uint64_t boot
    cdef int64_t interval_us
    cdef int64_t patience_us
    # A longer patience that was promised before the limits shrank is kept so long.
    cdef int64_t old_patience_us
    cdef int64_t old_until_us
    cdef int64_t stall_us
    cdef int64_t unguarded_us
    cdef uint32_t limit
    cdef uint32_t needed
    cdef uint32_t leader
    cdef uint32_t generation
    cdef cbool still
    cdef cbool keeps
    cdef cbool stalled
    cdef cbool is_gone
    cdef cbool watches_daemon
    # Whether the lease was said to be held: 1, or lost: 0; -1 before anything was said.
    cdef int held
    cdef cbool send_now
    cdef int goodbyes
    cdef uint32_t progress_count
    cdef int64_t progress_us
    cdef int64_t now_us
    cdef int64_t ticked_us
    cdef int64_t resumed_us
    cdef int64_t send_us
    cdef int64_t due_us
    cdef int64_t serve_us
    cdef int64_t hold_us
    cdef uint32_t highest
    cdef Peer peers[PEERS]
    cdef int64_t leases[PEERS]
    # -- what waits to be taken
    cdef uint32_t out_count
    cdef uint32_t out_pnn[PEERS]
    cdef char out[PEERS * HEARTBEAT_BYTES]
    cdef uint32_t notice_count
    cdef Notice notices[NOTICES]
    cdef readonly uint64_t ignored
    cdef readonly uint64_t outdated
    cdef readonly uint64_t notices_lost

    cdef void c_set_peer(self, uint32_t pnn, cbool used) noexcept nogil
    cdef void c_set_limits(self, int64_t interval_us, uint32_t limit, int64_t stall_us,
                           int64_t unguarded_us) noexcept nogil
    cdef void c_guarded(self, uint32_t pnn) noexcept nogil
    cdef void c_tell(self, uint32_t needed, uint32_t leader, const uint32_t *linked, uint32_t count, cbool still,
                     uint32_t generation, cbool keeps) noexcept nogil
    cdef void c_progress(self, int64_t now_us, uint32_t count) noexcept nogil
    cdef void c_daemon_gone(self) noexcept nogil
    cdef void c_tick(self, int64_t now_us) noexcept nogil
    cdef void c_receive(self, int64_t now_us, uint32_t pnn, const char *data, size_t n) noexcept nogil

    cdef int64_t awake(self, int64_t now_us) noexcept nogil
    cdef int64_t patience(self, int64_t now_us) noexcept nogil
    cdef cbool is_unguarded(self, const Peer *peer, int64_t now_us) noexcept nogil
    cdef void look_at(self, uint32_t pnn, int64_t now_us) noexcept nogil
    cdef void see(self, uint32_t pnn, uint8_t sight, uint8_t reason, int64_t now_us) noexcept nogil
    cdef void take_echo(self, Peer *peer, const char *data) noexcept nogil
    cdef void settle(self, int64_t now_us) noexcept nogil
    cdef int64_t lease(self, const Peer *peer, int64_t now_us) noexcept nogil
    cdef void note_lost(self, int64_t now_us) noexcept nogil
    cdef Notice *note(self, uint8_t kind) noexcept nogil
    cdef void send_all(self, int64_t now_us) noexcept nogil
    cdef void set_due(self, int64_t now_us) noexcept nogil
