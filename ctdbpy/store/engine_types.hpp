// SPDX-License-Identifier: GPL-3.0-or-later
//
// Plain data of the record engine: what the Cython modules of the engine share.
// No behaviour beyond byte buffers; every decision is in the .pyx files.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <tdb.h>

namespace ctdbpy {

// Packets arrive at any alignment (Samba sends unpadded ones back to back).
inline uint32_t load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
inline uint64_t load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
inline void store32(void *p, uint32_t v) { memcpy(p, &v, 4); }
inline void store64(void *p, uint64_t v) { memcpy(p, &v, 8); }

// Bytes waiting to be parsed or sent; keeps its memory for the next packet
// until it has grown past `kept_bytes` and is empty again.
struct Buffer {
    static const size_t kept_bytes = 1 << 20;
    char *base = nullptr;
    size_t start = 0, end = 0, room = 0;

    Buffer() {}
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { free(base); }

    size_t size() const { return end - start; }
    char *data() { return base + start; }

    // Make room for n more bytes behind `end`; nullptr when memory is out.
    char *reserve(size_t n) {
        if (room - end >= n) return base + end;
        // Moving to the front pays only when at least as much has been consumed as must be moved:
        // a long backlog that drains slowly would be moved again for every packet.
        if (start >= end - start && start > 0) {
            memmove(base, base + start, end - start);
            end -= start;
            start = 0;
            if (room - end >= n) return base + end;
        }
        size_t wanted = room ? room * 2 : 4096;
        while (wanted - end < n) wanted *= 2;
        char *bigger = static_cast<char *>(realloc(base, wanted));
        if (!bigger) return nullptr;
        base = bigger;
        room = wanted;
        return base + end;
    }
    void consume(size_t n) {
        start += n;
        if (start == end) {
            start = end = 0;
            if (room > kept_bytes) { free(base); base = nullptr; room = 0; }
        }
    }
    void clear() {
        start = end = 0;
        if (room > kept_bytes) { free(base); base = nullptr; room = 0; }
    }
    bool assign(const void *p, size_t n) {
        start = end = 0;
        if (!reserve(n)) return false;
        if (n) memcpy(base, p, n);
        end = n;
        return true;
    }
};

// The ltdb header in front of every record, 24 bytes with 4 of padding.
struct Header {
    uint64_t rsn = 0;
    uint32_t dmaster = 0, reserved = 0, flags = 0;

