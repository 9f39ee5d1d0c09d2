/* Read a file's bytes. A file that is compressed with gzip or Zstandard is decompressed; it is recognised by its first
 * bytes, whatever its name is. The only wrapper of zlib and of libzstd. */
#ifndef GRAFT_DATA_TEXT_INFLATE_H
#define GRAFT_DATA_TEXT_INFLATE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct Inflater Inflater;

/* How many times its size a compressed file may become, once it is more than 64 MiB; 0: no limit. For the whole
 * process; text that people write shrinks 3 to 20 times. */
enum { INFLATE_LIMIT = 200 };
void inflate_limit(size_t times);

MUST_USE Err *inflate_open(Inflater **inflater, const char *path);

/* Read up to `capacity` bytes; *n is 0 at the end. Fails: ERR_IO, also when a compressed file is cut or
 * damaged; ERR_DATA beyond inflate_limit. */
MUST_USE Err *inflate_read(Inflater *inflater, char *to, size_t capacity, size_t *n);
void inflate_close(Inflater *inflater);

/* Whether the file is compressed. Fails: ERR_IO. */
MUST_USE Err *inflate_is_needed(const char *path, bool *yes);

#endif
