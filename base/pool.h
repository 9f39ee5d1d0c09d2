/* Blocks with lives of their own, in one run of addresses: a block lies in the lowest gap that holds it. So how far up they
 * reach depends on the calls since the pool was last empty alone, and what was given back serves again while it is warm.
 *
 *     Pool pool = {0};                         // an empty pool is valid
 *     float *x = pool_alloc(&pool, bytes);     // aligned to 64 bytes, not zeroed; NULL when the system has no more
 *     pool_release(&pool, x);
 *     pool_reset(&pool);                       // everything is gone, the memory is kept for the next round
 *     pool_free(&pool);
 *
 * Addresses are reserved once, as many as the machine has memory; pages are taken as blocks reach them. */
#ifndef GRAFT_BASE_POOL_H
#define GRAFT_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    size_t at, bytes;
} PoolBlock;

typedef struct {
    bool counts; /* addresses are handed out, and nothing lies behind them: to know how much it would take */
    char *base;  /* [reserved], the first `open` bytes usable */
    size_t reserved, open;
    size_t used_bytes; /* handed out now */
    size_t high_bytes; /* the furthest that a block has ever reached */
    PoolBlock *blocks; /* [n] in the order of addresses */
    size_t n, capacity;
    size_t first_gap; /* no gap lies before this block */
} Pool;

void *pool_alloc(Pool *pool, size_t bytes);
void pool_release(Pool *pool, const void *block);
void pool_reset(Pool *pool);
void pool_free(Pool *pool);

#endif
