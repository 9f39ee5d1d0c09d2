/* Products for one instruction set: KERNEL is avx512, avx2, plain, or bf16 (AVX512-BF16). kernel_gemm.h has the layout
 * of packed x and says which bits a sum has; few rows of x are in kernel_gemm_few.c.
 *
 * A call computes one panel of y for one block of the inner index. It converts that part of W to words, in a panel that
 * stays in L2. Then tile after tile of y passes: the sums of a tile stay in registers while the inner index runs.
 *
 *             columns of y ->
 *             +-------- panel: 96 (nt) or 192 columns, more where inner is short --------+
 *     rows    |  tile  |  tile  |  tile  |  ...                                          |
 *     of y    |--------+--------+--------+                                               |
 *      |      |  tile  |  tile  |  ...                                                   |
 *      v      +--------------------------------------------------------------------------+
 *
 * A tile multiplies `rows` rows of b with `groups` groups of LANES lanes of a:
 *
 *             inner index k = 0, 1, .. n - 1 (words), then r floats of LoRA
 *     b       row 0:       b00   b01   b02  ...    one word at a time, broadcast to all lanes
 *             row 1:       b10   b11   b12  ...
 *     a       lanes:      [a0]  [a1]  [a2]  ...    [ak]: groups x LANES words, loaded as vectors
 *     sum     row j:      [sum j] += bjk [ak]      rows x groups x LANES floats, in registers
 *
 *                      lanes of a                          rows of b                      sums go to
 *     nt               tokens: packed x                    columns of y: rows of W        y, transposed by squares
 *     nn               columns of y: columns of W          tokens: packed x               rows of y
 *     nt_transposed    columns of y: rows of W,            tokens: packed x               rows of y
 *                      transposed in the panel
 *
 *     panel of nt      [column of y][STRIDE]: n words of a row of W, then r floats of B
 *     the other two    [group of LANES columns of y][n words, then r floats][LANES], and LANES floats between groups
 *
 * The sum of an element does not depend on the tile that computed it, so instruction sets may have different tiles. */
#include "tensor/kernel_weights.h"

#if defined KERNEL_avx512 /* and bf16 */
enum { MAX_GROUPS = 3, WIDE_1 = 24, WIDE_2 = 12, WIDE_3 = 8, TAIL = 8, MAX_ROWS = 24 };
#elif defined KERNEL_avx2
enum { MAX_GROUPS = 1, WIDE_1 = 6, TAIL = 4, MAX_ROWS = 6 };
#else
enum { MAX_GROUPS = 1, WIDE_1 = 2, TAIL = 2, MAX_ROWS = 2 };
#endif
enum { ROWS_AT_ONCE = 96, SHORT_ROWS_AT_ONCE = 24 };

/* ---- tiles --------------------------------------------------------------------------------------------------- */

/* What a tile prefetches into L2 for later, one cache line for each inner index: rows of `lines` lines, `step` bytes
 * apart. */
typedef struct {
    const char *at;
    size_t lines, step;
} TilePrefetch;

/* out[j][i] (+)= sum over k of a[k][i] b[j][k], i over `groups` groups of LANES, `step` floats apart; n words, then r
 * floats. */
INLINE void tile(size_t groups, size_t rows, size_t ldb, size_t n, size_t r, const float *a, size_t step,
                 const float *b, float *const *out, bool add, TilePrefetch prefetch)
{
    V sum[MAX_ROWS][PARTS * MAX_GROUPS];
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = (V){0};
    for (size_t left = n; left; prefetch.at += prefetch.step) {
        size_t steps = left < prefetch.lines ? left : prefetch.lines;
        const char *line = prefetch.at;
        left -= steps;
        for (const float *stop = b + steps; b < stop; b++, a += LANES, line += 64) {
            __builtin_prefetch(line, 0, 2);
            V x[PARTS * MAX_GROUPS];
#pragma GCC unroll 4
            for (size_t i = 0; i < groups * PARTS; i++) x[i] = load(a + i / PARTS * step + i % PARTS * W);
#pragma GCC unroll 24
            for (size_t j = 0; j < rows; j++) {
                V y = word_at(b + j * ldb);
#pragma GCC unroll 4
                for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = add_product(sum[j][i], x[i], y);
            }
        }
    }
    for (const float *stop = b + r; b < stop; b++, a += LANES)
#pragma GCC unroll 24
        for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
            for (size_t i = 0; i < groups * PARTS; i++)
                sum[j][i] = fma_v(load(a + i / PARTS * step + i % PARTS * W), all(b[j * ldb]), sum[j][i]);
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++)
            store(out[j] + i * W, add ? load(out[j] + i * W) + sum[j][i] : sum[j][i]);
}

