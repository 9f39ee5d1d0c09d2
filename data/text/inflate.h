/* The bytes of a file, unpacked when it is gzip or Zstandard (recognised by its first bytes, whatever its name is).
 * The only door to zlib and to libzstd. */
#ifndef GRAFT_DATA_TEXT_INFLATE_H
#define GRAFT_DATA_TEXT_INFLATE_H

#include "base/err.h"

#include <stdbool.h>

typedef struct Inflater Inflater;

MUST_USE Err *inflate_open(Inflater **inflater, const char *path);

/* Up to `most` bytes; *n is 0 at the end. Fails: ERR_IO; a packed file that is cut short or damaged. */
MUST_USE Err *inflate_read(Inflater *inflater, char *to, size_t capacity, size_t *n);
void inflate_close(Inflater *inflater);

/* Whether the file must be unpacked. */
MUST_USE Err *inflate_is_needed(const char *path, bool *yes);

#endif
