/* Weights converted to words (kernel_words.h), a row or a column of a panel at a time. For kernel_gemm*.c only.
 *
 *   fp32   F32, BF16 and FP8 are widened to floats; FP8 is multiplied with its scale
 *   bf16   BF16 is copied; FP8 codes become bf16 (exactly), without their scale: tiles apply it to sums
 *
 *   fill_line    columns of one row of W, words side by side: for panels whose rows are rows of W (nt)
 *   fill_column  columns of one row of W, or of the two rows of a bf16 pair, LANES words side by side: for panels whose
 *                lanes are columns of W (nn)
 *
 * Weights need not be aligned, and no byte beyond the end of a weight is read. */
#ifndef GRAFT_TENSOR_KERNEL_WEIGHTS_H
#define GRAFT_TENSOR_KERNEL_WEIGHTS_H

#include "tensor/kernel_words.h"

/* The r floats of B for column j of y; zeros where the LoRA does not reach the column. */
INLINE const float *lora_line(const GemmLora *lora, size_t j)
{
    static const float zeros[SHORT];
    return j >= lora->first && j - lora->first < lora->rows ? lora->M + (j - lora->first) * lora->r : zeros;
}

/* The factor of the block that holds an element; FP8 only. */
INLINE float factor_at(const Weight *w, size_t row, size_t col)
{
    size_t blocks = (w->cols + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK;
    float factor;
    memcpy(&factor, (const char *)w->scale + (row / WEIGHT_BLOCK * blocks + col / WEIGHT_BLOCK) * sizeof factor,
           sizeof factor);
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
    half = _mm512_mask_permutexvar_epi16(half, _mm512_cmplt_epi16_mask(size, _mm512_set1_epi16(8)), size,
                                         _mm512_loadu_si512(subnormal));
    half = _mm512_mask_mov_epi16(half, _mm512_cmpeq_epi16_mask(size, _mm512_set1_epi16(0x7F)),
                                 _mm512_set1_epi16(0x7FC0));
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

INLINE void bf16_line(DType dtype, size_t n, const char *data, float *out)
{
    for (size_t i = 0; i < n; i += HALVES)
        _mm512_storeu_si512(out + i / 2,
                            halves_of(dtype, size_min(n - i, HALVES), data + i * (dtype == DTYPE_BF16 ? 2 : 1)));
}

/* Columns [col, col + n) of one row to words of neighbouring columns, whole vectors of words. */
static inline void fill_line(const Weight *w, size_t row, size_t col, size_t n, float *out)
{
    const char *data = (const char *)w->data + (row * w->cols + col) * dtype_bytes(w->dtype);
    if (w->dtype == DTYPE_BF16)
        bf16_line(DTYPE_BF16, n, data, out);
    else
        bf16_line(DTYPE_F8_E4M3, n, data, out);
}

INLINE void bf16_column(DType dtype, size_t n, const char *first, const char *second, float *out, size_t step)
{
    static const uint16_t order[2][HALVES] = {{0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                               8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
                                              {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                               24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    __m512i low = _mm512_loadu_si512(order[0]), high = _mm512_loadu_si512(order[1]);
    size_t bytes = dtype == DTYPE_BF16 ? 2 : 1;
    for (size_t i = 0; i < n; i += HALVES, out += 2 * step) {
        size_t take = size_min(n - i, HALVES);
        __m512i a = halves_of(dtype, take, first + i * bytes);
        __m512i b = second ? halves_of(dtype, take, second + i * bytes) : _mm512_setzero_si512();
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
        if (take > LANES) _mm512_storeu_si512(out + step, _mm512_permutex2var_epi16(a, high, b));
    }
}

/* Columns [col, col + n) of one row, or of two, to one word for each column; groups of LANES columns are `step` floats
 * apart. */
static inline void fill_column(const Weight *w, size_t row, size_t rows, size_t col, size_t n, float *out, size_t step)
{
    size_t bytes = dtype_bytes(w->dtype);
    const char *first = (const char *)w->data + (row * w->cols + col) * bytes,
               *second = rows == 2 ? first + w->cols * bytes : NULL;
    if (w->dtype == DTYPE_BF16)
        bf16_column(DTYPE_BF16, n, first, second, out, step);
    else
        bf16_column(DTYPE_F8_E4M3, n, first, second, out, step);
}

/* n values times s, rounded, to whole vectors of words. */
static inline void round_words(size_t n, float s, const float *x, float *out)
{
    V factor = all(s);
    float rest[HALVES] = {0};
    for (; n >= HALVES; n -= HALVES, x += HALVES, out += LANES)
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)(load(x + LANES) * factor),
                                                              (__m512)(load(x) * factor)));
    if (!n) return;
    memcpy(rest, x, n * sizeof *x);
    __mmask32 valid = (1u << n) - 1;
    __m512i last = (__m512i)_mm512_cvtne2ps_pbh((__m512)(load(rest + LANES) * factor), (__m512)(load(rest) * factor));
    _mm512_storeu_si512(out, _mm512_maskz_mov_epi16(valid, last));
}

#else
/* ---- words of fp32 ------------------------------------------------------------------------------------------- */

/* A mask for lanes first .. first + W - 1 of LANES: all ones below n. */
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
/* As half precision, whose exponent is one bit wider and its bias 8 larger: shifted, a value is 2^-8 of itself,
 * subnormal or not; S.1111.111, no NaN there, gets all bits of the exponent. */
INLINE V widen_f8(const void *data, V scale)
{
    __m256i half = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(data)), 7);
    half = _mm256_and_si256(half, _mm256_set1_epi16((short)0xBFFF)); /* one copy of the sign */
    __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_or_si256(half, _mm256_set1_epi16((short)0x8000)),
                                            _mm256_set1_epi16((short)0xBF80));
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

