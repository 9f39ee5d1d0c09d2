/* Products for one instruction set: KERNEL is avx512, avx2, plain, or bf16 (AVX512-BF16).
 *
 * A panel of W is brought to words where it stays in L2; a tile of ROWS x GROUPS vectors of sums then stays in registers
 * while the inner index runs. Lanes are tokens in nt (W is never transposed), columns of W in nn. The sums of any element
 * do not depend on the tile that held it, so tiles may differ between instruction sets. */
#include "tensor/words.h"

#if defined KERNEL_avx512 /* and bf16 */
enum { MAX_GROUPS = 3, WIDE_1 = 24, WIDE_2 = 12, WIDE_3 = 8, TAIL = 8, MAX_ROWS = 24 };
#elif defined KERNEL_avx2
enum { MAX_GROUPS = 1, WIDE_1 = 6, TAIL = 4, MAX_ROWS = 6 };
#else
enum { MAX_GROUPS = 1, WIDE_1 = 2, TAIL = 2, MAX_ROWS = 2 };
#endif
enum { RUN = 192, SHORT_RUN = 24 };

/* ---- words of W ---------------------------------------------------------------------------------------------- */

/* The factor of the block that holds an element; FP8 only. */
INLINE float factor_at(const Weight *w, size_t row, size_t col)
{
    size_t blocks = (w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK;
    float factor;
    memcpy(&factor, (const char *)w->scale + (row / WEIGHT_BLOCK * blocks + col / WEIGHT_BLOCK) * sizeof factor, sizeof factor);
    return factor;
}

#if defined KERNEL_bf16
/* ---- words of bf16 ------------------------------------------------------------------------------------------- */

enum { HALVES = 2 * LANES };

/* Codes of E4M3 as bf16, exactly: the exponent's bias grows from 7 to 127; subnormal ones come from a table. */
INLINE __m512i halves_of_codes(const char *data)
{
    static const uint16_t subnormal[HALVES] = {0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60}; /* m 2^-9 */
    __m512i code = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)data));
    __m512i size = _mm512_and_si512(code, _mm512_set1_epi16(0x7F));
    __m512i half = _mm512_add_epi16(_mm512_slli_epi16(size, 4), _mm512_set1_epi16(120 << 7));
    half = _mm512_mask_permutexvar_epi16(half, _mm512_cmplt_epi16_mask(size, _mm512_set1_epi16(8)), size, _mm512_loadu_si512(subnormal));
    half = _mm512_mask_mov_epi16(half, _mm512_cmpeq_epi16_mask(size, _mm512_set1_epi16(0x7F)), _mm512_set1_epi16(0x7FC0));
    return _mm512_or_si512(half, _mm512_and_si512(code, _mm512_set1_epi16((short)0x8000)));
}

/* The first n <= HALVES values as bf16, FP8 without their factor, zeros after them. No byte is read beyond the n. */
INLINE __m512i halves_of(DType dtype, size_t n, const char *data)
{
    char rest[HALVES * 2];
    if (n < HALVES) {
        memset(rest, 0, sizeof rest);
        data = memcpy(rest, data, n * (dtype == DTYPE_BF16 ? 2 : 1));
    }
    return dtype == DTYPE_BF16 ? _mm512_loadu_si512(data) : halves_of_codes(data);
}

INLINE void line_run(DType dtype, size_t n, const char *data, float *out)
{
    for (size_t i = 0; i < n; i += HALVES)
        _mm512_storeu_si512(out + i / 2, halves_of(dtype, least(n - i, HALVES), data + i * (dtype == DTYPE_BF16 ? 2 : 1)));
}

/* Columns [col, col + n) of one row to words of neighbouring columns, whole vectors of them. */
static void fill_line(const Weight *w, size_t row, size_t col, size_t n, float *out)
{
    const char *data = (const char *)w->data + (row * w->cols + col) * dtype_bytes(w->dtype);
    if (w->dtype == DTYPE_BF16) line_run(DTYPE_BF16, n, data, out);
    else line_run(DTYPE_F8_E4M3, n, data, out);
}

