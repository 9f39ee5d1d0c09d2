/* Kernels of products: their constants, the layout of packed x, and the table that kernel_gemm.c and kernel_gemm_few.c
 * fill once for each instruction set. gemm.c cuts products and calls them.
 *
 * Words. A lane multiplies one word at a time: a float, or a pair of bf16 (gemm_kernels_bf16, for frozen BF16 and FP8
 * weights only). x is converted to words when it is packed, so packed x serves one kind of word.
 *
 * Sums. A product runs over its inner length in blocks of BLOCK words. Inside a block, every element of y is one chain
 * of fused multiply-adds from zero in increasing word. The sums of the blocks are added to y in order. So the bits of
 * an element depend on its own numbers and the inner length alone. They are those of a scalar loop over fmaf, with
 * these differences:
 *   plain              the product is rounded, too
 *   bf16               the second product of a pair comes before its first
 *   bf16, FP8 weights  there is a chain for each WEIGHT_BLOCK elements, then S = fma(chain, factor, S)
 *
 * LoRA. A GemmLora of r <= SHORT is fused: its r floats lie behind the words of the last block, in packed x as in the
 * panel, whatever the words are. The chain of the last block runs on through them. With FP8 on bf16 the sum has met its
 * factors by then, so the chain of LoRA begins at zero and is added. A GemmLora of larger r is a product of its own
 * (gemm.c).
 *
 * Packed x, one block after the other; inner lengths in words, the last one with r:
 *   nt of FEW_ROWS < T < TRANSPOSE_ROWS, inner length > SHORT
 *                              lanes are tokens: [group of LANES tokens][inner][LANES], absent tokens are zero
 *   nn, and nt otherwise       [token][stride], stride packed_stride(inner without r); ROW_TILE tokens of zeros follow
 *   the
 *                              last token */
#ifndef GRAFT_TENSOR_KERNEL_GEMM_H
#define GRAFT_TENSOR_KERNEL_GEMM_H

#include "base/minmax.h"
#include "tensor/gemm.h"

enum {
    LANES = 16, /* on every CPU: as many vectors as that takes */
    ROW_TILE = 8,
    FEW_ROWS =
        ROW_TILE, /* nt_few: up to this many rows of x W is read once and transposed; for decoding, token by token */
    FEW_COLUMNS = GEMM_UNIT,
    TRANSPOSE_ROWS =
        256,         /* from so many rows of x on, transposing W in its panel costs less than transposing x and y */
    BLOCK = 512,     /* words of a block: part of every result's bits */
    SHORT = 64,      /* up to this inner length W fits beside the columns of y: y is not transposed when written */
    NT_COLUMNS = 96, /* columns of y in one panel of nt */
    NN_COLUMNS = 2 * NT_COLUMNS, /* columns of W widened at once in nn */
    STRIDE = BLOCK + SHORT + 16, /* not a power of two, so that rows of a panel do not collide in L1 */
    SHORT_STRIDE = 2 * SHORT + 16,
    PANEL_FLOATS = NN_COLUMNS / LANES * ((BLOCK + SHORT) * LANES + LANES), /* nt needs less: NT_COLUMNS * STRIDE */

    NARROW_COLUMNS = 8,  /* columns that one call of narrow packs, and that one call of gemm_tn adds */
    NARROW_BLOCK = 1024, /* inner elements of a narrow product whose sums are folded at once: part of its bits */
    TN_COLUMNS = 768,    /* columns of the wide side in one call of gemm_tn: they stay in L1 */
};

/* Columns of y in one panel of nt_transposed and nn with an inner length up to SHORT: as many as fit. */
static inline size_t short_columns(size_t inner)
{
    return PANEL_FLOATS / ((inner + 1) * LANES) * LANES / NT_COLUMNS * NT_COLUMNS;
}

static inline size_t packed_stride(size_t inner) { return inner <= SHORT ? SHORT_STRIDE : STRIDE; }

/* What a call prefetches into L2 for the next call while it multiplies: `rows` rows of `lines` cache lines, `step`
 * bytes apart. Prefetching past the end of a weight does no harm. */
typedef struct {
    const char *at;
    size_t rows, lines, step;
} Prefetch;

typedef void NtFew(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end,
                   size_t at, size_t n, const GemmLora *lora);

typedef struct {
    size_t per_word; /* inner elements in a word: 1, or 2 of bf16 */

    /* n columns of x, at most BLOCK words, times s. x begins at the first of the columns.
     * step  floats from one group of LANES tokens to the next
     * pack_rows may write up to LANES - 1 words more of a row. The caller writes the zeros after the last row. */
    void (*pack_lanes)(size_t T, size_t n, float s, Rows x, float *out, size_t step);
    void (*pack_rows)(size_t T, size_t n, size_t stride, float s, Rows x, float *out);

    /* One block of one panel: inner elements [at, at + n), columns [begin, end) of y.
     *   y       begins at column 0
     *   packed  begins at this block
     *   panel   PANEL_FLOATS floats of scratch
     *   lora    the one that is packed behind this block, or NULL
     *
     *   nt             at most NT_COLUMNS columns; lanes are tokens
     *   nt_transposed  at most NN_COLUMNS or short_columns; W is transposed in the panel, x is packed as rows
     *   nt_few         up to FEW_ROWS rows; any number of columns, begin a multiple of FEW_COLUMNS
     *   nn             at most NN_COLUMNS or short_columns */
    void (*nt)(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end, size_t at,
               size_t n, const GemmLora *lora, float *panel, Prefetch next);
    void (*nt_transposed)(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end,
                          size_t at, size_t n, const GemmLora *lora, float *panel, Prefetch next);
    NtFew *nt_few;
    void (*nn)(size_t T, Rows y, bool add, const float *packed, const Weight *W, size_t begin, size_t end, size_t at,
               size_t n, const GemmLora *lora, float *panel, Prefetch next);
} GemmKernels;

/* y = s x W' of few columns (kernel_lora.c). Element (j, k) of W is at w[j * across + k * along]; one of the two steps
 * is 1. */
typedef void GemmNarrow(size_t T, Rows y, float s, Rows x, size_t n, size_t columns, const float *w, size_t across,
                        size_t along);

/* g = s a' b (kernel_gemm_tn.c).   a [T][columns], b [T][n]; columns <= NARROW_COLUMNS, n <= TN_COLUMNS; rows of g are
 * ldg apart; transposed: g = s b' a. Every element is one chain of fused multiply-adds over rows in order, times s. The
 * chain begins at zero, or with `add` at what g holds. */
typedef void GemmTn(size_t T, size_t columns, size_t n, bool add, float s, Rows a, Rows b, float *g, size_t ldg,
                    bool transposed);

extern const GemmKernels gemm_kernels_avx512, gemm_kernels_avx2, gemm_kernels_plain, gemm_kernels_bf16;
extern NtFew nt_few_avx512, nt_few_avx2, nt_few_plain, nt_few_bf16;
extern GemmNarrow gemm_narrow_avx512, gemm_narrow_avx2, gemm_narrow_plain;
extern GemmTn gemm_tn_avx512, gemm_tn_avx2, gemm_tn_plain;

#endif
