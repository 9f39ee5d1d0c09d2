/* Products with few columns for one instruction set, KERNEL: LoRA's inner side, u = s x A' and du = s dy B.
 *
 * Lanes run along the inner index, so rows of x are read in place. A few columns of W are packed, and stay in L1. Every
 * element is, in blocks of NARROW_BLOCK, a chain of fused multiply-adds in each of LANES lanes, folded by halves; the
 * sums of blocks are added in order. */
#include "tensor/vector.h"

#if defined KERNEL_avx512
enum { ROWS = 4 };
#elif defined KERNEL_avx2
enum { ROWS = 1 };
#else
enum { ROWS = 1 };
#endif
enum { COLUMNS = NARROW_COLUMNS, STEP = NARROW_BLOCK + LANES };
#if defined KERNEL_avx512
enum { AT_ONCE = 8 };
#else
enum { AT_ONCE = 4 }; /* columns whose sums fit registers */
#endif

/* sum[q][j] += row q . column j over n inner elements, a multiple of LANES; LANES sums each. */
INLINE void chains(size_t n, const float *const row[ROWS], const float *column, V sum[ROWS][AT_ONCE][PARTS])
{
    for (size_t k = 0; k < n; k += LANES)
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++) {
            V w[AT_ONCE];
#pragma GCC unroll 8
            for (size_t j = 0; j < AT_ONCE; j++) w[j] = load(column + j * STEP + k + p * W);
#pragma GCC unroll 4
            for (size_t q = 0; q < ROWS; q++) {
                V x = load(row[q] + k + p * W);
#pragma GCC unroll 8
                for (size_t j = 0; j < AT_ONCE; j++) sum[q][j][p] = fma_v(x, w[j], sum[q][j][p]);
            }
        }
}

/* ROWS rows times AT_ONCE columns. What n leaves of a group of LANES is read from a copy that zeros fill up. */
INLINE void tile(size_t n, const float *const row[ROWS], const float *column, float s, bool add, size_t rows,
                 size_t columns, float *const out[ROWS])
{
    V sum[ROWS][AT_ONCE][PARTS];
    size_t whole = n / LANES * LANES;
#pragma GCC unroll 4
    for (size_t q = 0; q < ROWS; q++)
#pragma GCC unroll 8
        for (size_t j = 0; j < AT_ONCE; j++)
#pragma GCC unroll 4
            for (size_t p = 0; p < PARTS; p++) sum[q][j][p] = (V){0};
    chains(whole, row, column, sum);
    if (whole < n) {
        float rest[ROWS][LANES] = {{0}};
        const float *at[ROWS];
        for (size_t q = 0; q < ROWS; q++) at[q] = memcpy(rest[q], row[q] + whole, (n - whole) * sizeof *rest[q]);
        chains(LANES, at, column + whole, sum);
    }
    for (size_t q = 0; q < rows; q++)
        for (size_t j = 0; j < columns; j++) {
            float value = s * fold(sum[q][j]);
            out[q][j] = add ? out[q][j] + value : value;
        }
}

/* Pack `columns` columns of one block of W, STEP floats apart, filled up with zeros. Element (j, k) of W is at
 * w[j * across + k * along]; one of the two steps is 1. */
static void pack(size_t columns, size_t n, const float *w, size_t across, size_t along, float *panel)
{
    size_t whole = (n + LANES - 1) / LANES * LANES;
    if (along == 1 || columns < COLUMNS) {
        for (size_t j = 0; j < COLUMNS; j++)
            for (size_t k = 0; k < whole; k++)
                panel[j * STEP + k] = j < columns && k < n ? w[j * across + k * along] : 0;
        return;
    }
    for (size_t k = 0; k < whole; k += SQUARE)
        for (size_t j = 0; j < COLUMNS; j += SQUARE) {
            static const float zeros[SQUARE];
            const float *in[SQUARE];
            for (size_t q = 0; q < SQUARE; q++) in[q] = k + q < n ? w + (k + q) * along + j : zeros;
            transpose(in, panel + j * STEP + k, STEP, 1);
        }
}

static void block(size_t T, Rows y, bool add, float s, Rows x, size_t n, size_t columns, const float *panel)
{
    for (size_t t = 0; t < T; t += ROWS) {
        const float *row[ROWS];
        float *out[ROWS];
        size_t rows = size_min(ROWS, T - t);
        for (size_t q = 0; q < ROWS; q++) { /* where there is no row, the last one again */
            row[q] = row_of(x, t + size_min(q, rows - 1));
            out[q] = row_of(y, t + size_min(q, rows - 1));
        }
        for (size_t j = 0; j < columns; j += AT_ONCE) {
            float *to[ROWS];
            for (size_t q = 0; q < ROWS; q++) to[q] = out[q] + j;
            tile(n, row, panel + j * STEP, s, add, rows, size_min(AT_ONCE, columns - j), to);
        }
    }
}

void PASTE(gemm_narrow_, KERNEL)(size_t T, Rows y, float s, Rows x, size_t n, size_t columns, const float *w,
                                 size_t across, size_t along)
{
    static _Thread_local float panel[COLUMNS * STEP] __attribute__((aligned(64)));
    for (size_t j = 0; j < columns; j += COLUMNS)
        for (size_t k = 0; k < n; k += NARROW_BLOCK) {
            size_t take = size_min(NARROW_BLOCK, n - k), some = size_min(COLUMNS, columns - j);
            pack(some, take, w + j * across + k * along, across, along, panel);
            block(T, rows_right(y, j), k != 0, s, rows_right(x, k), take, some, panel);
        }
}
