# SPDX-License-Identifier: GPL-3.0-or-later
# Cython's view of engine_types.hpp.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.deque cimport deque
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from ctdbpy.store.libtdb cimport tdb_context

cdef extern from "engine_types.hpp" namespace "ctdbpy" nogil:
    uint32_t load32(const void *p)
    uint64_t load64(const void *p)
    void store32(void *p, uint32_t v)
    void store64(void *p, uint64_t v)
    uint64_t hash64(const void *p, size_t n)
    int lock_bucket(double s)
    int hop_bucket(uint32_t hops)

    cppclass Buffer:
        char *base
        size_t start, end, room
        size_t size()
        char *data()
        char *reserve(size_t n)
        void consume(size_t n)
        void clear()
        cbool assign(const void *p, size_t n)

    cppclass Header:
        uint64_t rsn
        uint32_t dmaster, reserved, flags
        void load(const void *p)
        void save(void *p)

    enum ConnKind:
        CONN_FREE
        CONN_CLIENT
        CONN_LINK_IN
        CONN_LINK_OUT

    cppclass Conn:
        int slot, kind, fd
        uint32_t id, pnn
        # C++ calls it `in`, a keyword here
        Buffer inbound "in"
        Buffer out
        cbool dirty, blocked, closing
        string why
        vector[uint64_t] srvids
        vector[uint64_t] tunnels
        uint64_t packets_in
        uint32_t waiting
        size_t waiting_bytes

    cppclass Queued:
        uint32_t client_id
        string bytes

    cppclass KeyWait:
        uint32_t db_id
        string key
        deque[Queued] packets
        uint64_t due_us, since_us
        uint32_t attempts
        cbool holding, asked, in_timers

    cppclass Pending:
        cbool used, readonly
        uint32_t turn, client_id, db_id, supposed
        uint64_t start_us
        string key, packet

    cppclass Latency:
        int32_t num
        double min, max, total
        void add(double s)

    cppclass HotKey:
        HotKey()
        uint32_t count
        string key

    cppclass Migrations:
        uint64_t hash
        uint32_t second, count

    cppclass Arrival:
        uint64_t hash, at_us, data_hash

    cppclass Sticky:
        uint64_t until_us, pinned_until_us
        cbool relieved

    cppclass DbStats:
        DbStats()
        uint32_t lock_calls, lock_current, lock_pending, lock_failed
        Latency lock_latency, vacuum_latency
        uint32_t lock_buckets[16]
        uint32_t ro_delegations, ro_revokes
        uint32_t hop_buckets[16]
        uint32_t holds, relieved

    cppclass Db:
        uint32_t db_id
        uint8_t flags
        tdb_context *tdb
        tdb_context *tracking
        uint32_t generation
        cbool frozen
        unordered_map[string, KeyWait *] waits
        unordered_map[string, deque[Queued]] in_flight
        unordered_map[string, deque[Queued]] revoking
        deque[Queued] parked
        unordered_map[string, string] deletions
        unordered_map[string, Sticky] sticky
        vector[Migrations] migrations
        vector[HotKey] hot
        vector[Arrival] arrivals
        DbStats stats

    cppclass Upcall:
        int kind
        uint32_t a
        uint64_t b
        string bytes

    cppclass Traverse:
        uint32_t client_id, reqid
        uint64_t srvid

    cppclass Counters:
        Counters()
        uint32_t client_packets_sent, client_packets_recv
        uint32_t node_packets_sent, node_packets_recv
        uint32_t keepalive_packets_sent, keepalive_packets_recv
        uint32_t node_op[11]
        uint32_t client_op[11]
        uint32_t timeouts_call
        uint32_t lock_calls, lock_current, lock_pending, lock_failed
        uint32_t lock_buckets[16]
        uint32_t total_calls, pending_calls, max_hop_count
        uint32_t hop_buckets[16]
        uint32_t total_ro_delegations, total_ro_revokes, dropped
        Latency call_latency, lock_latency
