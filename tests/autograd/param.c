/* Forests: the sum of micro-batches has one order, wherever ranks and groups begin. */
#include "autograd/param.h"

#include "base/rng.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 3, MAX_LEAVES = 40 };

/* Sums whose last bits show their order: sizes from 2^-12 to 2^12, both signs. */
static float leaf(size_t number, size_t i)
{
    uint64_t key = rng_key(5, number);
    return (float)ldexp(rng_normal(key, i), (int)rng_below(key, 100 + i, 25) - 12);
}

/* The value of a subtree, as param.h defines it. */
static void subtree(size_t begin, size_t size, float sum[N])
{
    float right[N];
    if (size == 1) {
        for (size_t i = 0; i < N; i++) sum[i] = leaf(begin, i);
        return;
    }
    subtree(begin, size / 2, sum);
    subtree(begin + size / 2, size / 2, right);
    for (size_t i = 0; i < N; i++) sum[i] += right[i];
}

/* A parameter that is the whole block. */
static Param whole_block(Forest *forest)
{
    return (Param){.name = (char *)"all", .rows = 1, .cols = N, .forest = forest};
}

/* Micro-batches [first, end), in order. */
static void grow(Forest *forest, size_t first, size_t end)
{
    Param p = whole_block(forest);
    assert_ok(forest_begin(forest, N, first, end));
    for (size_t i = 0; i < forest->n_subtrees * N; i++) forest->subtrees[i] = NAN;
    for (size_t m = first; m < end; m++) {
        float *to = param_leaf(&p, m);
        for (size_t i = 0; i < N; i++) to[i] = leaf(m, i);
        param_merge(&p, m);
    }
}

static void a_cover_is_the_fewest_aligned_powers_of_two(void **state)
{
    (void)state;
    enum { TO = 140 };
    static size_t fewest[TO + 1];
    for (size_t first = 0; first < TO; first++) {
        fewest[first] = 0;
        for (size_t end = first + 1; end <= TO; end++) { /* the best last subtree, whichever it is */
            fewest[end] = SIZE_MAX;
            for (size_t size = 1; size <= end - first; size *= 2)
                if (end % size == 0 && fewest[end - size] + 1 < fewest[end]) fewest[end] = fewest[end - size] + 1;
            Subtree cover[FOREST_MAX_SUBTREES];
            size_t n = forest_cover(first, end, cover), at = first;
            assert_int_equal(n, fewest[end]);
            assert_int_equal(n, forest_depth(first, end));
            for (size_t i = 0; i < n; at += cover[i++].size) {
                assert_int_equal(cover[i].begin, at);
                assert_int_equal(cover[i].size & (cover[i].size - 1), 0);
                assert_int_equal(at % cover[i].size, 0);
            }
            assert_int_equal(at, end);
        }
    }
}

static void no_micro_batches_have_no_cover(void **state)
{
    (void)state;
    Subtree cover[FOREST_MAX_SUBTREES];
    assert_int_equal(forest_cover(5, 5, cover), 0);
    assert_int_equal(forest_depth(5, 5), 0);
    Forest forest = {0};
    assert_ok(forest_begin(&forest, N, 5, 5));
    forest_free(&forest);
}

static void the_largest_forest_fits_its_cover(void **state)
{
    (void)state;
    Subtree cover[FOREST_MAX_SUBTREES];
    size_t end = ((size_t)1 << 62) - 1;
    size_t n = forest_cover(1, end, cover); /* 2^0, 2^1 .. 2^60, then down again */
    assert_int_equal(n, forest_depth(1, end));
    assert_true(n > 100 && n <= FOREST_MAX_SUBTREES);
    assert_int_equal(cover[n - 1].begin + cover[n - 1].size, end);
}

static void nodes_hold_the_subtrees_of_the_cover(void **state)
{
    (void)state;
    Forest forest = {0};
    for (size_t first = 0; first <= MAX_LEAVES; first++)
        for (size_t end = first; end <= MAX_LEAVES; end++) {
            Subtree cover[FOREST_MAX_SUBTREES];
            size_t n = forest_cover(first, end, cover);
            grow(&forest, first, end);
            assert_true(n <= forest.n_subtrees);
            for (size_t i = 0; i < n; i++) {
                float want[N];
                subtree(cover[i].begin, cover[i].size, want);
                assert_memory_equal(forest.subtrees + i * N, want, sizeof want);
            }
        }
    forest_free(&forest);
}

static void three_ranks_equal_one_for_every_split(void **state)
{
    (void)state;
    Forest forest = {0};
    for (size_t end = 1; end <= MAX_LEAVES; end++) {
        float want[N], roots[64 * N];
        grow(&forest, 0, end);
        forest_total(forest_depth(0, end), N, forest.subtrees);
        memcpy(want, forest.subtrees, sizeof want);
        for (size_t a = 0; a <= end; a++)
            for (size_t b = a; b <= end; b++) {
                const size_t ranks[] = {0, a, b, end};
                Subtree trees[3 * FOREST_MAX_SUBTREES];
                size_t n = 0;
                for (size_t r = 0; r < 3; r++) {
                    size_t more = forest_cover(ranks[r], ranks[r + 1], trees + n);
                    grow(&forest, ranks[r], ranks[r + 1]);
                    memcpy(roots + n * N, forest.subtrees, more * N * sizeof *roots);
                    n += more;
                }
                n = forest_merge(n, trees, N, roots);
                assert_int_equal(n, forest_depth(0, end));
                forest_total(n, N, roots);
                assert_memory_equal(roots, want, sizeof want);
            }
    }
    forest_free(&forest);
}

