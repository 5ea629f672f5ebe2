# SPDX-License-Identifier: GPL-3.0-or-later
# What libtdb says when it fails, kept for the error that is raised, and errno.

from ctdbpy.store.libtdb cimport tdb_log_func

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <stdarg.h>
    #include <stdio.h>
    #include <sys/types.h>
    #include <tdb.h>

    static inline void clear_errno(void)
    {
        errno = 0;
    }

    extern "C" void *tdb_get_logging_private(struct tdb_context *tdb);

    struct ctdbpy_log {
        size_t used;
        char text[640];
    };

    // Keeps what libtdb says as an error; its innermost message comes first and matters most.
    static void ctdbpy_log_message(struct tdb_context *tdb, enum tdb_debug_level level, const char *format, ...)
    {
        struct ctdbpy_log *log = (struct ctdbpy_log *)tdb_get_logging_private(tdb);
        if (log == NULL || level > TDB_DEBUG_WARNING || log->used + 1 >= sizeof(log->text))
            return;
        va_list arguments;
        va_start(arguments, format);
        int wrote = vsnprintf(log->text + log->used, sizeof(log->text) - log->used, format, arguments);
        va_end(arguments);
        if (wrote > 0)
            log->used += (size_t)wrote;
        if (log->used >= sizeof(log->text))
            log->used = sizeof(log->text) - 1;
    }
    """
    struct ctdbpy_log:
        size_t used
        char text[640]
    tdb_log_func ctdbpy_log_message
    # An assignment in Cython would make a local variable.
    void clear_errno() noexcept nogil
