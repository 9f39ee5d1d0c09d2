/* Blocks of a pool: where they lie, that they keep their content, and that a pool that counts gives the same
 * addresses. */
#include "base/pool.h"
#include "base/rng.h"
#include "tests/support/blocks.h"
#include "tests/support/check.h"

#include <string.h>

static void *alloc(void *pool, size_t bytes) { return pool_alloc(pool, bytes); }

static void blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    Pool pool = {0};
    check_blocks(alloc, &pool);
    pool_free(&pool);
}

static void a_block_lies_in_the_lowest_gap_that_holds_it(void **state)
{
    (void)state;
    Pool pool = {0};
    char *blocks[5];
    for (int i = 0; i < 5; i++) blocks[i] = pool_alloc(&pool, 1024);
    size_t high = pool.high_bytes;
    pool_release(&pool, blocks[3]);
    pool_release(&pool, blocks[1]);
    assert_ptr_equal(pool_alloc(&pool, 512), blocks[1]);
    assert_ptr_equal(pool_alloc(&pool, 1024), blocks[3]); /* what is left of the first gap is too small */
    pool_release(&pool, NULL);
    pool_release(&pool, blocks[3]);
    pool_release(&pool, blocks[2]);
    char *large = pool_alloc(&pool, 2048); /* adjacent gaps are one gap */
    assert_true(large > blocks[1] && large < blocks[2]);
    assert_int_equal(pool.high_bytes, high);
    pool_free(&pool);
}

/* Many blocks, allocated and released at random: none overlaps another, used_bytes is their sum, and the next round
 * takes the same addresses. */
static void allocated_blocks_keep_their_content(void **state)
{
    (void)state;
    enum { MAX_BLOCKS = 60, STEPS = 4000 };
    Pool pool = {0};
    size_t high = 0;
    for (int round = 0; round < 2; round++) {
        unsigned char *blocks[MAX_BLOCKS];
        size_t sizes[MAX_BLOCKS], n = 0;
        for (size_t step = 0; step < STEPS; step++) {
            uint64_t bits = rng_bits(7, step);
            if (n == MAX_BLOCKS || (n && bits % 5 < 2)) {
                size_t i = bits / 5 % n;
                for (size_t b = 0; b < sizes[i]; b += 97) assert_int_equal(blocks[i][b], (unsigned char)sizes[i]);
                pool_release(&pool, blocks[i]);
                n--;
                blocks[i] = blocks[n];
                sizes[i] = sizes[n];
                continue;
            }
            sizes[n] = bits / 5 % 20000;
            blocks[n] = pool_alloc(&pool, sizes[n]);
            assert_non_null(blocks[n]);
            memset(blocks[n], (unsigned char)sizes[n], sizes[n]);
            n++;
        }
        size_t used = 0;
        for (size_t i = 0; i < n; i++) used += sizes[i];
        assert_true(pool.used_bytes >= used && pool.used_bytes <= used + n * 192);
        pool_reset(&pool);
        assert_int_equal(pool.used_bytes, 0);
        if (round) assert_int_equal(pool.high_bytes, high);
        high = pool.high_bytes;
    }
    pool_free(&pool);
}

static void a_request_that_is_too_large_returns_null(void **state)
{
    Pool pool = {0};
    (void)state;
    assert_null(pool_alloc(&pool, SIZE_MAX));
    assert_null(pool_alloc(&pool, SIZE_MAX / 8));
    assert_non_null(pool_alloc(&pool, 10));
    assert_null(pool_alloc(&pool, (size_t)1 << 46));
    pool_free(&pool);
    pool_free(&pool);
}

/* It hands out terabytes of addresses and takes no memory. */
static void a_pool_that_counts_gives_the_addresses_of_one_that_does_not(void **state)
{
    (void)state;
    Pool counts = {.counts = true}, holds = {0};
    for (size_t i = 0; i < 20; i++)
        assert_int_equal((char *)pool_alloc(&counts, 1000 * i) - counts.base,
                         (char *)pool_alloc(&holds, 1000 * i) - holds.base);
    assert_int_equal(counts.high_bytes, holds.high_bytes);
    assert_int_equal(counts.open, 0);
    assert_non_null(pool_alloc(&counts, (size_t)1 << 40));
    pool_free(&counts);
    pool_free(&holds);
    assert_true(counts.counts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_apart),
        cmocka_unit_test(a_block_lies_in_the_lowest_gap_that_holds_it),
        cmocka_unit_test(allocated_blocks_keep_their_content),
        cmocka_unit_test(a_request_that_is_too_large_returns_null),
        cmocka_unit_test(a_pool_that_counts_gives_the_addresses_of_one_that_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
