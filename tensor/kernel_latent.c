/* Attention over shared keys for one instruction set: KERNEL is avx512, avx2, plain, or bf16 (AVX512-BF16). latent.h
 * says what each function computes. Lanes are heads; in values and scatter they are columns. Bits do not depend on the
 * tile, so instruction sets may have different tiles. */
#include "tensor/kernel_words.h"

#include "tensor/latent.h"

#include <math.h>

#if defined KERNEL_avx512 /* and bf16 */
enum { KEYS = 12, SUM_HEADS = 8, SUM_PARTS = 3, ADD_KEYS = 8, ADD_PARTS = 3 };
#elif defined KERNEL_avx2
enum { KEYS = 6, SUM_HEADS = 4, SUM_PARTS = 3, ADD_KEYS = 4, ADD_PARTS = 3 };
#else
enum { KEYS = 2, SUM_HEADS = 4, SUM_PARTS = 2, ADD_KEYS = 4, ADD_PARTS = 2 };
#endif
enum { SUM_KEYS = 64, LANE_WORDS = LANES / PER_WORD };

/* ---- scores -------------------------------------------------------------------------------------------------- */

INLINE void score_tile(size_t words, const float *const key[KEYS], const float *q, float *S)
{
    V sum[KEYS][PARTS];
#pragma GCC unroll 12
    for (size_t j = 0; j < KEYS; j++)
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++) sum[j][p] = all(0);
    for (size_t k = 0; k < words; k++, q += LANES) {
        V x[PARTS];
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++) x[p] = load(q + p * W);
#pragma GCC unroll 12
        for (size_t j = 0; j < KEYS; j++) {
            V y = word_at(key[j] + k);
#pragma GCC unroll 4
            for (size_t p = 0; p < PARTS; p++) sum[j][p] = add_product(sum[j][p], x[p], y);
        }
    }
#pragma GCC unroll 12
    for (size_t j = 0; j < KEYS; j++)
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++) store(S + j * LANES + p * W, sum[j][p]);
}

static void scores(size_t n, const uint32_t *ids, const float *keys, size_t stride, size_t words, const float *q,
                   float *S)
{
    for (size_t j = 0; j < n; j += KEYS, S += KEYS * LANES) {
        const float *key[KEYS];
        for (size_t i = 0; i < KEYS; i++) key[i] = keys + ids[size_min(j + i, n - 1)] * stride;
        score_tile(words, key, q, S);
    }
}

/* ---- between the products ------------------------------------------------------------------------------------ */

/* One vector of words along keys, from one key or, in bf16, two; the second key is missing at the end of an odd n. */
INLINE void put_words(size_t j, size_t n, float *rows, const V x[PER_WORD][PARTS])
{
#if defined KERNEL_bf16
    store(rows + j / 2 * LANES, bf16_pairs(x[0][0], j + 1 < n ? x[1][0] : all(0)));
#else
    (void)n;
    for (size_t p = 0; p < PARTS; p++) store(rows + j * LANES + p * W, x[0][p]);
#endif
}

static void softmax(size_t n, float *S, float *lse)
{
    V max[PARTS], sum[PARTS], inverse[PARTS];
    for (size_t p = 0; p < PARTS; p++) max[p] = all(-INFINITY), sum[p] = all(0);
    for (size_t j = 0; j < n; j++)
        for (size_t p = 0; p < PARTS; p++) max[p] = max_v(load(S + j * LANES + p * W), max[p]);
    for (size_t from = 0; from < n; from += SUM_KEYS) {
        V some[PARTS];
        for (size_t p = 0; p < PARTS; p++) some[p] = all(0);
        for (size_t j = from; j < size_min(from + SUM_KEYS, n); j++)
            for (size_t p = 0; p < PARTS; p++) {
                V e = exp_v(load(S + j * LANES + p * W) - max[p]);
                store(S + j * LANES + p * W, e);
                some[p] += e;
            }
        for (size_t p = 0; p < PARTS; p++) sum[p] += some[p];
    }
    float max_lanes[LANES], sum_lanes[LANES];
    for (size_t p = 0; p < PARTS; p++) {
        store(max_lanes + p * W, max[p]);
        store(sum_lanes + p * W, sum[p]);
        inverse[p] = all(1) / sum[p];
    }
    for (size_t i = 0; i < LANES; i++) lse[i] = (float)((double)max_lanes[i] + log((double)sum_lanes[i]));
    for (size_t j = 0; j < n; j += PER_WORD) {
        V P[PER_WORD][PARTS];
        for (size_t i = 0; i < PER_WORD; i++)
            for (size_t p = 0; p < PARTS; p++) P[i][p] = load(S + (j + i) * LANES + p * W) * inverse[p];
        put_words(j, n, S, (const V(*)[PARTS])P);
    }
}

