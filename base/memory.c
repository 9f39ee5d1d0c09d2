/* Allocation with errors instead of NULL. Outputs are `void *` that point to a pointer of any type, so they are set
 * through memcpy: a `void **` that aliases an `X **` is not C. Sizes are checked for overflow before they are
 * multiplied. */
#define _GNU_SOURCE
#include "base/memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Err *too_much(size_t n, size_t size)
{
    return err_new(ERR_MEMORY, "out of memory: %zu elements of %zu bytes", n, size);
}

Err *mem_new(void *out, size_t n, size_t size)
{
    void *block = NULL;
    if (size && n > (SIZE_MAX - 64) / size) return too_much(n, size);
    size_t bytes = (n * size + 63) / 64 * 64; /* aligned_alloc asks for a multiple of the alignment */
    if (bytes == 0) bytes = 64;
    block = aligned_alloc(64, bytes);
    if (!block) return too_much(n, size);
    memset(block, 0, bytes);
    memcpy(out, &block, sizeof block);
    return NULL;
}

Err *mem_renew(void *array, size_t *capacity, size_t need, size_t size)
{
    void *block = NULL, *old;
    if (need <= *capacity) return NULL;
    memcpy(&old, array, sizeof old);
    free(old); /* first, so that both are never held */
    memcpy(array, &block, sizeof block);
    *capacity = 0;
    TRY(mem_new(array, need, size));
    *capacity = need;
    return NULL;
}

Err *mem_grow(void *array, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity) return NULL;
    size_t n = *capacity ? *capacity : 16;
    while (n < need) {
        if (n > SIZE_MAX / 2) return too_much(need, size);
        n *= 2;
    }
    if (n > SIZE_MAX / size) return too_much(n, size);
    void *block;
    memcpy(&block, array, sizeof block);
    char *grown = realloc(block, n * size);
    if (!grown) return too_much(n, size);
    memset(grown + *capacity * size, 0, (n - *capacity) * size);
    memcpy(array, &grown, sizeof grown);
    *capacity = n;
    return NULL;
}

Err *mem_copy_bytes(char **out, const char *text, size_t n)
{
    char *copy = n < SIZE_MAX ? malloc(n + 1) : NULL;
    if (!copy) return too_much(n, 1);
    if (n) memcpy(copy, text, n);
    copy[n] = 0;
    *out = copy;
    return NULL;
}

Err *mem_copy_text(char **out, const char *text) { return mem_copy_bytes(out, text, strlen(text)); }

Err *mem_format(char **out, const char *format, ...)
{
    va_list args;
    char *text;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) return err_new(ERR_MEMORY, "out of memory for a text");
    *out = text;
    return NULL;
}
