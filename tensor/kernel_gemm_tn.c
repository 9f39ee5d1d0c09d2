/* Sums over rows for one instruction set, KERNEL: g = s a' b, the gradients of LoRA's A and B.
 *
 * One of the two factors has few columns (r). A call takes at most NARROW_COLUMNS columns of it and TN_COLUMNS columns
 * of the other factor, whose lanes are along columns; their sums stay in L1. Rows of both factors are read in place,
 * SUM_ROWS of them at once. Every element is one chain of fused multiply-adds over the rows in order, whatever the cut.
 * */
#include "tensor/vector.h"

#if defined KERNEL_avx512
enum { VECTORS = 3 };
#else
enum { VECTORS = 1 };
#endif
enum { COLUMNS = NARROW_COLUMNS, SUM_ROWS = 64, SUM_STEP = TN_COLUMNS + LANES };

/* sum[j][i] += a[t][j] row[t][i] for t in order, `wide` vectors from column c of the rows on. */
INLINE void sum_tile(size_t T, size_t wide, const float *a, const float *const row[SUM_ROWS], size_t c, float *sum)
{
    V s[COLUMNS][VECTORS];
#pragma GCC unroll 8
    for (size_t j = 0; j < COLUMNS; j++)
#pragma GCC unroll 3
        for (size_t i = 0; i < wide; i++) s[j][i] = load(sum + j * SUM_STEP + i * W);
    for (size_t t = 0; t < T; t++, a += COLUMNS) {
        V x[VECTORS];
#pragma GCC unroll 3
        for (size_t i = 0; i < wide; i++) x[i] = load(row[t] + c + i * W);
#pragma GCC unroll 8
        for (size_t j = 0; j < COLUMNS; j++)
#pragma GCC unroll 3
            for (size_t i = 0; i < wide; i++) s[j][i] = fma_v(all(a[j]), x[i], s[j][i]);
    }
#pragma GCC unroll 8
    for (size_t j = 0; j < COLUMNS; j++)
#pragma GCC unroll 3
        for (size_t i = 0; i < wide; i++) store(sum + j * SUM_STEP + i * W, s[j][i]);
}

/* The same for T <= SUM_ROWS rows and n columns. Columns that do not fill a vector are read from copies. */
static void sum_rows(size_t T, size_t n, const float *a, const float *const row[SUM_ROWS], float *sum)
{
    size_t c = 0;
    for (; c + VECTORS * W <= n; c += VECTORS * W) sum_tile(T, VECTORS, a, row, c, sum + c);
    for (; c + W <= n; c += W) sum_tile(T, 1, a, row, c, sum + c);
    if (c == n) return;
    float rest[SUM_ROWS][W] = {{0}};
    const float *filled[SUM_ROWS];
    for (size_t t = 0; t < T; t++) filled[t] = memcpy(rest[t], row[t] + c, (n - c) * sizeof *sum);
    sum_tile(T, 1, a, filled, 0, sum + c);
}

/* Where sum (j, c) belongs in g: [columns][n] or, transposed, [n][columns]; rows of g are ldg apart. */
static float *place(size_t j, size_t c, float *g, size_t ldg, bool transposed)
{
    return g + (transposed ? c * ldg + j : j * ldg + c);
}

void PASTE(gemm_tn_, KERNEL)(size_t T, size_t columns, size_t n, bool add, float s, Rows a, Rows b, float *g,
                             size_t ldg, bool transposed)
{
    static _Thread_local float sum[COLUMNS * SUM_STEP] __attribute__((aligned(64)));
    float few[SUM_ROWS][COLUMNS] = {{0}};
    memset(sum, 0, sizeof sum);
    for (size_t j = 0; j < columns && add; j++)
        for (size_t c = 0; c < n; c++) sum[j * SUM_STEP + c] = *place(j, c, g, ldg, transposed);
    for (size_t t = 0; t < T; t += SUM_ROWS) {
        size_t rows = size_min(SUM_ROWS, T - t);
        const float *row[SUM_ROWS];
        for (size_t i = 0; i < rows; i++) {
            memcpy(few[i], row_of(a, t + i), columns * sizeof *few[i]);
            row[i] = row_of(b, t + i);
        }
        sum_rows(rows, n, few[0], row, sum);
    }
    for (size_t j = 0; j < columns; j++)
        for (size_t c = 0; c < n; c++) *place(j, c, g, ldg, transposed) = s * sum[j * SUM_STEP + c];
}
