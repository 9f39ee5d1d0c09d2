/* What differs from CPU to CPU: kernel.c and kernel_rows.c are compiled once for each instruction set and fill these tables.
 * dispatch_init chooses; matmul.c and rows.c call through `kernels`.
 *
 * Two kinds of words: a lane multiplies one float at a time, or a pair of bf16 (gemm_kernels_bf16, frozen BF16 and FP8 weights
 * only). x is brought to words when it is packed; so a packing serves one kind.
 *
 * A product runs over its inner length in blocks of BLOCK words. Inside a block, every element of y is one chain of fused
 * multiply-adds from zero in increasing word; block sums are added to y in order. So its bits depend on its own numbers
 * and the inner length alone, and are those of a scalar loop over fmaf ("plain" rounds twice instead; a pair's second
 * product comes before its first). Pairs of FP8: a chain for each WEIGHT_BLOCK elements, and S = fma(chain, factor, S).
 *
 * A pair (GemmLora) of r <= SHORT goes on where the last block ends: r more floats behind the block's words, in packed x
 * as in the panel, whatever the words are. The last block's chain runs on through them; FP8 codes have their factor by
 * then, and the pair's chain begins at zero and is added. A pair of larger r is a product of its own.
 *
 * Packed x, one block after the other, inner lengths in words, r included in the last:
 *   nt of FEW_ROWS < T < TRANSPOSE_ROWS, inner length > SHORT
 *                              lanes are tokens: [group of LANES tokens][inner][LANES], absent tokens zero
 *   nn, and nt otherwise       [token][stride], stride packed_stride(inner without r); and ROW_TILE tokens of zeros after the last */
#ifndef GRAFT_TENSOR_KERNEL_H
#define GRAFT_TENSOR_KERNEL_H

#include "base/minmax.h"
#include "tensor/gemm.h"

enum {
    LANES = 16,
    ROW_TILE = 8,
    FEW_ROWS = ROW_TILE, /* up to this many rows of x, nt reads W once and turns it: text that comes token by token */
    FEW_COLUMNS = GEMM_UNIT,
    TRANSPOSE_ROWS = 256,        /* from so many rows of x on, turning W in its panel costs less than turning x and y */
    BLOCK = 512,                 /* words of a block: part of every result's bits */
    SHORT = 64,                  /* up to this inner length W fits beside y's columns: no transposed write-out */
    ROWS_SLICE = 96,             /* columns of y in one panel of nt */
    NN_COLUMNS = 2 * ROWS_SLICE, /* columns of W widened at once in nn */
    STRIDE = BLOCK + SHORT + 16, /* not a power of two, so that rows of a panel do not collide in L1 */
    SHORT_STRIDE = 2 * SHORT + 16,
    NARROW_COLUMNS = 8,  /* columns that one call of narrow packs, and of sum adds */
    TN_COLUMNS = 768,    /* of the wide side in one call of sum: they stay in L1 */
    NARROW_BLOCK = 1024, /* inner elements of a narrow product whose sums are folded at once: part of its bits */
    PANEL_FLOATS = NN_COLUMNS / LANES * ((BLOCK + SHORT) * LANES + LANES), /* nt needs less: ROWS_SLICE * STRIDE */
};

/* Columns of y in one panel of nt_transposed and nn with an inner length up to SHORT: as many as fit. */
static inline size_t short_columns(size_t inner)
{
    return PANEL_FLOATS / ((inner + 1) * LANES) * LANES / ROWS_SLICE * ROWS_SLICE;
}

static inline size_t packed_stride(size_t inner) { return inner <= SHORT ? SHORT_STRIDE : STRIDE; }

/* What a call fetches into L2 for later, while it multiplies: rows of `lines` lines of memory, `step` bytes apart.
 * Fetching past the end of a weight does no harm. */
typedef struct {
    const char *at;
    size_t rows, lines, step;
} Fetch;

typedef void NtFew(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end,
                   size_t at, size_t n, const GemmLora *term);

