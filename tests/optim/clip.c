/* The gradient norm: its value, its bits, the clipping factor, and numbers that are not finite. */
#include "optim/clip.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { N = 3 * CLIP_CHUNK + 1003 };

static float g[N];

static void fill(void)
{
    for (size_t i = 0; i < N; i++) g[i] = sinf((float)i) * (i % 97 == 0 ? 1e6f : 1e-3f);
}

static void the_norm_is_the_root_of_the_sum_of_squares(void **state)
{
    (void)state;
    fill();
    double sums[4];
    long double sum = 0;
    for (size_t i = 0; i < N; i++) sum += (long double)g[i] * (long double)g[i];
    assert_int_equal(clip_n_chunks(N), 4);
    clip_chunk_sums(N, g, sums);
    assert_true(fabs(clip_norm(4, sums) / sqrt((double)sum) - 1) < 1e-13);
}

static void chunks_computed_apart_give_the_same_bits(void **state)
{
    (void)state;
    fill();
    double together[4], apart[4];
    clip_chunk_sums(N, g, together);
    clip_chunk_sums(2 * CLIP_CHUNK, g, apart);
    clip_chunk_sums(N - 2 * CLIP_CHUNK, g + 2 * CLIP_CHUNK, apart + 2);
    assert_memory_equal(together, apart, sizeof together);
}

static void the_scale_is_that_of_clip_grad_norm(void **state)
{
    (void)state;
    assert_true(clip_scale(4, 1) == 1 / (4 + 1e-6));
    assert_true(clip_scale(0.5, 1) == 1);
    assert_true(clip_scale(1, 1) < 1); /* the 1e-6 counts */
    assert_true(clip_scale(0, 1) == 1);
}

static void a_bound_of_zero_turns_clipping_off(void **state)
{
    (void)state;
    assert_true(clip_scale(1e9, 0) == 1);
}

static void an_element_that_is_not_finite_makes_the_norm_not_finite(void **state)
{
    (void)state;
    double sums[4];
    fill();
    g[5000] = NAN;
    clip_chunk_sums(N, g, sums);
    assert_true(isnan(clip_norm(4, sums)));
    g[5000] = INFINITY;
    clip_chunk_sums(N, g, sums);
    assert_true(isinf(clip_norm(4, sums)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_norm_is_the_root_of_the_sum_of_squares),
        cmocka_unit_test(chunks_computed_apart_give_the_same_bits),
        cmocka_unit_test(the_scale_is_that_of_clip_grad_norm),
        cmocka_unit_test(a_bound_of_zero_turns_clipping_off),
        cmocka_unit_test(an_element_that_is_not_finite_makes_the_norm_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
