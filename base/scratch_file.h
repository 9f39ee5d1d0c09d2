/* A file without a name, for numbers that do not fit into memory. It is written and read past the page cache where
 * the file system allows that. It is gone when it is closed, however the program ends. */
#ifndef GRAFT_BASE_SCRATCH_FILE_H
#define GRAFT_BASE_SCRATCH_FILE_H

#include "base/err.h"

#include <stdbool.h>

typedef struct {
    int fd;
    bool open, direct;     /* direct: past the page cache */
    const char *directory; /* borrowed */
    size_t bytes;          /* its size */
} ScratchFile;

/* Make a file of `bytes` bytes in a directory; the space is allocated at once. scratch_file_close also accepts an empty
 * (all zero) ScratchFile.
 * Fails: ERR_IO, naming the directory, also when the disk is full. */
MUST_USE Err *scratch_file_open(ScratchFile *file, const char *directory, size_t bytes);
void scratch_file_close(ScratchFile *file);

/* Write or read bytes [at, at + bytes). Offset, size and address are multiples of DIRECT_ALIGN. Fails: ERR_IO. */
MUST_USE Err *scratch_file_write(ScratchFile *file, size_t at, size_t bytes, const void *from);
MUST_USE Err *scratch_file_read(ScratchFile *file, size_t at, size_t bytes, void *to);

#endif
