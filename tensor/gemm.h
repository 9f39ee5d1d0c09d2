/* GemmKernels. Two families keep the bits (docs/design.md, "The same bits"):
 *
 *   rows_*   give every row the same bits in any company: a row's sum depends on its own numbers and the inner length
 *            only, never on how many rows are in the call, on their order, or on the number of threads;
 *   sum_*    add over rows, once for each micro-batch: their shape is fixed by the data alone.
 *   block_*  small products inside one document, whose shapes its length alone fixes: bits depend on the shape, too.
 *            Factors are packed at every call; who uses one again packs it himself (block.h).
 *
 * All sums are fp32. So are all factors, but for one path: bf16 rounds the x of a product with a BF16 or FP8 weight to bf16
 * (to nearest, ties to even; subnormal numbers count as zeros). Neither weight is rounded: FP8 codes are exact in bf16,
 * and a block's factor meets the sum over the block. A weight that is exact (weight.h) is multiplied in fp32 there, too.
 * Weights are brought to words a panel at a time (kernel.c). */
#ifndef GRAFT_TENSOR_GEMM_H
#define GRAFT_TENSOR_GEMM_H

#include "tensor/weight.h"

#include <stdbool.h>

/* Rows of a float matrix, or a pick of them: row i is at data + (index ? index[i] : i) * stride. */
typedef struct {
    float *data;
    size_t stride;
    const uint32_t *index;
} Rows;

static inline Rows rows_of(const void *data, size_t stride) { return (Rows){(float *)(size_t)data, stride, NULL}; }
static inline Rows rows_pick(const void *data, size_t stride, const uint32_t *index)
{
    return (Rows){(float *)(size_t)data, stride, index};
}

/* The same rows from the i-th on. */
static inline Rows rows_from(Rows rows, size_t i)
{
    if (rows.index)
        rows.index += i;
    else
        rows.data += i * rows.stride;
    return rows;
}

/* The same rows from column c on. */
static inline Rows rows_right(Rows rows, size_t c)
{
    rows.data += c;
    return rows;
}

/* What a LoRA pair adds to a product on its way, so that y is not read and written once more:
 *   nt   y[:, first : first + rows) += s u B'     M = B [rows][r]
 *   nn   y += s u A                               M = A [r][width of y]
 * u [T][r] is packed with x. NULL or r = 0: nothing. */
typedef struct {
    size_t r;
    const float *M;
    size_t first, rows; /* nt only; rows may be 0: another weight of the same packed x has the pair */
    Rows u;             /* where x is packed */
    float s;
} GemmLora;

/* Scratch that a product of T rows and inner length K needs, with a pair of r, in floats. */
size_t gemm_scratch(size_t T, size_t K, size_t r);

/* y = s x W' (+ pair)     x [T][K], W [N][K], y [T][N];  add: y += s x W'.   K = W->cols, N = W->rows.
 * scratch         gemm_scratch(T, K, r) floats, aligned to 64 bytes
 * A row of y may occur once only in a call. Threads: splits columns of y over the OpenMP team when called outside a
 * parallel region; inside one it runs on the calling thread. */
void gemm_nt(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, const GemmLora *term, float *scratch);

/* y = s x W (+ pair)      x [T][N], W [N][K], y [T][K];  add: y += s x W.    Inner length N = W->rows; scratch for (T, N, r). */
void gemm_nn(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, const GemmLora *term, float *scratch);

/* LoRA's inner side, few columns: rows are read where they lie, so that nothing is packed.
 *   in    u = s x A'     x [T][N], A [r][N], u [T][r]
 *   back  du = s dy B    dy [T][N], B [N][r], du [T][r]
 * Threads: as gemm_nt, but splits rows. */
void gemm_narrow_nt(size_t T, Rows u, float s, Rows x, size_t r, size_t N, const float *A);
void gemm_narrow_nn(size_t T, Rows du, float s, Rows dy, size_t r, size_t N, const float *B);

/* gemm_nt and gemm_nn for columns [begin, end) of y only, on the calling thread, with x packed beforehand, so that threads can
 * share the packing. begin is a multiple of GEMM_UNIT; end is one, too, or the width of y.
 * x packed for one W serves other weights of its inner length, with pairs of the same r, when gemm_pack_serves says so. */
enum { GEMM_UNIT = 32 };
void gemm_pack_nt(size_t T, float s, Rows x, const Weight *W, const GemmLora *term, float *scratch);
void gemm_pack_nn(size_t T, float s, Rows x, const Weight *W, const GemmLora *term, float *scratch);
bool gemm_pack_serves(const Weight *packed_for, const Weight *W);

/* Where the thread's next slice of the same kind begins, so that its weights are fetched while this one is multiplied;
 * {0} when nobody knows. A hint: no bit depends on it. */
typedef struct {
    const Weight *W;
    size_t begin;
} GemmNext;
void gemm_nt_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, const GemmLora *term, size_t begin,
                   size_t end, GemmNext next);
void gemm_nn_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, const GemmLora *term, size_t begin,
                   size_t end, GemmNext next);

/* G = s a' b      a [T][M], b [T][N]; G [M][N] dense, overwritten. add: G = s (G + a' b)
 * Rows are added one after another, so that a sum may be cut anywhere: s = 1 but for the last part, and add but for the first.
 * T = 0 gives zeros. */
void gemm_tn(size_t T, size_t M, size_t N, float *G, bool add, float s, Rows a, Rows b);

/* C (+)= s A B', A B or A' B for row-major blocks with row strides. */
void block_nt(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb);
void block_nn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb);
void block_tn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb);

#endif
