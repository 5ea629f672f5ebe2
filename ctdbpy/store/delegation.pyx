# SPDX-License-Identifier: GPL-3.0-or-later
# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Read-only delegations: copies of a record on nodes that only read it."""

from ctdbpy.store.ownership cimport Ownership


cdef class Delegation(Ownership):
    """Hands out copies and takes them back before somebody writes."""
