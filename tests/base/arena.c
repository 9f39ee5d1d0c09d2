#include "base/arena.h"
#include "tests/support/check.h"

#include <string.h>

static void blocks_are_aligned_and_apart(void **state)
{
    Arena arena = {0};
    char *last = NULL;
    (void)state;
    for (size_t bytes = 0; bytes < 300; bytes++) {
        char *block = arena_alloc(&arena, bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        assert_ptr_not_equal(block, last);
        memset(block, (int)bytes, bytes);
        if (bytes > 1) assert_int_equal(last[0], (char)(bytes - 1)); /* the first block has no byte */
        last = block;
    }
    arena_free(&arena);
}

/* Blocks below, at and above the size of a chunk, all written to. */
static void fill(Arena *arena, char *blocks[12])
{
    static const size_t sizes[12] = {1, 1 << 20, (1 << 20) - 64, 3 << 20, 100, 1 << 19, 1 << 19, 1 << 19, 7 << 20, 64, 1 << 20, 5};
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

static void a_reset_gives_the_same_blocks_again(void **state)
{
    Arena arena = {0};
    char *first[12], *second[12];
    (void)state;
    fill(&arena, first);
    size_t used = arena.used_bytes;
    assert_true(used >= (14 << 20));
    arena_reset(&arena);
    assert_int_equal(arena.used_bytes, 0);
    fill(&arena, second);
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(arena.used_bytes, used);
    assert_int_equal(arena.peak_bytes, used);
    arena_free(&arena);
    assert_null(arena.first);
}

static void blocks_that_grow_leave_no_trail(void **state)
{
    Arena arena = {0};
    (void)state;
    for (size_t mib = 1; mib < 100; mib += 9) { /* each round asks for more than the last one had */
        arena_reset(&arena);
        assert_non_null(arena_alloc(&arena, 100));
        memset(arena_alloc(&arena, mib << 20), 1, mib << 20);
        assert_true(arena.held_bytes <= (16 << 20) + ((mib + 2) << 20));
    }
    size_t held = arena.held_bytes;
    for (size_t mib = 91; mib > 9; mib -= 9) { /* what was held for the largest serves the smaller ones */
        arena_reset(&arena);
        assert_non_null(arena_alloc(&arena, mib << 20));
        assert_int_equal(arena.held_bytes, held);
    }
    arena_free(&arena);
}

static void what_cannot_be_had_is_null(void **state)
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
        cmocka_unit_test(blocks_are_aligned_and_apart), cmocka_unit_test(a_reset_gives_the_same_blocks_again), cmocka_unit_test(blocks_that_grow_leave_no_trail),
        cmocka_unit_test(what_cannot_be_had_is_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