INLINE void column_run(DType dtype, size_t n, const char *first, const char *second, float *out, size_t step)
{
    static const uint16_t order[2][HALVES] = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    __m512i low = _mm512_loadu_si512(order[0]), high = _mm512_loadu_si512(order[1]);
    size_t bytes = dtype == DTYPE_BF16 ? 2 : 1;
    for (size_t i = 0; i < n; i += HALVES, out += 2 * step) {
        size_t take = least(n - i, HALVES);
        __m512i a = halves_of(dtype, take, first + i * bytes);
        __m512i b = second ? halves_of(dtype, take, second + i * bytes) : _mm512_setzero_si512();
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
        if (take > LANES) _mm512_storeu_si512(out + step, _mm512_permutex2var_epi16(a, high, b));
    }
}

/* Columns [col, col + n) of one row, or of two, to a word for each column: every LANES of them `step` floats further. */
static void fill_column(const Weight *w, size_t row, size_t rows, size_t col, size_t n, float *out, size_t step)
{
    size_t bytes = dtype_bytes(w->dtype);
    const char *first = (const char *)w->data + (row * w->cols + col) * bytes, *second = rows == 2 ? first + w->cols * bytes : NULL;
    if (w->dtype == DTYPE_BF16) column_run(DTYPE_BF16, n, first, second, out, step);
    else column_run(DTYPE_F8_E4M3, n, first, second, out, step);
}

/* n values times s, rounded, to whole vectors of words. */
static void round_words(size_t n, float s, const float *x, float *out)
{
    V factor = all(s);
    float rest[HALVES] = {0};
    for (; n >= HALVES; n -= HALVES, x += HALVES, out += LANES)
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)(load(x + LANES) * factor), (__m512)(load(x) * factor)));
    if (!n) return;
    memcpy(rest, x, n * sizeof *x);
    __mmask32 valid = (1u << n) - 1;
    __m512i last = (__m512i)_mm512_cvtne2ps_pbh((__m512)(load(rest + LANES) * factor), (__m512)(load(rest) * factor));
    _mm512_storeu_si512(out, _mm512_maskz_mov_epi16(valid, last));
}

#else
/* ---- words of fp32 ------------------------------------------------------------------------------------------- */

/* Lanes first .. first + W - 1 of LANES: all ones below n. */
INLINE I before(size_t n, size_t first)
{
    static const int32_t lane[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    I at;
    memcpy(&at, lane + first, sizeof at);
    return at < all_bits((int32_t)n);
}

/* W unsigned integers of 16 bits, not aligned. */
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

#if defined KERNEL_avx512
/* As half precision, whose exponent is one bit wider and its bias 8 larger: shifted, a value is 2^-8 of itself, subnormal
 * or not; S.1111.111, no NaN there, gets all bits of the exponent. */
INLINE V widen_f8(const void *data, V scale)
{
    __m256i half = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(data)), 7);
    half = _mm256_and_si256(half, _mm256_set1_epi16((short)0xBFFF)); /* one copy of the sign */
    __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_or_si256(half, _mm256_set1_epi16((short)0x8000)), _mm256_set1_epi16((short)0xBF80));
    half = _mm256_mask_add_epi16(half, nan, half, _mm256_set1_epi16(0x4000));
    return (V)_mm512_cvtph_ps(half) * all(0x1p8f) * scale;
}
#else
/* W unsigned bytes. */
INLINE I load_8(const void *data)
{
#if defined KERNEL_avx2
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
#endif

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

/* Columns [col, col + n) of one row: every LANES of them `step` floats further. col is a multiple of LANES. */
static void widen(const Weight *w, size_t row, size_t col, size_t n, float *out, size_t step)
{
    size_t bytes = dtype_bytes(w->dtype), at = row * w->cols + col, beyond = w->rows * w->cols - at - n;
    const char *data = (const char *)w->data + at * bytes;
    if (w->dtype == DTYPE_BF16) widen_run(DTYPE_BF16, 2, n, beyond, data, 1, out, step);
    if (w->dtype == DTYPE_F32) widen_run(DTYPE_F32, 4, n, beyond, data, 1, out, step);
    if (w->dtype != DTYPE_F8_E4M3) return;
    for (size_t i = 0, take; i < n; i += take) { /* factors change at multiples of WEIGHT_BLOCK */
        take = least(n - i, WEIGHT_BLOCK - (col + i) % WEIGHT_BLOCK);
        widen_run(DTYPE_F8_E4M3, 1, take, beyond + n - i - take, data + i, factor_at(w, row, col + i), out + i / LANES * step, step);
    }
}

static void fill_line(const Weight *w, size_t row, size_t col, size_t n, float *out) { widen(w, row, col, n, out, LANES); }

static void fill_column(const Weight *w, size_t row, size_t rows, size_t col, size_t n, float *out, size_t step)
{
    (void)rows; /* one */
    widen(w, row, col, n, out, step);
}
#endif

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
                V y = word_at(b + j * ldb);
#pragma GCC unroll 4
                for (size_t i = 0; i < groups * PARTS; i++) sum[j][i] = add_product(sum[j][i], x[i], y);
            }
        }
    }
