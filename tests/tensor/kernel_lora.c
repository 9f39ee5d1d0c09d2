/* LoRA's inner side against scalar chains: avx512 and avx2 must give their bits, plain nearly their values. */
#include "tests/support/chains.h"

#include "tensor/dispatch.h"
#include "tensor/kernel.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

/* What kernel_lora.c promises: in blocks, a chain in each lane, folded in halves; sums of blocks are added in order. */
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

static void check_narrow(bool backward, size_t T, size_t n, size_t r, bool indexed)
{
    float *x = exact_normal(1, (T + 3) * (n + 1)), *w = exact_normal(2, n * r), *y = exact_normal(3, T * (r + 2)),
          *before = exact_normal(3, T * (r + 2)), size;
    uint32_t *index = malloc(T * sizeof *index);
    for (size_t t = 0; t < T; t++) index[t] = (uint32_t)(T + 2 - t);
    Rows rows = {x, n + 1, indexed ? index : NULL};
    (backward ? gemm_narrow_nn : gemm_narrow_nt)(T, rows_of(y, r + 2), 0.3f, rows, r, n, w);
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < r + 2; j++) {
            const float *row = x + (indexed ? index[t] : t) * (n + 1);
            float want = before[t * (r + 2) + j];
            size = fabsf(want);
            if (j < r) want = narrow_element(n, row, backward ? w + j : w + j * n, backward ? r : 1, 0.3f, &size);
            assert_element(backward ? "backward" : "forward", t * (r + 2) + j, y[t * (r + 2) + j], want, size);
        }
    free(x), free(w), free(y), free(before), free(index);
}

static void the_inner_side_has_the_bits_of_its_chains(void **state)
{
    (void)state;
    static const size_t inner[] = {1, 15, 16, 17, 100, 384, 1024, 1025, 2500}, ranks[] = {1, 3, 4, 7, 8, 9, 16, 33};
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t n = 0; n < sizeof inner / sizeof *inner; n++)
            for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
                for (size_t T = 1; T <= 9; T++) check_narrow((T + r) % 2, T, inner[n], ranks[r], T % 3 == 0);
    }
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { T = 300, N = 700, R = 12 };
    dispatch_init(NULL);
    float *x = exact_normal(7, T * N), *A = exact_normal(9, R * N), *y[3];
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        y[threads - 1] = floats(T * R);
        gemm_narrow_nt(T, rows_of(y[threads - 1], R), 1, rows_of(x, N), R, N, A);
        assert_memory_equal(y[threads - 1], y[0], T * R * sizeof *x);
    }
    for (int i = 0; i < 3; i++) free(y[i]);
    free(x), free(A);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_inner_side_has_the_bits_of_its_chains),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
