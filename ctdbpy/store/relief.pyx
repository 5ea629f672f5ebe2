# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Relief for records that many want: which they are, and how long one stays before it moves on.

Three measures, all local and all bounded. A record that has just arrived and is not used yet is held
for RecordHoldUs. A record of a sticky database that came round too many hops stays StickyPindown
wherever it arrives, for StickyDuration. And a record that keeps bouncing while several clients here wait for
it is relieved: it stays a moment for each of them, so that a journey serves them all.
"""

from cython.operator cimport dereference, postincrement
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool

from ctdbpy.store.engine_types cimport Arrival, Db, HotKey, Migrations, Sticky, hash64
from ctdbpy.store.records cimport DB_EVERYWHERE, DB_STICKY, RecordStore

cdef enum:
    HOT_KEYS = 10
    MIGRATION_SETS = 1024
    MIGRATION_WAYS = 4
    ARRIVAL_SLOTS = 1024
    STICKY_KEYS_MAX = 10000
    # What one waiting client is given of a relieved record's stay.
    RELIEF_STEP_US = 50


cdef class Relief(RecordStore):
    """Counts migrations and says until when a record stays."""

    cdef uint32_t count_migration(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """Count that a record moved here; returns how often it did within the current second."""
        cdef uint64_t hashed = hash64(key, keylen)
        cdef uint32_t second = <uint32_t>(self.now_us // 1000000)
        cdef size_t i, base = <size_t>(hashed & (MIGRATION_SETS - 1)) * MIGRATION_WAYS
        cdef Migrations *slot
        cdef Migrations *found = NULL
        if db.migrations.size() == 0:
            db.migrations.resize(MIGRATION_SETS * MIGRATION_WAYS)
        for i in range(base, base + MIGRATION_WAYS):
            slot = &db.migrations[i]
            if slot.second == second and slot.hash == hashed and slot.count > 0:
                slot.count += 1
                self.note_hot(db, key, keylen, slot.count)
                return slot.count
            # The slot to take: one of an earlier second, else the least counted.
            if slot.second != second:
                slot.second = second
                slot.hash = 0
                slot.count = 0
            if found == NULL or slot.count < found.count:
                found = slot
        found.hash = hashed
        found.count = 1
        self.note_hot(db, key, keylen, 1)
        return 1

    cdef void note_hot(self, Db *db, const char *key, uint32_t keylen, uint32_t count) noexcept nogil:
        """Keep the ten keys most moved within any one second, in ascending order."""
        cdef size_t i
        cdef HotKey moving
        if db.hot.size() == HOT_KEYS and count <= db.hot[0].count:
            return
        self.keybuf.assign(key, keylen)
        i = 0
        while i < db.hot.size() and db.hot[i].key != self.keybuf:
            i += 1
        if i == db.hot.size():
            i = 0
            if db.hot.size() < HOT_KEYS:
                db.hot.insert(db.hot.begin(), HotKey())
            db.hot[0].count = 0
            db.hot[0].key = self.keybuf
        if count <= db.hot[i].count:
            return
        db.hot[i].count = count
        if i + 1 == db.hot.size() or db.hot[i + 1].count >= count:
            return
        moving = db.hot[i]
        while i + 1 < db.hot.size() and db.hot[i + 1].count < count:
            db.hot[i] = db.hot[i + 1]
            i += 1
        db.hot[i] = moving

    # -- how long a record stays -----------------------------------------------------

    cdef void note_arrival(self, Db *db, const char *key, uint32_t keylen, const char *data,
                           uint32_t datalen) noexcept nogil:
        """Remember a record that just came within reach of a client here, to give it a moment with it."""
        cdef Arrival *arrival
        cdef uint64_t hashed
        if self.hold_us == 0:
            return
        if db.arrivals.size() == 0:
            db.arrivals.resize(ARRIVAL_SLOTS)
        hashed = hash64(key, keylen)
        arrival = &db.arrivals[hashed & (ARRIVAL_SLOTS - 1)]
        arrival.hash = hashed
        arrival.at_us = self.now_us
        arrival.data_hash = hash64(data, datalen)

    cdef void settle(self, Db *db, const char *key, uint32_t keylen, uint32_t waiters) noexcept nogil:
        """A record has arrived and `waiters` calls here wait for it besides the first: pin it if it is sticky."""
        cdef uint32_t moves = self.count_migration(db, key, keylen)
        cdef uint64_t pin_us
        cdef Sticky *sticky = NULL
        if not db.sticky.empty():
            self.keybuf.assign(key, keylen)
            it = db.sticky.find(self.keybuf)
            if it != db.sticky.end():
                if self.now_us < dereference(it).second.until_us:
                    sticky = &dereference(it).second
                else:
                    db.sticky.erase(it)
        if sticky == NULL and self.relief_moves and moves >= self.relief_moves and waiters > 0 \
                and not db.flags & DB_EVERYWHERE:
            sticky = self.make_sticky(db, key, keylen, self.relief_us)
            if sticky != NULL:
                sticky.relieved = True
                db.stats.relieved += 1
        if sticky == NULL:
            return
        pin_us = self.pindown_us
        if sticky.relieved:
            # Nobody else waits here, so staying would serve nobody: a record handed round in a ring moves on.
            pin_us = <uint64_t>RELIEF_STEP_US * waiters
            if pin_us > self.relief_pindown_us:
                pin_us = self.relief_pindown_us
        sticky.pinned_until_us = self.now_us + pin_us

    cdef uint64_t held_until(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """Until when the record in self.record is not given away; 0 for not held.

        A record that arrived less than RecordHoldUs ago and is byte for byte what arrived has
        not been used yet: giving it away now would cost another round for nothing.
        """
        cdef Arrival *arrival
        cdef uint64_t hashed, until = 0
        if self.hold_us and db.arrivals.size() > 0:
            hashed = hash64(key, keylen)
            arrival = &db.arrivals[hashed & (ARRIVAL_SLOTS - 1)]
            if arrival.hash == hashed and self.now_us < arrival.at_us + self.hold_us \
                    and arrival.data_hash == hash64(self.data(), self.datalen()):
                until = arrival.at_us + self.hold_us
        if not db.sticky.empty():
            self.keybuf.assign(key, keylen)
            it = db.sticky.find(self.keybuf)
            if it != db.sticky.end() and dereference(it).second.pinned_until_us > until:
                until = dereference(it).second.pinned_until_us
        return until

    cdef Sticky *make_sticky(self, Db *db, const char *key, uint32_t keylen, uint64_t duration_us) noexcept nogil:
        """From now on this record stays a while wherever it arrives; NULL when too many do already."""
        cdef Sticky *sticky
        if db.sticky.size() >= STICKY_KEYS_MAX:
            it = db.sticky.begin()
            while it != db.sticky.end():
                if dereference(it).second.until_us <= self.now_us:
                    it = db.sticky.erase(it)
                else:
                    postincrement(it)
            if db.sticky.size() >= STICKY_KEYS_MAX:
                return NULL
        self.keybuf.assign(key, keylen)
        sticky = &db.sticky[self.keybuf]
        sticky.until_us = self.now_us + duration_us
        sticky.relieved = False
        return sticky
