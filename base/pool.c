/* One range of addresses with a sorted array of the blocks in it. A block goes into the lowest gap that holds it (first
 * fit), so addresses depend only on the calls since the last reset, and the memory in use stays low and warm in the
 * cache.
 *
 * What always holds: blocks[] is sorted by address and no two overlap; no gap lies before blocks[first_gap]; the
 * first `open` bytes can be read and written; under the address sanitizer only bytes of blocks are not poisoned. A
 * pool that counts reserves addresses and never makes them usable. */
#define _GNU_SOURCE
#include "base/pool.h"

#include "base/err.h"
#include "base/memory.h"
#include "base/pages.h"
#include "base/minmax.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64, OPENED_AT_ONCE = 32 << 20 };
static const size_t max_counted = (size_t)1 << 45; /* bytes of addresses; what is counted may be a larger machine's */

/* Reserve addresses; ask for half as many as long as the system refuses. */
static bool reserve(Pool *pool)
{
    size_t bytes = pool->counts ? max_counted
                                : round_up((size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE), HUGE_PAGE);
    while (!(pool->base = pages_map(bytes, false, !pool->counts)) && bytes >= OPENED_AT_ONCE)
        bytes = bytes / 2 / HUGE_PAGE * HUGE_PAGE;
    pool->reserved = pool->base ? bytes : 0;
    return pool->base;
}

/* Make the first `end` bytes usable. */
static bool make_usable(Pool *pool, size_t end)
{
    if (!pool->base && !reserve(pool)) return false;
    if (end > pool->reserved) return false;
    if (pool->counts || end <= pool->open) return true;
    size_t open = size_min(round_up(end, OPENED_AT_ONCE), pool->reserved);
    if (mprotect(pool->base + pool->open, open - pool->open, PROT_READ | PROT_WRITE)) return false;
    ASAN_POISON_MEMORY_REGION(pool->base + pool->open, open - pool->open);
    pool->open = open;
    return true;
}

static size_t end_before(const Pool *pool, size_t i)
{
    return i ? pool->blocks[i - 1].at + pool->blocks[i - 1].bytes : 0;
}

void *pool_alloc(Pool *pool, size_t bytes)
{
    if (bytes > SIZE_MAX / 4) return NULL;
    size_t asked = bytes, i = pool->first_gap;
    bytes = round_up((bytes ? bytes : 1) + GUARD, ALIGN);
    while (i < pool->n && pool->blocks[i].at - end_before(pool, i) < bytes) i++;
    size_t at = end_before(pool, i);
    Err *err = mem_grow(&pool->blocks, &pool->capacity, pool->n + 1, sizeof *pool->blocks);
    err_free(err); /* the caller reports what the memory was for */
    if (err || !make_usable(pool, at + bytes)) return NULL;
    memmove(pool->blocks + i + 1, pool->blocks + i, (pool->n - i) * sizeof *pool->blocks);
    pool->blocks[i] = (PoolBlock){at, bytes};
    pool->n++;
    while (pool->first_gap < pool->n && pool->blocks[pool->first_gap].at == end_before(pool, pool->first_gap))
        pool->first_gap++;
    pool->used_bytes += bytes;
    pool->high_bytes = size_max(pool->high_bytes, at + bytes);
    if (!pool->counts) ASAN_UNPOISON_MEMORY_REGION(pool->base + at, asked);
    return pool->base + at;
}

void pool_release(Pool *pool, const void *block)
{
    if (!block) return;
    size_t at = (size_t)((const char *)block - pool->base), low = 0, high = pool->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (pool->blocks[middle].at < at)
            low = middle + 1;
        else
            high = middle;
    }
    ASSERT(low < pool->n && pool->blocks[low].at == at, "the pool has no block at byte %zu", at);
    pool->used_bytes -= pool->blocks[low].bytes;
    if (!pool->counts) ASAN_POISON_MEMORY_REGION(pool->base + at, pool->blocks[low].bytes);
    pool->n--;
    memmove(pool->blocks + low, pool->blocks + low + 1, (pool->n - low) * sizeof *pool->blocks);
    pool->first_gap = size_min(pool->first_gap, low);
}

void pool_reset(Pool *pool)
{
    if (!pool->counts && pool->base) ASAN_POISON_MEMORY_REGION(pool->base, pool->open);
    pool->n = pool->first_gap = pool->used_bytes = 0;
}

void pool_free(Pool *pool)
{
    if (pool->open) ASAN_UNPOISON_MEMORY_REGION(pool->base, pool->open);
    if (pool->base) munmap(pool->base, pool->reserved);
    free(pool->blocks);
    *pool = (Pool){.counts = pool->counts};
}
