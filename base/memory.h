/* Heap blocks, zeroed and aligned to a cache line. An error says how much was asked for. */
#ifndef GRAFT_BASE_MEMORY_H
#define GRAFT_BASE_MEMORY_H

#include "base/err.h"

/* Allocate n zeroed elements of `size` bytes, aligned to 64 bytes, and store their address in the pointer that `out`
 * points to. n = 0 gives a valid pointer.
 * Owner: the caller, until free(). */
MUST_USE Err *mem_new(void *out, size_t n, size_t size);

/* Have exactly `need` elements of `size` bytes, or the *capacity that there are already when those are more. What was
 * in the array is lost. `array` as for mem_grow, but for memory of mem_new. */
MUST_USE Err *mem_renew(void *array, size_t *capacity, size_t need, size_t size);

/* Grow an array to at least `need` elements of `size` bytes; *capacity is updated and new elements are zero.
 *   array  points to the pointer to the elements: NULL, or one that mem_grow has set (realloc may move it) */
MUST_USE Err *mem_grow(void *array, size_t *capacity, size_t need, size_t size);

/* A copy of a text; or of n bytes of it, ended by a zero. Owner: the caller, until free(). */
MUST_USE Err *mem_copy_text(char **out, const char *text);
MUST_USE Err *mem_copy_bytes(char **out, const char *text, size_t n);

/* `printf` into a new string. Owner: the caller, until free(). */
MUST_USE Err *mem_format(char **out, const char *format, ...) PRINTF(2, 3);

#endif
