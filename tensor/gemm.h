/* Products. Three families, by what their bits depend on (docs/design.md, "The same bits"):
 *
 *   gemm_nt, gemm_nn  give every row the same bits in any batch: a row's sum depends on its own numbers and the inner
 *                     length only, never on how many rows are in the call, on their order, or on the number of threads;
 *   gemm_tn           adds over rows, once for each micro-batch: the data alone fixes its shape;
 *   block_*           are small products inside one document, whose length alone fixes their shapes. Bits depend on the
 *                     shape, too. Factors are packed at every call; callers that use a factor again pack it themselves
 *                     (block.h).
 *
 * All sums are fp32. So are all factors, with one exception: the bf16 path rounds the x of a product with a BF16 or FP8
 * weight to bf16 (to nearest, ties to even; subnormal numbers count as zeros). No weight is rounded: FP8 codes are
 * exact in bf16, and a block's factor meets the sum over the block. A weight that is exact (weight.h) is multiplied in
 * fp32 on that path, too. Weights are widened a panel at a time (kernel_gemm.c). */
#ifndef GRAFT_TENSOR_GEMM_H
#define GRAFT_TENSOR_GEMM_H

#include "tensor/weight.h"

#include <stdbool.h>

/* Rows of a float matrix, or a selection of them: row i is at data + (index ? index[i] : i) * stride. */
typedef struct {
    float *data;
    size_t stride;
    const uint32_t *index;
} Rows;

/* Rows are the results of products, and their factors. Products only read factors, so these may be const: here, and
 * nowhere else, a pointer to const becomes a plain one. */
static inline Rows rows_pick(const void *data, size_t stride, const uint32_t *index)
{
    union {
        const void *source;
        float *data;
    } address = {.source = data};
    return (Rows){address.data, stride, index};
}

static inline Rows rows_of(const void *data, size_t stride) { return rows_pick(data, stride, NULL); }

static inline float *row_of(Rows rows, size_t i) { return rows.data + (rows.index ? rows.index[i] : i) * rows.stride; }

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

/* The LoRA of a projection, added inside its product, so that y is not read and written once more:
 *   nt   y[:, first : first + rows) += s u B'     M = B [rows][r]
 *   nn   y += s u A                               M = A [r][width of y]
 * u [T][r] is packed with x. NULL or r = 0: nothing is added. */
typedef struct {
    size_t r;
    const float *M;
    size_t first, rows; /* nt only; rows may be 0: the LoRA belongs to another weight of the same packed x */
    Rows u;             /* where x is packed */
    float s;
} GemmLora;

/* Floats of scratch that a product of T rows and inner length K needs, with a LoRA of r. */
size_t gemm_scratch(size_t T, size_t K, size_t r);

/* y = s x W' (+ LoRA)     x [T][K], W [N][K], y [T][N];  add: y += s x W'.   K = W->cols, N = W->rows.
 * scratch         gemm_scratch(T, K, r) floats, aligned to 64 bytes
 * A row of y may occur only once in a call. Threads: outside a parallel region the OpenMP team shares the columns of y
 * (or its rows, where columns are few); inside one the product runs on the calling thread. */
void gemm_nt(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch);

/* y = s x W (+ LoRA)      x [T][N], W [N][K], y [T][K];  add: y += s x W.    Inner length N = W->rows; scratch for (T,
 * N, r). */
void gemm_nn(size_t T, Rows y, bool add, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch);

/* LoRA's inner side, products with few columns: rows of x are read in place, and nothing is packed.
 *   forward   u = s x A'     x [T][N], A [r][N], u [T][r]
 *   backward  du = s dy B    dy [T][N], B [N][r], du [T][r]
 * Threads: as gemm_nt, but the team shares the rows. */
void gemm_narrow_nt(size_t T, Rows u, float s, Rows x, size_t r, size_t N, const float *A);
void gemm_narrow_nn(size_t T, Rows du, float s, Rows dy, size_t r, size_t N, const float *B);

/* gemm_nt and gemm_nn for columns [begin, end) of y only, on the calling thread, with x packed beforehand, so that
 * threads can share the packing. begin is a multiple of GEMM_UNIT; end is one, too, or the width of y.
 * x packed for one W serves other weights of its inner length, with a LoRA of the same r, when gemm_pack_serves says
 * so. */
enum { GEMM_UNIT = 32 };
void gemm_pack_nt(size_t T, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch);
void gemm_pack_nn(size_t T, float s, Rows x, const Weight *W, const GemmLora *lora, float *scratch);
bool gemm_pack_serves(const Weight *packed_for, const Weight *W);

/* Where the thread's next slice of the same kind begins, so that its weights are prefetched while this one is
 * multiplied; {0} when it is unknown. A hint: no bit depends on it. */
typedef struct {
    const Weight *W;
    size_t begin;
} GemmNext;
void gemm_nt_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, const GemmLora *lora, size_t begin,
                   size_t end, GemmNext next);
void gemm_nn_slice(size_t T, Rows y, bool add, const float *packed, const Weight *W, const GemmLora *lora, size_t begin,
                   size_t end, GemmNext next);

/* G = s a' b      a [T][M], b [T][N]; G [M][N] dense, overwritten. add: G = s (G + a' b)
 * Rows are added one after another, so a sum may be cut into several calls: s = 1 in all but the last, add in all but
 * the first. T = 0 gives zeros. */
void gemm_tn(size_t T, size_t M, size_t N, float *G, bool add, float s, Rows a, Rows b);

/* C (+)= s A B', A B or A' B for row-major blocks with row strides. */
void block_nt(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb);
void block_nn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb);
void block_tn(size_t M, size_t N, size_t K, float *C, size_t ldc, bool add, float s, const float *A, size_t lda,
              const float *B, size_t ldb);

#endif