#pragma GCC unroll 24
    for (size_t j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (size_t i = 0; i < groups * PARTS; i++)
            store(out[j] + i * W, add ? load(out[j] + i * W) + sum[j][i] : sum[j][i]);
}

/* As many rows of what is still to be fetched as n inner steps can; when all are on their way, lanes of the tile itself, which are there. */
static Ahead take_ahead(Fetch *next, size_t n, const float *lanes)
{
    if (next->rows == 0) return (Ahead){(const char *)lanes, n, 0};
    size_t rows = least(next->rows, n > next->lines ? n / next->lines : 1);
    Ahead ahead = {next->at, next->lines, next->step};
    next->at += rows * next->step;
    next->rows -= rows;
    return ahead;
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
        for (size_t i = 0; i < LANES; i++) out[k * LANES + i] = s == 1 ? row[i][k] : row[i][k] * s;
}

static void pack_lanes(size_t T, size_t n, float s, Rows x, float *out)
{
    static const float zeros[BLOCK];
    size_t words = words_of(n);
    for (size_t t = 0; t < T; t += LANES, out += words * LANES) {
        const float *row[LANES];
#if defined KERNEL_bf16
        float rounded[LANES][STRIDE];
        for (size_t i = 0; i < LANES && t + i < T; i++) round_words(n, s, row_of(x, t + i), rounded[i]);
        for (size_t i = 0; i < LANES; i++) row[i] = t + i < T ? rounded[i] : zeros;
        rows_to_lanes(words, row, 1, out);
#else
        for (size_t i = 0; i < LANES; i++) row[i] = t + i < T ? row_of(x, t + i) : zeros;
        rows_to_lanes(words, row, s, out);
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
    size_t most = wide_rows[groups - 1];
    return left > TAIL && left + TAIL > most ? most : TAIL;
}
INLINE Tile *choose_tile(size_t rows, size_t groups, bool brief)
{
    return (rows == wide_rows[groups - 1] ? wide : tail)[brief][groups - 1];
}

/* Where the factors of a tile of FP8 lie: its block begins at (row, col) of w, and
 *   lines    its rows are rows of w and the inner index runs along columns of w (nt);
 *   columns  its lanes are columns of w and the inner index runs along rows (nn);
 *   turned   its lanes are rows of w, the inner length within one block (nt_short). */
typedef struct {
    enum { FACTOR_NONE, FACTOR_LINES, FACTOR_COLUMNS, FACTOR_TURNED } way;
    const Weight *w;
    size_t row, col;
} Factors;

#if defined KERNEL_bf16
enum { PART = WEIGHT_BLOCK / PER_WORD }; /* words that share a factor */

/* Of row j and group g, in part number p. Rows of zeros beyond the last have that of the last. */
INLINE V factor_of(const Factors *f, size_t j, size_t g, size_t p)
{
    size_t along = p * WEIGHT_BLOCK, row = f->row, col = f->col;
    if (f->way == FACTOR_LINES) return all(factor_at(f->w, least(row + j, f->w->rows - 1), col + along));
    return all(f->way == FACTOR_COLUMNS ? factor_at(f->w, row + along, col + g * LANES) : factor_at(f->w, row + g * LANES, col));
}

/* Codes are exact in bf16, so they are multiplied as they are: sum = fma(part's sum, its factor, sum), part by part. */
static void tile_of_codes(Tile *run, size_t rows, size_t groups, size_t n, const float *a, size_t step, const float *b,
                          float *const *out, bool add, Ahead ahead, const Factors *factors)
{
    float part[MAX_ROWS][LANES * MAX_GROUPS] __attribute__((aligned(64)));
    float sum[MAX_ROWS][LANES * MAX_GROUPS] __attribute__((aligned(64)));
    float *to[MAX_ROWS];
    for (size_t j = 0; j < rows; j++) to[j] = part[j];
    for (size_t p = 0, at = 0; at < n; p++, at += PART) {
        run(least(PART, n - at), a + at * LANES, step, b + at, to, false, ahead);
        ahead.at += ahead.lines < PART ? PART / ahead.lines * ahead.step : PART * 64;
        for (size_t j = 0; j < rows; j++)
            for (size_t g = 0; g < groups; g++) {
                V factor = factor_of(factors, j, g, p), value = load(part[j] + g * LANES);
                store(sum[j] + g * LANES, at ? fma_v(value, factor, load(sum[j] + g * LANES)) : value * factor);
            }
    }
    for (size_t j = 0; j < rows; j++)
        for (size_t g = 0; g < groups; g++) {
            V value = load(sum[j] + g * LANES);
            store(out[j] + g * LANES, add ? load(out[j] + g * LANES) + value : value);
        }
}
#endif

/* The tile over one block. */
INLINE void run_tile(size_t rows, size_t groups, bool brief, size_t n, const float *a, size_t step, const float *b,
                     float *const *out, bool add, Ahead ahead, const Factors *factors)
{
    Tile *run = choose_tile(rows, groups, brief);
#if defined KERNEL_bf16
    if (factors->way != FACTOR_NONE) {
        tile_of_codes(run, rows, groups, n, a, step, b, out, add, ahead, factors);
        return;
    }
#endif
    (void)factors; /* panels of fp32 have them multiplied in */
    run(n, a, step, b, out, add, ahead);
}

/* ---- nt: lanes are tokens ------------------------------------------------------------------------------------ */

/* Fetch the n columns of rows t .. that sums will be added to: they are scattered, and a tile is long enough to wait for them. */
INLINE void fetch_rows(size_t T, size_t t, size_t rows, Rows y, size_t n)
{
    for (size_t stop = least(T, t + rows); t < stop; t++)
        for (size_t i = 0; i < n; i += LANES) __builtin_prefetch(row_of(y, t) + i, 1, 2);
}

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
               size_t n, float *panel, Fetch next)
{
    float sums[ROWS_SLICE * LANES * MAX_GROUPS] __attribute__((aligned(64)));
    size_t columns = end - begin, words = words_of(n), groups, rows;
    for (size_t j = 0; j < columns; j++) fill_line(w, begin + j, at, n, panel + j * STRIDE);
    for (size_t j = columns; j < columns + ROW_TILE; j++) memset(panel + j * STRIDE, 0, words * sizeof *panel);
    for (size_t t = 0; t < T; t += groups * LANES) {
        groups = take_groups((T - t + LANES - 1) / LANES);
        const float *x = packed + t * words;
        if (add) fetch_rows(T, t, groups * LANES, rows_right(y, begin), columns);
        for (size_t j = 0, call = 0; j < columns; j += rows, call++) {
            float *out[MAX_ROWS];
            Ahead ahead = {(const char *)(x + (groups + call) * LANES * words), words, 0}; /* x of the next tile */
            if (call >= groups) ahead = take_ahead(&next, words, x);
            rows = take_rows(columns - j, groups);
            for (size_t q = 0; q < rows; q++) out[q] = sums + (j + q) * groups * LANES;
            Factors factors = {w->dtype == DTYPE_F8_E4M3 ? FACTOR_LINES : FACTOR_NONE, w, begin + j, at};
            run_tile(rows, groups, false, words, x, words * LANES, panel + j * STRIDE, out, false, ahead, &factors);
        }
        write_out(T, t, groups * LANES, columns, sums, rows_right(y, begin), add);
    }
}

