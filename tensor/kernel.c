/* Products and row functions for one instruction set: KERNEL is avx512, avx2 or plain.
 *
 * Product: a panel of W is widened to fp32 where it stays in L2; a tile of ROWS x GROUPS vectors of sums then stays in
 * registers while the inner index runs. Lanes are tokens in nt (W is never transposed), columns of W in nn. The sums of
 * any element do not depend on the tile that held it, so tiles may differ between instruction sets.
 *
 * exp: x = n ln 2 + r, |r| <= ln 2 / 2, exp(r) by the polynomial of Cephes, expf (Moshier, netlib.org/cephes), error
 * below 2 ulp; n ln2_hi is exact without fma, too. */
#include "tensor/kernel.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/* ---- one vector ---------------------------------------------------------------------------------------------- */

#if defined KERNEL_avx512
#include <immintrin.h>
enum { W = 16, MAX_GROUPS = 3, WIDE_1 = 24, WIDE_2 = 12, WIDE_3 = 8, TAIL = 8, MAX_ROWS = 24 };
#elif defined KERNEL_avx2
#include <immintrin.h>
enum { W = 8, MAX_GROUPS = 1, WIDE_1 = 6, TAIL = 4, MAX_ROWS = 6 };
#else
enum { W = 4, MAX_GROUPS = 1, WIDE_1 = 2, TAIL = 2, MAX_ROWS = 2 };
#endif
enum { PARTS = LANES / W, CHUNK = 4096, RUN = 192, SHORT_RUN = 24 };

typedef float V __attribute__((vector_size(W * 4)));
typedef int32_t I __attribute__((vector_size(W * 4)));

