# SPDX-License-Identifier: GPL-3.0-or-later
# A growing block of bytes that callbacks of libtdb fill without the GIL and without C++ exceptions.

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef struct Packed:
    unsigned char *base
    size_t size
    size_t room

# Doubling, so that filling it costs a constant number of copies for each byte. False when memory is out.
cdef inline bint reserve(Packed *packed, size_t more) noexcept nogil:
    cdef size_t room
    cdef void *base
    if packed.size + more <= packed.room:
        return True
    room = packed.room * 2 if packed.room > 2048 else 4096
    while room < packed.size + more:
        room *= 2
    base = realloc(packed.base, room)
    if base == NULL:
        return False
    packed.base = <unsigned char *>base
    packed.room = room
    return True

# Only after `reserve`.
cdef inline void put(Packed *packed, const void *what, size_t size) noexcept nogil:
    if size:
        memcpy(packed.base + packed.size, what, size)
        packed.size += size

cdef inline void put32(Packed *packed, uint32_t value) noexcept nogil:
    memcpy(packed.base + packed.size, &value, 4)
    packed.size += 4

cdef inline uint32_t get32(const unsigned char *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value

cdef inline void release(Packed *packed) noexcept nogil:
    free(packed.base)
    packed.base = NULL
    packed.size = 0
    packed.room = 0