/* The next rows to prefetch: as many as n inner steps can. When none are left, lanes of the tile itself, which are
 * cached. */
static TilePrefetch take_prefetch(Prefetch *next, size_t n, const float *lanes)
{
    if (next->rows == 0) return (TilePrefetch){(const char *)lanes, n, 0};
    size_t rows = size_min(next->rows, n > next->lines ? n / next->lines : 1);
    TilePrefetch prefetch = {next->at, next->lines, next->step};
    next->at += rows * next->step;
    next->rows -= rows;
    return prefetch;
}

typedef void Tile(size_t n, size_t r, const float *a, size_t step, const float *b, float *const *out, bool add,
                  TilePrefetch prefetch);

#define TILE(name, groups, rows, ldb)                                                                              \
    static void name(size_t n, size_t r, const float *a, size_t step, const float *b, float *const *out, bool add, \
                     TilePrefetch prefetch)                                                                        \
    {                                                                                                              \
        tile(groups, rows, ldb, n, r, a, step, b, out, add, prefetch);                                             \
    }
TILE(wide_1, 1, WIDE_1, STRIDE)
TILE(tail_1, 1, TAIL, STRIDE)
TILE(short_wide_1, 1, WIDE_1, SHORT_STRIDE)
TILE(short_tail_1, 1, TAIL, SHORT_STRIDE)
#if defined KERNEL_avx512
TILE(wide_2, 2, WIDE_2, STRIDE)
TILE(tail_2, 2, TAIL, STRIDE)
TILE(short_wide_2, 2, WIDE_2, SHORT_STRIDE)
TILE(short_tail_2, 2, TAIL, SHORT_STRIDE)
TILE(wide_3, 3, WIDE_3, STRIDE)
TILE(short_wide_3, 3, WIDE_3, SHORT_STRIDE)
static const size_t wide_rows[] = {WIDE_1, WIDE_2, WIDE_3};
static Tile *const wide[2][MAX_GROUPS] = {{wide_1, wide_2, wide_3}, {short_wide_1, short_wide_2, short_wide_3}};
static Tile *const tail[2][MAX_GROUPS] = {{tail_1, tail_2, wide_3}, {short_tail_1, short_tail_2, short_wide_3}};
#else
static const size_t wide_rows[] = {WIDE_1};
static Tile *const wide[2][MAX_GROUPS] = {{wide_1}, {short_wide_1}};
static Tile *const tail[2][MAX_GROUPS] = {{tail_1}, {short_tail_1}};
#endif

/* How many groups the next tile takes. Of 4 groups left, 2 + 2 is faster than 3 + 1. */
INLINE size_t take_groups(size_t left) { return MAX_GROUPS == 1 ? 1 : left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1; }

static void pack_lanes(size_t T, size_t n, float s, Rows x, float *out, size_t step)
{
    static const float zeros[BLOCK];
    for (size_t t = 0; t < T; t += LANES, out += step) {
        const float *row[LANES];
#if defined KERNEL_bf16
        float rounded[LANES][STRIDE];
        for (size_t i = 0; i < LANES && t + i < T; i++) round_words(n, s, row_of(x, t + i), rounded[i]);
        for (size_t i = 0; i < LANES; i++) row[i] = t + i < T ? rounded[i] : zeros;
        rows_to_lanes(words_of(n), row, 1, out);
#else
        for (size_t i = 0; i < LANES; i++) row[i] = t + i < T ? row_of(x, t + i) : zeros;
        rows_to_lanes(n, row, s, out);
#endif
    }
}

static void pack_rows(size_t T, size_t n, size_t stride, float s, Rows x, float *out)
{
    for (size_t t = 0; t < T; t++, out += stride) {
        const float *row = row_of(x, t);
#if defined KERNEL_bf16
        round_words(n, s, row, out);
#else
        for (size_t i = 0; i < n; i++) out[i] = row[i] * s;
#endif
    }
}

/* The tile for the next of `left` rows; it may reach up to ROW_TILE - 1 rows of zeros beyond them. */
INLINE size_t take_rows(size_t left, size_t groups)
{
    size_t max_rows = wide_rows[groups - 1];
    return left > TAIL && left + TAIL > max_rows ? max_rows : TAIL;
}
INLINE Tile *choose_tile(size_t rows, size_t groups, bool is_short)
{
    return (rows == wide_rows[groups - 1] ? wide : tail)[is_short][groups - 1];
}

