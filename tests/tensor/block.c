/* Products of packed blocks against scalar chains on every path: packings, tiles and trims of block.h; and block_nt,
 * block_nn and block_tn against double precision. */
#include "tests/support/chains.h"

#include "base/rng.h"
#include "tensor/block.h"
#include "tensor/dispatch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t M, N, K;
    bool transposed, lanes, add;
    Trim trim;
    size_t diagonal;
    float s;
} Case;

/* A [M][K], zero where the trim says that it is. */
static float *factors(const Case *c)
{
    float *A = normal(1, c->M * c->K);
    for (size_t i = 0; i < c->M; i++)
        for (size_t k = 0; k < c->K; k++)
            if ((c->trim == TRIM_QUERIES && k > i + c->diagonal) || (c->trim == TRIM_KEYS && i > k + c->diagonal))
                A[i * c->K + k] = 0;
    return A;
}

/* Words of A. Memory beyond them is NaN, so that a read of it shows in the result. */
static float *pack_a(const BlockKernels *blocks, const Case *c, const float *A)
{
    size_t words = (c->K + blocks->gemm->per_word - 1) / blocks->gemm->per_word;
    float *out = floats((c->transposed ? words : c->M + BLOCK_BAND) * BLOCK_STRIDE),
          *lanes = floats(round_up(c->M, LANES) * words);
    memset(out, 0xff, (c->transposed ? words : c->M + BLOCK_BAND) * BLOCK_STRIDE * sizeof *out);
    if (!c->transposed)
        blocks->gemm->pack_rows(c->M, c->K, BLOCK_STRIDE, c->s, rows_of(A, c->K), out);
    else
        blocks->gemm->pack_lanes(c->M, c->K, c->s, rows_of(A, c->K), lanes, words * LANES);
    for (size_t i = 0; c->transposed && i < c->M; i++)
        for (size_t k = 0; k < words; k++)
            memcpy(out + k * BLOCK_STRIDE + i, lanes + i / LANES * words * LANES + k * LANES + i % LANES, sizeof *out);
    free(lanes);
    return out;
}

/* Words of B [N][K] (lanes) or [K][N] (columns). */
static float *pack_b(const BlockKernels *blocks, const Case *c, const float *B, size_t step)
{
    float *out = floats(round_up(c->N, LANES) / LANES * step);
    if (c->lanes)
        blocks->gemm->pack_lanes(c->N, c->K, 1, rows_of(B, c->K), out, step);
    else
        blocks->pack_columns(c->K, c->N, 1, rows_of(B, c->N), out, step);
    return out;
}

static void check(Case c)
{
    const BlockKernels *blocks = block_kernels(true);
    bool bf16 = blocks->gemm->per_word == 2;
    size_t step = c.K * LANES + LANES, ldc = round_up(c.N, LANES) + LANES, n = (c.M + BLOCK_BAND) * ldc;
    float *A = factors(&c), *B = normal(2, c.N * c.K), *C = normal(3, n), *want = normal(3, n);
    float *a = pack_a(blocks, &c, A), *b = pack_b(blocks, &c, B, step);
    blocks->product(&(BlockProduct){.M = c.M,
                                    .N = c.N,
                                    .K = c.K,
                                    .transposed = c.transposed,
                                    .a = a,
                                    .b = b,
                                    .step = step,
                                    .c = C,
                                    .ldc = ldc,
                                    .add = c.add,
                                    .trim = c.trim,
                                    .diagonal = c.diagonal});
    for (size_t i = 0; i < c.M; i++) {
        for (size_t j = 0; j < c.N; j++) {
            float sum = (bf16 ? chain_bf16 : chain)(0, c.K, A + i * c.K, c.s, c.lanes ? B + j * c.K : B + j,
                                                    c.lanes ? 1 : c.N);
            want[i * ldc + j] = c.add ? want[i * ldc + j] + sum : sum;
            if (c.trim == TRIM_SCORES && j > i + c.diagonal) want[i * ldc + j] = C[i * ldc + j];
        }
        char what[120];
        snprintf(what, sizeof what, "%zu x %zu x %zu transposed %d lanes %d add %d trim %d diagonal %zu, row %zu", c.M,
                 c.N, c.K, c.transposed, c.lanes, c.add, (int)c.trim, c.diagonal, i);
        assert_same(what, C + i * ldc, want + i * ldc, c.N);
    }
    free(A), free(B), free(C), free(want), free(a), free(b);
}

