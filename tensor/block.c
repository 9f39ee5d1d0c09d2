/* Small products of factors that are packed as they come (matmul.h, block_*): by the packings and tiles of block.h, through
 * a thread's own buffers. The way depends on the shape alone: few rows are not packed at all; of A B' with not many rows
 * those rows become lanes, so that the many rows of B are copied instead of transposed; else columns of B are lanes. */
#include "tensor/block.h"

#include <string.h>

enum {
    SMALL_ROWS = 4 * BLOCK_BAND, /* of packed lines at once */
    SMALL_GROUPS = 12,           /* of packed columns at once */
    SMALL_STEP = BLOCK_WORDS * LANES + LANES,
    SMALL_C = SMALL_GROUPS * LANES + LANES,
    FEW = 3,         /* rows up to which packing is not worth it */
    LANES_OF_A = 48, /* rows up to which they, not those of B, become lanes of a product A B' */
};
static _Thread_local float small_lines[(SMALL_ROWS + BLOCK_BAND) * BLOCK_STRIDE] __attribute__((aligned(64)));
static _Thread_local float small_columns[SMALL_GROUPS * SMALL_STEP] __attribute__((aligned(64)));
static _Thread_local float small_c[(SMALL_ROWS + BLOCK_BAND) * SMALL_C] __attribute__((aligned(64)));

typedef enum { SMALL_NT, SMALL_NN, SMALL_TN } SmallWay;

typedef struct {
    SmallWay way;
    size_t M, N, K;
    float *C;
    size_t ldc;
    bool add;
    float s;
    Rows A, B;
} Small;

static void small_put(size_t n, float *to, const float *from, bool add)
{
    if (add)
        kernels->axpy(n, to, 1, from);
    else
        memcpy(to, from, n * sizeof *to);
}

/* Rows of x to lanes, K columns of them. */
static void small_lanes(size_t rows, size_t K, float s, Rows x)
{
    kernels->gemm->pack_lanes(rows, K, s, x, small_columns, SMALL_STEP);
}

static void small_product(size_t M, size_t N, size_t K, bool transposed)
{
    kernels->block->product(&(BlockProduct){.M = M,
                                            .N = N,
                                            .K = K,
                                            .transposed = transposed,
                                            .a = small_lines,
                                            .b = small_columns,
                                            .step = SMALL_STEP,
                                            .c = small_c,
                                            .ldc = SMALL_C});
}

/* Inner indices [k, k + K): columns of C a few groups at a time, rows a few bands. */
static void small_part(const Small *p, size_t k, size_t K)
{
    for (size_t j = 0; j < p->N; j += SMALL_GROUPS * LANES) {
        size_t N = size_min(SMALL_GROUPS * LANES, p->N - j);
        if (p->way == SMALL_NT)
            small_lanes(N, K, 1, rows_right(rows_from(p->B, j), k));
        else
            kernels->block->pack_columns(K, N, 1, rows_right(rows_from(p->B, k), j), small_columns, SMALL_STEP);
        for (size_t i = 0; i < p->M; i += SMALL_ROWS) {
            size_t M = size_min(SMALL_ROWS, p->M - i);
            bool transposed = p->way == SMALL_TN; /* A is [K][M] already */
            kernels->gemm->pack_rows(transposed ? K : M, transposed ? M : K, BLOCK_STRIDE, p->s,
                                     transposed ? rows_right(rows_from(p->A, k), i) : rows_right(rows_from(p->A, i), k),
                                     small_lines);
            small_product(M, N, K, transposed);
            for (size_t q = 0; q < M; q++)
                small_put(N, p->C + (i + q) * p->ldc + j, small_c + q * SMALL_C, p->add || k > 0);
        }
    }
}

/* The same of A B' with few rows of A: C' = B A', transposed when it is written. */
static void small_part_transposed(const Small *p, size_t k, size_t K)
{
    float square[LANES_OF_A * LANES];
    small_lanes(p->M, K, p->s, rows_right(p->A, k));
    for (size_t j = 0; j < p->N; j += SMALL_ROWS) {
        size_t N = size_min(SMALL_ROWS, p->N - j);
        kernels->gemm->pack_rows(N, K, BLOCK_STRIDE, 1, rows_right(rows_from(p->B, j), k), small_lines);
        small_product(N, p->M, K, false);
        for (size_t q = 0; q < N; q += LANES) {
            size_t n = size_min(LANES, N - q);
            kernels->gemm->pack_lanes(n, p->M, 1, rows_of(small_c + q * SMALL_C, SMALL_C), square, 0);
            for (size_t i = 0; i < p->M; i++)
                small_put(n, p->C + i * p->ldc + j + q, square + i * LANES, p->add || k > 0);
        }
    }
}

/* Few rows: nothing is packed, every element of B is read once for each. */
static void small_rows(const Small *p)
{
    for (size_t i = 0; i < p->M; i++) {
        float *c = p->C + i * p->ldc;
        if (!p->add) memset(c, 0, p->N * sizeof *c);
        for (size_t j = 0; p->way == SMALL_NT && j < p->N; j++)
            c[j] += p->s * kernels->dot(p->K, row_of(p->A, i), row_of(p->B, j));
        for (size_t k = 0; p->way != SMALL_NT && k < p->K; k++)
            kernels->axpy(p->N, c, p->s * (p->way == SMALL_NN ? row_of(p->A, i)[k] : row_of(p->A, k)[i]),
                          row_of(p->B, k));
    }
}

static void small(const Small *p)
{
    if (p->M <= FEW)
        small_rows(p);
    else
        for (size_t k = 0; k < p->K; k += BLOCK_WORDS)
            (p->way == SMALL_NT && p->M <= LANES_OF_A ? small_part_transposed
                                                      : small_part)(p, k, size_min(BLOCK_WORDS, p->K - k));
}

void block_nt(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb)
{
    small(&(Small){SMALL_NT, M, N, K, C, ldc, add, s, rows_of(A, lda), rows_of(B, ldb)});
}

void block_nn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb)
{
    small(&(Small){SMALL_NN, M, N, K, C, ldc, add, s, rows_of(A, lda), rows_of(B, ldb)});
}

void block_tn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb)
{
    small(&(Small){SMALL_TN, M, N, K, C, ldc, add, s, rows_of(A, lda), rows_of(B, ldb)});
}
