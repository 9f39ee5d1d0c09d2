/* A file without a name for numbers that memory has no room for: written and read past the page cache where the file system
 * allows, gone when it is closed, however the program ends. */
#ifndef GRAFT_BASE_SCRATCH_FILE_H
#define GRAFT_BASE_SCRATCH_FILE_H

#include "base/err.h"

#include <stdbool.h>

typedef struct {
    int fd;
    bool open, direct;
    const char *directory; /* borrowed */
    size_t bytes;
} ScratchFile;

/* Room for `bytes` in a directory, taken at once. Close takes an empty (all zero) ScratchFile, too.
 * Fails: ERR_IO naming the directory; a full disk shows here. */
MUST_USE Err *scratch_file_open(ScratchFile *file, const char *directory, size_t bytes);
void scratch_file_close(ScratchFile *file);

/* at, bytes and addresses are multiples of DIRECT_ALIGN. */
MUST_USE Err *scratch_file_write(ScratchFile *file, size_t at, size_t bytes, const void *from);
MUST_USE Err *scratch_file_read(ScratchFile *file, size_t at, size_t bytes, void *to);

#endif
