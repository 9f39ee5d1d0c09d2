/* Files that are read past the page cache. A run streams its weights once per pass; in the page cache they would
 * replace pages that the run needs.
 *
 * Where the file system refuses direct reads (tmpfs, some network mounts), ordinary reads are made and their pages
 * dropped from the cache afterwards. A file that changes while it is open gives an error, never different bytes. */
#ifndef GRAFT_BASE_DIRECT_IO_H
#define GRAFT_BASE_DIRECT_IO_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { DIRECT_ALIGN = 4096 }; /* bytes; offsets, sizes and addresses are multiples of it */

typedef struct {
    int fd;
    atomic_bool direct;            /* reads bypass the page cache; false once the file system has refused that */
    const char *path;              /* borrowed */
    size_t bytes;                  /* the size when it was opened */
    int64_t changed_s, changed_ns; /* the time of the last change before that */
} DirectFile;

/* Fails: ERR_IO. direct_close also accepts an empty (all zero) file. */
MUST_USE Err *direct_open(DirectFile *file, const char *path);
void direct_close(DirectFile *file);

/* Read bytes [at, at + bytes) into `to`. Offset, size and address are multiples of DIRECT_ALIGN. Beyond the end of the
 * file nothing is written to `to`. Several threads may read one file.
 * Fails: ERR_IO with the file's name: a read error, or a file that was cut short or changed since it was opened. */
MUST_USE Err *direct_read(DirectFile *file, size_t at, size_t bytes, void *to);

/* `bytes` rounded up to whole blocks. */
static inline size_t direct_round(size_t bytes) { return (bytes + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN; }

#endif