INLINE V fma_v(V a, V b, V c)
{
#if defined KERNEL_avx512
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined KERNEL_avx2
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE V all(float x) { return x - (V){0}; }
INLINE I all_bits(int32_t x) { return x - (I){0}; }
INLINE V load(const float *x)
{
    V v;
    memcpy(&v, x, sizeof v);
    return v;
}
INLINE void store(float *x, V v) { memcpy(x, &v, sizeof v); }
INLINE V pick(I mask, V yes, V no) { return (V)((mask & (I)yes) | (~mask & (I)no)); }

/* Lanes first .. first + W - 1 of LANES: all ones below n. */
INLINE I before(size_t n, size_t first)
{
    static const int32_t lane[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    I at;
    memcpy(&at, lane + first, sizeof at);
    return at < all_bits((int32_t)n);
}

/* n < W values and a filling, or the first n values of a vector. */
INLINE V load_part(size_t n, const float *x, float fill)
{
    float lane[W];
    for (size_t i = 0; i < W; i++) lane[i] = i < n ? x[i] : fill;
    return load(lane);
}
INLINE void store_part(size_t n, float *x, V v)
{
    float lane[W];
    store(lane, v);
    for (size_t i = 0; i < n; i++) x[i] = lane[i];
}

/* ---- widening ------------------------------------------------------------------------------------------------ */

/* W unsigned integers of 16 or 8 bits, not aligned. */
INLINE I load_16(const void *data)
{
#if defined KERNEL_avx512
    return (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256(data));
#elif defined KERNEL_avx2
    return (I)_mm256_cvtepu16_epi32(_mm_loadu_si128(data));
#else
    uint16_t x[W];
    memcpy(x, data, sizeof x);
    return (I){x[0], x[1], x[2], x[3]};
#endif
}

INLINE I load_8(const void *data)
{
#if defined KERNEL_avx512
    return (I)_mm512_cvtepu8_epi32(_mm_loadu_si128(data));
#elif defined KERNEL_avx2
    return (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64(data));
#else
    uint8_t x[W];
    memcpy(x, data, sizeof x);
    return (I){x[0], x[1], x[2], x[3]};
#endif
}

/* Exponents move from bias 7 to 127. A subnormal m 2^-9 is made as (1 + m/8) 2^-6 - 2^-6, so no slow fp32 subnormals. */
INLINE V widen_f8(const void *data, V scale)
{
    I x = load_8(data), size = x & 0x7F;
    I small = size < all_bits(8), nan = size == all_bits(0x7F);
    V value = (V)((size << 20) + ((120 - small) << 23)) - pick(small, all(0x1p-6f), all(0));
    I bits = (I)value | (x & 0x80) << 24 | (nan & 0x7FC00000);
    return (V)bits * scale;
}

INLINE V widen_f32(const void *data)
{
    V v;
    memcpy(&v, data, sizeof v);
    return v;
}

INLINE V widen_one(DType dtype, const char *data, V scale)
{
    return dtype == DTYPE_BF16 ? (V)(load_16(data) << 16) : dtype == DTYPE_F32 ? widen_f32(data) : widen_f8(data, scale);
}

/* n values of one dtype: every LANES of them go `step` floats further; the last LANES are filled up with zeros.
 * beyond: values that may be read after the n. */
INLINE void widen_run(DType dtype, size_t bytes, size_t n, size_t beyond, const char *data, float scale, float *out, size_t step)
{
    V factor = all(scale);
    char rest[LANES * 4];
    for (; n >= LANES; n -= LANES, data += LANES * bytes, out += step)
        for (size_t p = 0; p < PARTS; p++) store(out + p * W, widen_one(dtype, data + p * W * bytes, factor));
    if (!n) return;
    if (n + beyond < LANES) {
        memset(rest, 0, sizeof rest);
        data = memcpy(rest, data, n * bytes);
    }
    for (size_t p = 0; p < PARTS; p++)
        store(out + p * W, (V)((I)widen_one(dtype, data + p * W * bytes, factor) & before(n, p * W)));
}

/* Columns [col, col + n) of one row; col is a multiple of LANES. Scales change at multiples of 128. */
static void widen(const Weight *w, size_t row, size_t col, size_t n, float *out, size_t step)
{
    const char *data = w->data;
    size_t at = row * w->cols + col, beyond = w->rows * w->cols - at - n;
    size_t blocks = (w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK;
    if (w->dtype == DTYPE_BF16) widen_run(DTYPE_BF16, 2, n, beyond, data + at * 2, 1, out, step);
    if (w->dtype == DTYPE_F32) widen_run(DTYPE_F32, 4, n, beyond, data + at * 4, 1, out, step);
    if (w->dtype != DTYPE_F8_E4M3) return;
    for (size_t i = 0; i < n;) {
        size_t left = WEIGHT_BLOCK - (col + i) % WEIGHT_BLOCK, take = left < n - i ? left : n - i;
        float scale;
        memcpy(&scale, (const char *)w->scale + (row / WEIGHT_BLOCK * blocks + (col + i) / WEIGHT_BLOCK) * 4, 4);
        widen_run(DTYPE_F8_E4M3, 1, take, beyond + n - i - take, data + at + i, scale, out + i / LANES * step, step);
        i += take;
    }
}

/* ---- tiles --------------------------------------------------------------------------------------------------- */

/* What a tile fetches into L2 for later, one line for each inner index: runs of `lines` lines, `step` bytes apart. */
typedef struct {
    const char *at;
    size_t lines, step;
} Ahead;

/* out[j][i] (+)= sum over p of a[p][i] b[j][p], i over `groups` groups of LANES, each `step` floats after the last. */
INLINE void tile(size_t groups, size_t rows, size_t ldb, size_t n, const float *a, size_t step, const float *b,
                 float *const *out, bool add, Ahead ahead)
{
    V sum[MAX_ROWS][PARTS * MAX_GROUPS];
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = (V){0};
    for (size_t left = n; left; ahead.at += ahead.step) {
        size_t run = left < ahead.lines ? left : ahead.lines;
        const char *line = ahead.at;
        left -= run;
        for (const float *stop = b + run; b < stop; b++, a += LANES, line += 64) {
            __builtin_prefetch(line, 0, 2);
            V x[PARTS * MAX_GROUPS];
#pragma GCC unroll 4
            for (size_t i = 0; i < groups * PARTS; i++) x[i] = load(a + i / PARTS * step + i % PARTS * W);
#pragma GCC unroll 24
            for (size_t j = 0; j < rows; j++) {
                V y = all(b[j * ldb]);
#pragma GCC unroll 4
                for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = fma_v(x[i], y, sum[j][i]);
            }
        }
    }
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++)
            store(out[j] + i * W, add ? load(out[j] + i * W) + sum[j][i] : sum[j][i]);
}

/* The next rows of a block of W that begins at (row, col): what one tile can fetch, nothing when all are on their way. */
static Ahead fetch(const Weight *w, size_t row, size_t col, size_t rows, size_t lines, size_t *fetched)
{
    size_t bytes = dtype_bytes(w->dtype), done = *fetched;
    if (done >= rows) return (Ahead){w->data, BLOCK, 0};
    *fetched += BLOCK / lines;
    return (Ahead){(const char *)w->data + ((row + done) * w->cols + col) * bytes, lines, w->cols * bytes};
}

typedef void Tile(size_t n, const float *a, size_t step, const float *b, float *const *out, bool add, Ahead ahead);

#define TILE(name, groups, rows, ldb) \
    static void name(size_t n, const float *a, size_t step, const float *b, float *const *out, bool add, Ahead ahead) \
    { \
        tile(groups, rows, ldb, n, a, step, b, out, add, ahead); \
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

/* How many groups the next tile takes: 4 left are better 2 + 2 than 3 + 1. */
INLINE size_t take_groups(size_t left)
{
    return MAX_GROUPS == 1 ? 1 : left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1;
}

INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* A small square, rows to columns: in[i][j] -> out[j][i], times s. */
#if defined KERNEL_plain
enum { SQUARE = 4 };
INLINE void transpose(const float *const in[SQUARE], float *out, size_t step, float s)
{
    for (size_t j = 0; j < SQUARE; j++)
        for (size_t i = 0; i < SQUARE; i++) out[j * step + i] = in[i][j] * s;
}
#else
enum { SQUARE = 8 };
INLINE void transpose(const float *const in[SQUARE], float *out, size_t step, float s)
{
    __m256 factor = _mm256_set1_ps(s), a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = _mm256_mul_ps(_mm256_loadu_ps(in[i]), factor);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) { /* pairs, then fours, then halves */
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + (size_t)i * step, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(out + (size_t)(i + 4) * step, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#endif

/* LANES rows of n columns to [n][LANES]. */
static void rows_to_lanes(size_t n, const float *row[LANES], float s, float *out)
{
    size_t k = 0;
    for (; k + SQUARE <= n; k += SQUARE)
        for (size_t i = 0; i < LANES; i += SQUARE) {
            const float *in[SQUARE];
            for (size_t q = 0; q < SQUARE; q++) in[q] = row[i + q] + k;
            transpose(in, out + k * LANES + i, LANES, s);
        }
    for (; k < n; k++)
        for (size_t i = 0; i < LANES; i++) out[k * LANES + i] = row[i][k] * s;
}

static void pack_lanes(size_t T, size_t n, float s, Rows x, float *out)
{
    static const float zeros[BLOCK];
    for (size_t t = 0; t < T; t += LANES, out += n * LANES) {
        const float *row[LANES];
        for (size_t i = 0; i < LANES; i++) row[i] = t + i < T ? row_of(x, t + i) : zeros;
        rows_to_lanes(n, row, s, out);
    }
}

static void pack_rows(size_t T, size_t n, size_t stride, float s, Rows x, float *out)
{
    for (size_t t = 0; t < T; t++, out += stride) {
        const float *row = row_of(x, t);
        for (size_t i = 0; i < n; i++) out[i] = row[i] * s;
    }
}

/* The tile for the next of `left` rows; it may reach up to ROW_TILE - 1 rows of zeros beyond them. */
INLINE size_t take_rows(size_t left, size_t groups)
{
    size_t most = wide_rows[groups - 1];
    return left > TAIL && left + TAIL > most ? most : TAIL;
}
INLINE Tile *choose_tile(size_t rows, size_t groups, bool brief)
{
    return (rows == wide_rows[groups - 1] ? wide : tail)[brief][groups - 1];
}

/* ---- nt: lanes are tokens ------------------------------------------------------------------------------------ */

/* One square of sums, transposed, to n <= SQUARE columns of rows t .. of y. */
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

/* sums [column][lanes] of one tile of tokens into y. Squares reach beyond the last column and token; that is dropped. */
static void write_out(size_t T, size_t t0, size_t lanes, size_t n, const float *sums, Rows y, bool add)
{
    for (size_t t = 0; t < lanes && t0 + t < T; t += SQUARE)
        for (size_t j = 0; j < n; j += SQUARE) {
            const float *row[SQUARE];
            for (size_t q = 0; q < SQUARE; q++) row[q] = sums + (j + q) * lanes + t;
            write_square(T, t0 + t, least(SQUARE, n - j), row, y, j, add);
        }
}

static void nt(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, size_t at,
               size_t n, float *panel)
{
    float sums[ROWS_SLICE * LANES * MAX_GROUPS] __attribute__((aligned(64)));
    size_t columns = end - begin, groups, rows, fetched = 0;
    bool last = at + n == w->cols; /* then W's next block is in the rows below */
    for (size_t j = 0; j < columns; j++) widen(w, begin + j, at, n, panel + j * STRIDE, LANES);
    for (size_t j = columns; j < columns + ROW_TILE; j++) memset(panel + j * STRIDE, 0, n * sizeof *panel);
    for (size_t t = 0; t < T; t += groups * LANES) {
        groups = take_groups((T - t + LANES - 1) / LANES);
        const float *x = packed + t * n;
        for (size_t j = 0, call = 0; j < columns; j += rows, call++) {
            float *out[MAX_ROWS];
            Ahead ahead = {(const char *)(x + (groups + call) * LANES * n), BLOCK, 0}; /* x of the next tile */
            if (call >= groups) ahead = fetch(w, begin + (last ? columns : 0), last ? 0 : at + n, columns, 16, &fetched);
            rows = take_rows(columns - j, groups);
            for (size_t q = 0; q < rows; q++) out[q] = sums + (j + q) * groups * LANES;
            choose_tile(rows, groups, false)(n, x, n * LANES, panel + j * STRIDE, out, false, ahead);
        }
        write_out(T, t, groups * LANES, columns, sums, rows_right(y, begin), add);
    }
}

/* ---- nn, and nt of short inner length: lanes are columns of y ------------------------------------------------ */

/* A panel [group][n][LANES], groups `step` floats apart, that meets packed x. */
typedef struct {
    const float *data;
    size_t step, n, columns;
} Panel;

/* One tile: rows t .. of y, `groups` groups of columns from group g on. What lies outside of y goes to spare. */
static void nn_tile(size_t T, size_t t, size_t rows, Rows y, bool add, const float *x, bool brief, Panel panel, size_t g,
                    size_t groups, Ahead ahead)
{
    float spare[MAX_ROWS][LANES * MAX_GROUPS] __attribute__((aligned(64)));
    size_t column = g * LANES, columns = least(panel.columns - column, groups * LANES);
    bool whole = columns == groups * LANES;
    size_t direct = whole ? least(rows, T - t) : 0;
    float *out[MAX_ROWS];
    for (size_t q = 0; q < MAX_ROWS; q++) out[q] = spare[q];
    for (size_t q = 0; q < direct; q++) out[q] = row_of(y, t + q) + column;
    for (size_t q = direct; q < rows; q++) memset(spare[q], 0, sizeof spare[q]); /* add reads it */
    choose_tile(rows, groups, brief)(panel.n, panel.data + g * panel.step, panel.step, x, out, whole && add, ahead);
    for (size_t q = 0; !whole && q < rows && t + q < T; q++) {
        float *to = row_of(y, t + q) + column;
        for (size_t i = 0; i < columns; i++) to[i] = add ? to[i] + spare[q][i] : spare[q][i];
    }
}

/* Rows go in runs that stay in L2 beside the panel; of short inner length, where y is all the traffic, in runs of few
 * rows whose columns stream. next: W's next block begins at this row and column. */
static void rows_times_panel(size_t T, Rows y, bool add, const float *packed, size_t stride, Panel panel, const Weight *w,
                             size_t next_row, size_t next_col)
{
    size_t all_groups = (panel.columns + LANES - 1) / LANES, groups, rows, fetched = 0;
    bool brief = stride == SHORT_STRIDE;
    size_t at_once = brief ? SHORT_RUN : RUN;
    for (size_t run = 0; run < T; run += at_once)
        for (size_t g = 0; g < all_groups; g += groups) {
            groups = take_groups(all_groups - g);
            for (size_t t = run, stop = least(T, run + at_once); t < stop; t += rows) {
                rows = take_rows(stop - t, groups);
                nn_tile(stop, t, rows, y, add, packed + t * stride, brief, panel, g, groups,
                        fetch(w, next_row, next_col, panel.n, 8, &fetched));
            }
        }
}

static void nn(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, size_t at,
               size_t n, float *panel)
{
    size_t step = n * LANES + LANES;
    bool last = at + n == w->rows; /* then W's next block is to the right */
    for (size_t r = 0; r < n; r++) widen(w, at + r, begin, end - begin, panel + r * LANES, step);
    rows_times_panel(T, rows_right(y, begin), add, packed, packed_stride(w->rows), (Panel){panel, step, n, end - begin}, w,
                     last ? 0 : at + n, last ? end : begin);
}

static void nt_short(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, float *panel)
{
    static const float zeros[SHORT];
    float wide_row[LANES][SHORT];
    size_t n = w->cols, step = n * LANES;
    bool floats = w->dtype == DTYPE_F32 && (uintptr_t)w->data % sizeof(float) == 0; /* nothing to widen */
    for (size_t j = begin; j < end; j += LANES) {
        const float *row[LANES];
        for (size_t i = 0; i < LANES; i++) {
            row[i] = j + i >= end ? zeros : floats ? (const float *)w->data + (j + i) * n : wide_row[i];
            if (j + i < end && !floats) widen(w, j + i, 0, n, wide_row[i], LANES);
        }
        rows_to_lanes(n, row, 1, panel + (j - begin) * n);
    }
    rows_times_panel(T, rows_right(y, begin), add, packed, SHORT_STRIDE, (Panel){panel, step, n, end - begin}, w, end, 0);
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

/* LANES sums to one, halves onto each other. */
INLINE float fold(const V part[PARTS])
{
    float lane[LANES];
    for (size_t p = 0; p < PARTS; p++) store(lane + p * W, part[p]);
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

/* What is left of a row, filled up to LANES. */
INLINE const float *filled(float lane[LANES], size_t n, const float *x, float fill)
{
    for (size_t i = 0; i < LANES; i++) lane[i] = i < n ? x[i] : fill;
    return lane;
}

/* Long rows are summed in chunks, and chunks in double, so that an error does not grow with the row. */
static float chunk_dot(size_t n, const float *a, const float *b)
{
    V sum[PARTS] = {{0}};
    float rest_a[LANES], rest_b[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) sum[p] = fma_v(load(a + i + p * W), load(b + i + p * W), sum[p]);
    if (i < n) {
        filled(rest_a, n - i, a + i, 0);
        filled(rest_b, n - i, b + i, 0);
        for (size_t p = 0; p < PARTS; p++) sum[p] = fma_v(load(rest_a + p * W), load(rest_b + p * W), sum[p]);
    }
    return fold(sum);
}

static float dot(size_t n, const float *a, const float *b)
{
    double total = 0;
    for (size_t i = 0; i < n; i += CHUNK) total += (double)chunk_dot(least(CHUNK, n - i), a + i, b + i);
    return (float)total;
}

static float chunk_sum(size_t n, const float *x)
{
    V sum[PARTS] = {{0}};
    float rest[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) sum[p] += load(x + i + p * W);
    if (i < n) filled(rest, n - i, x + i, 0);
    for (size_t p = 0; i < n && p < PARTS; p++) sum[p] += load(rest + p * W);
    return fold(sum);
}

static float sum_row(size_t n, const float *x)
{
    double total = 0;
    for (size_t i = 0; i < n; i += CHUNK) total += (double)chunk_sum(least(CHUNK, n - i), x + i);
    return (float)total;
}

/* NaN is passed over. */
static float max_row(size_t n, const float *x)
{
    V most = all(-INFINITY);
    size_t i = 0;
    for (; i + W <= n; i += W) {
        V v = load(x + i);
        most = pick(v > most, v, most);
    }
    if (i < n) {
        V v = load_part(n - i, x + i, -INFINITY);
        most = pick(v > most, v, most);
    }
    float lane[W], best = -INFINITY;
    store(lane, most);
    for (i = 0; i < W; i++) best = lane[i] > best ? lane[i] : best;
    return best;
}

static void axpy(size_t n, float *y, float a, const float *x)
{
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, fma_v(all(a), load(x + i), load(y + i)));
    if (i < n) store_part(n - i, y + i, fma_v(all(a), load_part(n - i, x + i, 0), load_part(n - i, y + i, 0)));
}

static void scale(size_t n, float *y, float a, const float *x)
{
    for (size_t i = 0; i < n; i++) y[i] = a * x[i];
}

/* Below -104 the result is zero, above 89 infinite; in between 2^n is applied in two factors, as it may be no normal
 * number itself. Dead lanes compute exp(0): subnormal results cost a hundred cycles each. */
INLINE V exp_v(V x)
{
    I dead = x < all(-104);
    x = pick(dead, all(0), x);
    x = pick(x > all(89), all(89), x);
    V shifter = all(0x1.8p23f), shifted = fma_v(x, all(0x1.715476p0f), shifter), n = shifted - shifter;
    V r = fma_v(n, all(2.12194440e-4f), fma_v(n, all(-0.693359375f), x));
    V p = all(1.9875691500e-4f);
    p = fma_v(p, r, all(1.3981999507e-3f));
    p = fma_v(p, r, all(8.3334519073e-3f));
    p = fma_v(p, r, all(4.1665795894e-2f));
    p = fma_v(p, r, all(1.6666665459e-1f));
    p = fma_v(p, r, all(5.0000001201e-1f));
    p = fma_v(p, r * r, r) + all(1);
    I power = (I)shifted - (I)shifter, half = power >> 1;
    V y = p * (V)((half + 127) << 23) * (V)((power - half + 127) << 23);
    return (V)((I)y & ~dead);
}

static float chunk_exp(size_t n, float *y, const float *x, float shift)
{
    V sum[PARTS] = {{0}};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) {
            V e = exp_v(load(x + i + p * W) - all(shift));
            if (y) store(y + i + p * W, e);
            sum[p] += e;
        }
    if (i == n) return fold(sum);
    float rest[LANES], result[LANES];
    filled(rest, n - i, x + i, 0);
    for (size_t p = 0; p < PARTS; p++) store(result + p * W, exp_v(load(rest + p * W) - all(shift)));
    for (size_t k = n - i; k < LANES; k++) result[k] = 0;
    for (size_t p = 0; p < PARTS; p++) sum[p] += load(result + p * W);
    if (y) memcpy(y + i, result, (n - i) * sizeof *y);
    return fold(sum);
}

static float exp_row(size_t n, float *y, const float *x, float shift)
{
    double total = 0;
    for (size_t i = 0; i < n; i += CHUNK) total += (double)chunk_exp(least(CHUNK, n - i), y ? y + i : NULL, x + i, shift);
    return (float)total;
}

INLINE V sigmoid_v(V x) { return all(1) / (all(1) + exp_v(-x)); }

static void sigmoid(size_t n, float *y, const float *x)
{
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, sigmoid_v(load(x + i)));
    if (i < n) store_part(n - i, y + i, sigmoid_v(load_part(n - i, x + i, 0)));
}

static void swiglu(size_t n, float *a, const float *g, const float *u)
{
    size_t i = 0;
    for (; i + W <= n; i += W) {
        V gate = load(g + i);
        store(a + i, gate * sigmoid_v(gate) * load(u + i));
    }
    if (i < n) {
        V gate = load_part(n - i, g + i, 0);
        store_part(n - i, a + i, gate * sigmoid_v(gate) * load_part(n - i, u + i, 0));
    }
}

INLINE void swiglu_backward_v(V *dg, V *du, V g, V u, V da)
{
    V sig = sigmoid_v(g);
    *dg = da * u * sig * fma_v(g, all(1) - sig, all(1));
    *du = da * (g * sig);
}

static void swiglu_backward(size_t n, float *dg, float *du, const float *g, const float *u, const float *da)
{
    size_t i = 0;
    V dgate, dup;
    for (; i + W <= n; i += W) {
        swiglu_backward_v(&dgate, &dup, load(g + i), load(u + i), load(da + i));
        store(dg + i, dgate);
        store(du + i, dup);
    }
    if (i == n) return;
    swiglu_backward_v(&dgate, &dup, load_part(n - i, g + i, 0), load_part(n - i, u + i, 0), load_part(n - i, da + i, 0));
    store_part(n - i, dg + i, dgate);
    store_part(n - i, du + i, dup);
}

const Kernels PASTE(kernels_, KERNEL) = {
    TEXT(KERNEL), pack_lanes, pack_rows, nt, nt_short, nn, dot, sum_row, max_row, axpy, scale, exp_row, sigmoid, swiglu, swiglu_backward,
};