/* ---- nn, and nt of short inner length: lanes are columns of y ------------------------------------------------ */

/* A panel [group][n][LANES], groups `step` floats apart, that meets packed x. */
typedef struct {
    const float *data;
    size_t step, n, columns;
    Factors factors;
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
    if (add) fetch_rows(T, t, direct, rows_right(y, column), columns);
    for (size_t q = direct; q < rows; q++) memset(spare[q], 0, sizeof spare[q]); /* add reads it */
    Factors factors = panel.factors;
    if (factors.way == FACTOR_COLUMNS) factors.col += column;
    if (factors.way == FACTOR_TURNED) factors.row += column;
    run_tile(rows, groups, brief, panel.n, panel.data + g * panel.step, panel.step, x, out, whole && add, ahead, &factors);
    for (size_t q = 0; !whole && q < rows && t + q < T; q++) {
        float *to = row_of(y, t + q) + column;
        for (size_t i = 0; i < columns; i++) to[i] = add ? to[i] + spare[q][i] : spare[q][i];
    }
}

/* Rows go in runs that stay in L2 beside the panel; of short inner length, where y is all the traffic, in runs of few
 * rows whose columns stream. */
static void rows_times_panel(size_t T, Rows y, bool add, const float *packed, size_t stride, Panel panel, Fetch next)
{
    size_t all_groups = (panel.columns + LANES - 1) / LANES, groups, rows;
    bool brief = stride == SHORT_STRIDE;
    size_t at_once = brief ? SHORT_RUN : RUN;
    for (size_t run = 0; run < T; run += at_once)
        for (size_t g = 0; g < all_groups; g += groups) {
            groups = take_groups(all_groups - g);
            for (size_t t = run, stop = least(T, run + at_once); t < stop; t += rows) {
                rows = take_rows(stop - t, groups);
                nn_tile(stop, t, rows, y, add, packed + t * stride, brief, panel, g, groups,
                        take_ahead(&next, panel.n, panel.data + g * panel.step));
            }
        }
}

