/* Random numbers: repeatable, published values, moments, and shuffles. */
#include "base/rng.h"
#include "tests/support/check.h"

#include <math.h>

static void the_same_key_and_index_give_the_same_number(void **state)
{
    (void)state;
    uint64_t key = rng_key(rng_name(42, "dropout"), 7);
    assert_true(rng_bits(key, 5) == rng_bits(rng_key(rng_name(42, "dropout"), 7), 5));
    assert_true(rng_bits(key, 5) != rng_bits(key, 6));
    assert_true(rng_name(42, "dropout") != rng_name(42, "shuffle"));
    assert_true(rng_name(42, "dropout") != rng_name(43, "dropout"));
    assert_true(rng_key(0, 1) != rng_key(1, 0));
}

/* The first outputs from seed 0, as published with the generator. */
static void the_finaliser_is_that_of_splitmix64(void **state)
{
    (void)state;
    assert_true(rng_mix(0x9E3779B97F4A7C15u) == 0xE220A8397B1DCDAFu);
    assert_true(rng_mix(2 * 0x9E3779B97F4A7C15u) == 0x6E789E6AA1B965F4u);
    assert_true(rng_mix(3 * 0x9E3779B97F4A7C15u) == 0x06C45D188009454Fu);
}

static void uniform_numbers_fill_the_unit_interval(void **state)
{
    enum { N = 100000 };
    double sum = 0, squares = 0, min = 1, max = 0;
    (void)state;
    for (uint64_t i = 0; i < N; i++) {
        double u = rng_uniform(1, i), v = rng_uniform_double(2, i);
        assert_true(u >= 0 && u < 1 && v >= 0 && v < 1);
        sum += u;
        squares += u * u;
        min = fmin(min, u), max = fmax(max, u);
    }
    assert_true(fabs(sum / N - 0.5) < 0.005 && fabs(squares / N - 1.0 / 3) < 0.005); /* 5 standard errors */
    assert_true(min < 1e-3 && max > 1 - 1e-3);
}

static void normal_numbers_have_their_moments(void **state)
{
    enum { N = 100000 };
    double moments[5] = {0};
    (void)state;
    for (uint64_t i = 0; i < N; i++) {
        double x = rng_normal(3, i);
        assert_true(isfinite(x));
        for (int m = 1; m < 5; m++) moments[m] += pow(x, m) / N;
    }
    assert_true(fabs(moments[1]) < 0.02 && fabs(moments[2] - 1) < 0.03); /* above 5 standard errors each */
    assert_true(fabs(moments[3]) < 0.07 && fabs(moments[4] - 3) < 0.2);
}

static void numbers_below_n_are_even(void **state)
{
    enum { N = 7, DRAWS = 70000 };
    int counts[N] = {0};
    (void)state;
    for (uint64_t i = 0; i < DRAWS; i++) {
        uint64_t x = rng_below(4, i, N);
        assert_true(x < N);
        counts[x]++;
    }
    for (int i = 0; i < N; i++) assert_in_range(counts[i], 9500, 10500);
    assert_int_equal(rng_below(4, 0, 1), 0);
}

static void a_shuffle_is_a_permutation(void **state)
{
    enum { N = 1000 };
    uint64_t a[N], b[N], unmoved = 0;
    bool seen[N] = {false};
    (void)state;
    rng_shuffle(5, N, a);
    rng_shuffle(5, N, b);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < N; i++) {
        assert_true(a[i] < N && !seen[a[i]]);
        seen[a[i]] = true;
        unmoved += a[i] == (uint64_t)i;
    }
    assert_true(unmoved < 10);
    rng_shuffle(6, N, b);
    assert_memory_not_equal(a, b, sizeof a);
    rng_shuffle(6, 0, b);
    rng_shuffle(6, 1, b);
    assert_int_equal(b[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_key_and_index_give_the_same_number),
        cmocka_unit_test(the_finaliser_is_that_of_splitmix64),
        cmocka_unit_test(uniform_numbers_fill_the_unit_interval),
        cmocka_unit_test(normal_numbers_have_their_moments),
        cmocka_unit_test(numbers_below_n_are_even),
        cmocka_unit_test(a_shuffle_is_a_permutation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