/* Where the factors of a tile of FP8 are found. Its block begins at (row, col) of w.
 *   rows        rows of the tile are rows of w, the inner index runs along columns of w (nt)
 *   columns     lanes of the tile are columns of w, the inner index runs along rows (nn)
 *   transposed  lanes of the tile are rows of w, the inner index runs along columns (nt_transposed) */
typedef struct {
    enum { FACTOR_NONE, FACTOR_ROWS, FACTOR_COLUMNS, FACTOR_TRANSPOSED } layout;
    const Weight *w;
    size_t row, col;
} Factors;

#if defined KERNEL_bf16
enum { PART = WEIGHT_BLOCK / PER_WORD }; /* words that share a factor */

/* The factor of row j and group g in part p. Rows of zeros beyond the last row take the factor of the last row. */
INLINE V factor_of(const Factors *f, size_t j, size_t g, size_t p)
{
    size_t along = p * WEIGHT_BLOCK, row = f->row, col = f->col;
    if (f->layout == FACTOR_ROWS) return all(factor_at(f->w, size_min(row + j, f->w->rows - 1), col + along));
    return all(f->layout == FACTOR_COLUMNS ? factor_at(f->w, row + along, col + g * LANES)
                                           : factor_at(f->w, row + g * LANES, col + along));
}

/* FP8 codes are exact in bf16, so they are multiplied unscaled: sum = fma(sum of a part, its factor, sum), part by
 * part. Then the sum of LoRA is added. */
static void tile_of_codes(Tile *multiply, size_t rows, size_t groups, size_t n, size_t r, const float *a, size_t step,
                          const float *b, float *const *out, bool add, TilePrefetch prefetch, const Factors *factors)
{
    float part[MAX_ROWS][LANES * MAX_GROUPS] __attribute__((aligned(64)));
    float sum[MAX_ROWS][LANES * MAX_GROUPS] __attribute__((aligned(64)));
    float *to[MAX_ROWS];
    for (size_t j = 0; j < rows; j++) to[j] = part[j];
    for (size_t p = 0, at = 0; at < n; p++, at += PART) {
        multiply(size_min(PART, n - at), 0, a + at * LANES, step, b + at, to, false, prefetch);
        prefetch.at += prefetch.lines < PART ? PART / prefetch.lines * prefetch.step : PART * 64;
        for (size_t j = 0; j < rows; j++)
            for (size_t g = 0; g < groups; g++) {
                V factor = factor_of(factors, j, g, p), value = load(part[j] + g * LANES);
                store(sum[j] + g * LANES, at ? fma_v(value, factor, load(sum[j] + g * LANES)) : value * factor);
            }
    }
    if (r) multiply(0, r, a + n * LANES, step, b + n, to, false, prefetch);
    for (size_t j = 0; j < rows; j++)
        for (size_t g = 0; g < groups; g++) {
            V value = load(sum[j] + g * LANES);
            if (r) value += load(part[j] + g * LANES);
            store(out[j] + g * LANES, add ? load(out[j] + g * LANES) + value : value);
        }
}
#endif

/* The tile over one block. */
INLINE void multiply_tile(size_t rows, size_t groups, bool is_short, size_t n, size_t r, const float *a, size_t step,
                          const float *b, float *const *out, bool add, TilePrefetch prefetch, const Factors *factors)
{
    Tile *multiply = choose_tile(rows, groups, is_short);
#if defined KERNEL_bf16
    if (factors->layout != FACTOR_NONE) {
        tile_of_codes(multiply, rows, groups, n, r, a, step, b, out, add, prefetch, factors);
        return;
    }
#endif
    (void)factors; /* panels of fp32 are scaled already */
    multiply(n, r, a, step, b, out, add, prefetch);
}

/* ---- nt: lanes are tokens ------------------------------------------------------------------------------------ */

/* Prefetch the n columns of rows t .. of y that sums will go to. They are scattered, and a tile takes long enough. */
INLINE void prefetch_rows(size_t T, size_t t, size_t rows, Rows y, size_t n)
{
    for (size_t stop = size_min(T, t + rows); t < stop; t++)
        for (size_t i = 0; i < n; i += LANES) __builtin_prefetch(row_of(y, t) + i, 1, 2);
}