    void load(const void *p) {
        const char *s = static_cast<const char *>(p);
        rsn = load64(s); dmaster = load32(s + 8); reserved = load32(s + 12); flags = load32(s + 16);
    }
    void save(void *p) const {
        char *s = static_cast<char *>(p);
        store64(s, rsn); store32(s + 8, dmaster); store32(s + 12, reserved); store32(s + 16, flags);
        store32(s + 20, 0);
    }
};

enum ConnKind { CONN_FREE = 0, CONN_CLIENT = 1, CONN_LINK_IN = 2, CONN_LINK_OUT = 3 };

struct Conn {
    int slot = 0;
    int kind = CONN_FREE;
    int fd = -1;                 // -1 in the simulator
    uint32_t id = 0;             // client_id, or an id of the link for the daemon
    uint32_t pnn = 0;            // peer of a link
    Buffer in, out;
    bool dirty = false;          // out has bytes not offered to the kernel in this turn
    bool blocked = false;        // the kernel took less than offered; wait for EPOLLOUT
    bool closing = false;        // no more input; freed at the end of the turn
    std::string why;             // reason of closing
    std::vector<uint64_t> srvids;
    std::vector<uint64_t> tunnels;
    uint64_t packets_in = 0;
    uint32_t waiting = 0;        // its calls that are not answered yet
    size_t waiting_bytes = 0;    // what keeping them takes
};

// A packet that waits for a lock, for a record in flight, or for the end of a recovery.
struct Queued {
    uint32_t client_id = 0;      // 0: from a node
    std::string bytes;
};

// Packets for one key, in the order in which they must be handled.
struct KeyWait {
    uint32_t db_id = 0;
    std::string key;
    std::deque<Queued> packets;
    uint64_t due_us = 0;
    uint64_t since_us = 0;
    uint32_t attempts = 0;
    bool holding = false;        // waits for time to pass, not for a lock
    bool asked = false;          // a waiter process has been asked to take the lock
    bool in_timers = false;
};

// A call that this node sent on to another node on behalf of a client.
struct Pending {
    bool used = false;
    uint32_t turn = 0;           // upper bits of the reqid, so that late replies do not match
    uint32_t client_id = 0;      // 0: nobody waits any more, or the engine's own call
    uint32_t db_id = 0;
    uint64_t start_us = 0;
    bool readonly = false;       // asked for a read-only copy
    uint32_t supposed = 0;       // who had the record as far as was known here; `pnn` of the engine: that was certain
    std::string key;
    std::string packet;          // the client's packet, to send it again after a recovery
};

struct Latency {
    int32_t num = 0;
    double min = 0, max = 0, total = 0;
    void add(double s) {
        if (num == 0 || s < min) min = s;
        if (s > max) max = s;
        total += s;
        num++;
    }
};

struct HotKey { uint32_t count = 0; std::string key; };

// How often a key migrated to this node within the current second.
struct Migrations { uint64_t hash = 0; uint32_t second = 0, count = 0; };

// A record that has just arrived and whose data nobody has changed yet.
struct Arrival { uint64_t hash = 0; uint64_t at_us = 0; uint64_t data_hash = 0; };

// A record that stays a while wherever it arrives: by the administrator's wish, or relieved by the engine.
struct Sticky { uint64_t until_us = 0; uint64_t pinned_until_us = 0; bool relieved = false; };

struct DbStats {
    uint32_t lock_calls = 0, lock_current = 0, lock_pending = 0, lock_failed = 0;
    Latency lock_latency, vacuum_latency;
    uint32_t lock_buckets[16] = {0};
    uint32_t ro_delegations = 0, ro_revokes = 0;
    uint32_t hop_buckets[16] = {0};
    uint32_t holds = 0, relieved = 0;
};

struct Db {
    uint32_t db_id = 0;
    uint8_t flags = 0;
    tdb_context *tdb = nullptr;
    tdb_context *tracking = nullptr;   // which nodes hold read-only copies
    uint32_t generation = 0;
    bool frozen = false;
    std::unordered_map<std::string, KeyWait *> waits;
    std::unordered_map<std::string, std::deque<Queued>> in_flight;
    std::unordered_map<std::string, std::deque<Queued>> revoking;
    std::deque<Queued> parked;         // until thaw
    std::unordered_map<std::string, std::string> deletions;
    std::unordered_map<std::string, Sticky> sticky;
    std::vector<Migrations> migrations;
    std::vector<HotKey> hot;
    std::vector<Arrival> arrivals;
    DbStats stats;
};

struct Upcall {
    int kind = 0;
    uint32_t a = 0;
    uint64_t b = 0;
    std::string bytes;
};

struct Traverse { uint32_t client_id = 0; uint32_t reqid = 0; uint64_t srvid = 0; };

struct Counters {
    uint32_t client_packets_sent = 0, client_packets_recv = 0;
    uint32_t node_packets_sent = 0, node_packets_recv = 0;
    uint32_t keepalive_packets_sent = 0, keepalive_packets_recv = 0;
    uint32_t node_op[11] = {0};        // by operation number
    uint32_t client_op[11] = {0};
    uint32_t timeouts_call = 0;
    uint32_t lock_calls = 0, lock_current = 0, lock_pending = 0, lock_failed = 0;
    uint32_t lock_buckets[16] = {0};
    uint32_t total_calls = 0, pending_calls = 0;
    uint32_t max_hop_count = 0;
    uint32_t hop_buckets[16] = {0};
    uint32_t total_ro_delegations = 0, total_ro_revokes = 0;
    uint32_t dropped = 0;              // packets of another generation, for unknown clients …
    Latency call_latency, lock_latency;
};

// 64-bit mix of a key or of data, for tables that may forget but must not confuse often.
inline uint64_t hash64(const void *p, size_t n) {
    const unsigned char *s = static_cast<const unsigned char *>(p);
    uint64_t h = 0x9E3779B97F4A7C15ull ^ (n * 0xff51afd7ed558ccdull);
    while (n >= 8) {
        h = (h ^ load64(s)) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
        s += 8; n -= 8;
    }
    uint64_t last = 0;
    if (n) memcpy(&last, s, n);
    h = (h ^ last) * 0xc4ceb9fe1a85ec53ull;
    return h ^ (h >> 29);
}

inline int lock_bucket(double s) {
    static const double limits[] = {0.001, 0.01, 0.1, 1, 2, 4, 8, 16, 32, 64};
    int i = 0;
    while (i < 10 && s >= limits[i]) i++;
    return i < 16 ? i : 15;
}

inline int hop_bucket(uint32_t hops) {
    int bucket = 0;
    while (hops) { bucket++; hops >>= 1; }
    return bucket < 16 ? bucket : 15;
}

}  // namespace ctdbpy
