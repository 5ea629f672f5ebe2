# SPDX-License-Identifier: GPL-3.0-or-later
# Read-only delegations: copies of a record on nodes that only read it.

from ctdbpy.store.ownership cimport Ownership

cdef class Delegation(Ownership):
    pass
