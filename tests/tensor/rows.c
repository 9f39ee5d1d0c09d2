/* Row functions of every path against double precision. */
#include "tensor/rows.h"

#include "base/rng.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LONGEST = 100000 };
static const char *const paths[] = {"plain", "avx2", "avx512"};
static const size_t lengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 100, 4095, 4097, 20003};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };
static float a[LONGEST], b[LONGEST], c[LONGEST], d[LONGEST], e[LONGEST];

static void fill(float *x, uint64_t key, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = scale * (float)rng_normal(key, i);
}

static double ulp(double x)
{
    float size = fabsf((float)x);
    return size < 0x1p-126f ? 0x1p-149 : ldexp(1, ilogbf(size) - 23);
}

static void exp_is_within_two_ulp_and_keeps_its_ends(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++) {
        if (!dispatch_init(paths[p])) continue;
        size_t n = 0;
        for (double x = -103.9; x < 88.72; x += 0.00213, n++) a[n] = b[n] = (float)x;
        row_exp(n, a, 0);
        for (size_t i = 0; i < n; i++) {
            double want = exp((double)b[i]);
            assert_true(fabs((double)a[i] - want) < 2 * ulp(want));
        }
        float ends[] = {-INFINITY, -1e30f, -150, 0, 89, 1e30f, INFINITY, NAN};
        row_exp(8, ends, 0);
        assert_true(ends[0] == 0 && ends[1] == 0 && ends[2] == 0 && ends[3] == 1);
        assert_true(isinf(ends[4]) && isinf(ends[5]) && isinf(ends[6]) && isnan(ends[7]));
    }
}

/* n sums of relative error 2^-24 each, in 16 lanes of at max 4096 / 16 terms: below 300 x 2^-24 of the sum of sizes. */
static void sums_and_dots_agree_with_double(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < N_LENGTHS && dispatch_init(paths[p]); i++) {
            size_t n = lengths[i];
            double dot = 0, sum = 0, size = 0, max = -INFINITY;
            fill(a, 1, n, 1), fill(b, 2, n, 1);
            for (size_t j = 0; j < n; j++) {
                dot += (double)a[j] * (double)b[j], sum += (double)a[j];
                size += fabs((double)a[j] * (double)b[j]) + fabs((double)a[j]);
                max = fmax(max, (double)a[j]);
            }
            assert_true(fabs((double)row_dot(n, a, b) - dot) <= 300 * 0x1p-24 * size);
            assert_true(fabs((double)row_sum(n, a) - sum) <= 300 * 0x1p-24 * size);
            assert_true((double)row_max(n, a) == max);
        }
}

static void adding_and_scaling_touch_their_row_only(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < N_LENGTHS && dispatch_init(paths[p]); i++) {
            size_t n = lengths[i];
            fill(a, 1, n, 1), fill(b, 2, n + 1, 1);
            memcpy(c, b, (n + 1) * sizeof *c), memcpy(d, b, (n + 1) * sizeof *d);
            row_add(n, b, a), row_axpy(n, c, 0.3f, a), row_scale(n, d, 0.3f, a);
            for (size_t j = 0; j < n; j++) {
                double old = rng_normal(2, j), x = (double)a[j]; /* old was rounded: 2^-24; then one or two more */
                assert_true(fabs((double)b[j] - (old + x)) <= 3 * 0x1p-24 * (fabs(old) + fabs(x)));
                assert_true(fabs((double)c[j] - (old + (double)0.3f * x)) <= 3 * 0x1p-24 * (fabs(old) + fabs(x)));
                assert_true(d[j] == 0.3f * a[j]);
            }
            float after = (float)rng_normal(2, n);
            assert_true(b[n] == after && c[n] == after && d[n] == after);
        }
}

/* exp errs by 2 ulp (2^-22), the argument by 2^-24 |x - max| <= 40 2^-24, the sum as above: 5e-5 is generous for all.
 * */
static void softmax_and_its_logarithm_agree_with_double(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < N_LENGTHS && dispatch_init(paths[p]); i++) {
            size_t n = lengths[i];
            double max = -INFINITY, sum = 0, total = 0;
            fill(a, 3, n, 5);
            for (size_t j = 1; j < n; j += 3) a[j] = -INFINITY;
            memcpy(b, a, n * sizeof *b);
            for (size_t j = 0; j < n; j++) max = fmax(max, (double)a[j]);
            for (size_t j = 0; j < n; j++) sum += exp((double)a[j] - max);
            float log_sum = row_logsumexp(n, b);
            assert_memory_equal(a, b, n * sizeof *a);
            assert_true(row_softmax(n, b) == log_sum);
            assert_true(fabs((double)log_sum - (max + log(sum))) < 5e-6 * (1 + fabs(max)));
            for (size_t j = 0; j < n; j++) {
                double want = exp((double)a[j] - max) / sum;
                assert_true(fabs((double)b[j] - want) <= 5e-5 * want + 1e-44);
                if (isinf(a[j])) assert_true(b[j] == 0);
                total += (double)b[j];
            }
            assert_true(fabs(total - 1) < 1e-5);
        }
}

static void softmax_of_nan_returns_nan(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++) {
        if (!dispatch_init(paths[p])) continue;
        fill(a, 3, 40, 1);
        a[37] = NAN;
        assert_true(isnan(row_softmax(40, a)));
        for (size_t j = 0; j < 40; j++) a[j] = NAN;
        assert_true(isnan(row_softmax(40, a)));
    }
}

/* exp within 2 ulp, a sum, a quotient and up to four products: 12 roundings of 2^-24, and the factor
 * 1 + g (1 - sig) may cancel, so its parts count with their sizes. */