/* LANES numbers as words along lanes: LANE_WORDS of them. */
INLINE void put_lanes(float *out, const V x[PARTS])
{
#if defined KERNEL_bf16
    _mm256_storeu_si256((__m256i *)(void *)out, (__m256i)_mm512_cvtneps_pbh((__m512)x[0]));
#else
    for (size_t p = 0; p < PARTS; p++) store(out + p * W, x[p]);
#endif
}

static void gradients(size_t n, float *S, const float *dP, const float *lse, const float *delta, float *coef)
{
    for (size_t j = 0; j < n; j += PER_WORD) {
        V dS[PER_WORD][PARTS];
        for (size_t i = 0; i < PER_WORD; i++) {
            V P[PARTS];
            for (size_t p = 0; p < PARTS; p++) {
                size_t at = (j + i) * LANES + p * W;
                P[p] = exp_v(load(S + at) - load(lse + p * W));
                dS[i][p] = P[p] * (load(dP + at) - load(delta + p * W));
            }
            if (j + i == n) break; /* beyond the last of an odd number */
            put_lanes(coef, dS[i]);
            put_lanes(coef + LANE_WORDS, P);
            coef += 2 * LANE_WORDS;
        }
        put_words(j, n, S, (const V(*)[PARTS])dS);
    }
}

/* ---- sums over keys ------------------------------------------------------------------------------------------ */