/* Write one square of sums, transposed, to n <= SQUARE columns of rows t .. of y. */
INLINE void write_square(size_t T, size_t t, size_t n, const float *const row[SQUARE], Rows y, size_t column, bool add)
{
    float square[SQUARE * SQUARE];
    transpose(row, square, SQUARE, 1);
    for (size_t q = 0; q < SQUARE && t + q < T; q++) {
        float *out = row_of(y, t + q) + column;
        const float *from = square + q * SQUARE;
        if (n == SQUARE)
            for (size_t i = 0; i < SQUARE; i++) out[i] = add ? out[i] + from[i] : from[i];
        else
            for (size_t i = 0; i < n; i++) out[i] = add ? out[i] + from[i] : from[i];
    }
}

/* Write sums [column][lanes] of one tile of tokens to y. What lies beyond the last column and token is dropped. */
static void write_out(size_t T, size_t t0, size_t lanes, size_t n, const float *sums, Rows y, bool add)
{
    for (size_t t = 0; t < lanes && t0 + t < T; t += SQUARE)
        for (size_t j = 0; j < n; j += SQUARE) {
            const float *row[SQUARE];
            for (size_t q = 0; q < SQUARE; q++) row[q] = sums + (j + q) * lanes + t;
            write_square(T, t0 + t, size_min(SQUARE, n - j), row, y, j, add);
        }
}

static void nt(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, size_t at,
               size_t n, const GemmLora *lora, float *panel, Prefetch next)
{
    float sums[NT_COLUMNS * LANES * MAX_GROUPS] __attribute__((aligned(64)));
    size_t columns = end - begin, words = words_of(n), r = lora ? lora->r : 0, all_words = words + r, groups, rows;
    for (size_t j = 0; j < columns; j++) {
        fill_line(w, begin + j, at, n, panel + j * STRIDE);
        if (r) memcpy(panel + j * STRIDE + words, lora_line(lora, begin + j), r * sizeof *panel);
    }
    for (size_t j = columns; j < columns + ROW_TILE; j++) memset(panel + j * STRIDE, 0, all_words * sizeof *panel);
    for (size_t t = 0; t < T; t += groups * LANES) {
        groups = take_groups((T - t + LANES - 1) / LANES);
        const float *x = packed + t * all_words;
        if (add) prefetch_rows(T, t, groups * LANES, rows_right(y, begin), columns);
        for (size_t j = 0, call = 0; j < columns; j += rows, call++) {
            float *out[MAX_ROWS];
            TilePrefetch prefetch = {(const char *)(x + (groups + call) * LANES * all_words), words,
                                     0}; /* x of the next tile */
            if (call >= groups) prefetch = take_prefetch(&next, words, x);
            rows = take_rows(columns - j, groups);
            for (size_t q = 0; q < rows; q++) out[q] = sums + (j + q) * groups * LANES;
            Factors factors = {w->dtype == DTYPE_F8_E4M3 ? FACTOR_ROWS : FACTOR_NONE, w, begin + j, at};
            multiply_tile(rows, groups, false, words, r, x, all_words * LANES, panel + j * STRIDE, out, false, prefetch,
                          &factors);
        }
        write_out(T, t, groups * LANES, columns, sums, rows_right(y, begin), add);
    }
}

/* ---- nn, and nt with W transposed: lanes are columns of y ------------------------------------------------ */

/* A panel [group][n words, r floats][LANES], groups `step` floats apart. */
typedef struct {
    const float *data;
    size_t step, n, r, columns;
    Factors factors;
} LanesPanel;

/* One tile: rows t .. of y, `groups` groups of columns from group g on. What lies outside of y is written to `spare`.
 * */
static void nn_tile(size_t T, size_t t, size_t rows, Rows y, bool add, const float *x, bool is_short, LanesPanel panel,
                    size_t g, size_t groups, TilePrefetch prefetch)
{
    float spare[MAX_ROWS][LANES * MAX_GROUPS] __attribute__((aligned(64)));
    size_t column = g * LANES, columns = size_min(panel.columns - column, groups * LANES);
    bool whole = columns == groups * LANES;
    size_t direct = whole ? size_min(rows, T - t) : 0;
    float *out[MAX_ROWS];
    for (size_t q = 0; q < MAX_ROWS; q++) out[q] = spare[q];
    for (size_t q = 0; q < direct; q++) out[q] = row_of(y, t + q) + column;
    prefetch_rows(T, t, direct, rows_right(y, column), columns);
    for (size_t q = direct; q < rows; q++) memset(spare[q], 0, sizeof spare[q]); /* add reads it */
    Factors factors = panel.factors;
    if (factors.layout == FACTOR_COLUMNS) factors.col += column;
    if (factors.layout == FACTOR_TRANSPOSED) factors.row += column;
    multiply_tile(rows, groups, is_short, panel.n, panel.r, panel.data + g * panel.step, panel.step, x, out,
                  whole && add, prefetch, &factors);
    for (size_t q = 0; !whole && q < rows && t + q < T; q++) {
        float *to = row_of(y, t + q) + column;
        for (size_t i = 0; i < columns; i++) to[i] = add ? to[i] + spare[q][i] : spare[q][i];
    }
}

