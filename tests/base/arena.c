/* Blocks of an arena: alignment, sizes around that of a chunk, requests that are too large. */
#include "base/arena.h"
#include "tests/support/blocks.h"
#include "tests/support/check.h"

#include <string.h>

static void *alloc(void *arena, size_t bytes) { return arena_alloc(arena, bytes); }

static void blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    Arena arena = {0};
    check_blocks(alloc, &arena);
    arena_free(&arena);
}

/* Blocks below, at and above the size of a chunk, all written to. */
static void fill(Arena *arena, char *blocks[12])
{
    static const size_t sizes[12] = {1,       1 << 20, (1 << 20) - 64, 3 << 20, 100,     1 << 19,
                                     1 << 19, 1 << 19, 7 << 20,        64,      1 << 20, 5};
    for (int i = 0; i < 12; i++) {
        blocks[i] = arena_alloc(arena, sizes[i]);
        assert_non_null(blocks[i]);
        memset(blocks[i], i, sizes[i]);
    }
    for (int i = 0; i < 12; i++) {
        assert_int_equal(blocks[i][0], i);
        assert_int_equal(blocks[i][sizes[i] - 1], i);
    }
}

static void blocks_of_all_sizes_keep_their_content(void **state)
{
    Arena arena = {0};
    char *blocks[12];
    (void)state;
    fill(&arena, blocks);
    fill(&arena, blocks);
    arena_free(&arena);
    assert_null(arena.newest);
}

static void a_request_that_is_too_large_returns_null(void **state)
{
    Arena arena = {0};
    (void)state;
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_alloc(&arena, SIZE_MAX / 4));
    assert_non_null(arena_alloc(&arena, 10));
    arena_free(&arena);
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_apart),
        cmocka_unit_test(blocks_of_all_sizes_keep_their_content),
        cmocka_unit_test(a_request_that_is_too_large_returns_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
