# SPDX-License-Identifier: GPL-3.0-or-later
"""TDB files through libtdb: open, records, chain locks, transactions, sequence numbers.

A handle belongs to one thread, and libtdb opens a file once per process. Whoever opens the file itself in this
process and closes it again drops libtdb's locks: reading a TDB as a file (for a backup) is another process's
work. Every call that can wait for another process lets other Python threads run meanwhile.
"""

from __future__ import annotations

import errno as errno_names
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ctdbpy.store cimport libtdb
from ctdbpy.store.complaints cimport clear_errno, ctdbpy_log, ctdbpy_log_message
from ctdbpy.store.libtdb cimport TDB_DATA, TDB_ERROR, tdb_context
from ctdbpy.store.packed cimport Packed, get32, put, put32, release, reserve

from ctdbpy.errors import StoreError
from ctdbpy.store.transactions import Transaction

# libtdb's open flags; tdb.h defines them as macros with these values, which Samba sends over the wire.
DEFAULT = 0
CLEAR_IF_FIRST = 1
INTERNAL = 2
NOLOCK = 4
NOSYNC = 64
SEQNUM = 128
DISALLOW_NESTING = 1024
INCOMPATIBLE_HASH = 2048
MUTEX_LOCKING = 4096

cdef int _NOLOCK = 4
cdef int _INTERNAL = 2

# What a lock call sets when somebody else has the lock, depending on kernel lock or mutex.
cdef tuple _BUSY = (errno_names.EAGAIN, errno_names.EACCES, errno_names.EBUSY)

# Files open in this process, by (device, inode). Asked before libtdb is: its own check comes after it has opened
# and perhaps cleared the file, and closing that second descriptor drops the first one's fcntl locks.
cdef set _open_files = set()

# How a TDB_ERROR is called in tdb.h, by value.
cdef tuple _ERROR_NAMES = tuple(
    "TDB_SUCCESS TDB_ERR_CORRUPT TDB_ERR_IO TDB_ERR_LOCK TDB_ERR_OOM TDB_ERR_EXISTS TDB_ERR_NOLOCK"
    " TDB_ERR_LOCK_TIMEOUT TDB_ERR_NOEXIST TDB_ERR_EINVAL TDB_ERR_RDONLY TDB_ERR_NESTING".split()
)


cdef inline TDB_DATA _data(bytes what) noexcept:
    cdef TDB_DATA data
    data.dptr = <unsigned char *>PyBytes_AS_STRING(what)
    data.dsize = PyBytes_GET_SIZE(what)
    return data


cdef str _errno_text(int number):
    return f"{errno_names.errorcode.get(number, f'errno {number}')} ({os.strerror(number)})"


class OpenError(StoreError):
    """A TDB file cannot be opened. errno: why; 0, EINVAL or EIO when the content is not what libtdb expects."""

    def __init__(self, message, number):
        super().__init__(message)
        self.errno = number


def _refuse_second_open(str path):
    try:
        status = os.stat(path)
    except OSError:
        return
    if (status.st_dev, status.st_ino) in _open_files:
        raise OpenError(
            f"cannot open {path!r}: {_errno_text(errno_names.EBUSY)}; this process has the file open already"
            " and libtdb opens a file once per process",
            errno_names.EBUSY,
        )


cdef struct _Header:
    uint64_t rsn
    uint32_t dmaster
    uint32_t flags
    size_t size


cdef int _take_header(TDB_DATA key, TDB_DATA data, void *private) noexcept nogil:
    cdef _Header *header = <_Header *>private
    header.size = data.dsize
    if data.dsize >= 24:
        memcpy(&header.rsn, data.dptr, 8)
        memcpy(&header.dmaster, data.dptr + 8, 4)
        memcpy(&header.flags, data.dptr + 16, 4)
    return 0


cdef int _pack_record(tdb_context *ctx, TDB_DATA key, TDB_DATA data, void *private) noexcept nogil:
    cdef Packed *packed = <Packed *>private
    if not reserve(packed, 8 + key.dsize + data.dsize):
        return 1
    put32(packed, <uint32_t>key.dsize)
    put32(packed, <uint32_t>data.dsize)
    put(packed, key.dptr, key.dsize)
    put(packed, data.dptr, data.dsize)
    return 0


cdef int _check(tdb_context *ctx) noexcept nogil:
    return libtdb.tdb_check(ctx, NULL, NULL)