/* All rows times a panel, ROWS_AT_ONCE rows at a time, which stay in L2 beside the panel. With a short inner length
 * nearly all traffic is y: then few rows at a time, whose columns are written as a stream. */
static void rows_times_panel(size_t T, Rows y, bool add, const float *packed, size_t stride, LanesPanel panel,
                             Prefetch next)
{
    size_t all_groups = (panel.columns + LANES - 1) / LANES, groups, rows;
    bool is_short = stride == SHORT_STRIDE;
    size_t at_once = is_short ? SHORT_ROWS_AT_ONCE : ROWS_AT_ONCE;
    for (size_t first = 0; first < T; first += at_once)
        for (size_t g = 0; g < all_groups; g += groups) {
            groups = take_groups(all_groups - g);
            for (size_t t = first, stop = size_min(T, first + at_once); t < stop; t += rows) {
                rows = take_rows(stop - t, groups);
                nn_tile(stop, t, rows, y, add, packed + t * stride, is_short, panel, g, groups,
                        take_prefetch(&next, panel.n, panel.data + g * panel.step));
            }
        }
}

static void nn(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, size_t at,
               size_t n, const GemmLora *lora, float *panel, Prefetch next)
{
    size_t words = words_of(n), r = lora ? lora->r : 0, step = (words + r) * LANES + LANES;
    for (size_t i = 0; i < n; i += PER_WORD)
        fill_column(w, at + i, size_min(PER_WORD, n - i), begin, end - begin, panel + i / PER_WORD * LANES, step);
    for (size_t p = 0; p < r; p++) /* rows of A */
        for (size_t j = begin; j < end; j += LANES)
            memcpy(panel + (j - begin) / LANES * step + (words + p) * LANES, lora->M + p * w->cols + j,
                   size_min(LANES, end - j) * sizeof *panel);
    Factors factors = {w->dtype == DTYPE_F8_E4M3 ? FACTOR_COLUMNS : FACTOR_NONE, w, at, begin};
    rows_times_panel(T, rows_right(y, begin), add, packed, packed_stride(words_of(w->rows)),
                     (LanesPanel){panel, step, words, r, end - begin, factors}, next);
}

static void nt_transposed(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end,
                          size_t at, size_t n, const GemmLora *lora, float *panel, Prefetch next)
{
    static const float zeros[BLOCK];
    float wide_row[LANES][BLOCK];
    size_t words = words_of(n), r = lora ? lora->r : 0, step = (words + r) * LANES + LANES;
    bool floats = w->dtype == DTYPE_F32 && (uintptr_t)w->data % sizeof(float) == 0; /* nothing to widen */
    for (size_t j = begin; j < end; j += LANES) {
        const float *row[LANES];
        float *out = panel + (j - begin) / LANES * step;
        for (size_t i = 0; i < LANES; i++) {
            row[i] = j + i >= end ? zeros : floats ? (const float *)w->data + (j + i) * w->cols + at : wide_row[i];
            if (j + i < end && !floats) fill_line(w, j + i, at, n, wide_row[i]);
        }
        rows_to_lanes(words, row, 1, out);
        for (size_t i = 0; i < LANES && r; i++) row[i] = j + i < end ? lora_line(lora, j + i) : zeros;
        if (r) rows_to_lanes(r, row, 1, out + words * LANES);
    }
    Factors factors = {w->dtype == DTYPE_F8_E4M3 ? FACTOR_TRANSPOSED : FACTOR_NONE, w, begin, at};
    rows_times_panel(T, rows_right(y, begin), add, packed, packed_stride(words_of(w->cols)),
                     (LanesPanel){panel, step, words, r, end - begin, factors}, next);
}

const GemmKernels PASTE(gemm_kernels_,
                        KERNEL) = {PER_WORD, pack_lanes, pack_rows, nt, nt_transposed, PASTE(nt_few_, KERNEL), nn};
