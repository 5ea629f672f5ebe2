# SPDX-License-Identifier: GPL-3.0-or-later
# The memory that daemon and guard share: each reads what the other writes, whole and in order.

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>

    typedef struct {
        uint64_t progress;        /* written by the daemon: turns of its loop */
        int64_t serve_until_us;   /* written by the guard, CLOCK_BOOTTIME; 0: no limit */
        int64_t guard_us;         /* written by the guard: when it looked last */
        int64_t hold_until_us;    /* as serve_until_us, for the node's public addresses */
    } LeasePage;

    static inline int64_t load_lease(const LeasePage *page) {
        return __atomic_load_n(&page->serve_until_us, __ATOMIC_ACQUIRE);
    }
    static inline void store_lease(LeasePage *page, int64_t until_us) {
        __atomic_store_n(&page->serve_until_us, until_us, __ATOMIC_SEQ_CST);
    }
    static inline void store_hold(LeasePage *page, int64_t until_us) {
        __atomic_store_n(&page->hold_until_us, until_us, __ATOMIC_SEQ_CST);
    }
    static inline uint64_t load_progress(const LeasePage *page) {
        return __atomic_load_n(&page->progress, __ATOMIC_ACQUIRE);
    }
    static inline void store_progress(LeasePage *page, uint64_t turns) {
        __atomic_store_n(&page->progress, turns, __ATOMIC_RELEASE);
    }
    static inline void store_looked(LeasePage *page, int64_t at_us) {
        __atomic_store_n(&page->guard_us, at_us, __ATOMIC_RELEASE);
    }
    """
    ctypedef struct LeasePage:
        uint64_t progress
        int64_t serve_until_us
        int64_t guard_us
        int64_t hold_until_us
    int64_t load_lease(const LeasePage *page) noexcept nogil
    void store_lease(LeasePage *page, int64_t until_us) noexcept nogil
    void store_hold(LeasePage *page, int64_t until_us) noexcept nogil
    uint64_t load_progress(const LeasePage *page) noexcept nogil
    void store_progress(LeasePage *page, uint64_t turns) noexcept nogil
    void store_looked(LeasePage *page, int64_t at_us) noexcept nogil