static void every_size_gives_the_bits_of_a_scalar_chain(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 2, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 97, 129},
                        inners[] = {1, 2, 3, 16, 31, 64, 65, 127, 129, 255, 256};
    size_t n_widths = sizeof widths / sizeof *widths, n_inners = sizeof inners / sizeof *inners, i = 0;
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t M = 1; M <= 130; M++)
            for (size_t q = 0; q < 2; q++, i++) /* strides prime to the lengths: all combinations come up */
                check((Case){M, widths[i * 7 % n_widths], inners[i * 5 % n_inners], i % 2, i / 2 % 2, i / 4 % 2,
                             TRIM_NOTHING, 0, 0.7f});
    }
}

/* Where factors are zero, a trim changes no bit, and every score that a query sees is there. */
static void trims_skip_only_zeros(void **state)
{
    (void)state;
    static const size_t diagonals[] = {0, 1, 7, 24, 96, 500};
    for (size_t p = 0; p < N_PATHS; p++) {
        if (!has_path(p)) continue;
        for (size_t i = 0; i < 60; i++)
            for (Trim trim = TRIM_SCORES; trim <= TRIM_KEYS; trim++)
                check((Case){5 + i * 2, 3 + i * 11 % 100, 1 + i * 29 % 190, trim == TRIM_KEYS, trim == TRIM_SCORES,
                             i % 2, trim, diagonals[i % 6], 1});
    }
}

/* C and its surroundings; A and B with strides wider than they are. */
static void check_block(int way, bool add, size_t M, size_t N, size_t K)
{
    bool tn = way == 2, nt = way == 0;
    size_t lda = (tn ? M : K) + 1, ldb = (nt ? K : N) + 2, ldc = N + 3, n = (M + 1) * ldc;
    float *A = normal(1, (tn ? K : M) * lda), *B = normal(2, (nt ? N : K) * ldb), *C = normal(3, n),
          *before = normal(3, n);
    (nt ? block_nt : tn ? block_tn : block_nn)(M, N, K, C, ldc, add, 2, A, lda, B, ldb);
    for (size_t i = 0; i <= M; i++)
        for (size_t j = 0; j < ldc; j++) {
            double want = add || i == M || j >= N ? (double)before[i * ldc + j] : 0;
            for (size_t k = 0; i < M && j < N && k < K; k++)
                want += 2.0 * (double)A[tn ? k * lda + i : i * lda + k] * (double)B[nt ? j * ldb + k : k * ldb + j];
            if (!(fabs(want - (double)C[i * ldc + j]) < 1e-5 * (10 + (double)K)))
                fail_msg("%s: way %d, %zu x %zu x %zu, (%zu, %zu) is %g, not %g", dispatch_path(), way, M, N, K, i, j,
                         (double)C[i * ldc + j], want);
        }
    free(A), free(B), free(C), free(before);
}

static void blocks_multiply_in_three_directions(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 4, 5, 15, 17, 33, 48, 49, 64, 97, 130, 193, 200, 257, 300};
    size_t n = sizeof sizes / sizeof *sizes, i = 0;
    for (size_t p = 0; p < N_PATHS; p++)
        for (size_t m = 0; has_path(p) && m < n; m++)
            for (int way = 0; way < 6; way++, i++)
                check_block(way % 3, way / 3, sizes[m], sizes[i * 5 % n], sizes[i * 7 % n]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_gives_the_bits_of_a_scalar_chain),
        cmocka_unit_test(trims_skip_only_zeros),
        cmocka_unit_test(blocks_multiply_in_three_directions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
