/* The indexer's scores and choice for one instruction set: KERNEL is avx512, avx2 or plain.
 *
 * Scores: lanes are keys, LANES of them a group. A tile of QUERIES queries and up to GROUPS groups stays in registers
 * while the dot products of one head run; then ReLU and the head's weight are applied, and the result is added to the
 * scores. Every dot product is one chain of fused multiply-adds, and heads are added in order.
 *
 * Choice: floats are ordered by an integer: sign and magnitude made one signed number, zeros made equal, NaN below
 * -INFINITY. The k-th largest is found bit by bit from the highest bit, counting the keys that are not below. It is
 * known before the last bit when exactly k keys are not below. */
#include "tensor/vector.h"

#if defined KERNEL_avx512
enum { QUERIES = 8, GROUPS = 3 };
#elif defined KERNEL_avx2
enum { QUERIES = 4, GROUPS = 1 };
#else
enum { QUERIES = 2, GROUPS = 1 };
#endif

/* ---- scores -------------------------------------------------------------------------------------------------- */

/* One head for the queries of a tile. */
INLINE void index_tile(size_t groups, size_t dim, const float *q, const float *keys, const float *w, size_t w_stride,
                       float *score, size_t score_stride)
{
    V dot[QUERIES][GROUPS * PARTS];
#pragma GCC unroll 8
    for (size_t i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
        for (size_t p = 0; p < groups * PARTS; p++) dot[i][p] = all(0);
    for (size_t k = 0; k < dim; k++, q += INDEX_QUERIES, keys += LANES) {
        V x[GROUPS * PARTS];
#pragma GCC unroll 4
        for (size_t p = 0; p < groups * PARTS; p++) x[p] = load(keys + p / PARTS * dim * LANES + p % PARTS * W);
#pragma GCC unroll 8
        for (size_t i = 0; i < QUERIES; i++) {
            V y = all(q[i]);
#pragma GCC unroll 4
            for (size_t p = 0; p < groups * PARTS; p++) dot[i][p] = fma_v(y, x[p], dot[i][p]);
        }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
        for (size_t p = 0; p < groups * PARTS; p++) {
            float *to = score + i * score_stride + p * W;
            store(to, fma_v(all(w[i * w_stride]), pick(dot[i][p] > all(0), dot[i][p], all(0)), load(to)));
        }
}

static void index_scores(const IndexBlock *b)
{
    for (size_t g = 0, groups; g < b->n_groups; g += groups) {
        size_t left = b->n_groups - g;
        groups = left >= GROUPS ? GROUPS : left;
        for (size_t i = 0; i < b->n; i += QUERIES) {
            float *score = b->score + i * b->stride + g * LANES;
            for (size_t j = 0; j < QUERIES; j++) memset(score + j * b->stride, 0, groups * LANES * sizeof *score);
            for (size_t h = 0; h < b->n_heads; h++) {
                const float *q = b->q + h * b->dim * INDEX_QUERIES + i, *keys = b->keys + g * b->dim * LANES,
                            *w = b->w + i * b->n_heads + h;
                if (groups == 3)
                    index_tile(GROUPS == 3 ? 3 : 1, b->dim, q, keys, w, b->n_heads, score, b->stride);
                else if (groups == 2)
                    index_tile(GROUPS == 3 ? 2 : 1, b->dim, q, keys, w, b->n_heads, score, b->stride);
                else
                    index_tile(1, b->dim, q, keys, w, b->n_heads, score, b->stride);
            }
        }
    }
}

/* ---- choice -------------------------------------------------------------------------------------------------- */

INLINE I order_of(V x)
{
    I bits = (I)(x + all(0)), key = bits ^ ((bits >> 31) & 0x7FFFFFFF); /* -0 becomes 0 */
    I nan = (bits & 0x7FFFFFFF) > all_bits(0x7F800000);
    return (key & ~nan) | (all_bits(INT32_MIN) & nan);
}

INLINE I load_keys(const int32_t *key)
{
    I v;
    memcpy(&v, key, sizeof v);
    return v;
}

/* One bit for each lane whose mask is all ones. */
INLINE uint64_t lanes_set(I mask)
{
#if defined KERNEL_avx512
    return (uint64_t)_mm512_movepi32_mask((__m512i)mask);
#elif defined KERNEL_avx2
    return (uint64_t)(uint32_t)_mm256_movemask_ps((__m256)mask);
#else
    uint64_t bits = 0;
    for (size_t i = 0; i < W; i++) bits |= (uint64_t)(mask[i] & 1) << i;
    return bits;
#endif
}

/* The orders of x; after the last, up to a whole group, the lowest of all, which is never chosen. */
static void order_all(size_t n, const float *x, int32_t *key)
{
    size_t i = 0;
    for (; i + W <= n; i += W) {
        I v = order_of(load(x + i));
        memcpy(key + i, &v, sizeof v);
    }
    float rest[W];
    memcpy(rest, x + i, (n - i) * sizeof *x);
    for (size_t j = n - i; j < W; j++) rest[j] = 0;
    I v = order_of(load(rest));
    for (size_t j = 0; i + j < n; j++) key[i + j] = v[j];
    for (size_t j = n; j % LANES; j++) key[j] = INT32_MIN;
}

static size_t count_from(size_t n, const int32_t *key, int32_t min_key)
{
    I count[PARTS];
    int32_t lane[W];
    size_t sum = 0;
    for (size_t p = 0; p < PARTS; p++) count[p] = all_bits(0);
    for (size_t i = 0; i < n; i += LANES)
        for (size_t p = 0; p < PARTS; p++) count[p] -= load_keys(key + i + p * W) >= all_bits(min_key);
    for (size_t p = 0; p < PARTS; p++) {
        memcpy(lane, count + p, sizeof lane);
        for (size_t j = 0; j < W; j++) sum += (size_t)lane[j];
    }
    return sum;
}

/* The largest order that at least k keys reach, or a smaller one that exactly k keys reach. */
static int32_t threshold_of(size_t n, size_t k, const int32_t *key, size_t *reach)
{
    uint32_t found = 0; /* as unsigned: INT32_MIN is 0 */
    *reach = n;
    for (uint32_t bit = 0x80000000; bit && *reach != k; bit >>= 1) {
        size_t count = count_from(n, key, (int32_t)((found | bit) ^ 0x80000000));
        if (count < k) continue;
        found |= bit;
        *reach = count;
    }
    return (int32_t)(found ^ 0x80000000);
}

static void top_k_set(size_t n, size_t k, uint64_t *bits, const float *x, int32_t *key)
{
    size_t reach, ties = 0, surplus;
    order_all(n, x, key);
    int32_t threshold = threshold_of(n, k, key, &reach);
    surplus = reach - k; /* this many of the last keys that equal the threshold are not chosen */
    if (surplus) ties = reach - count_from(n, key, threshold + 1) - surplus;
    for (size_t i = 0; i < n; i += 64) {
        uint64_t chosen = 0, equal = 0;
        for (size_t j = 0; j < 64 && i + j < n; j += W) {
            I v = load_keys(key + i + j);
            chosen |= lanes_set(v >= all_bits(threshold)) << j;
            if (surplus) equal |= lanes_set(v == all_bits(threshold)) << j;
        }
        for (uint64_t left = equal; left; left &= left - 1) {
            if (ties)
                ties--;
            else
                chosen &= ~(left & -left);
        }
        bits[i / 64] = n - i < 64 ? chosen & (((uint64_t)1 << (n - i)) - 1) : chosen;
    }
}

const IndexKernels PASTE(index_kernels_, KERNEL) = {index_scores, top_k_set};