#if defined KERNEL_bf16
static void interleave_keys(size_t n, const uint32_t *ids, const float *keys, size_t stride, float *out)
{
    static const uint16_t order[2][2 * LANES] = {{0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                  8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
                                                 {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                  24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    __m512i low = _mm512_loadu_si512(order[0]), high = _mm512_loadu_si512(order[1]);
    for (size_t j = 0; j < n; j += 2) {
        const float *first = keys + ids[j] * stride, *second = keys + ids[size_min(j + 1, n - 1)] * stride;
        for (size_t k = 0; k < stride; k += LANES, out += 2 * LANES) {
            __m512i a = _mm512_loadu_si512(first + k), b = _mm512_loadu_si512(second + k);
            _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(out + LANES, _mm512_permutex2var_epi16(a, high, b));
        }
    }
}
#else
#define interleave_keys NULL
#endif

/* A tile of SUM_HEADS heads and `parts` vectors of columns. */
INLINE void value_tile(size_t parts, size_t n_rows, const uint32_t *ids, const float *x, size_t stride, const float *P,
                       bool add, size_t n_heads, float *o, size_t o_stride)
{
    V sum[SUM_HEADS][SUM_PARTS];
#pragma GCC unroll 8
    for (size_t h = 0; h < SUM_HEADS; h++)
#pragma GCC unroll 3
        for (size_t p = 0; p < parts; p++) sum[h][p] = add && h < n_heads ? load(o + h * o_stride + p * W) : all(0);
    for (size_t j = 0; j < n_rows; j++, P += LANES) {
        const float *row = x + (ids ? ids[j] : j) * stride;
        V y[SUM_PARTS];
#pragma GCC unroll 3
        for (size_t p = 0; p < parts; p++) y[p] = load(row + p * W);
#pragma GCC unroll 8
        for (size_t h = 0; h < SUM_HEADS; h++) {
            V word = word_at(P + h);
#pragma GCC unroll 3
            for (size_t p = 0; p < parts; p++) sum[h][p] = add_product(sum[h][p], y[p], word);
        }
    }
#pragma GCC unroll 8
    for (size_t h = 0; h < SUM_HEADS; h++)
#pragma GCC unroll 3
        for (size_t p = 0; p < parts; p++)
            if (h < n_heads) store(o + h * o_stride + p * W, sum[h][p]);
}

static void values(size_t n_rows, const uint32_t *ids, const float *x, size_t stride, size_t columns, const float *P,
                   bool add, size_t n_heads, float *o, size_t o_stride)
{
    for (size_t c = 0, parts; c < columns; c += parts * W) {
        size_t left = (columns - c + W - 1) / W;
        parts = left >= SUM_PARTS ? SUM_PARTS : left;
        for (size_t h = 0; h < n_heads; h += SUM_HEADS) {
            float *to = o + h * o_stride + c;
            if (parts == 3)
                value_tile(3, n_rows, ids, x + c, stride, P + h, add, n_heads - h, to, o_stride);
            else if (parts == 2)
                value_tile(2, n_rows, ids, x + c, stride, P + h, add, n_heads - h, to, o_stride);
            else
                value_tile(1, n_rows, ids, x + c, stride, P + h, add, n_heads - h, to, o_stride);
        }
    }
}

/* ---- sums over heads ----------------------------------------------------------------------------------------- */

static void pack_heads(size_t n_heads, size_t columns, const float *x, size_t x_stride, float *out, size_t stride)
{
    for (size_t h = 0; h < n_heads; h += PER_WORD, x += PER_WORD * x_stride, out += stride)
        for (size_t c = 0; c < columns; c += W) {
#if defined KERNEL_bf16
            store(out + c, bf16_pairs(load(x + c), h + 1 < n_heads ? load(x + x_stride + c) : all(0)));
#else
            store(out + c, load(x + c));
#endif
        }
}

/* Add the words of one group of heads to a tile of `keys` keys and `parts` vectors of columns. */
INLINE void add_words(size_t keys, size_t parts, size_t words, const float *coef, const float *x, size_t stride,
                      V sum[ADD_KEYS][ADD_PARTS])
{
    for (size_t h = 0; h < words; h++, x += stride) {
        V y[ADD_PARTS];
#pragma GCC unroll 3
        for (size_t p = 0; p < parts; p++) y[p] = load(x + p * W);
#pragma GCC unroll 8
        for (size_t j = 0; j < keys; j++) {
            V word = word_at(coef + j * 2 * LANE_WORDS + h);
#pragma GCC unroll 3
            for (size_t p = 0; p < parts; p++) sum[j][p] = add_product(sum[j][p], y[p], word);
        }
    }
}

/* A tile of `keys` keys, n of which exist. */
INLINE void scatter_tile(size_t keys, size_t parts, const LatentSums *from, const float *coef, size_t c, bool both,
                         size_t n, const uint32_t *ids, float *dx, size_t dx_stride)
{
    V sum[ADD_KEYS][ADD_PARTS];
#pragma GCC unroll 8
    for (size_t j = 0; j < keys; j++)
#pragma GCC unroll 3
        for (size_t p = 0; p < parts; p++) sum[j][p] = all(0);
    for (size_t h = 0; h < from->n_heads; h += LANES, coef += from->group_step) {
        size_t words = words_of(size_min(LANES, from->n_heads - h));
        add_words(keys, parts, words, coef, from->q + h / PER_WORD * from->q_stride + c, from->q_stride, sum);
        if (both)
            add_words(keys, parts, words, coef + LANE_WORDS, from->d_o + h / PER_WORD * from->o_stride + c,
                      from->o_stride, sum);
    }
#pragma GCC unroll 8
    for (size_t j = 0; j < keys; j++)
#pragma GCC unroll 3
        for (size_t p = 0; p < parts; p++)
            if (j < n)
                store(dx + ids[j] * dx_stride + c + p * W, load(dx + ids[j] * dx_stride + c + p * W) + sum[j][p]);
}

INLINE void scatter_columns(size_t parts, const LatentSums *from, size_t c, bool both, size_t n, const uint32_t *ids,
                            float *dx, size_t dx_stride)
{
    const float *coef = from->coef;
    for (; n > ADD_KEYS / 2; ids += ADD_KEYS, coef += ADD_KEYS * 2 * LANE_WORDS) {
        size_t some = size_min(n, ADD_KEYS);
        scatter_tile(ADD_KEYS, parts, from, coef, c, both, some, ids, dx, dx_stride);
        n -= some;
    }
    if (n) scatter_tile(ADD_KEYS / 2, parts, from, coef, c, both, n, ids, dx, dx_stride);
}

static void scatter(const LatentSums *from, size_t n, const uint32_t *ids, float *dx, size_t dx_stride)
{
    for (size_t c = 0, parts; c < from->K; c += parts * W) {
        bool both = c < from->C;
        size_t left = ((both ? from->C : from->K) - c + W - 1) / W;
        parts = left >= ADD_PARTS ? ADD_PARTS : left;
        if (parts == 3)
            scatter_columns(3, from, c, both, n, ids, dx, dx_stride);
        else if (parts == 2)
            scatter_columns(2, from, c, both, n, ids, dx, dx_stride);
        else
            scatter_columns(1, from, c, both, n, ids, dx, dx_stride);
    }
}

const LatentKernels PASTE(latent_kernels_, KERNEL) = {
    &PASTE(gemm_kernels_, KERNEL), scores, softmax, gradients, interleave_keys, values, pack_heads, scatter};