static void nn(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, size_t at,
               size_t n, float *panel, Fetch next)
{
    size_t words = words_of(n), step = words * LANES + LANES;
    for (size_t r = 0; r < n; r += PER_WORD)
        fill_column(w, at + r, least(PER_WORD, n - r), begin, end - begin, panel + r / PER_WORD * LANES, step);
    Factors factors = {w->dtype == DTYPE_F8_E4M3 ? FACTOR_COLUMNS : FACTOR_NONE, w, at, begin};
    rows_times_panel(T, rows_right(y, begin), add, packed, packed_stride(words_of(w->rows)),
                     (Panel){panel, step, words, end - begin, factors}, next);
}

static void nt_short(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, float *panel,
                     Fetch next)
{
    static const float zeros[SHORT];
    float wide_row[LANES][SHORT];
    size_t n = w->cols, words = words_of(n), step = words * LANES;
    bool floats = w->dtype == DTYPE_F32 && (uintptr_t)w->data % sizeof(float) == 0; /* nothing to widen */
    for (size_t j = begin; j < end; j += LANES) {
        const float *row[LANES];
        for (size_t i = 0; i < LANES; i++) {
            row[i] = j + i >= end ? zeros : floats ? (const float *)w->data + (j + i) * n : wide_row[i];
            if (j + i < end && !floats) fill_line(w, j + i, 0, n, wide_row[i]);
        }
        rows_to_lanes(words, row, 1, panel + (j - begin) * words);
    }
    Factors factors = {w->dtype == DTYPE_F8_E4M3 ? FACTOR_TURNED : FACTOR_NONE, w, begin, 0};
    rows_times_panel(T, rows_right(y, begin), add, packed, SHORT_STRIDE, (Panel){panel, step, words, end - begin, factors}, next);
}

/* ---- nt for few rows: lanes are columns of y, and W streams through once --------------------------------------- */

enum { TURN = 16, GROUPS = FEW_COLUMNS / LANES, FEW_TILE = 4, LINE = 64 }; /* FEW_TILE: rows whose sums share registers */

/* The chain of each row and column, and FP8's sum over chains. */
typedef struct {
    float chain[FEW_ROWS][FEW_COLUMNS], whole[FEW_ROWS][FEW_COLUMNS];
} __attribute__((aligned(64))) FewSums;

#if defined KERNEL_avx512
enum { ANY_PLACE = 1 }; /* cells may lie unaligned */
#else
enum { ANY_PLACE = 0 };
#endif

