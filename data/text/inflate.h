/* Read a file's bytes. A file that is compressed with gzip or Zstandard is decompressed; it is recognised by its first
 * bytes, whatever its name is. The only wrapper of zlib and of libzstd. */
#ifndef GRAFT_DATA_TEXT_INFLATE_H
#define GRAFT_DATA_TEXT_INFLATE_H

#include "base/err.h"

#include <stdbool.h>

typedef struct Inflater Inflater;

MUST_USE Err *inflate_open(Inflater **inflater, const char *path);

/* Read up to `capacity` bytes; *n is 0 at the end. Fails: ERR_IO, also when a compressed file is cut or damaged. */
MUST_USE Err *inflate_read(Inflater *inflater, char *to, size_t capacity, size_t *n);
void inflate_close(Inflater *inflater);

/* Whether the file is compressed. Fails: ERR_IO. */
MUST_USE Err *inflate_is_needed(const char *path, bool *yes);

#endif
