/* Amounts of memory as people write them: "8GiB", "512 MiB", "1.5T". */
#ifndef GRAFT_BASE_BYTE_SIZE_H
#define GRAFT_BASE_BYTE_SIZE_H

#include "base/err.h"

/* K, M, G, T with or without iB are powers of 1024; KB, MB, GB, TB powers of 1000; a bare number is bytes.
 * Fails: ERR_USAGE naming `key`. */
MUST_USE Err *bytes_parse(size_t *bytes, const char *text, const char *key);

/* "7.53 GiB" */
enum { BYTES_TEXT = 32 };
const char *bytes_text(char text[BYTES_TEXT], double bytes);
#define BYTES(number) bytes_text((char[BYTES_TEXT]){0}, (double)(number))

/* What this process may still take: the least of what the host has free and what its cgroup (v1 or v2) leaves; SIZE_MAX
 * when nothing says. */
size_t bytes_free(void);

/* A line of a /proc file that counts in KiB ("VmHWM:"), in bytes; 0 where there is none. */
size_t bytes_of_proc(const char *path, const char *name);

#endif