/* LANES rows of TURN cells of four bytes, `step` bytes apart, to [TURN][LANES]. */
INLINE void turn_cells(const char *data, size_t step, float *out)
{
#if defined KERNEL_avx512
#pragma GCC unroll 4
    for (size_t c = 0; c < TURN; c += 4, data += 16, out += 4 * LANES) {
        __m512i row[4], pair[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) { /* four cells of rows i, i + 4, i + 8, i + 12: loads put them side by side */
            const char *at = data + i * step;
            row[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)at));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x00F0, _mm_loadu_si128((const void *)(at + 4 * step)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0x0F00, _mm_loadu_si128((const void *)(at + 8 * step)));
            row[i] = _mm512_mask_broadcast_i32x4(row[i], 0xF000, _mm_loadu_si128((const void *)(at + 12 * step)));
        }
        for (size_t i = 0; i < 2; i++) {
            pair[i] = _mm512_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
            pair[2 + i] = _mm512_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
        }
        for (size_t i = 0; i < 2; i++) {
            _mm512_store_si512(out + 2 * i * LANES, _mm512_unpacklo_epi64(pair[2 * i], pair[2 * i + 1]));
            _mm512_store_si512(out + (2 * i + 1) * LANES, _mm512_unpackhi_epi64(pair[2 * i], pair[2 * i + 1]));
        }
    }
#else
    const float *row[LANES];
    for (size_t i = 0; i < LANES; i++) row[i] = (const float *)(const void *)(data + i * step);
    rows_to_lanes(TURN, row, 1, out);
#endif
}

/* The same from any weight: n <= TURN words from element `at` on; zeros for absent rows. */
static void turn_words(const Weight *w, size_t row, size_t rows, size_t at, size_t n, float *out)
{
    static const float zeros[TURN];
    float line[LANES][TURN];
    const float *from[LANES];
    for (size_t i = 0; i < LANES; i++) {
        from[i] = i < rows ? line[i] : zeros;
        if (i < rows) fill_line(w, row + i, at, least(n * PER_WORD, w->cols - at), line[i]);
    }
    rows_to_lanes(n, from, 1, out);
}

/* Chains of `rows` rows of x go on over n cells, each a word, or in fp32 two words of bf16. */
INLINE void few_cells(size_t rows, bool halves, size_t n, const float *x, const float *turned, float chain[][FEW_COLUMNS])
{
    V sum[FEW_TILE][GROUPS * PARTS];
#pragma GCC unroll 4
    for (size_t t = 0; t < rows; t++)
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS * PARTS; g++) sum[t][g] = load(chain[t] + g * W);
    for (size_t i = 0; i < n; i++)
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS * PARTS; g++) {
            V cell = load(turned + (g / PARTS * TURN + i) * LANES + g % PARTS * W);
            V first = halves ? (V)((I)cell << 16) : cell, second = (V)((I)cell & all_bits((int32_t)0xFFFF0000));
#pragma GCC unroll 4
            for (size_t t = 0; t < rows; t++) {
                const float *words = x + t * STRIDE + (halves ? 2 * i : i);
                sum[t][g] = add_product(sum[t][g], first, word_at(words));
                if (halves) sum[t][g] = add_product(sum[t][g], second, word_at(words + 1));
            }
        }
#pragma GCC unroll 4
    for (size_t t = 0; t < rows; t++)
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS * PARTS; g++) store(chain[t] + g * W, sum[t][g]);
}

INLINE void few_rows(size_t T, bool halves, size_t n, const float *x, const float *turned, FewSums *sums)
{
    if (T == 1) few_cells(1, halves, n, x, turned, sums->chain);
    else /* rows beyond T are zeros */
        for (size_t t = 0; t < T; t += FEW_TILE) few_cells(FEW_TILE, halves, n, x + t * STRIDE, turned, sums->chain + t);
}

/* Chains over codes of one factor are done: whole = fma(chain, factor, whole). */
static void few_fold(size_t T, const Weight *w, size_t row, size_t col, bool first, FewSums *sums)
{
    for (size_t g = 0; g < GROUPS && row + g * LANES < w->rows; g++) {
        V factor = all(factor_at(w, row + g * LANES, col));
        for (size_t t = 0; t < T; t++)
            for (size_t i = g * LANES; i < (g + 1) * LANES; i += W) {
                V chain = load(sums->chain[t] + i);
                store(sums->whole[t] + i, first ? chain * factor : fma_v(chain, factor, load(sums->whole[t] + i)));
                store(sums->chain[t] + i, (V){0});
            }
    }
}