/* Exponents move from bias 7 to 127. A subnormal m 2^-9 is made as (1 + m/8) 2^-6 - 2^-6, so no slow fp32 subnormals.
 * */
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
    return dtype == DTYPE_BF16  ? (V)(load_16(data) << 16)
           : dtype == DTYPE_F32 ? widen_f32(data)
                                : widen_f8(data, scale);
}

/* n values of one dtype to floats; groups of LANES are `step` floats apart, and zeros fill the last group.
 * beyond: how many values after the n may be read. */
INLINE void widen_values(DType dtype, size_t bytes, size_t n, size_t beyond, const char *data, float scale, float *out,
                         size_t step)
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

/* Columns [col, col + n) of one row to floats; groups of LANES are `step` floats apart. col is a multiple of LANES. */
static inline void widen(const Weight *w, size_t row, size_t col, size_t n, float *out, size_t step)
{
    size_t bytes = dtype_bytes(w->dtype), at = row * w->cols + col, beyond = w->rows * w->cols - at - n;
    const char *data = (const char *)w->data + at * bytes;
    if (w->dtype == DTYPE_BF16) widen_values(DTYPE_BF16, 2, n, beyond, data, 1, out, step);
    if (w->dtype == DTYPE_F32) widen_values(DTYPE_F32, 4, n, beyond, data, 1, out, step);
    if (w->dtype != DTYPE_F8_E4M3) return;
    for (size_t i = 0, take; i < n; i += take) { /* factors change at multiples of WEIGHT_BLOCK */
        take = size_min(n - i, WEIGHT_BLOCK - (col + i) % WEIGHT_BLOCK);
        widen_values(DTYPE_F8_E4M3, 1, take, beyond + n - i - take, data + i, factor_at(w, row, col + i),
                     out + i / LANES * step, step);
    }
}

static inline void fill_line(const Weight *w, size_t row, size_t col, size_t n, float *out)
{
    widen(w, row, col, n, out, LANES);
}

static inline void fill_column(const Weight *w, size_t row, size_t rows, size_t col, size_t n, float *out, size_t step)
{
    (void)rows; /* one */
    widen(w, row, col, n, out, step);
}
#endif

/* LANES rows of n columns, transposed to [n][LANES] and multiplied by s. */
static inline void rows_to_lanes(size_t n, const float *row[LANES], float s, float *out)
{
    size_t k = 0;
    for (; k + SQUARE <= n; k += SQUARE)
        for (size_t i = 0; i < LANES; i += SQUARE) {
            const float *in[SQUARE];
            for (size_t q = 0; q < SQUARE; q++) in[q] = row[i + q] + k;
            transpose(in, out + k * LANES + i, LANES, s);
        }
    for (size_t left = n % SQUARE; left; left--, k++)
        for (size_t i = 0; i < LANES; i++) out[k * LANES + i] = s == 1 ? row[i][k] : row[i][k] * s;
}

#endif
