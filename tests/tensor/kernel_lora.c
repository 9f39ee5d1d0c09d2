/* LoRA's inner side and sums over rows against scalar chains: avx512 and avx2 must give their bits, plain their value. */
#include "tensor/dispatch.h"
#include "tensor/gemm.h"

#include "base/rng.h"
#include "tensor/kernel.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const paths[] = {"plain", "avx2", "avx512"};
enum { N_PATHS = sizeof paths / sizeof *paths };

static float *normal(uint64_t key, size_t n)
{
    float *x = malloc((n + 1) * sizeof *x); /* no filling: the sanitizer sees what is read beyond */
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_normal(key, i);
    return x;
}

static void expect(const char *what, size_t i, float got, float want, float size)
{
    bool exact = strncmp(dispatch_path(), "fp32/plain", 10) != 0;
    if (exact ? memcmp(&got, &want, sizeof got) != 0 : !(fabsf(got - want) <= 1e-5f * (1 + size)))
        fail_msg("%s, %s: element %zu is %.9g, not %.9g", dispatch_path(), what, i, (double)got, (double)want);
}

/* What kernel_narrow.c promises: in blocks, a chain in each lane, folded in halves, blocks added in order. */
static float narrow_element(size_t n, const float *x, const float *w, size_t along, float s, float *size)
{
    float y = 0;
    *size = 0;
    for (size_t k = 0; k < n; k += NARROW_BLOCK) {
        float lane[LANES] = {0};
        for (size_t i = k; i < n && i < k + NARROW_BLOCK; i++) {
            lane[i % LANES] = fmaf(x[i], w[i * along], lane[i % LANES]);
            *size += fabsf(s * x[i] * w[i * along]);
        }
        for (size_t half = LANES / 2; half; half /= 2)
            for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
        y = k ? y + s * lane[0] : s * lane[0];
    }
    return y;
}

static void check_narrow(bool back, size_t T, size_t n, size_t r, bool indexed)
{
    float *x = normal(1, (T + 3) * (n + 1)), *w = normal(2, n * r), *y = normal(3, T * (r + 2)),
          *before = normal(3, T * (r + 2)), size;
    uint32_t *index = malloc(T * sizeof *index);
    for (size_t t = 0; t < T; t++) index[t] = (uint32_t)(T + 2 - t);
    Rows rows = {x, n + 1, indexed ? index : NULL};
    (back ? gemm_narrow_nn : gemm_narrow_nt)(T, rows_of(y, r + 2), 0.3f, rows, r, n, w);
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < r + 2; j++) {
            const float *row = x + (indexed ? index[t] : t) * (n + 1);
            float want = before[t * (r + 2) + j];
            size = fabsf(want);
            if (j < r) want = narrow_element(n, row, back ? w + j : w + j * n, back ? r : 1, 0.3f, &size);
            expect(back ? "back" : "in", t * (r + 2) + j, y[t * (r + 2) + j], want, size);
        }
    free(x), free(w), free(y), free(before), free(index);
}

static void the_inner_side_has_the_bits_of_its_chains(void **state)
{
    (void)state;
    static const size_t inner[] = {1, 15, 16, 17, 100, 384, 1024, 1025, 2500}, ranks[] = {1, 3, 4, 7, 8, 9, 16, 33};
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!dispatch_init(paths[p])) continue;
        for (size_t n = 0; n < sizeof inner / sizeof *inner; n++)
            for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
                for (size_t T = 1; T <= 9; T++) check_narrow((T + r) % 2, T, inner[n], ranks[r], T % 3 == 0);
    }
}

static void check_sum(size_t T, size_t M, size_t N)
{
    float *a = normal(4, T * (M + 1)), *b = normal(5, T * (N + 2)), *G = normal(6, M * N);
    size_t cut = T / 3; /* in two parts, where there are enough rows, and the second a pick of them */
    uint32_t *index = malloc((T + 1) * sizeof *index);
    for (size_t t = 0; t < T; t++) index[t] = (uint32_t)(cut + t);
    if (cut) gemm_tn(cut, M, N, G, false, 1, rows_of(a, M + 1), rows_of(b, N + 2));
    gemm_tn(T - cut, M, N, G, cut > 0, 0.5f, rows_pick(a, M + 1, index), rows_pick(b, N + 2, index));
    free(index);
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = 0, size = 0;
            for (size_t t = 0; t < T; t++) {
                sum = fmaf(a[t * (M + 1) + m], b[t * (N + 2) + n], sum);
                size += fabsf(a[t * (M + 1) + m] * b[t * (N + 2) + n]);
            }
            expect("sum", m * N + n, G[m * N + n], 0.5f * sum, size);
        }
    free(a), free(b), free(G);
}

static void a_sum_over_rows_is_one_chain_and_none_gives_zeros(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1},    {3, 8, 1100}, {70, 1030, 8}, {33, 100, 131}, {0, 5, 7},
                                       {200, 9, 50}, {64, 50, 16}, {65, 3, 769},  {129, 1537, 2}};
    for (size_t p = 0; p < N_PATHS; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes && dispatch_init(paths[p]); i++)
            check_sum(shapes[i][0], shapes[i][1], shapes[i][2]);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { T = 300, N = 700, R = 12 };
    dispatch_init(NULL);
    float *x = normal(7, T * N), *u = normal(8, T * R), *A = normal(9, R * N), *y[3], *G[3];
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        y[threads - 1] = malloc(T * R * sizeof *x);
        G[threads - 1] = malloc(N * R * sizeof *x);
        gemm_narrow_nt(T, rows_of(y[threads - 1], R), 1, rows_of(x, N), R, N, A);
        gemm_tn(T, N, R, G[threads - 1], false, 1, rows_of(x, N), rows_of(u, R));
        assert_memory_equal(y[threads - 1], y[0], T * R * sizeof *x);
        assert_memory_equal(G[threads - 1], G[0], N * R * sizeof *x);
    }
    for (int i = 0; i < 3; i++) free(y[i]), free(G[i]);
    free(x), free(u), free(A);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_inner_side_has_the_bits_of_its_chains),
        cmocka_unit_test(a_sum_over_rows_is_one_chain_and_none_gives_zeros),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
