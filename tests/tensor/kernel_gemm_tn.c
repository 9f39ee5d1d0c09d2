/* Sums over rows against scalar chains: avx512 and avx2 must give their bits, plain nearly their values. */
#include "tests/support/chains.h"

#include "tensor/dispatch.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

static void check_sum(size_t T, size_t M, size_t N)
{
    float *a = exact_normal(4, T * (M + 1)), *b = exact_normal(5, T * (N + 2)), *G = exact_normal(6, M * N);
    size_t cut = T / 3; /* in two calls, where there are enough rows; the second takes a selection of them */
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
            assert_element("sum", m * N + n, G[m * N + n], 0.5f * sum, size);
        }
    free(a), free(b), free(G);
}

static void a_sum_over_rows_is_one_chain_and_none_gives_zeros(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1},    {3, 8, 1100}, {70, 1030, 8}, {33, 100, 131}, {0, 5, 7},
                                       {200, 9, 50}, {64, 50, 16}, {65, 3, 769},  {129, 1537, 2}};
    for (size_t p = 0; p < N_PATHS; p++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes && has_path(p); i++)
            check_sum(shapes[i][0], shapes[i][1], shapes[i][2]);
}

static void a_sum_over_rows_is_the_sum_and_none_gives_zeros(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1}, {3, 8, 1100}, {70, 1030, 8}, {33, 600, 513}, {0, 5, 7}};
    dispatch_init(NULL);
    for (size_t c = 0; c < 5; c++) {
        size_t T = shapes[c][0], M = shapes[c][1], N = shapes[c][2];
        float *a = exact_normal(1, T * (M + 1)), *b = exact_normal(2, T * (N + 2)), *G = floats(M * N),
              *again = floats(M * N);
        for (size_t i = 0; i < M * N; i++) G[i] = NAN;
        omp_set_num_threads(2);
        gemm_tn(T, M, N, G, false, 0.5f, rows_of(a, M + 1), rows_of(b, N + 2));
        omp_set_num_threads(1);
        gemm_tn(T, M, N, again, false, 0.5f, rows_of(a, M + 1), rows_of(b, N + 2));
        assert_memory_equal(G, again, M * N * 4);
        for (size_t m = 0; m < M; m++)
            for (size_t n = 0; n < N; n++) {
                double sum = 0;
                for (size_t t = 0; t < T; t++) sum += (double)a[t * (M + 1) + m] * (double)b[t * (N + 2) + n];
                assert_true(fabs((double)G[m * N + n] - 0.5 * sum) <= 1e-5 * (1 + fabs(sum))); /* T 2^-24, T <= 70 */
            }
        free(a), free(b), free(G), free(again);
    }
    omp_set_num_threads(2);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { T = 300, N = 700, R = 12 };
    dispatch_init(NULL);
    float *x = exact_normal(7, T * N), *u = exact_normal(8, T * R), *G[3];
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        G[threads - 1] = floats(N * R);
        gemm_tn(T, N, R, G[threads - 1], false, 1, rows_of(x, N), rows_of(u, R));
        assert_memory_equal(G[threads - 1], G[0], N * R * sizeof *x);
    }
    for (int i = 0; i < 3; i++) free(G[i]);
    free(x), free(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sum_over_rows_is_one_chain_and_none_gives_zeros),
        cmocka_unit_test(a_sum_over_rows_is_the_sum_and_none_gives_zeros),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
