/* Small products (gemm.h, block_*) by the packings and tiles of block.h. Factors are packed at every call, into buffers
 * of the thread. Which factor becomes lanes depends on the shape alone:
 *   - few rows of C: nothing is packed;
 *   - A B' with up to MAX_ROWS_AS_LANES rows: rows of A become lanes, so that the many rows of B are copied, not
 *   transposed; - otherwise: columns of C are lanes. */
#include "tensor/block.h"

#include <string.h>

enum {
    SMALL_ROWS = 4 * BLOCK_BAND, /* of packed lines at once */
    SMALL_GROUPS = 12,           /* of packed columns at once */
    SMALL_STEP = BLOCK_WORDS * LANES + LANES,
    SMALL_C = SMALL_GROUPS * LANES + LANES,
    MAX_UNPACKED_ROWS = 3,  /* up to this many rows of C packing costs more than it saves */
    MAX_ROWS_AS_LANES = 48, /* up to this many rows of A they become lanes of A B' */
};
static _Thread_local float small_lines[(SMALL_ROWS + BLOCK_BAND) * BLOCK_STRIDE] __attribute__((aligned(64)));
static _Thread_local float small_columns[SMALL_GROUPS * SMALL_STEP] __attribute__((aligned(64)));
static _Thread_local float small_c[(SMALL_ROWS + BLOCK_BAND) * SMALL_C] __attribute__((aligned(64)));

typedef enum { SMALL_NT, SMALL_NN, SMALL_TN } SmallKind;

typedef struct {
    SmallKind kind;
    size_t M, N, K;
    float *C;
    size_t ldc;
    bool add;
    float s;
    Rows A, B;
} SmallProduct;

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

/* Inner indices [k, k + K), SMALL_GROUPS groups of columns of C at a time, SMALL_ROWS rows at a time. */
static void small_part(const SmallProduct *p, size_t k, size_t K)
{
    for (size_t j = 0; j < p->N; j += SMALL_GROUPS * LANES) {
        size_t N = size_min(SMALL_GROUPS * LANES, p->N - j);
        if (p->kind == SMALL_NT)
            small_lanes(N, K, 1, rows_right(rows_from(p->B, j), k));
        else
            kernels->block->pack_columns(K, N, 1, rows_right(rows_from(p->B, k), j), small_columns, SMALL_STEP);
        for (size_t i = 0; i < p->M; i += SMALL_ROWS) {
            size_t M = size_min(SMALL_ROWS, p->M - i);
            bool transposed = p->kind == SMALL_TN; /* A is [K][M] already */
            kernels->gemm->pack_rows(transposed ? K : M, transposed ? M : K, BLOCK_STRIDE, p->s,
                                     transposed ? rows_right(rows_from(p->A, k), i) : rows_right(rows_from(p->A, i), k),
                                     small_lines);
            small_product(M, N, K, transposed);
            for (size_t q = 0; q < M; q++)
                small_put(N, p->C + (i + q) * p->ldc + j, small_c + q * SMALL_C, p->add || k > 0);
        }
    }
}

/* The same for A B' with few rows of A: C' = B A' is computed, and transposed when it is written. */
static void small_part_transposed(const SmallProduct *p, size_t k, size_t K)
{
    float square[MAX_ROWS_AS_LANES * LANES];
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

/* Few rows: nothing is packed; B is read once for every row. */
static void small_rows(const SmallProduct *p)
{
    for (size_t i = 0; i < p->M; i++) {
        float *c = p->C + i * p->ldc;
        if (!p->add) memset(c, 0, p->N * sizeof *c);
        for (size_t j = 0; p->kind == SMALL_NT && j < p->N; j++)
            c[j] += p->s * kernels->dot(p->K, row_of(p->A, i), row_of(p->B, j));
        for (size_t k = 0; p->kind != SMALL_NT && k < p->K; k++)
            kernels->axpy(p->N, c, p->s * (p->kind == SMALL_NN ? row_of(p->A, i)[k] : row_of(p->A, k)[i]),
                          row_of(p->B, k));
    }
}

static void small(const SmallProduct *p)
{
    if (p->M <= MAX_UNPACKED_ROWS)
        small_rows(p);
    else
        for (size_t k = 0; k < p->K; k += BLOCK_WORDS)
            (p->kind == SMALL_NT && p->M <= MAX_ROWS_AS_LANES ? small_part_transposed
                                                              : small_part)(p, k, size_min(BLOCK_WORDS, p->K - k));
}

void block_nt(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb)
{
    small(&(SmallProduct){SMALL_NT, M, N, K, C, ldc, add, s, rows_of(A, lda), rows_of(B, ldb)});
}

void block_nn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb)
{
    small(&(SmallProduct){SMALL_NN, M, N, K, C, ldc, add, s, rows_of(A, lda), rows_of(B, ldb)});
}

void block_tn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb)
{
    small(&(SmallProduct){SMALL_TN, M, N, K, C, ldc, add, s, rows_of(A, lda), rows_of(B, ldb)});
}
