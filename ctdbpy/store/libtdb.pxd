# SPDX-License-Identifier: GPL-3.0-or-later
# libtdb's C interface, as far as the store uses it. The only place that declares it.

cdef extern from "<signal.h>" nogil:
    pass

cdef extern from "<sys/types.h>" nogil:
    pass

cdef extern from "<tdb.h>" nogil:
    ctypedef struct TDB_DATA:
        unsigned char *dptr
        size_t dsize
    ctypedef struct tdb_context:
        pass
    ctypedef enum TDB_ERROR:
        TDB_SUCCESS
        TDB_ERR_CORRUPT
        TDB_ERR_IO
        TDB_ERR_LOCK
        TDB_ERR_OOM
        TDB_ERR_EXISTS
        TDB_ERR_NOLOCK
        TDB_ERR_LOCK_TIMEOUT
        TDB_ERR_NOEXIST
        TDB_ERR_EINVAL
        TDB_ERR_RDONLY
        TDB_ERR_NESTING
    ctypedef enum tdb_debug_level:
        TDB_DEBUG_FATAL
        TDB_DEBUG_ERROR
        TDB_DEBUG_WARNING
        TDB_DEBUG_TRACE
    ctypedef int (*tdb_traverse_func)(tdb_context *, TDB_DATA, TDB_DATA, void *) noexcept
    ctypedef int (*tdb_parse_func)(TDB_DATA, TDB_DATA, void *) noexcept
    ctypedef int (*tdb_check_func)(TDB_DATA, TDB_DATA, void *) noexcept
    ctypedef void (*tdb_log_func)(tdb_context *, tdb_debug_level, const char *, ...) noexcept
    ctypedef unsigned int (*tdb_hash_func)(TDB_DATA *key) noexcept
    ctypedef struct tdb_logging_context:
        tdb_log_func log_fn
        void *log_private

    tdb_context *tdb_open_ex(const char *name, int hash_size, int tdb_flags, int open_flags, int mode,
                             const tdb_logging_context *log_ctx, tdb_hash_func hash_fn)
    int tdb_close(tdb_context *tdb)
    void tdb_set_max_dead(tdb_context *tdb, int max_dead)
    TDB_ERROR tdb_error(tdb_context *tdb)
    const char *tdb_errorstr(tdb_context *tdb)
    TDB_DATA tdb_fetch(tdb_context *tdb, TDB_DATA key)
    int tdb_parse_record(tdb_context *tdb, TDB_DATA key, tdb_parse_func parser, void *private_data)
    int tdb_delete(tdb_context *tdb, TDB_DATA key)
    int tdb_store(tdb_context *tdb, TDB_DATA key, TDB_DATA dbuf, int flag)
    int tdb_storev(tdb_context *tdb, TDB_DATA key, const TDB_DATA *dbufs, int num_dbufs, int flag)
    int tdb_exists(tdb_context *tdb, TDB_DATA key)
    TDB_DATA tdb_firstkey(tdb_context *tdb)
    TDB_DATA tdb_nextkey(tdb_context *tdb, TDB_DATA key)
    int tdb_traverse_read(tdb_context *tdb, tdb_traverse_func fn, void *private_data)
    int tdb_traverse_chain(tdb_context *tdb, unsigned chain, tdb_traverse_func fn, void *private_data)
    int tdb_lockall(tdb_context *tdb)
    int tdb_lockall_nonblock(tdb_context *tdb)
    int tdb_unlockall(tdb_context *tdb)
    int tdb_lockall_mark(tdb_context *tdb)
    int tdb_lockall_unmark(tdb_context *tdb)
    int tdb_chainlock(tdb_context *tdb, TDB_DATA key)
    int tdb_chainlock_nonblock(tdb_context *tdb, TDB_DATA key)
    int tdb_chainunlock(tdb_context *tdb, TDB_DATA key)
    int tdb_chainlock_mark(tdb_context *tdb, TDB_DATA key)
    int tdb_chainlock_unmark(tdb_context *tdb, TDB_DATA key)
    int tdb_transaction_start(tdb_context *tdb)
    int tdb_transaction_start_nonblock(tdb_context *tdb)
    int tdb_transaction_prepare_commit(tdb_context *tdb)
    int tdb_transaction_commit(tdb_context *tdb)
    int tdb_transaction_cancel(tdb_context *tdb)
    int tdb_get_seqnum(tdb_context *tdb)
    void tdb_enable_seqnum(tdb_context *tdb)
    void tdb_increment_seqnum_nonblock(tdb_context *tdb)
    int tdb_hash_size(tdb_context *tdb)
    size_t tdb_map_size(tdb_context *tdb)
    int tdb_get_flags(tdb_context *tdb)
    void tdb_add_flags(tdb_context *tdb, unsigned flag)
    void tdb_remove_flags(tdb_context *tdb, unsigned flag)
    const char *tdb_name(tdb_context *tdb)
    int tdb_fd(tdb_context *tdb)
    unsigned int tdb_jenkins_hash(TDB_DATA *key)
    int tdb_check(tdb_context *tdb, tdb_check_func check, void *private_data)
    bint tdb_runtime_check_for_robust_mutexes()
    int tdb_wipe_all(tdb_context *tdb)
    int tdb_repack(tdb_context *tdb)
    int tdb_freelist_size(tdb_context *tdb)
