/* Amounts of memory as people write them: "8GiB", "512 MiB", "1.5T". */
#ifndef GRAFT_BASE_BYTE_SIZE_H
#define GRAFT_BASE_BYTE_SIZE_H

#include "base/err.h"

/* K, M, G, T, with or without iB, are powers of 1024. KB, MB, GB, TB are powers of 1000. A bare number is bytes.
 * Fails: ERR_USAGE, naming `key`. */
MUST_USE Err *byte_size_parse(size_t *bytes, const char *text, const char *key);

/* Write a number of bytes with three digits and a unit, "7.53 GiB". BYTES(number) is the same in a temporary buffer,
 * which lives until the end of the enclosing block. */
enum { BYTE_SIZE_TEXT = 32 };
const char *byte_size_text(char text[BYTE_SIZE_TEXT], double bytes);
#define BYTES(number) byte_size_text((char[BYTE_SIZE_TEXT]){0}, (double)(number))

#endif
