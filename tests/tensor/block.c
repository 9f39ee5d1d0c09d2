/* Packed products against scalar chains, on every path: packings, tiles and trims of block.h. */
#include "tests/support/chains.h"

#include "base/rng.h"
#include "tensor/block.h"

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

/* Words of A; what is beyond is not a number, to be seen if it got anywhere. */
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
    bool pairs = blocks->gemm->per_word == 2;
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
            float sum = (pairs ? chain_bf16 : chain)(0, c.K, A + i * c.K, c.s, c.lanes ? B + j * c.K : B + j,
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
            for (size_t q = 0; q < 2; q++, i++) /* strides prime to the lengths: all pairs come by */
                check((Case){M, widths[i * 7 % n_widths], inners[i * 5 % n_inners], i % 2, i / 2 % 2, i / 4 % 2,
                             TRIM_NOTHING, 0, 0.7f});
    }
}

/* Where factors are zero a trim changes no bit, and no score is missing that a query sees. */
static void trims_leave_out_what_is_zero(void **state)
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_gives_the_bits_of_a_scalar_chain),
        cmocka_unit_test(trims_leave_out_what_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