# What it holds is released in __dealloc__, which needs its attributes as they are.
@cython.no_gc_clear
cdef class Tdb:
    """An open TDB file, or one in memory. Made by `Tdb.open` and `Tdb.in_memory`; a context manager that closes."""

    def __cinit__(self):
        self.ctx = NULL
        self.path = ""
        self.locked_keys = []
        self.log = calloc(1, sizeof(ctdbpy_log))
        if self.log == NULL:
            raise MemoryError

    def __init__(self):
        if self.ctx == NULL:
            raise TypeError("use Tdb.open or Tdb.in_memory")

    def __dealloc__(self):
        if self.ctx != NULL:
            _open_files.discard(self.identity)
            self.unlock_everything()
            libtdb.tdb_close(self.ctx)
            self.ctx = NULL
        free(self.log)

    # -- opening and closing ------------------------------------------------------

    @staticmethod
    def open(
        path,
        *,
        int hash_size=0,
        int flags=0,
        int open_flags=os.O_RDWR | os.O_CREAT,
        int mode=0o600,
        int max_dead=0,
    ):
        """Open a TDB file, creating it unless `open_flags` says otherwise.

        hash_size counts only for a new file. Waits while another process opens or clears the file.
        Raises OpenError; a file that this process has open already is one (EBUSY).
        """
        cdef Tdb self = Tdb.__new__(Tdb)
        self.path = os.fspath(path)
        self.open_flags = flags
        _refuse_second_open(self.path)
        cdef bytes name = os.fsencode(self.path)
        cdef const char *c_name = name
        cdef libtdb.tdb_logging_context logging
        logging.log_fn = ctdbpy_log_message
        logging.log_private = self.log
        cdef int failed = 0
        with nogil:
            clear_errno()
            self.ctx = libtdb.tdb_open_ex(c_name, hash_size, flags, open_flags, mode, &logging, NULL)
            failed = errno
        if self.ctx == NULL:
            complaint = self.complaint()
            reason = _errno_text(failed) if failed else "not a sound TDB file"
            raise OpenError(
                f"cannot open {self.path!r}: {reason}{'; libtdb: ' + complaint if complaint else ''}", failed
            )
        status = os.fstat(libtdb.tdb_fd(self.ctx))
        self.identity = (status.st_dev, status.st_ino)
        _open_files.add(self.identity)
        if max_dead:
            libtdb.tdb_set_max_dead(self.ctx, max_dead)
        return self

    @staticmethod
    def in_memory(int hash_size=0):
        """A TDB without a file: no locks, no transactions, everything else alike."""
        cdef Tdb self = Tdb.__new__(Tdb)
        self.open_flags = _INTERNAL
        cdef libtdb.tdb_logging_context logging
        logging.log_fn = ctdbpy_log_message
        logging.log_private = self.log
        self.ctx = libtdb.tdb_open_ex(NULL, hash_size, _INTERNAL, os.O_RDWR | os.O_CREAT, 0o600, &logging, NULL)
        if self.ctx == NULL:
            raise StoreError(f"cannot create a TDB in memory: {_errno_text(errno)}; libtdb: {self.complaint()}")
        return self

    def close(self):
        """Close the file, give up the locks taken by methods here, cancel a transaction; twice is harmless.

        A robust mutex taken past this class (by the engine) must have been released: it would stay taken for ever.
        """
        if self.ctx == NULL:
            return
        cdef tdb_context *ctx = self.ctx
        cdef int status
        self.unlock_everything()
        self.ctx = NULL
        _open_files.discard(self.identity)
        with nogil:
            clear_errno()
            status = libtdb.tdb_close(ctx)
        if status != 0:
            raise StoreError(f"cannot close {self.path!r}: {_errno_text(errno)}")

    @property
    def closed(self):
        """True once `close` was called."""
        return self.ctx == NULL

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        return f"<Tdb {self.path or 'in memory'}{' closed' if self.ctx == NULL else ''}>"

    # -- records ------------------------------------------------------------------

    def fetch(self, bytes key not None):
        """The value stored under key, or None. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        cdef TDB_DATA k = _data(key)
        cdef TDB_DATA value
        with nogil:
            value = libtdb.tdb_fetch(ctx, k)
        if value.dptr == NULL:
            if libtdb.tdb_error(ctx) == libtdb.TDB_ERR_NOEXIST:
                return None
            raise self.failure(f"read record {key!r} of")
        try:
            return PyBytes_FromStringAndSize(<char *>value.dptr, value.dsize)
        finally:
            free(value.dptr)

    def read_header(self, bytes key not None):
        """(rsn, dmaster, flags, data size) of a record, read in place; None when absent or shorter than a header."""
        cdef tdb_context *ctx = self.handle()
        cdef TDB_DATA k = _data(key)
        cdef _Header header
        cdef int status
        header.size = 0
        with nogil:
            status = libtdb.tdb_parse_record(ctx, k, _take_header, &header)
        if status != 0 and libtdb.tdb_error(ctx) != libtdb.TDB_ERR_NOEXIST:
            raise self.failure(f"read record {key!r} of")
        if status != 0 or header.size < 24:
            return None
        return header.rsn, header.dmaster, header.flags, header.size - 24

    def store(self, bytes key not None, bytes value not None):
        """Store value under key, replacing what was there. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        cdef TDB_DATA k = _data(key)
        cdef TDB_DATA v = _data(value)
        cdef int status
        with nogil:
            status = libtdb.tdb_store(ctx, k, v, 0)
        if status != 0:
            raise self.failure(f"store record {key!r} in")

    def delete(self, bytes key not None):
        """Delete a record; False when there was none. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        cdef TDB_DATA k = _data(key)
        cdef int status
        with nogil:
            status = libtdb.tdb_delete(ctx, k)
        if status == 0:
            return True
        if libtdb.tdb_error(ctx) == libtdb.TDB_ERR_NOEXIST:
            return False
        raise self.failure(f"delete record {key!r} of")

    def exists(self, bytes key not None):
        """True if there is a record under key."""
        cdef tdb_context *ctx = self.handle()
        cdef TDB_DATA k = _data(key)
        cdef int status
        with nogil:
            status = libtdb.tdb_exists(ctx, k)
        if status == 0 and libtdb.tdb_error(ctx) not in (libtdb.TDB_SUCCESS, libtdb.TDB_ERR_NOEXIST):
            raise self.failure(f"look for record {key!r} in")
        return status != 0

    def __contains__(self, key):
        return self.exists(key)

    # -- reading everything ----------------------------------------------------------

    def traverse_chunk(self, uint32_t cursor, int max_records):
        """Records from hash chain `cursor` on: (list of (key, value), next cursor or None at the end).

        Stops at the end of the chain that reached max_records, so no lock is held between chunks and every record
        that stays is seen once; one that is stored or deleted meanwhile may or may not be. Waits for chain locks.
        """
        cdef tdb_context *ctx = self.handle()
        cdef uint32_t chains = libtdb.tdb_hash_size(ctx)
        cdef Packed packed
        cdef int status = 0
        cdef int count = 0
        cdef size_t at = 0
        cdef uint32_t key_size, value_size
        packed.base = NULL
        packed.size = packed.room = 0
        try:
            with nogil:
                while cursor < chains and count < max_records:
                    status = libtdb.tdb_traverse_chain(ctx, cursor, _pack_record, &packed)
                    if status < 0:
                        break
                    count += status
                    cursor += 1
            if status < 0:
                raise self.failure("traverse")
            records = []
            while at < packed.size:
                key_size = get32(packed.base + at)
                value_size = get32(packed.base + at + 4)
                at += 8
                key = PyBytes_FromStringAndSize(<char *>packed.base + at, key_size)
                at += key_size
                records.append((key, PyBytes_FromStringAndSize(<char *>packed.base + at, value_size)))
                at += value_size
            if len(records) != count:
                raise MemoryError
            return records, (cursor if cursor < chains else None)
        finally:
            release(&packed)

    def traverse(self, int chunk=1000):
        """Each (key, value), read about `chunk` records at a time; see `traverse_chunk` for what changes do."""
        cursor = 0
        while cursor is not None:
            records, cursor = self.traverse_chunk(cursor, chunk)
            yield from records

    # -- locks ------------------------------------------------------------------------

    def chainlock(self, bytes key not None):
        """Lock the hash chain of key, waiting as long as it takes. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        cdef TDB_DATA k = _data(key)
        cdef int status
        with nogil:
            clear_errno()
            status = libtdb.tdb_chainlock(ctx, k)
        if status != 0:
            raise self.failure(f"lock the chain of {key!r} in")
        self.locked_keys.append(key)

    def chainlock_nonblock(self, bytes key not None):
        """Lock the hash chain of key; False if another process has it. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        clear_errno()
        if libtdb.tdb_chainlock_nonblock(ctx, _data(key)) == 0:
            self.locked_keys.append(key)
            return True
        if errno in _BUSY:
            return False
        raise self.failure(f"lock the chain of {key!r} in")

    def chainunlock(self, bytes key not None):
        """Release the chain lock of key. Raises StoreError."""
        if libtdb.tdb_chainunlock(self.handle(), _data(key)) != 0:
            raise self.failure(f"unlock the chain of {key!r} in")
        if key in self.locked_keys:
            self.locked_keys.remove(key)

    def chainlock_mark(self, bytes key not None):
        """Behave as if this process had locked the chain: another process holds the lock on our behalf."""
        if libtdb.tdb_chainlock_mark(self.handle(), _data(key)) != 0:
            raise self.failure(f"mark the chain of {key!r} as locked in")

    def chainlock_unmark(self, bytes key not None):
        """End `chainlock_mark`, before the other process releases the lock."""
        if libtdb.tdb_chainlock_unmark(self.handle(), _data(key)) != 0:
            raise self.failure(f"unmark the chain of {key!r} in")

    def lockall(self):
        """Lock every chain, waiting as long as it takes. Raises StoreError."""
        self.run(libtdb.tdb_lockall, "lock all chains of")
        self.lockalls += 1

    def lockall_nonblock(self):
        """Lock every chain; False if another process has any. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        clear_errno()
        if libtdb.tdb_lockall_nonblock(ctx) == 0:
            self.lockalls += 1
            return True
        if errno in _BUSY:
            return False
        raise self.failure("lock all chains of")

    def unlockall(self):
        """Release `lockall`. Raises StoreError."""
        self.run(libtdb.tdb_unlockall, "unlock all chains of")
        self.lockalls -= 1

    def lockall_mark(self):
        """Behave as if this process had every chain: another process holds them on our behalf."""
        self.run(libtdb.tdb_lockall_mark, "mark all chains as locked in")

    def lockall_unmark(self):
        """End `lockall_mark`, before the other process releases the locks."""
        self.run(libtdb.tdb_lockall_unmark, "unmark all chains in")

    # -- transactions -------------------------------------------------------------------

    def transaction(self, *, bint frozen=False):
        """Context manager: commits at the end, cancels if an exception passes. See `transaction_start`."""
        return Transaction(self, frozen)

    def transaction_start(self, *, bint frozen=False):
        """Start a transaction, waiting for another process's. No transaction in memory. Raises StoreError.

        frozen: another process holds the locks of all chains on our behalf and keeps them, so take none.
        """
        self.run(libtdb.tdb_transaction_start, "start a transaction on", frozen)

    def transaction_start_nonblock(self):
        """Start a transaction; False if another process has one. Raises StoreError."""
        cdef tdb_context *ctx = self.handle()
        cdef int status
        with nogil:
            clear_errno()
            status = libtdb.tdb_transaction_start_nonblock(ctx)
        if status == 0:
            return True
        if libtdb.tdb_error(ctx) == libtdb.TDB_ERR_NOLOCK or errno in _BUSY:
            return False
        raise self.failure("start a transaction on")

    def transaction_prepare(self):
        """Write the recovery area to disk, so that `transaction_commit` can only fail with the disk."""
        self.run(libtdb.tdb_transaction_prepare_commit, "prepare the transaction on")

    def transaction_commit(self, *, bint frozen=False):
        """Make the transaction's changes visible and, without NOSYNC, durable. Raises StoreError: it is cancelled."""
        self.run(libtdb.tdb_transaction_commit, "commit the transaction on", frozen)

    def transaction_cancel(self, *, bint frozen=False):
        """Drop the transaction's changes. Raises StoreError when there is none."""
        self.run(libtdb.tdb_transaction_cancel, "cancel the transaction on", frozen)

    # -- numbers -------------------------------------------------------------------------

    @property
    def seqnum(self):
        """libtdb's change counter; 0 until `enable_seqnum`."""
        return libtdb.tdb_get_seqnum(self.handle())

    def enable_seqnum(self):
        """Count every change from now on."""
        libtdb.tdb_enable_seqnum(self.handle())

    def increment_seqnum_nonblock(self):
        """Count one change, unless another process is just counting one."""
        libtdb.tdb_increment_seqnum_nonblock(self.handle())

    @property
    def hash_size(self):
        """Number of hash chains."""
        return libtdb.tdb_hash_size(self.handle())

    @property
    def flags(self):
        """libtdb's flags as they are now: what another process must open the file with."""
        return libtdb.tdb_get_flags(self.handle())

    @property
    def is_in_memory(self):
        """True for a TDB without a file."""
        return (libtdb.tdb_get_flags(self.handle()) & _INTERNAL) != 0

    @property
    def map_size(self):
        """Size of the file in bytes."""
        return libtdb.tdb_map_size(self.handle())

    def freelist_size(self):
        """Number of free areas in the file. Waits for the free list's lock."""
        cdef tdb_context *ctx = self.handle()
        cdef int size
        with nogil:
            clear_errno()
            size = libtdb.tdb_freelist_size(ctx)
        if size < 0:
            raise self.failure("count the free areas of")
        return size

    # -- the whole file --------------------------------------------------------------------

    def check(self):
        """Walk the whole file; raises StoreError with libtdb's words if it is not sound. Waits for all chains."""
        self.run(_check, "accept the content of")

    def wipe_all(self):
        """Delete every record. Waits for all chains. Raises StoreError."""
        self.run(libtdb.tdb_wipe_all, "wipe")

    def sync(self):
        """Have what was stored so far on disk; nothing to do in memory. Raises StoreError."""
        cdef int fd = libtdb.tdb_fd(self.handle())
        if fd < 0:
            return
        try:
            # The descriptor itself: opening the file anew and closing it would drop its locks.
            os.fdatasync(fd)
        except OSError as error:
            raise StoreError(f"cannot flush {self.path!r}: {error.strerror}") from error

    def repack(self):
        """Rewrite the file without free areas, in one transaction. Raises StoreError."""
        self.run(libtdb.tdb_repack, "repack")

    # -- private ----------------------------------------------------------------------------

    cdef tdb_context *handle(self) except NULL:
        if self.ctx == NULL:
            raise StoreError(f"cannot use {self.path!r}: it is closed")
        (<ctdbpy_log *>self.log).used = 0
        return self.ctx

    cdef int run(self, Operation operation, str verb, bint frozen=False) except -1:
        # Without the GIL: anything may wait for another process.
        cdef tdb_context *ctx = self.handle()
        cdef int status
        with nogil:
            clear_errno()
            if frozen:
                libtdb.tdb_add_flags(ctx, _NOLOCK)
            status = operation(ctx)
            if frozen:
                libtdb.tdb_remove_flags(ctx, _NOLOCK)
        if status != 0:
            raise self.failure(verb)
        return 0

    cdef void unlock_everything(self):
        # Closing unmaps the mutexes; one that is held then stays held for ever, its owner dead, nobody told.
        for key in self.locked_keys:
            libtdb.tdb_chainunlock(self.ctx, _data(<bytes>key))
        self.locked_keys.clear()
        while self.lockalls > 0:
            libtdb.tdb_unlockall(self.ctx)
            self.lockalls -= 1

    cdef str complaint(self):
        cdef ctdbpy_log *log = <ctdbpy_log *>self.log
        text = log.text[: log.used].decode("utf-8", "replace")
        log.used = 0
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())

    cdef object failure(self, str verb):
        cdef int number = errno
        cdef TDB_ERROR code = libtdb.tdb_error(self.ctx)
        name = _ERROR_NAMES[<int>code] if 0 <= <int>code < len(_ERROR_NAMES) else f"error {<int>code}"
        reason = f"{name} ({libtdb.tdb_errorstr(self.ctx).decode('utf-8', 'replace')})"
        if number:
            reason += f", {_errno_text(number)}"
        complaint = self.complaint()
        if complaint:
            reason += f"; libtdb: {complaint}"
        return StoreError(f"cannot {verb} {self.path or 'a TDB in memory'!r}: {reason}")


def jenkins_hash(bytes key not None):
    """libtdb's Jenkins hash: of a database's name with its NUL the db_id, of a key what chooses the lmaster."""
    cdef TDB_DATA data = _data(key)
    return libtdb.tdb_jenkins_hash(&data)


def robust_mutexes_supported():
    """True if chain locks can be robust mutexes here. The first call forks a child to find out."""
    return bool(libtdb.tdb_runtime_check_for_robust_mutexes())
