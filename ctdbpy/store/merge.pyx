# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Merging of one database's copies from many nodes: of each record the newest is kept.

Source: reference/ctdb.md 7.10; the newest copy is the one with the highest rsn, and among
equals the one of the node that says it is dmaster.
"""

from cython.operator cimport dereference, preincrement
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map

from ctdbpy.errors import ProtocolError
from ctdbpy.store.engine_types cimport load32, load64, store32

cdef enum:
    BUFFER_HEAD = 8
    RECORD_HEAD = 16
    HEADER_BYTES = 24
    MIGRATED_WITH_DATA = 0x00010000


cdef class Merge:
    """Feed it every node's rec_buffers, then take the merged records out."""

    cdef unordered_map[string, string] records
    cdef unordered_map[string, string].iterator cursor
    cdef uint32_t db_id
    cdef uint32_t leader
    cdef cbool is_volatile
    cdef cbool is_reading

    def __init__(self, uint32_t db_id, uint32_t leader, cbool is_volatile):
        self.db_id = db_id
        self.leader = leader
        self.is_volatile = is_volatile
        self.is_reading = False

    def __len__(self):
        return self.records.size()

    def add(self, bytes buffer, uint32_t pnn):
        """Merge a rec_buffer that node pnn sent; returns its number of records. Raises ProtocolError."""
        cdef const char *p = buffer
        cdef size_t left = len(buffer)
        cdef uint32_t count, i, length, keylen, datalen
        cdef string key
        cdef const char *data
        cdef string *held
        if left < BUFFER_HEAD:
            raise ProtocolError("cannot merge a record buffer: it is shorter than its head")
        count = load32(p + 4)
        p += BUFFER_HEAD
        left -= BUFFER_HEAD
        for i in range(count):
            if left < RECORD_HEAD:
                raise ProtocolError(f"cannot merge a record buffer: it ends after {i} of {count} records")
            length = load32(p)
            keylen = load32(p + 8)
            datalen = load32(p + 12)
            if length > left or length < RECORD_HEAD or keylen > length - RECORD_HEAD \
                    or datalen > length - RECORD_HEAD - keylen:
                raise ProtocolError(f"cannot merge a record buffer: record {i} is longer than what is left")
            data = p + RECORD_HEAD + keylen
            if datalen >= HEADER_BYTES and keylen > 0:
                key.assign(p + RECORD_HEAD, keylen)
                it = self.records.find(key)
                if it == self.records.end():
                    self.records[key].assign(data, datalen)
                else:
                    held = &dereference(it).second
                    if self.is_newer(data, held.data(), pnn):
                        held.assign(data, datalen)
            p += length
            left -= length
        return count

    cdef cbool is_newer(self, const char *data, const char *held, uint32_t pnn) noexcept nogil:
        if load64(data) != load64(held):
            return load64(data) > load64(held)
        return load32(data + 8) == pnn

    def take(self, size_t limit):
        """The next rec_buffer of about `limit` bytes to store everywhere, with its number of records.

        Empty records are left out: what is deleted stays deleted. (b"", 0) after the last one.
        """
        cdef bytearray out = bytearray(BUFFER_HEAD)
        cdef bytearray head = bytearray(RECORD_HEAD + HEADER_BYTES)
        cdef char *h = head
        cdef uint32_t count = 0
        cdef const char *data
        cdef uint32_t keylen, datalen
        if not self.is_reading:
            self.is_reading = True
            self.cursor = self.records.begin()
        while self.cursor != self.records.end() and <size_t>len(out) < limit:
            datalen = <uint32_t>dereference(self.cursor).second.size()
            keylen = <uint32_t>dereference(self.cursor).first.size()
            data = dereference(self.cursor).second.data()
            if datalen > HEADER_BYTES:
                store32(h, RECORD_HEAD + keylen + datalen)
                store32(h + 4, 0)
                store32(h + 8, keylen)
                store32(h + 12, datalen)
                memcpy(h + RECORD_HEAD, data, HEADER_BYTES)
                if self.is_volatile:
                    store32(h + RECORD_HEAD + 8, self.leader)
                    store32(h + RECORD_HEAD + 16, load32(data + 16) | MIGRATED_WITH_DATA)
                out += head[:RECORD_HEAD]
                out += <bytes>dereference(self.cursor).first
                out += head[RECORD_HEAD:]
                out += data[HEADER_BYTES:datalen]
                count += 1
            preincrement(self.cursor)
        if count == 0:
            return b"", 0
        h = out
        store32(h, self.db_id)
        store32(h + 4, count)
        return bytes(out), count
