/* Small products whose factors are packed beforehand, and what attention does between them: kernel_block.c and
 * kernel_attention.c, compiled once for each instruction set, fill these tables. Words are those of kernel.h: floats, or
 * pairs of bf16.
 *
 * C = A B, [M][N] of inner length K. Lanes are columns of C. Each element is one chain of fused multiply-adds from zero in
 * increasing word ("plain" rounds twice), whatever the tile: its bits depend on the factors alone.
 *
 *   A, lines    word k of row i at a[i * BLOCK_STRIDE + k], at most BLOCK_WORDS words, from pack_lines
 *   A, transposed   word k of row i at a[k * BLOCK_STRIDE + i]
 *   B           word k of column j at b[j / LANES * step + k * LANES + j % LANES], from pack_lanes or pack_columns
 *   C           element (i, j) at c[i * ldc + j]
 *
 * Tiles reach beyond the last row and column: A (lines) and C need room for BLOCK_BAND - 1 more rows, and C and B whole
 * groups of LANES columns. What is there goes nowhere, or may come as it likes. */
#ifndef GRAFT_TENSOR_BLOCK_H
#define GRAFT_TENSOR_BLOCK_H

#include "tensor/kernel.h"

enum {
    BLOCK_WORDS = 256,
    BLOCK_STRIDE = BLOCK_WORDS + LANES, /* not a power of two: rows must not collide in L1 */
    BLOCK_BAND = 24, /* rows that tiles of every instruction set fill exactly: trims are the same for all */
};

/* Where the factors of a causal product are known to be zero, or its results are not asked for: key j is seen by query i
 * when j <= i + diagonal. Part of the result's bits only where a factor is not finite. */
typedef enum {
    TRIM_NOTHING,
    TRIM_SCORES,  /* rows are queries, columns keys: elements that no query of a band sees are left as they were */
    TRIM_QUERIES, /* rows are queries, the inner index runs over keys: up to the last that the band sees */
    TRIM_KEYS,    /* rows are keys, the inner index runs over queries: from the first that sees one of the band */
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
    float *p_transposed, *ds_rows, *ds_transposed; /* out: words of P and dS; of floats, s, ds and ds themselves */
} ScoreTile;

struct BlockKernels {
    const GemmKernels *gemm; /* of the same words: pack_lanes and pack_rows pack lines and lanes */

    /* K rows of x, each N columns, times s: B with inner index along rows. */
    void (*pack_columns)(size_t K, size_t N, float s, Rows x, float *out, size_t step);
    void (*product)(const BlockProduct *p);

    /* Softmax as far as it is known: s becomes exp(s - max) with the largest score so far, zero where a key is not seen;
     * max [m] and sums [m][LANES] (of what was exponentiated) are updated; factor [m] is what sums of earlier tiles were
     * multiplied with, to be done to their outputs, too. Before the first tile max is -INFINITY, sums are zero. fp32. */
    void (*softmax)(const ScoreTile *t, float *max, float *sums, float *factor);

    /* P = exp(s - lse), dS = P (ds - delta), zero where a key is not seen: words of both. */
    void (*softmax_backward)(const ScoreTile *t, const float *lse, const float *delta);
};

/* The kernels of the compute path, in fp32 or, where bf16 is asked for and the path has it, with pairs of bf16. In
 * dispatch.c; valid after dispatch_init. */
const BlockKernels *block_kernels(bool bf16);

#endif
