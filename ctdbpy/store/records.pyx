# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Records under their header: reading, the store rule, chain locks, what to delete later.

Chain locks are only ever tried. Between `lock` and `unlock` nothing else runs, so a
record read in between is what is stored.
Source: the ltdb header and the keep-or-delete rule for empty volatile records.
"""

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string

from ctdbpy.store.engine_types cimport Buffer, Db, Header
from ctdbpy.store.libtdb cimport (
    TDB_DATA, TDB_ERR_NOEXIST, tdb_chainlock_nonblock, tdb_chainunlock, tdb_delete, tdb_error,
    tdb_jenkins_hash, tdb_parse_record, tdb_storev,
)
from ctdbpy.store.routing cimport Routing

cdef enum:
    HEADER_BYTES = 24


cdef int copy_record(TDB_DATA key, TDB_DATA data, void *target) noexcept nogil:
    return 0 if (<Buffer *>target).assign(data.dptr, data.dsize) else -1


cdef struct Reading:
    Buffer *record
    uint32_t pnn


cdef int copy_if_dmaster(TDB_DATA key, TDB_DATA data, void *target) noexcept nogil:
    cdef Reading *reading = <Reading *>target
    cdef Header header
    cdef size_t n = data.dsize
    if n > HEADER_BYTES:
        header.load(data.dptr)
        if header.dmaster != reading.pnn and not header.flags & RO_FLAGS:
            n = HEADER_BYTES
    return 0 if reading.record.assign(data.dptr, n) else -1


cdef inline TDB_DATA as_data(const char *p, size_t n) noexcept nogil:
    cdef TDB_DATA data
    data.dptr = <unsigned char *>p
    data.dsize = n
    return data


cdef class RecordStore(Routing):
    """Databases and their records, as one node stores them."""

    cdef Db *db(self, uint32_t db_id) noexcept nogil:
        it = self.dbs.find(db_id)
        if it == self.dbs.end():
            return NULL
        return self.dbs[db_id]

    cdef uint32_t lmaster(self, const char *key, uint32_t keylen) noexcept nogil:
        """Pnn of the node that knows who owns this key; oneself as long as there is no map."""
        cdef TDB_DATA data = as_data(key, keylen)
        if self.lmasters.size() == 0:
            return self.pnn
        return self.lmasters[tdb_jenkins_hash(&data) % self.lmasters.size()]

    cdef cbool lock(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        return tdb_chainlock_nonblock(db.tdb, as_data(key, keylen)) == 0

    cdef void unlock(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        tdb_chainunlock(db.tdb, as_data(key, keylen))

    cdef int read(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil:
        """Read a record into self.record; a stump shorter than a header counts as none.

        Unreadable is not absent: who took it for absent would make an empty record of it.
        """
        self.record.clear()
        return self.taken(db, tdb_parse_record(db.tdb, as_data(key, keylen), copy_record, &self.record), header)

    cdef int read_as_dmaster(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil:
        """The same; of a plain record that another node owns only the header: nobody here goes by its data."""
        cdef Reading reading
        reading.record = &self.record
        reading.pnn = self.pnn
        self.record.clear()
        return self.taken(db, tdb_parse_record(db.tdb, as_data(key, keylen), copy_if_dmaster, &reading), header)

    cdef int taken(self, Db *db, int status, Header *header) noexcept nogil:
        if status != 0:
            self.record.clear()
            return RECORD_ABSENT if tdb_error(db.tdb) == TDB_ERR_NOEXIST else RECORD_UNREADABLE
        if self.record.size() < HEADER_BYTES:
            self.record.clear()
            return RECORD_ABSENT
        header.load(self.record.data())
        return RECORD_FOUND

    cdef const char *data(self) noexcept nogil:
        """What follows the header in self.record; NULL for an empty record. Valid until the next `read`."""
        return self.record.data() + HEADER_BYTES if self.record.size() > HEADER_BYTES else NULL

    cdef uint32_t datalen(self) noexcept nogil:
        return <uint32_t>(self.record.size() - HEADER_BYTES) if self.record.size() > HEADER_BYTES else 0

    cdef cbool store_raw(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                         uint32_t datalen) noexcept nogil:
        """Store exactly this. False when libtdb refuses (disk full, corrupt): nothing may be sent then."""
        cdef char head[24]
        cdef TDB_DATA parts[2]
        header.save(head)
        parts[0] = as_data(head, HEADER_BYTES)
        parts[1] = as_data(data, datalen)
        if tdb_storev(db.tdb, as_data(key, keylen), parts, 2, 0) == 0:
            return True
        self.write_errors += 1
        return False

    cdef cbool erase(self, Db *db, const char *key, uint32_t keylen) noexcept nogil:
        """Delete a record that may not exist. False when libtdb refuses: the old one is still there then."""
        if tdb_delete(db.tdb, as_data(key, keylen)) == 0 or tdb_error(db.tdb) == TDB_ERR_NOEXIST:
            return True
        self.write_errors += 1
        return False

    cdef cbool store(self, Db *db, const char *key, uint32_t keylen, Header *header, const char *data,
                     uint32_t datalen) noexcept nogil:
        """Store by the rule that keeps empty records from piling up; header is updated to what is stored.

        An empty record is worth keeping only where somebody could miss it: on its lmaster, on its
        dmaster, or once it has carried data (another node may hold an old copy).
        """
        cdef cbool keep = True, schedule = False
        cdef cbool is_volatile = not db.flags & DB_EVERYWHERE
        cdef char head[24]
        cdef string saved
        if is_volatile and datalen == 0 and not header.flags & RO_FLAGS:
            if header.flags & AUTOMATIC:
                schedule = True
            elif header.flags & MIGRATED_WITH_DATA:
                pass
            elif self.lmaster(key, keylen) == self.pnn:
                keep = not (header.flags & VACUUM_MIGRATED and header.dmaster == self.pnn)
            else:
                keep = header.dmaster == self.pnn
        if keep and is_volatile and header.dmaster == self.pnn and not header.flags & RO_FLAGS:
            header.rsn += 1
            if datalen == 0:
                schedule = True
        header.flags &= ~<uint32_t>(VACUUM_MIGRATED | AUTOMATIC)
        if not keep:
            return self.erase(db, key, keylen)
        if not self.store_raw(db, key, keylen, header, data, datalen):
            return False
        if schedule:
            if db.deletions.size() < DELETIONS_MAX:
                header.save(head)
                saved.assign(<const char *>head, <size_t>HEADER_BYTES)
                db.deletions[string(key, <size_t>keylen)] = saved
        elif not db.deletions.empty():
            self.keybuf.assign(key, keylen)
            db.deletions.erase(self.keybuf)
        return True

    cdef cbool read_or_create(self, Db *db, const char *key, uint32_t keylen, Header *header) noexcept nogil:
        """Read a record as far as its dmaster is here; one that does not exist belongs to its lmaster, which stores that.

        Without the stored empty header a client would ask for the record again for ever.
        False only when libtdb failed.
        """
        cdef int found = self.read_as_dmaster(db, key, keylen, header)
        if found != RECORD_ABSENT:
            return found == RECORD_FOUND
        header.rsn = 0
        header.dmaster = self.lmaster(key, keylen)
        header.reserved = 0
        header.flags = AUTOMATIC
        if db.flags & DB_EVERYWHERE or header.dmaster == self.pnn:
            return self.store(db, key, keylen, header, NULL, 0)
        return True
