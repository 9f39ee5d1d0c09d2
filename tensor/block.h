/* Products of small factors that are packed beforehand, and the softmax of attention between them. kernel_block.c and
 * kernel_attention.c, compiled once for each instruction set, fill the tables. Words are those of kernel_gemm.h:
 * floats, or pairs of bf16.
 *
 * C = A B, [M][N], inner length K. Lanes are columns of C. Each element is one chain of fused multiply-adds from zero
 * in increasing word ("plain" rounds twice), whatever the tile, so its bits depend on the factors alone.
 *
 *   A              word k of row i at a[i * BLOCK_STRIDE + k], at most BLOCK_WORDS words, from pack_rows
 *   A, transposed  word k of row i at a[k * BLOCK_STRIDE + i]
 *   B              word k of column j at b[j / LANES * step + k * LANES + j % LANES], from pack_lanes or pack_columns
 *   C              element (i, j) at c[i * ldc + j]
 *
 * Tiles reach beyond the last row and column: A (not transposed) and C need BLOCK_BAND - 1 more rows, and C and B whole
 * groups of LANES columns. The values there do not matter: they are not used, and C's are overwritten. */
#ifndef GRAFT_TENSOR_BLOCK_H
#define GRAFT_TENSOR_BLOCK_H

#include "tensor/kernel.h"

enum {
    BLOCK_WORDS = 256,
    BLOCK_STRIDE = BLOCK_WORDS + LANES, /* not a power of two: rows must not collide in L1 */
    BLOCK_BAND = 24, /* rows that tiles of every instruction set fill exactly, so that trims are the same for all */
};

/* Which part of a causal product need not be computed, because factors are zero there or results are not needed: query
 * i sees key j when j <= i + diagonal. A trim changes bits only where a factor is not finite. */
typedef enum {
    TRIM_NOTHING,
    TRIM_SCORES,  /* rows are queries, columns are keys: elements that no query of a band sees are not written */
    TRIM_QUERIES, /* rows are queries, the inner index runs over keys: up to the last key that the band sees */
    TRIM_KEYS, /* rows are keys, the inner index runs over queries: from the first query that sees a key of the band */
} Trim;

typedef struct {
    size_t M, N, K;  /* of elements */
    bool transposed; /* A */
    const float *a, *b;
    size_t step;
    float *c;
    size_t ldc;
    bool add; /* C += A B */
    Trim trim;
    size_t diagonal;
} BlockProduct;

/* A tile of scores: m queries, n keys. */
typedef struct {
    size_t m, n, diagonal;
    const uint64_t
        *chosen; /* NULL: every key; else bits of query i at chosen + i * words, the tile's first key lowest */
    size_t words;
    float *s, *ds;                                 /* [m][BLOCK_STRIDE] scores, fp32; the gradient of P, fp32 */
    float *p_transposed, *ds_rows, *ds_transposed; /* out: words of P and dS; in fp32 s, ds and ds themselves */
} ScoreTile;

struct BlockKernels {
    const GemmKernels *gemm; /* of the same words: pack_rows packs A, pack_lanes packs B */

    /* Pack K rows of x, N columns each, times s, as B: the inner index runs along rows of x. */
    void (*pack_columns)(size_t K, size_t N, float s, Rows x, float *out, size_t step);
    void (*product)(const BlockProduct *p);

    /* Softmax over the tiles so far: s becomes exp(s - max), max the largest score so far; zero where a key is not
     * seen.
     *   max [m], sums [m][LANES]  updated; before the first tile max is -INFINITY and sums are zero
     *   factor [m]                out: what sums of earlier tiles were multiplied with; the caller multiplies their
     *                             outputs with
     *                             it, too
     * All in fp32. */
    void (*softmax)(const ScoreTile *t, float *max, float *sums, float *factor);

    /* P = exp(s - lse), dS = P (ds - delta), both as words; zero where a key is not seen. */
    void (*softmax_backward)(const ScoreTile *t, const float *lse, const float *delta);
};

/* The kernels of the compute path, in fp32 or, where bf16 is asked for and the path has it, with pairs of bf16. In
 * dispatch.c; valid after dispatch_init. */
const BlockKernels *block_kernels(bool bf16);

#endif