typedef struct {
    size_t per_word; /* inner elements in a word: 1, or 2 of bf16 */

    /* n columns of x, at most BLOCK words, times s; x starts at the first of them. step: floats from group to group of LANES
     * tokens. pack_rows may write up to LANES - 1 words more of a row; zeros after the rows are the caller's. */
    void (*pack_lanes)(size_t T, size_t n, float s, Rows x, float *out, size_t step);
    void (*pack_rows)(size_t T, size_t n, size_t stride, float s, Rows x, float *out);

    /* One block of one panel, its place and length in elements. y starts at column 0, packed at this block; panel is PANEL_FLOATS floats.
     * pair: the one that is packed behind this block, or NULL.
     *   nt        columns [begin, end) of y, at most ROWS_SLICE; inner [at, at + n)
     *   nt_transposed the same with W turned in the panel, packed rows; at most NN_COLUMNS or short_columns
     *   nt_few    the same for up to FEW_ROWS rows and any columns, begin a multiple of FEW_COLUMNS
     *   nn        columns [begin, end) of y, at most NN_COLUMNS or short_columns; inner [at, at + n) */
    void (*nt)(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end, size_t at,
               size_t n, const GemmLora *term, float *panel, Fetch next);
    void (*nt_transposed)(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end,
                          size_t at, size_t n, const GemmLora *term, float *panel, Fetch next);
    NtFew *nt_few;
    void (*nn)(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end, size_t at,
               size_t n, const GemmLora *term, float *panel, Fetch next);
} GemmKernels;

typedef struct BlockKernels BlockKernels; /* block.h */

/* y = s x W' of few columns, element (j, k) of W at w[j * across + k * along], one of the two steps 1. */
typedef void GemmNarrow(size_t T, Rows y, float s, Rows x, size_t n, size_t columns, const float *w, size_t across,
                        size_t along);

/* g = s a' b, a [T][columns], b [T][n]; columns <= NARROW_COLUMNS, n <= TN_COLUMNS; turned: g = s b' a. Rows of g are ldg
 * apart. Every element is one chain of fused multiply-adds over rows in order, from what g holds on when `add`, times s. */
typedef void GemmTn(size_t T, size_t columns, size_t n, bool add, float s, Rows a, Rows b, float *g, size_t ldg,
                    bool turned);

/* Scores of the indexer: score[i][t] = sum over heads of w[i][h] ReLU(q[i][h] . key[t]) for n queries, i rounded up to
 * INDEX_QUERIES, and groups of LANES keys. */
enum { INDEX_QUERIES = 8 };
typedef struct {
    size_t n, n_groups, n_heads, dim;
    const float *q;    /* [head][dim][INDEX_QUERIES] */
    const float *w;    /* [INDEX_QUERIES][head] */
    const float *keys; /* [group][dim][LANES] */
    float *score;      /* [INDEX_QUERIES][stride] */
    size_t stride;
} IndexBlock;

typedef struct {
    void (*scores)(const IndexBlock *block);
    /* Bits of the k largest of x[n], 1 <= k <= n, ties to the lower index. scratch: n rounded up to LANES. */
    void (*top_k_set)(size_t n, size_t k, uint64_t *bits, const float *x, int32_t *scratch);
} IndexKernels;

typedef struct {
    const char *name;
    const GemmKernels *gemm;
    const BlockKernels *block;
    const IndexKernels *index;
    const struct LatentKernels *latent; /* latent.h */
    float (*dot)(size_t n, const float *a, const float *b);
    float (*sum)(size_t n, const float *x);
    float (*max)(size_t n, const float *x);
    void (*axpy)(size_t n, float *y, float a, const float *x);
    void (*scale)(size_t n, float *y, float a, const float *x);
    float (*exp)(size_t n, float *y, const float *x,
                 float shift); /* y = exp(x - shift), returns its sum; y may be NULL */
    void (*sigmoid)(size_t n, float *y, const float *x);
    GemmNarrow *narrow;
    GemmTn *gemm_tn;
    void (*swiglu)(size_t n, float *a, const float *g, const float *u);
    void (*swiglu_backward)(size_t n, float *dg, float *du, const float *g, const float *u, const float *da);
} Kernels;

extern const GemmKernels gemm_kernels_avx512, gemm_kernels_avx2, gemm_kernels_plain, gemm_kernels_bf16;
extern const BlockKernels block_kernels_avx512, block_kernels_avx2, block_kernels_plain, block_kernels_bf16;
extern NtFew nt_few_avx512, nt_few_avx2, nt_few_plain, nt_few_bf16;
extern GemmNarrow gemm_narrow_avx512, gemm_narrow_avx2, gemm_narrow_plain;
extern GemmTn gemm_tn_avx512, gemm_tn_avx2, gemm_tn_plain;
extern const IndexKernels index_kernels_avx512, index_kernels_avx2, index_kernels_plain;
extern const Kernels kernels_avx512, kernels_avx2, kernels_plain;
extern const Kernels *kernels;          /* of the path; plain until dispatch_init */
extern const GemmKernels *bf16_kernels; /* for frozen weights that need not be exact; NULL: fp32 for all weights */

static inline float *row_of(Rows rows, size_t i) { return rows.data + (rows.index ? rows.index[i] : i) * rows.stride; }

#endif