/* Lines of W that come after these columns, a few with every turn: rows of `lines` lines, `step` bytes apart. */
typedef struct {
    const char *row;
    size_t step, lines, line;
} Coming;

INLINE void fetch_coming(Coming *c, size_t n)
{
    for (size_t run; n; n -= run) {
        run = least(n, c->lines - c->line);
        for (size_t i = 0; i < run; i++) __builtin_prefetch(c->row + (c->line + i) * LINE, 0, 3);
        c->line += run;
        if (c->line < c->lines) return;
        c->line = 0;
        c->row += c->step;
    }
}

/* Up to FEW_COLUMNS columns of y from `begin` on, and one block of their rows of W. */
typedef struct {
    const Weight *w;
    const char *data; /* of the block */
    size_t begin, columns, at, words, step;
    size_t per_cell;  /* words of a cell */
    bool cells;       /* they lie as they are multiplied */
} Few;

static Few few_of(const Weight *w, size_t begin, size_t end, size_t at, size_t n)
{
    size_t bytes = dtype_bytes(w->dtype), step = w->cols * bytes, per_cell = PER_WORD == 1 && w->dtype == DTYPE_BF16 ? 2 : 1;
    const char *data = (const char *)w->data + begin * step + at * bytes;
    bool aligned = ANY_PLACE || (uintptr_t)data % sizeof(float) == 0, whole = step % sizeof(float) == 0 && end - begin == FEW_COLUMNS;
    return (Few){w, data, begin, end - begin, at, words_of(n), step, per_cell, aligned && whole && per_cell * PER_WORD * bytes == sizeof(float)};
}

/* Words from k on, turned and met by all rows of x; returns how many. */
INLINE size_t few_run(const Few *f, size_t T, const float *packed, size_t k, Coming *coming, FewSums *sums)
{
    float turned[GROUPS][TURN * LANES] __attribute__((aligned(64)));
    size_t bytes = PER_WORD * dtype_bytes(f->w->dtype), take = TURN * f->per_cell;
    bool cells = f->cells && f->words - k >= take;
    if (!cells) take = least(TURN, f->words - k);
    fetch_coming(coming, FEW_COLUMNS * take * bytes / LINE);
    for (size_t g = 0, row = 0; g < GROUPS; g++, row += LANES) {
        if (cells) turn_cells(f->data + row * f->step + k * bytes, f->step, turned[g]);
        else turn_words(f->w, f->begin + row, f->columns > row ? f->columns - row : 0, f->at + k * PER_WORD, take, turned[g]);
    }
    if (cells && f->per_cell == 2) few_rows(T, true, TURN, packed + k, turned[0], sums);
    else few_rows(T, false, take, packed + k, turned[0], sums);
    return take;
}

static void few_columns(size_t T, Rows y, bool add, const float *packed, const Few *f)
{
    FewSums sums = {0};
    bool codes = PER_WORD == 2 && f->w->dtype == DTYPE_F8_E4M3;
    size_t lines = (f->words * PER_WORD * dtype_bytes(f->w->dtype) + LINE - 1) / LINE;
    Coming coming = {f->data + FEW_COLUMNS * f->step, f->step, lines, 0};
    for (size_t k = 0, end; k < f->words; k = end) {
        end = k + few_run(f, T, packed, k, &coming, &sums);
        if (codes && (end * PER_WORD % WEIGHT_BLOCK == 0 || end == f->words))
            few_fold(T, f->w, f->begin, f->at + k * PER_WORD, k * PER_WORD < WEIGHT_BLOCK, &sums);
    }
    for (size_t t = 0; t < T; t++) {
        float *to = row_of(y, t) + f->begin;
        const float *sum = codes ? sums.whole[t] : sums.chain[t];
        for (size_t i = 0; i < f->columns; i++) to[i] = add ? to[i] + sum[i] : sum[i];
    }
}

static void nt_few(size_t T, Rows y, bool add, const float *packed, const Weight *w, size_t begin, size_t end, size_t at, size_t n)
{
    for (; begin < end; begin += FEW_COLUMNS) {
        Few f = few_of(w, begin, least(begin + FEW_COLUMNS, end), at, n);
        few_columns(T, y, add, packed, &f);
    }
}

const Products PASTE(products_, KERNEL) = {PER_WORD, pack_lanes, pack_rows, nt, nt_short, nt_few, nn};
