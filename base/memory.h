/* Heap blocks that come zeroed, aligned to a cache line, or with an error that says how much was asked for. */
#ifndef GRAFT_BASE_MEMORY_H
#define GRAFT_BASE_MEMORY_H

#include "base/err.h"

/* Set *(void **)out to n zeroed elements of `size` bytes, aligned to 64 bytes; n = 0 gives a valid pointer.
 * Owner: the caller, until free(). */
MUST_USE Err *mem_new(void *out, size_t n, size_t size);

/* Grow the array *(void **)array to hold at least `need` elements; *capacity is updated, new elements are zero.
 * The array is one that realloc may move (NULL, or from mem_grow). */
MUST_USE Err *mem_grow(void *array, size_t *capacity, size_t need, size_t size);

/* A copy of text (of n bytes of text, ended by a zero). Owner: the caller, until free(). */
MUST_USE Err *mem_copy_text(char **out, const char *text);
MUST_USE Err *mem_copy_bytes(char **out, const char *text, size_t n);

/* `printf` into a fresh string. Owner: the caller, until free(). */
MUST_USE Err *mem_format(char **out, const char *format, ...) PRINTF(2, 3);

#endif
