/* Blocks that are allocated and released one by one, within one range of addresses. A block lies in the lowest gap that
 * holds it. So the highest address in use depends only on the calls since the pool was last empty, and released memory
 * is used again while it is still in the cache.
 *
 *     Pool pool = {0};                         // an empty pool is valid
 *     float *x = pool_alloc(&pool, bytes);     // aligned to 64 bytes, not zeroed; NULL when the system has no more
 *     pool_release(&pool, x);
 *     pool_reset(&pool);                       // releases all blocks, keeps the memory for the next round
 *     pool_free(&pool);
 *
 * Addresses are reserved once, as many as the machine has bytes of memory. Pages take memory when blocks reach them. */
#ifndef GRAFT_BASE_POOL_H
#define GRAFT_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    size_t at, bytes;
} PoolBlock;

typedef struct {
    /* Set by the caller: addresses without memory, to find out how much memory the same calls would take. */
    bool counts;
    char *base; /* [reserved]; the first `open` bytes are usable */
    size_t reserved, open;
    size_t used_bytes; /* of all blocks now */
    size_t high_bytes; /* the highest end of a block, ever */
    PoolBlock *blocks; /* [n], sorted by address */
    size_t n, capacity;
    size_t first_gap; /* no gap lies before this block */
} Pool;

void *pool_alloc(Pool *pool, size_t bytes);
void pool_release(Pool *pool, const void *block);
void pool_reset(Pool *pool);
void pool_free(Pool *pool);

#endif
