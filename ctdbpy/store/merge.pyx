# SPDX-License-Identifier: GPL-3.0-or-later
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Merging of one database's copies from many nodes: of each record the newest is kept.

The table has the hash chains of the database's file, and gives its records chain by chain. Copies come
that way, too, for a file is walked by its chains; so whoever looks into the table, or stores what it
gives, finds a chain's records side by side in memory: with ten records to a chain that is four
times as fast as in any other order.

Source: reference/ctdb.md 7.10; the newest copy is the one with the highest rsn, and among
equals the one of the node that says it is dmaster.
"""

from __future__ import annotations

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from ctdbpy.store.libtdb cimport TDB_DATA, tdb_context, tdb_hash_size, tdb_jenkins_hash, tdb_traverse_chain
from ctdbpy.store.packed cimport get32
from ctdbpy.store.tdb cimport Tdb

from ctdbpy.errors import ProtocolError

cdef enum:
    BUFFER_HEAD = 8
    RECORD_HEAD = 16
    HEADER_BYTES = 24
    MIGRATED_WITH_DATA = 0x00010000
    BLOCK_BYTES = 1 << 20


cdef struct Record:
    Record *next
    uint32_t hash
    uint32_t keylen
    uint32_t datalen
    # What the data may grow to where it is.
    uint32_t room


cdef struct Block:
    Block *before
    size_t used
    size_t size


cdef inline unsigned char *_key(Record *record) noexcept nogil:
    return <unsigned char *>record + sizeof(Record)


cdef inline unsigned char *_data(Record *record) noexcept nogil:
    return _key(record) + record.keylen


cdef inline void _put32(unsigned char *at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline uint64_t _rsn(const unsigned char *data) noexcept nogil:
    cdef uint64_t rsn
    memcpy(&rsn, data, 8)
    return rsn


cdef struct Table:
    Record **heads
    uint32_t chains
    Block *block
    uint64_t records


cdef bint _is_newer(const unsigned char *data, const unsigned char *held, uint32_t pnn) noexcept nogil:
    cdef uint64_t rsn = _rsn(data)
    cdef uint64_t held_rsn = _rsn(held)
    if rsn != held_rsn:
        return rsn > held_rsn
    return get32(data + 8) == pnn


cdef Record *_new_record(Table *table, uint32_t keylen, uint32_t datalen) noexcept nogil:
    cdef size_t size = (sizeof(Record) + keylen + datalen + 7) & ~<size_t>7
    cdef size_t wanted
    cdef Block *block = table.block
    cdef Record *record
    if block == NULL or block.size - block.used < size:
        wanted = max(size, <size_t>BLOCK_BYTES)
        block = <Block *>malloc(sizeof(Block) + wanted)
        if block == NULL:
            return NULL
        block.before = table.block
        block.used = 0
        block.size = wanted
        table.block = block
    record = <Record *>(<char *>block + sizeof(Block) + block.used)
    block.used += size
    record.keylen = keylen
    record.datalen = record.room = datalen
    return record


cdef bint _put(
    Table *table, unsigned char *key, uint32_t keylen, const unsigned char *data, uint32_t datalen, uint32_t pnn
) noexcept nogil:
    # False without memory.
    cdef TDB_DATA hashed
    cdef uint32_t hash, chain
    cdef Record *held
    cdef Record *before = NULL
    cdef Record *made
    if datalen < HEADER_BYTES or keylen == 0:
        return True
    hashed.dptr = key
    hashed.dsize = keylen
    hash = tdb_jenkins_hash(&hashed)
    chain = hash % table.chains
    held = table.heads[chain]
    while held != NULL:
        if held.hash == hash and held.keylen == keylen and memcmp(_key(held), key, keylen) == 0:
            break
        before = held
        held = held.next
    if held != NULL:
        if not _is_newer(data, _data(held), pnn):
            return True
        if datalen <= held.room:
            memcpy(_data(held), data, datalen)
            held.datalen = datalen
            return True
    made = _new_record(table, keylen, datalen)
    if made == NULL:
        return False
    made.hash = hash
    memcpy(_key(made), key, keylen)
    memcpy(_data(made), data, datalen)
    if held == NULL:
        made.next = NULL
        table.records += 1
    else:
        # The old one's memory stays until the end.
        made.next = held.next
    if before == NULL:
        table.heads[chain] = made
    else:
        before.next = made
    return True


cdef struct Own:
    # What the walk over this node's own file needs to know.
    Table *table
    uint32_t pnn
    uint64_t count
    bint out_of_memory


cdef int _take_own(tdb_context *ctx, TDB_DATA key, TDB_DATA data, void *private) noexcept nogil:
    cdef Own *own = <Own *>private
    own.count += 1
    if not _put(own.table, key.dptr, <uint32_t>key.dsize, data.dptr, <uint32_t>data.dsize, own.pnn):
        own.out_of_memory = True
        return 1
    return 0


cdef class Merge:
    """Feed it every node's copies, then take the merged records out."""

    cdef Table table
    cdef uint32_t db_id
    cdef bint is_volatile
    # Where `take` goes on.
    cdef uint32_t chain
    cdef Record *cursor
    cdef bint is_reading

    def __cinit__(self):
        self.table.heads = NULL
        self.table.block = NULL
        self.table.records = 0

    def __init__(self, uint32_t db_id, bint is_volatile, uint32_t chains):
        """`chains`: hash chains of the file."""
        self.db_id = db_id
        self.is_volatile = is_volatile
        self.table.chains = max(chains, 1)
        self.table.heads = <Record **>calloc(self.table.chains, sizeof(Record *))
        if self.table.heads == NULL:
            raise MemoryError
        self.is_reading = False

    def __dealloc__(self):
        cdef Block *before
        while self.table.block != NULL:
            before = self.table.block.before
            free(self.table.block)
            self.table.block = before
        free(self.table.heads)

    def __len__(self):
        return self.table.records

    def add(self, bytes buffer not None, uint32_t pnn):
        """Merge a rec_buffer that node pnn sent; returns its number of records. Raises ProtocolError."""
        cdef unsigned char *p = <unsigned char *>PyBytes_AS_STRING(buffer)
        cdef size_t left = len(buffer)
        cdef uint32_t count, i, length, keylen, datalen
        if left < BUFFER_HEAD:
            raise ProtocolError("cannot merge a record buffer: it is shorter than its head")
        count = get32(p + 4)
        p += BUFFER_HEAD
        left -= BUFFER_HEAD
        for i in range(count):
            if left < RECORD_HEAD:
                raise ProtocolError(f"cannot merge a record buffer: it ends after {i} of {count} records")
            length = get32(p)
            keylen = get32(p + 8)
            datalen = get32(p + 12)
            if length > left or length < RECORD_HEAD or keylen > length - RECORD_HEAD \
                    or datalen > length - RECORD_HEAD - keylen:
                raise ProtocolError(f"cannot merge a record buffer: record {i} is longer than what is left")
            if not _put(&self.table, p + RECORD_HEAD, keylen, p + RECORD_HEAD + keylen, datalen, pnn):
                raise MemoryError
            p += length
            left -= length
        return count

    def add_own(self, Tdb tdb not None, uint32_t pnn):
        """Merge the records of this node's own file; returns their number. Raises StoreError."""
        cdef tdb_context *ctx = tdb.handle()
        cdef uint32_t chains = tdb_hash_size(ctx)
        cdef uint32_t chain
        cdef Own own
        cdef int status = 0
        own.table = &self.table
        own.pnn = pnn
        own.count = 0
        own.out_of_memory = False
        with nogil:
            for chain in range(chains):
                status = tdb_traverse_chain(ctx, chain, _take_own, &own)
                if status < 0 or own.out_of_memory:
                    break
        if own.out_of_memory:
            raise MemoryError
        if status < 0:
            raise tdb.failure("walk over")
        return own.count

    cdef Record *following(self, Record *record) noexcept:
        # The next record with data: what is deleted stays deleted.
        while True:
            record = record.next if record != NULL else self.table.heads[self.chain]
            while record == NULL:
                self.chain += 1
                if self.chain >= self.table.chains:
                    return NULL
                record = self.table.heads[self.chain]
            if record.datalen > HEADER_BYTES:
                return record

    def take(self, uint32_t leader, size_t limit):
        """The next rec_buffer of at most `limit` bytes (or one larger record), with its number of records.

        Records of a volatile database have the leader as dmaster. Empty records are left out: what is deleted stays deleted. (b"", 0) after the last one.
        """
        cdef size_t size = BUFFER_HEAD
        cdef uint32_t count = 0
        cdef uint32_t left
        cdef uint32_t length
        cdef uint32_t from_chain
        cdef Record *record
        cdef unsigned char *p
        cdef unsigned char *header
        if not self.is_reading:
            self.is_reading = True
            self.chain = 0
            self.cursor = self.following(NULL)
        from_chain = self.chain
        record = self.cursor
        while self.cursor != NULL:
            length = RECORD_HEAD + self.cursor.keylen + self.cursor.datalen
            if count and size + length > limit:
                break
            size += length
            count += 1
            self.cursor = self.following(self.cursor)
        if count == 0:
            return b"", 0
        buffer = PyBytes_FromStringAndSize(NULL, size)
        p = <unsigned char *>PyBytes_AS_STRING(buffer)
        _put32(p, self.db_id)
        _put32(p + 4, count)
        p += BUFFER_HEAD
        left = count
        while left:
            if record == NULL:
                from_chain += 1
                record = self.table.heads[from_chain]
                continue
            if record.datalen > HEADER_BYTES:
                _put32(p, RECORD_HEAD + record.keylen + record.datalen)
                _put32(p + 4, 0)
                _put32(p + 8, record.keylen)
                _put32(p + 12, record.datalen)
                memcpy(p + RECORD_HEAD, _key(record), record.keylen + record.datalen)
                if self.is_volatile:
                    header = p + RECORD_HEAD + record.keylen
                    _put32(header + 8, leader)
                    _put32(header + 16, get32(header + 16) | MIGRATED_WITH_DATA)
                p += RECORD_HEAD + record.keylen + record.datalen
                left -= 1
            record = record.next
        return buffer, count
