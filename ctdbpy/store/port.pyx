# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the core tells the record engine and asks it: map, databases, vacuuming, counters.

The methods are those of `core.ports.Records`, which says what each means. Whoever opens the files
(the daemon, the simulator) adds what needs a path.
"""

import struct

from cython.operator cimport dereference, preincrement
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from ctdbpy.errors import StoreError
from ctdbpy.store.connections cimport UPCALL_LEASE_LOST
from ctdbpy.store.engine_types cimport Counters, Db, DbStats, Header, Latency
from ctdbpy.store.libtdb cimport (
    tdb_enable_seqnum, tdb_get_flags, tdb_get_seqnum, tdb_increment_seqnum_nonblock,
)
from ctdbpy.store.ownership cimport Ownership
from ctdbpy.store.records cimport (
    DB_EVERYWHERE, DELETIONS_MAX, RECORD_ABSENT, RECORD_FOUND, RECORD_UNREADABLE, RO_FLAGS,
)
from ctdbpy.store.tdb cimport Tdb

NODE_OPERATIONS = (
    "req_call", "reply_call", "req_dmaster", "reply_dmaster", "reply_error", "req_message", "", "req_control",
    "reply_control", "", "req_tunnel",
)
CLIENT_OPERATIONS = {0: "req_call", 5: "req_message", 7: "req_control", 10: "req_tunnel"}
# A call as a client would send it: the header, then flags, db_id, callid, hop count, lengths of key and data.
VACUUM_CALL = struct.Struct("=14I")

cdef enum:
    HEADER_BYTES = 24
    NODE_INACTIVE = 0x39


cdef tuple latency_tuple(Latency *latency):
    return (latency.num, latency.min, latency.max, latency.total)


cdef class RecordsPort(Ownership):
    """The engine as the core sees it."""

    def __cinit__(self):
        self.tdbs = {}
        self.trackings = {}
        self.recovering = True
        self.fetch_collapse = True
        self.hopcount_make_sticky = 50
        self.sticky_us = 600 * 1000000
        self.pindown_us = 200 * 1000
        self.hold_us = 300
        self.relief_moves = 100
        self.relief_us = 10 * 1000000
        self.relief_pindown_us = 2000

    def __dealloc__(self):
        it = self.dbs.begin()
        while it != self.dbs.end():
            wait = dereference(it).second.waits.begin()
            while wait != dereference(it).second.waits.end():
                del dereference(wait).second
                preincrement(wait)
            del dereference(it).second
            preincrement(it)

    # -- the cluster ---------------------------------------------------------------

    def set_map(self, uint32_t generation, tuple lmasters):
        """From now on: this vnnmap. With a new generation every waiting call starts again."""
        cdef cbool changed = generation != self.generation
        self.generation = generation
        self.lmasters.clear()
        for pnn in lmasters:
            self.lmasters.push_back(pnn)
        if changed:
            self.restart_calls()
            self.unpark_all()

    def set_nodes(self, tuple flags):
        """Flags of each configured node by pnn."""
        cdef cbool was_inactive = self.inactive
        self.node_flags.clear()
        for flag in flags:
            self.node_flags.push_back(flag)
        while self.links_out.size() < self.node_flags.size():
            self.links_out.push_back(-1)
        self.inactive = self.pnn < self.node_flags.size() and self.node_flags[self.pnn] & NODE_INACTIVE
        if was_inactive and not self.inactive:
            self.unpark_all()

    def set_tunables(self, tuple values):
        """Take the tunables that are known here."""
        for name, value in values:
            if name == "FetchCollapse":
                self.fetch_collapse = value != 0
            elif name == "HopcountMakeSticky":
                self.hopcount_make_sticky = value
            elif name == "StickyDuration":
                self.sticky_us = value * 1000000
            elif name == "StickyPindown":
                self.pindown_us = value * 1000
            elif name == "RecordHoldUs":
                self.hold_us = value
            elif name == "RecordReliefMoves":
                self.relief_moves = value
            elif name == "RecordReliefSeconds":
                self.relief_us = value * 1000000
            elif name == "RecordReliefUs":
                self.relief_pindown_us = value

    def set_recovery(self, cbool active):
        """Recovery mode; while active no call is executed.

        Its end also ends what the loss of the lease began, unless there is none now: that is told again.
        """
        cdef cbool ended = (self.recovering or self.withheld) and not active
        self.recovering = active
        if not ended:
            return
        self.withheld = self.expired
        if self.withheld:
            self.upcall(UPCALL_LEASE_LOST, 0, 0, NULL, 0)
        else:
            self.unpark_all()

    cdef unpark_all(self):
        cdef vector[uint32_t] ids
        cdef size_t i
        it = self.dbs.begin()
        while it != self.dbs.end():
            ids.push_back(dereference(it).first)
            preincrement(it)
        for i in range(ids.size()):
            self.unpark(self.db(ids[i]))

    cdef unpark(self, Db *db):
        """Repeat parked calls if the database serves now."""
        if db != NULL and not self.inactive and not self.not_serving(db):
            self.replay(&db.parked)

    # -- databases -------------------------------------------------------------------

    cdef Db *need(self, uint32_t db_id) except NULL:
        cdef Db *db = self.db(db_id)
        if db == NULL:
            raise StoreError(f"cannot use database 0x{db_id:08x}: it is not attached")
        return db

    def attach_tdb(self, uint32_t db_id, int flags, Tdb tdb not None):
        """Serve records from an open TDB; the engine keeps it until `detach`."""
        cdef Db *db
        if self.db(db_id) != NULL:
            raise StoreError(f"cannot attach database 0x{db_id:08x}: it is attached already")
        if tdb.ctx == NULL:
            raise StoreError(f"cannot attach database 0x{db_id:08x}: its TDB is closed")
        self.tdbs[db_id] = tdb
        db = new Db()
        db.db_id = db_id
        db.flags = flags
        db.tdb = tdb.ctx
        db.generation = self.generation
        self.dbs[db_id] = db

    def detach(self, uint32_t db_id):
        """Forget a database and close its TDB; calls of clients that wait for it are answered with status -1."""
        cdef Db *db = self.need(db_id)
        self.drop_calls(db)
        self.dbs.erase(db_id)
        del db
        self.tdbs.pop(db_id).close()
        tracking = self.trackings.pop(db_id, None)
        if tracking is not None:
            tracking.close()

    def tdb(self, uint32_t db_id):
        """The open TDB of a database; StoreError if it is not attached."""
        self.need(db_id)
        return self.tdbs[db_id]

    def set_flags(self, uint32_t db_id, int flags, Tdb tracking=None):
        """Set the database flags; read-only needs the TDB that tracks who holds copies."""
        cdef Db *db = self.need(db_id)
        if tracking is not None:
            if tracking.ctx == NULL:
                raise StoreError(f"cannot make database 0x{db_id:08x} read-only: its tracking TDB is closed")
            if db.tracking != NULL:
                raise StoreError(f"cannot make database 0x{db_id:08x} read-only: it is already")
            self.trackings[db_id] = tracking
            db.tracking = tracking.ctx
        db.flags = flags

    def set_db_generation(self, uint32_t db_id, uint32_t generation):
        """The database belongs to this generation: its recovery has rewritten every record."""
        cdef Db *db = self.need(db_id)
        if db.generation != generation:
            self.forget_copies(db)
        db.generation = generation
        self.unpark(db)

    def set_frozen(self, uint32_t db_id, cbool frozen):
        """While frozen no call touches the database; thawing repeats what waited."""
        cdef Db *db = self.need(db_id)
        db.frozen = frozen
        self.unpark(db)

    def revoked(self, uint32_t db_id, bytes key not None, cbool good):
        """Every copy of a record is back, or not all could be had: the calls that waited for it go on."""
        if len(key) > 0:
            self.submit_revoked(db_id, <char *>key, <uint32_t>len(key), good)

    def try_fetch(self, uint32_t db_id, bytes key not None):
        """(True, record or None), or (False, None) when the chain is locked. Raises StoreError."""
        cdef Db *db = self.need(db_id)
        cdef Header header
        cdef char *p = key
        cdef int found
        if not self.lock(db, p, <uint32_t>len(key)):
            return False, None
        found = self.read(db, p, <uint32_t>len(key), &header)
        self.unlock(db, p, <uint32_t>len(key))
        if found == RECORD_UNREADABLE:
            raise StoreError(f"cannot read record {key!r} of database 0x{db_id:08x}: libtdb failed")
        return True, (<bytes>self.record.data()[:self.record.size()] if found == RECORD_FOUND else None)

    def tdb_seqnum(self, uint32_t db_id):
        """libtdb's change counter of the file."""
        return <uint32_t>tdb_get_seqnum(self.need(db_id).tdb)

    def enable_seqnum(self, uint32_t db_id):
        """Have libtdb count changes."""
        tdb_enable_seqnum(self.need(db_id).tdb)

    def bump_seqnum(self, uint32_t db_id):
        """Increment libtdb's change counter without waiting."""
        tdb_increment_seqnum_nonblock(self.need(db_id).tdb)

    def open_flags(self, uint32_t db_id):
        """libtdb's open flags as clients must use them."""
        return tdb_get_flags(self.need(db_id).tdb)

    # -- vacuuming -----------------------------------------------------------------------

    def schedule_deletion(self, uint32_t db_id, bytes header not None, bytes key not None):
        """Queue an empty record for vacuuming, unless a newer version of it is queued already."""
        cdef Db *db = self.need(db_id)
        cdef Header queued, late
        if len(header) != HEADER_BYTES or len(key) == 0 or db.flags & DB_EVERYWHERE \
                or db.deletions.size() >= DELETIONS_MAX:
            return
        it = db.deletions.find(<string>key)
        if it != db.deletions.end():
            queued.load(dereference(it).second.data())
            late.load(<char *>header)
            if late.rsn < queued.rsn:
                return
        db.deletions[<string>key] = <string>header

    def take_deletions(self, uint32_t db_id, size_t limit):
        """Take up to `limit` queued (key, header)."""
        cdef Db *db = self.need(db_id)
        cdef list taken = []
        while not db.deletions.empty() and <size_t>len(taken) < limit:
            it = db.deletions.begin()
            taken.append((<bytes>dereference(it).first, <bytes>dereference(it).second))
            db.deletions.erase(it)
        return taken

    def delete_if_unchanged(self, uint32_t db_id, bytes key not None, bytes header not None):
        """Delete an empty record if it is still exactly this, owned here and not locked."""
        cdef Db *db = self.need(db_id)
        cdef Header now, wanted
        cdef char *p = key
        cdef uint32_t keylen = <uint32_t>len(key)
        cdef cbool deleted = False
        if len(header) != HEADER_BYTES or self.not_serving(db) or not self.lock(db, p, keylen):
            return False
        wanted.load(<char *>header)
        if self.read(db, p, keylen, &now) == RECORD_FOUND and self.datalen() == 0 \
                and now.dmaster == self.pnn and now.rsn == wanted.rsn and not now.flags & RO_FLAGS:
            deleted = self.erase(db, p, keylen)
        self.unlock(db, p, keylen)
        return deleted

    def try_delete(self, uint32_t db_id, bytes key not None, uint64_t rsn):
        """Delete this node's stale copy for the record's lmaster; True if there is none (any more)."""
        cdef Db *db = self.need(db_id)
        cdef Header now
        cdef char *p = key
        cdef uint32_t keylen = <uint32_t>len(key)
        cdef cbool deleted = False
        cdef int found
        if self.not_serving(db) or self.lmaster(p, keylen) == self.pnn or not self.lock(db, p, keylen):
            return False
        found = self.read(db, p, keylen, &now)
        # Absent may be a stump that is no record: gone either way.
        if found == RECORD_ABSENT or (found == RECORD_FOUND and now.rsn <= rsn and now.dmaster != self.pnn
                                      and not now.flags & RO_FLAGS):
            deleted = self.erase(db, p, keylen)
        self.unlock(db, p, keylen)
        return deleted

    def vacuum_fetch(self, uint32_t db_id, bytes key not None):
        """Have an empty record of another node migrate here, with no client waiting."""
        cdef Db *db = self.need(db_id)
        cdef Header now
        cdef char *p = key
        cdef uint32_t keylen = <uint32_t>len(key)
        cdef bytes packet
        if self.inactive or self.not_serving(db) or keylen == 0 or db.in_flight.count(<string>key):
            return
        if not self.lock(db, p, keylen):
            return
        if self.read(db, p, keylen, &now) == RECORD_FOUND and now.dmaster != self.pnn \
                and now.dmaster < self.node_flags.size():
            packet = VACUUM_CALL.pack(64 + keylen, 0x43544442, 1, self.generation, 0, 0, self.pnn, 0, 1 | 2, db_id,
                                      0xFF000001, 0, keylen, 0) + key
            self.send_call(db, now.dmaster, 0, packet, len(packet), p, keylen)
        self.unlock(db, p, keylen)

    def note_vacuum(self, uint32_t db_id, double duration_s):
        """Count a finished vacuum run of a database."""
        self.need(db_id).stats.vacuum_latency.add(duration_s)

    # -- counters ----------------------------------------------------------------------------

    def counters_by_name(self):
        """Counters by their name in upstream's statistics, groups with a dot."""
        c = {
            "client_packets_sent": self.counters.client_packets_sent,
            "client_packets_recv": self.counters.client_packets_recv,
            "node_packets_sent": self.counters.node_packets_sent,
            "node_packets_recv": self.counters.node_packets_recv,
            "keepalive_packets_sent": self.counters.keepalive_packets_sent,
            "keepalive_packets_recv": self.counters.keepalive_packets_recv,
            "timeouts.call": self.counters.timeouts_call,
            "locks.num_calls": self.counters.lock_calls,
            "locks.num_current": self.counters.lock_current,
            "locks.num_pending": self.counters.lock_pending,
            "locks.num_failed": self.counters.lock_failed,
            "total_calls": self.counters.total_calls,
            "pending_calls": self.counters.pending_calls,
            "max_hop_count": self.counters.max_hop_count,
            "total_ro_delegations": self.counters.total_ro_delegations,
            "total_ro_revokes": self.counters.total_ro_revokes,
            "dropped": self.counters.dropped,
            "write_errors": self.write_errors,
            "num_clients": self.clients.size(),
        }
        for operation, name in enumerate(NODE_OPERATIONS):
            if name:
                c["node." + name] = self.counters.node_op[operation]
        for operation, name in CLIENT_OPERATIONS.items():
            c["client." + name] = self.counters.client_op[operation]
        return c

    def latencies(self):
        """(number, min, max, total) in seconds by name."""
        return {
            "call": latency_tuple(&self.counters.call_latency),
            "lock": latency_tuple(&self.counters.lock_latency),
        }

    def buckets(self):
        """Sixteen counters each."""
        return {
            "hop_count": tuple(self.counters.hop_buckets[i] for i in range(16)),
            "locks": tuple(self.counters.lock_buckets[i] for i in range(16)),
        }

    def db_counters(self, uint32_t db_id):
        """Counters of one database; `holds` and `relieved` are this daemon's own."""
        cdef Db *db = self.need(db_id)
        return {
            "locks.num_calls": db.stats.lock_calls,
            "locks.num_current": db.stats.lock_current,
            "locks.num_pending": db.stats.lock_pending,
            "locks.num_failed": db.stats.lock_failed,
            "db_ro_delegations": db.stats.ro_delegations,
            "db_ro_revokes": db.stats.ro_revokes,
            "holds": db.stats.holds,
            "relieved": db.stats.relieved,
        }

    def db_latencies(self, uint32_t db_id):
        """(number, min, max, total) in seconds of one database."""
        cdef Db *db = self.need(db_id)
        return {
            "lock": latency_tuple(&db.stats.lock_latency),
            "vacuum": latency_tuple(&db.stats.vacuum_latency),
        }

    def db_buckets(self, uint32_t db_id):
        """Sixteen counters each of one database."""
        cdef Db *db = self.need(db_id)
        return {
            "hop_count": tuple(db.stats.hop_buckets[i] for i in range(16)),
            "locks": tuple(db.stats.lock_buckets[i] for i in range(16)),
        }

    def hot_keys(self, uint32_t db_id):
        """(migrations within one second, key) of the most moved records, most moved last."""
        cdef Db *db = self.need(db_id)
        return [(db.hot[i].count, <bytes>db.hot[i].key) for i in range(db.hot.size())]

    def queues(self, uint32_t db_id):
        """How many packets of a database wait, by what for; `calls` are those under way to other nodes."""
        cdef Db *db = self.need(db_id)
        cdef size_t i, locked = 0, in_flight = 0, revoking = 0, under_way = 0
        wait = db.waits.begin()
        while wait != db.waits.end():
            locked += dereference(wait).second.packets.size()
            preincrement(wait)
        flight = db.in_flight.begin()
        while flight != db.in_flight.end():
            in_flight += dereference(flight).second.size()
            preincrement(flight)
        flight = db.revoking.begin()
        while flight != db.revoking.end():
            revoking += dereference(flight).second.size()
            preincrement(flight)
        for i in range(self.pending.size()):
            if self.pending[i].used and self.pending[i].db_id == db_id:
                under_way += 1
        return {
            "lock": locked,
            "fetch": in_flight,
            "revoke": revoking,
            "recovery": db.parked.size(),
            "calls": under_way,
            "late": self.late.size(),
        }

    def reset_counters(self):
        """Set every counter, latency, bucket and hot key to nothing; what counts the present stays."""
        cdef uint32_t pending = self.counters.pending_calls
        cdef uint32_t waiting = self.counters.lock_pending, current = self.counters.lock_current
        cdef Db *db
        self.counters = Counters()
        self.counters.pending_calls = pending
        self.counters.lock_pending = waiting
        self.counters.lock_current = current
        it = self.dbs.begin()
        while it != self.dbs.end():
            db = dereference(it).second
            waiting = db.stats.lock_pending
            current = db.stats.lock_current
            db.stats = DbStats()
            db.stats.lock_pending = waiting
            db.stats.lock_current = current
            db.hot.clear()
            preincrement(it)
