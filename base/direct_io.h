/* Files read past the page cache: what a run reads once per pass must not push out what it needs.
 *
 * Where the file system refuses direct reads (tmpfs, some network mounts), ordinary ones are made and the pages they
 * left behind are dropped. A file that changes while it is open is an error, not other bytes. */
#ifndef GRAFT_BASE_DIRECT_IO_H
#define GRAFT_BASE_DIRECT_IO_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { DIRECT_ALIGN = 4096 }; /* of offsets, sizes and addresses */

typedef struct {
    int fd;
    bool direct;
    const char *path; /* borrowed */
    size_t bytes;     /* when it was opened */
    int64_t changed_s, changed_ns;
} DirectFile;

/* Fails: ERR_IO. Close takes an empty (all zero) file, too. */
MUST_USE Err *direct_open(DirectFile *file, const char *path);
void direct_close(DirectFile *file);

/* Bytes [at, at + bytes) into `to`, all aligned; beyond the end of the file nothing is written. Threads may share a file.
 * Fails: ERR_IO with the file's name: a read error, a file that has grown shorter or changed since it was opened. */
MUST_USE Err *direct_read(DirectFile *file, size_t at, size_t bytes, void *to);

/* `bytes` rounded up to whole blocks. */
static inline size_t direct_round(size_t bytes) { return (bytes + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN; }

#endif
