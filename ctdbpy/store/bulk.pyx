# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on all or many records of a database: walk, push, update, count. Used in workers and, in memory, by the simulator.

Source: reference/ctdb.md 5.5 (rec_data, rec_buffer), 7.3 (store rule), 7.6, 7.7, 7.10.
"""

from __future__ import annotations

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove

from ctdbpy.store.libtdb cimport (
    TDB_DATA,
    TDB_ERR_NOEXIST,
    tdb_chainlock,
    tdb_chainunlock,
    tdb_context,
    tdb_delete,
    tdb_error,
    tdb_hash_size,
    tdb_jenkins_hash,
    tdb_parse_record,
    tdb_storev,
    tdb_traverse_chain,
)
from ctdbpy.store.packed cimport Packed, get32, put, put32, release, reserve
from ctdbpy.store.tdb cimport Tdb

from ctdbpy.errors import ProtocolError, StoreError

# Record flags (reference/ctdb.md 5.4).
cdef enum:
    MIGRATED_WITH_DATA = 0x00010000
    VACUUM_MIGRATED = 0x00020000
    AUTOMATIC = 0x00040000
    READONLY_FLAGS = 0x0F000000

cdef enum:
    HEADER_SIZE = 24
    REC_DATA_SIZE = 16
    REC_BUFFER_SIZE = 8

cdef enum WalkKind:
    TRAVERSE
    PULL
    VACUUM_SCAN

LMASTER_ANY = 0xFFFFFFFF


class RecordRefused(StoreError):
    """A record was not stored because the stored one is as new and different; nothing of its buffer was stored."""


cdef struct Filter:
    WalkKind kind
    bint owned_only          # only records whose dmaster is pnn
    bint with_empty
    uint32_t pnn
    uint32_t number          # TRAVERSE, VACUUM_SCAN: reqid of each record; PULL: db_id of each buffer
    uint32_t lmaster
    uint32_t *lmasters
    uint32_t lmaster_count
    size_t limit             # bytes of one chunk, unless a single record is larger
    size_t chunk_start
    uint32_t chunk_count
    uint64_t count
    bint out_of_memory
    Packed packed            # chunks back to back, the last one unfinished
    Packed ends              # size_t: where each finished chunk ends


cdef bint _begin_chunk(Filter *f) noexcept nogil:
    f.chunk_start = f.packed.size
    f.chunk_count = 0
    if f.kind == PULL:
        if not reserve(&f.packed, REC_BUFFER_SIZE):
            return False
        put32(&f.packed, f.number)
        put32(&f.packed, 0)
    return True


cdef bint _end_chunk(Filter *f) noexcept nogil:
    if not reserve(&f.ends, sizeof(size_t)):
        return False
    if f.kind == PULL:
        memcpy(f.packed.base + f.chunk_start + 4, &f.chunk_count, 4)
    put(&f.ends, &f.packed.size, sizeof(size_t))
    return True


cdef bint _wanted(Filter *f, TDB_DATA key, TDB_DATA data) noexcept nogil:
    if f.kind == PULL:
        if f.lmaster == 0xFFFFFFFFU:
            return True
        return f.lmaster_count != 0 and f.lmasters[tdb_jenkins_hash(&key) % f.lmaster_count] == f.lmaster
    if f.kind == VACUUM_SCAN:
        return data.dsize == HEADER_SIZE and get32(data.dptr + 8) == f.pnn
    if not f.owned_only:
        return True
    if data.dsize < HEADER_SIZE or get32(data.dptr + 8) != f.pnn:
        return False
    return f.with_empty or data.dsize > HEADER_SIZE


cdef int _walk_record(tdb_context *ctx, TDB_DATA key, TDB_DATA data, void *private) noexcept nogil:
    cdef Filter *f = <Filter *>private
    cdef size_t size
    if not _wanted(f, key, data):
        return 0
    size = REC_DATA_SIZE + key.dsize + data.dsize
    if f.chunk_count and f.packed.size - f.chunk_start + size > f.limit:
        if not _end_chunk(f) or not _begin_chunk(f):
            f.out_of_memory = True
            return 1
    if not reserve(&f.packed, size):
        f.out_of_memory = True
        return 1
    put32(&f.packed, <uint32_t>size)
    put32(&f.packed, 0 if f.kind == PULL else f.number)
    put32(&f.packed, <uint32_t>key.dsize)
    put32(&f.packed, <uint32_t>data.dsize)
    put(&f.packed, key.dptr, key.dsize)
    put(&f.packed, data.dptr, data.dsize)
    f.chunk_count += 1
    f.count += 1
    return 0


cdef class Walk:
    """Records of a TDB in chunks of at most `limit` bytes (or one larger record); iterate for the chunks.

    Between chunks no lock is held. Every record that stays is seen once, one that changes may be or not. Made by
    `traverse`, `pull` and `vacuum_scan`; `count` is the number of records so far.
    """

    cdef Tdb tdb
    cdef Filter filter
    cdef uint32_t chain
    cdef bint done
    cdef list ready

    def __cinit__(self):
        self.filter.lmasters = NULL
        self.filter.packed.base = NULL
        self.filter.ends.base = NULL
        self.ready = []

    def __init__(self):
        if self.tdb is None:
            raise TypeError("use traverse, pull or vacuum_scan")

    def __dealloc__(self):
        free(self.filter.lmasters)
        release(&self.filter.packed)
        release(&self.filter.ends)

    def __iter__(self):
        return self

    def __next__(self):
        while not self.ready:
            if self.done:
                raise StopIteration
            self._advance()
        return self.ready.pop(0)

    @property
    def count(self):
        """Records found so far; all of them once the last chunk was taken."""
        return self.filter.count

    cdef int _advance(self) except -1:
        cdef tdb_context *ctx = self.tdb.handle()
        cdef Filter *f = &self.filter
        cdef uint32_t chains = tdb_hash_size(ctx)
        cdef int status = 0
        cdef size_t at = 0
        cdef size_t end
        cdef size_t i
        with nogil:
            while self.chain < chains and f.ends.size == 0:
                status = tdb_traverse_chain(ctx, self.chain, _walk_record, f)
                if status < 0 or f.out_of_memory:
                    break
                self.chain += 1
        if f.out_of_memory:
            raise MemoryError
        if status < 0:
            raise self.tdb.failure("walk over")
        if self.chain >= chains:
            self.done = True
            if f.chunk_count and not _end_chunk(f):
                raise MemoryError
        for i in range(f.ends.size // sizeof(size_t)):
            end = (<size_t *>f.ends.base)[i]
            self.ready.append(PyBytes_FromStringAndSize(<char *>f.packed.base + at, end - at))
            at = end
        f.ends.size = 0
        if at:
            # The unfinished chunk moves to the front.
            memmove(f.packed.base, f.packed.base + at, f.packed.size - at)
            f.packed.size -= at
            f.chunk_start = 0
        return 0


cdef Walk _walk(Tdb tdb, WalkKind kind, size_t limit, uint32_t number):
    cdef Walk walk = Walk.__new__(Walk)
    tdb.handle()
    walk.tdb = tdb
    walk.filter.kind = kind
    walk.filter.limit = limit
    walk.filter.number = number
    if not _begin_chunk(&walk.filter):
        raise MemoryError
    return walk


cdef uint32_t *_copy_lmasters(tuple lmasters) except? NULL:
    cdef uint32_t *copied
    cdef Py_ssize_t i
    if not lmasters:
        return NULL
    copied = <uint32_t *>malloc(len(lmasters) * sizeof(uint32_t))
    if copied == NULL:
        raise MemoryError
    try:
        for i in range(len(lmasters)):
            copied[i] = lmasters[i]
    except BaseException:
        free(copied)
        raise
    return copied


def traverse(Tdb tdb not None, *, uint32_t reqid, owner=None, bint with_empty=False, size_t limit=131072):
    """Walk for a traverse: chunks of back-to-back rec_data with this reqid.

    owner: of a volatile database only records whose dmaster this is, header-only ones `with_empty`; None: everything.
    """
    cdef Walk walk = _walk(tdb, TRAVERSE, limit, reqid)
    if owner is not None:
        walk.filter.owned_only = True
        walk.filter.pnn = owner
    walk.filter.with_empty = with_empty
    return walk


def pull(Tdb tdb not None, *, uint32_t db_id, uint32_t lmaster=0xFFFFFFFF, tuple lmasters=(), size_t limit=1000000):
    """Walk for recovery: each chunk one rec_buffer. With lmaster only the records that the map `lmasters` gives it."""
    cdef Walk walk = _walk(tdb, PULL, limit, db_id)
    walk.filter.lmaster = lmaster
    walk.filter.lmasters = _copy_lmasters(lmasters)
    walk.filter.lmaster_count = len(lmasters)
    return walk


def vacuum_scan(Tdb tdb not None, *, uint32_t pnn, size_t limit=131072):
    """Walk over the empty records whose dmaster is pnn: chunks of back-to-back rec_data of key and header."""
    cdef Walk walk = _walk(tdb, VACUUM_SCAN, limit, 0)
    walk.filter.pnn = pnn
    return walk


cdef struct Counts:
    uint64_t records
    uint64_t with_data


cdef int _count_record(tdb_context *ctx, TDB_DATA key, TDB_DATA data, void *private) noexcept nogil:
    cdef Counts *counts = <Counts *>private
    counts.records += 1
    if data.dsize > HEADER_SIZE:
        counts.with_data += 1
    return 0


def count(Tdb tdb not None):
    """(records, records with data)."""
    cdef tdb_context *ctx = tdb.handle()
    cdef uint32_t chains = tdb_hash_size(ctx)
    cdef uint32_t chain = 0
    cdef Counts counts
    cdef int status = 0
    counts.records = counts.with_data = 0
    with nogil:
        while chain < chains and status >= 0:
            status = tdb_traverse_chain(ctx, chain, _count_record, &counts)
            chain += 1
    if status < 0:
        raise tdb.failure("count the records of")
    return counts.records, counts.with_data


# -- storing buffers ----------------------------------------------------------------------------


cdef uint32_t _check_buffer(bytes buffer, uint32_t db_id) except? 0xFFFFFFFF:
    # Every length before anything is stored; the number of records.
    cdef const unsigned char *base = <const unsigned char *>PyBytes_AS_STRING(buffer)
    cdef size_t size = PyBytes_GET_SIZE(buffer)
    cdef size_t at = REC_BUFFER_SIZE
    cdef uint32_t i
    cdef uint32_t records
    cdef uint64_t length
    if size < REC_BUFFER_SIZE:
        raise ProtocolError(f"cannot decode a rec_buffer: {size} bytes, {REC_BUFFER_SIZE} needed for its head")
    if get32(base) != db_id:
        raise ProtocolError(f"cannot store a rec_buffer: it is of database {get32(base):#010x}, not {db_id:#010x}")
    records = get32(base + 4)
    for i in range(records):
        if size - at < REC_DATA_SIZE:
            raise ProtocolError(f"cannot decode a rec_buffer: record {i} of {records} begins behind its end")
        length = get32(base + at)
        if length > size - at or length < <uint64_t>REC_DATA_SIZE + get32(base + at + 8) + get32(base + at + 12):
            raise ProtocolError(f"cannot decode a rec_buffer: record {i} of {records} has a length that does not fit")
        if get32(base + at + 12) < HEADER_SIZE:
            raise ProtocolError(f"cannot decode a rec_buffer: record {i} of {records} has no record header")
        at += length
    return records


cdef struct Stored:
    # What is stored under a key, compared with the data that comes.
    bint found
    bint same
    uint64_t rsn
    const unsigned char *data
    size_t size


cdef int _compare(TDB_DATA key, TDB_DATA data, void *private) noexcept nogil:
    cdef Stored *stored = <Stored *>private
    if data.dsize < HEADER_SIZE:
        return 0
    stored.found = True
    memcpy(&stored.rsn, data.dptr, 8)
    stored.same = data.dsize - HEADER_SIZE == stored.size and (
        stored.size == 0 or memcmp(data.dptr + HEADER_SIZE, stored.data, stored.size) == 0
    )
    return 0


cdef enum Outcome:
    FAILED = -1
    KEPT
    DROPPED
    SCHEDULED


cdef Outcome _store(
    tdb_context *ctx,
    TDB_DATA key,
    TDB_DATA record,
    bint is_volatile,
    uint32_t clear,
    uint32_t pnn,
    uint32_t *lmasters,
    uint32_t lmaster_count,
) noexcept nogil:
    # The store rule of volatile databases; others store what comes. `clear`: record flags to strip first.
    cdef unsigned char header[HEADER_SIZE]
    cdef TDB_DATA parts[2]
    cdef uint64_t rsn
    cdef uint32_t dmaster, flags, lmaster
    cdef bint keep = True
    cdef Outcome outcome = KEPT
    memcpy(header, record.dptr, HEADER_SIZE)
    flags = get32(header + 16) & ~clear
    parts[1].dptr = record.dptr + HEADER_SIZE
    parts[1].dsize = record.dsize - HEADER_SIZE
    if is_volatile:
        dmaster = get32(header + 8)
        lmaster = lmasters[tdb_jenkins_hash(&key) % lmaster_count] if lmaster_count else 0xFFFFFFFFU
        if parts[1].dsize == 0 and not flags & READONLY_FLAGS:
            if flags & AUTOMATIC:
                outcome = SCHEDULED
            elif flags & MIGRATED_WITH_DATA:
                pass
            elif lmaster == pnn:
                keep = not (flags & VACUUM_MIGRATED and dmaster == pnn)
            else:
                keep = dmaster == pnn
        if keep and dmaster == pnn and not flags & READONLY_FLAGS:
            memcpy(&rsn, header, 8)
            rsn += 1
            memcpy(header, &rsn, 8)
            if parts[1].dsize == 0:
                outcome = SCHEDULED
        flags &= ~<uint32_t>(VACUUM_MIGRATED | AUTOMATIC)
    if not keep:
        if tdb_delete(ctx, key) != 0 and tdb_error(ctx) != TDB_ERR_NOEXIST:
            return FAILED
        return DROPPED
    memcpy(header + 16, &flags, 4)
    parts[0].dptr = header
    parts[0].dsize = HEADER_SIZE
    if tdb_storev(ctx, key, parts, 2, 0) != 0:
        return FAILED
    return outcome


def push(
    Tdb tdb not None,
    bytes buffer not None,
    *,
    uint32_t db_id,
    bint is_volatile,
    uint32_t pnn,
    tuple lmasters=(),
):
    """Store a rec_buffer that recovery pushes; (records taken, keys of empty ones to schedule for deletion).

    Read-only flags are stripped, a volatile database applies the store rule as node pnn. To be called within the
    transaction of a frozen database. Raises ProtocolError before anything is stored, StoreError.
    """
    cdef tdb_context *ctx = tdb.handle()
    cdef const unsigned char *base = <const unsigned char *>PyBytes_AS_STRING(buffer)
    cdef uint32_t records = _check_buffer(buffer, db_id)
    cdef uint32_t *map = _copy_lmasters(lmasters)
    cdef uint32_t map_size = len(lmasters)
    cdef size_t at = REC_BUFFER_SIZE
    cdef TDB_DATA key, record
    cdef Outcome outcome = KEPT
    cdef uint32_t i = 0
    scheduled = []
    try:
        with nogil:
            while i < records:
                _locate(base + at, &key, &record)
                outcome = _store(ctx, key, record, is_volatile, READONLY_FLAGS, pnn, map, map_size)
                if outcome == FAILED:
                    break
                if outcome == SCHEDULED:
                    with gil:
                        scheduled.append(PyBytes_FromStringAndSize(<char *>key.dptr, key.dsize))
                at += get32(base + at)
                i += 1
    finally:
        free(map)
    if outcome == FAILED:
        raise tdb.failure(f"store record {PyBytes_FromStringAndSize(<char *>key.dptr, key.dsize)!r} in")
    return records, scheduled


def update_records(
    Tdb tdb not None,
    bytes buffer not None,
    *,
    uint32_t db_id,
    bint is_volatile=False,
    uint32_t pnn=0xFFFFFFFF,
    tuple lmasters=(),
):
    """Store a rec_buffer as UPDATE_RECORD does, all of it or nothing; the number of records stored.

    A persistent or replicated database takes it in one transaction, on disk when this returns. A volatile one
    replaces only records that exist and are older, each under its chain lock. Raises RecordRefused when a stored
    record has the same or a higher rsn and other data; ProtocolError, StoreError.
    """
    cdef uint32_t records = _check_buffer(buffer, db_id)
    if is_volatile:
        return _update(tdb, buffer, records, True, pnn, lmasters)
    if not tdb.is_in_memory:
        with tdb.transaction():
            return _update(tdb, buffer, records, False, pnn, lmasters)
    # No transaction in memory: put back what was there.
    before = {key: tdb.fetch(key) for key in _keys(buffer, records)}
    try:
        return _update(tdb, buffer, records, False, pnn, lmasters)
    except StoreError:
        for key, value in before.items():
            if value is None:
                tdb.delete(key)
            else:
                tdb.store(key, value)
        raise


cdef inline void _locate(const unsigned char *at, TDB_DATA *key, TDB_DATA *record) noexcept nogil:
    key.dptr = <unsigned char *>at + REC_DATA_SIZE
    key.dsize = get32(at + 8)
    record.dptr = key.dptr + key.dsize
    record.dsize = get32(at + 12)


cdef list _keys(bytes buffer, uint32_t records):
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(buffer) + REC_BUFFER_SIZE
    cdef TDB_DATA key, record
    found = []
    for _ in range(records):
        _locate(at, &key, &record)
        found.append(PyBytes_FromStringAndSize(<char *>key.dptr, key.dsize))
        at += get32(at)
    return found


cdef int _update(Tdb tdb, bytes buffer, uint32_t records, bint is_volatile, uint32_t pnn, tuple lmasters) except -1:
    cdef tdb_context *ctx = tdb.handle()
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(buffer) + REC_BUFFER_SIZE
    cdef uint32_t *map = _copy_lmasters(lmasters)
    cdef uint32_t map_size = len(lmasters)
    cdef TDB_DATA key, record
    cdef Stored stored
    cdef uint64_t rsn = 0
    cdef uint32_t i = 0
    cdef int updated = 0
    cdef bint failed = False
    cdef bint refused = False
    try:
        with nogil:
            while i < records and not failed and not refused:
                _locate(at, &key, &record)
                at += get32(at)
                i += 1
                memcpy(&rsn, record.dptr, 8)
                stored.found = False
                stored.rsn = 0
                stored.data = record.dptr + HEADER_SIZE
                stored.size = record.dsize - HEADER_SIZE
                # An absent record counts as an empty one of rsn 0.
                stored.same = stored.size == 0
                if is_volatile and tdb_chainlock(ctx, key) != 0:
                    failed = True
                    break
                if tdb_parse_record(ctx, key, _compare, &stored) != 0 and tdb_error(ctx) != TDB_ERR_NOEXIST:
                    failed = True
                elif stored.found or not is_volatile:
                    if stored.rsn >= rsn and (is_volatile or not stored.same):
                        # The same data under a newer header is the better record: an update that
                        # comes late must not roll its owner back. Others have no owner: all nodes
                        # end with the header that came.
                        refused = not stored.same
                    elif _store(ctx, key, record, is_volatile, 0, pnn, map, map_size) == FAILED:
                        failed = True
                    else:
                        updated += 1
                if is_volatile:
                    tdb_chainunlock(ctx, key)
    finally:
        free(map)
    if failed:
        raise tdb.failure(f"store record {PyBytes_FromStringAndSize(<char *>key.dptr, key.dsize)!r} in")
    if refused:
        raise RecordRefused(
            f"cannot update record {PyBytes_FromStringAndSize(<char *>key.dptr, key.dsize)!r} in"
            f" {tdb.path or 'a TDB in memory'!r}: it has rsn {stored.rsn} already, {rsn} came with other data"
        )
    return updated