static void the_order_of_the_sum_shows_in_these_numbers(void **state)
{
    (void)state;
    Forest forest = {0};
    size_t differ = 0;
    for (size_t end = 3; end <= MAX_LEAVES; end++) {
        float forward[N] = {0};
        grow(&forest, 0, end);
        forest_total(forest_depth(0, end), N, forest.subtrees);
        for (size_t m = 0; m < end; m++)
            for (size_t i = 0; i < N; i++) forward[i] += leaf(m, i);
        differ += memcmp(forward, forest.subtrees, sizeof forward) != 0;
    }
    assert_true(differ > MAX_LEAVES / 2); /* else the tests above would prove little */
    forest_free(&forest);
}

static void roots_are_added_from_the_youngest(void **state)
{
    (void)state;
    float roots[] = {1, 10, 0x1p24f, 20, 1, 30, 1, 40}; /* 1 + (2^24 + (1 + 1)) is not ((1 + 2^24) + 1) + 1 */
    forest_total(4, 2, roots);
    assert_true(roots[0] == 0x1p24f + 4 && roots[1] == 100);
    float one[] = {7, 8};
    forest_total(1, 2, one);
    assert_true(one[0] == 7 && one[1] == 8);
}

static void parameters_share_a_forest_and_leave_each_other_alone(void **state)
{
    (void)state;
    Forest forest = {0};
    Param a = {.name = (char *)"a", .rows = 2, .cols = 3, .offset = 0, .forest = &forest};
    Param b = {.name = (char *)"b", .rows = 1, .cols = 4, .offset = 6, .forest = &forest};
    Param untouched = {.name = (char *)"untouched", .rows = 1, .cols = 1, .offset = 10, .forest = &forest};
    assert_ok(forest_begin(&forest, 11, 2, 9));
    for (size_t i = 0; i < forest.n_subtrees * 11; i++) forest.subtrees[i] = -1;
    for (size_t m = 2; m < 9; m++) { /* interleaved in both ways */
        float *to_a = param_leaf(&a, m);
        for (size_t i = 0; i < 6; i++) to_a[i] = (float)(m * 10 + i);
        if (m % 2) param_merge(&a, m);
        float *to_b = param_leaf(&b, m);
        for (size_t i = 0; i < 4; i++) to_b[i] = (float)(m * 100 + i);
        param_merge(&b, m);
        if (m % 2 == 0) param_merge(&a, m);
    }
    size_t n = forest_depth(2, 9); /* [2 3] [4 .. 7] [8] */
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++) assert_true(*(forest.subtrees + i * 11 + untouched.offset) == -1);
    for (size_t i = 0; i < 6; i++)
        assert_true(forest.subtrees[i] == (float)(50 + 2 * i) && forest.subtrees[11 + i] == (float)(220 + 4 * i));
    for (size_t i = 0; i < 4; i++)
        assert_true(forest.subtrees[6 + i] == (float)(500 + 2 * i) && forest.subtrees[22 + 6 + i] == (float)(800 + i));
    forest_free(&forest);
}

static void memory_is_kept_for_smaller_layers_and_grows_for_larger_ones(void **state)
{
    (void)state;
    Forest forest = {0};
    assert_ok(forest_begin(&forest, 100, 0, 20));
    float *subtrees = forest.subtrees;
    size_t capacity = forest.capacity;
    assert_ok(forest_begin(&forest, 10, 0, 20));
    assert_ptr_equal(forest.subtrees, subtrees);
    assert_int_equal(forest.capacity, capacity);
    assert_ok(forest_begin(&forest, 1000, 0, 20));
    assert_true(forest.capacity >= forest.n_subtrees * 1000);
    forest_free(&forest);
    assert_null(forest.subtrees);
    forest_free(&forest);
}

static void memory_is_a_few_nodes_whatever_the_number_of_leaves(void **state)
{
    (void)state;
    Forest forest = {0};
    assert_ok(forest_begin(&forest, 1, 0, 10000));
    assert_true(forest.n_subtrees <= 14);
    assert_ok(forest_begin(&forest, 1, 4097, 10000));
    assert_true(forest.n_subtrees <= 26);
    forest_free(&forest);
}

static void a_parameter_with_a_forest_is_trained(void **state)
{
    (void)state;
    Forest forest = {0};
    Param p = {.rows = 3, .cols = 4};
    assert_false(param_trains(NULL));
    assert_false(param_trains(&p));
    p.forest = &forest;
    assert_true(param_trains(&p));
    assert_int_equal(param_count(&p), 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cover_is_the_fewest_aligned_powers_of_two),
        cmocka_unit_test(no_micro_batches_have_no_cover),
        cmocka_unit_test(the_largest_forest_fits_its_cover),
        cmocka_unit_test(nodes_hold_the_subtrees_of_the_cover),
        cmocka_unit_test(three_ranks_equal_one_for_every_split),
        cmocka_unit_test(the_order_of_the_sum_shows_in_these_numbers),
        cmocka_unit_test(roots_are_added_from_the_youngest),
        cmocka_unit_test(parameters_share_a_forest_and_leave_each_other_alone),
        cmocka_unit_test(memory_is_kept_for_smaller_layers_and_grows_for_larger_ones),
        cmocka_unit_test(memory_is_a_few_nodes_whatever_the_number_of_leaves),
        cmocka_unit_test(a_parameter_with_a_forest_is_trained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