static void swiglu_and_its_gradient_agree_with_double(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < N_LENGTHS && dispatch_init(paths[p]); i++) {
            size_t n = lengths[i];
            fill(a, 4, n, 4), fill(b, 5, n, 1), fill(c, 6, n, 1);
            row_swiglu(n, d, a, b), row_sigmoid(n, e, a);
            for (size_t j = 0; j < n; j++) {
                double g = (double)a[j], u = (double)b[j], sig = 1 / (1 + exp(-g));
                assert_true(fabs((double)e[j] - sig) <= 12 * 0x1p-24 * sig);
                assert_true(fabs((double)d[j] - g * sig * u) <= 12 * 0x1p-24 * fabs(g * sig * u));
            }
            memcpy(d, a, n * sizeof *d), memcpy(e, b, n * sizeof *e);
            row_swiglu_backward(n, d, e, d, e, c); /* in place */
            for (size_t j = 0; j < n; j++) {
                double g = (double)a[j], u = (double)b[j], da = (double)c[j], sig = 1 / (1 + exp(-g));
                double dg = da * u * sig * (1 + g * (1 - sig)), size = fabs(da * u * sig) * (1 + fabs(g));
                assert_true(fabs((double)d[j] - dg) <= 16 * 0x1p-24 * size);
                assert_true(fabs((double)e[j] - da * g * sig) <= 12 * 0x1p-24 * fabs(da * g * sig));
            }
        }
    float g[] = {-INFINITY, -200, 200, INFINITY}, y[4];
    row_sigmoid(4, y, g);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 1 && y[3] == 1);
}

static void avx2_and_avx512_give_the_same_bits(void **state)
{
    (void)state;
    float sums[2][3];
    static float rows[2][3][5003];
    for (size_t p = 0; p < 2; p++) {
        if (!dispatch_init(paths[p + 1])) skip();
        fill(a, 1, 5003, 3), fill(b, 2, 5003, 1);
        for (size_t j = 0; j < 3; j++) memcpy(rows[p][j], a, sizeof rows[p][j]);
        sums[p][0] = row_dot(5003, a, b), sums[p][1] = row_sum(5003, a), sums[p][2] = row_softmax(5003, rows[p][0]);
        row_sigmoid(5003, rows[p][1], a), row_swiglu(5003, rows[p][2], a, b);
    }
    assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
}

static const float *compared;

static int by_choice(const void *left, const void *right)
{
    int32_t i = *(const int32_t *)left, j = *(const int32_t *)right;
    float x = compared[i], y = compared[j];
    if (isnan(x) || isnan(y)) return isnan(x) && isnan(y) ? (i > j) - (i < j) : isnan(x) ? 1 : -1;
    return x > y ? -1 : x < y ? 1 : (i > j) - (i < j);
}

static void check_choice(size_t n, size_t k, const float *x)
{
    int32_t *sorted = malloc(n * sizeof *sorted), *ids = malloc((k + 1) * sizeof *ids);
    uint32_t *scratch = malloc((n + 15) / 16 * 16 * sizeof *scratch);
    uint64_t *bits = malloc((n + 63) / 64 * sizeof *bits), *want = calloc((n + 63) / 64, sizeof *want);
    for (size_t i = 0; i < n; i++) sorted[i] = (int32_t)i;
    compared = x;
    qsort(sorted, n, sizeof *sorted, by_choice);
    row_top_k(n, k, ids, x);
    row_top_k_set(n, k, bits, x, scratch);
    for (size_t i = 0; i < k; i++) want[sorted[i] / 64] |= (uint64_t)1 << sorted[i] % 64;
    assert_memory_equal(ids, sorted, k * sizeof *ids);
    assert_memory_equal(bits, want, (n + 63) / 64 * sizeof *bits);
    free(sorted), free(ids), free(scratch), free(bits), free(want);
}

static void check_choices(void)
{
    static const size_t sizes[][2] = {{1, 1},   {5, 0},   {5, 5},      {64, 8},
                                      {65, 64}, {256, 8}, {1000, 300}, {LONGEST, 2048}};
    static const float special[] = {-INFINITY, INFINITY, -0.0f, 0, NAN, 1, -1, 1e-40f};
    for (size_t i = 0; i < 8; i++) {
        size_t n = sizes[i][0], k = sizes[i][1];
        fill(a, 9, n, 1);
        check_choice(n, k, a);
        for (size_t j = 0; j < n; j++) a[j] = fmaxf(0, floorf(a[j] * 4)); /* a ReLU's zeros and many ties */
        check_choice(n, k, a);
        for (size_t j = 0; j < n; j++) a[j] = special[rng_below(10, j, 8)];
        check_choice(n, k, a);
        for (size_t j = 0; j < n; j++) a[j] = (float)j; /* rising: every one enters the heap */
        check_choice(n, k, a);
        for (size_t j = 0; j < n; j++) a[j] = -1e30f - (float)(j % 7) * 1e28f;
        check_choice(n, k, a);
    }
}

static void the_k_largest_come_in_order_and_ties_go_to_the_lower_id(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++)
        if (dispatch_init(paths[i])) check_choices();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp_and_keeps_its_ends),
        cmocka_unit_test(sums_and_dots_agree_with_double),
        cmocka_unit_test(adding_and_scaling_touch_their_row_only),
        cmocka_unit_test(softmax_and_its_logarithm_agree_with_double),
        cmocka_unit_test(softmax_of_nan_returns_nan),
        cmocka_unit_test(swiglu_and_its_gradient_agree_with_double),
        cmocka_unit_test(avx2_and_avx512_give_the_same_bits),
        cmocka_unit_test(the_k_largest_come_in_order_and_ties_go_to_the_lower_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
