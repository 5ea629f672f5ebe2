# SPDX-License-Identifier: GPL-3.0-or-later
# What the core tells the record engine and asks it: core.ports.Records without files.

from libc.stdint cimport uint32_t

from ctdbpy.store.engine_types cimport Db
from ctdbpy.store.ownership cimport Ownership

cdef class RecordsPort(Ownership):
    cdef dict tdbs          # db_id -> Tdb: keeps the handles open that the C++ side points to
    cdef dict trackings     # db_id -> Tdb of the read-only tracking file

    cdef Db *need(self, uint32_t db_id) except NULL
    cdef unpark(self, Db *db)
    cdef unpark_all(self)
