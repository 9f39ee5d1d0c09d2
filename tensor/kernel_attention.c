/* The softmax of attention, between two products, one tile of scores at a time, for one instruction set: KERNEL is
 * avx512, avx2, plain, or bf16 (AVX512-BF16).
 *
 * Scores and softmax are fp32. In the backward pass P and dS leave as words (block.h). Where words are bf16 pairs, dS
 * is written twice: pairs along keys, for products whose inner index runs over keys, and pairs along queries for the
 * others. Always true: lanes are LANES keys on every CPU, so the bits are the same on every path that fuses multiply
 * and add. Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), the running maximum; Dao et al. 2022
 * (arXiv:2205.14135). */
#include "tensor/kernel_words.h"

#include "tensor/block.h"

#include <math.h>

void PASTE(softmax_, KERNEL)(const ScoreTile *t, float *max, float *sums, float *factor);
void PASTE(softmax_backward_, KERNEL)(const ScoreTile *t, const float *lse, const float *delta);

static size_t seen_by(const ScoreTile *t, size_t i) { return size_min(t->n, i + t->diagonal + 1); }

/* Which of LANES keys from the k-th on query i sees, as bits; the k-th key is the lowest. */
INLINE uint32_t sight(const ScoreTile *t, size_t i, size_t k)
{
    size_t seen = seen_by(t, i);
    uint32_t lanes = k + LANES <= seen ? 0xFFFF : k < seen ? (1u << (seen - k)) - 1 : 0;
    return t->chosen ? lanes & (uint32_t)(t->chosen[i * t->words + k / 64] >> k % 64) : lanes;
}

/* x where a bit is set, else `other`; lanes are those of part p. */
INLINE V where(uint32_t bits, size_t p, V x, V other)
{
#if defined KERNEL_avx512
    (void)p;
    return (V)_mm512_mask_mov_ps((__m512)other, (__mmask16)bits, (__m512)x);
#else
    I bit;
    for (size_t i = 0; i < W; i++) bit[i] = (int32_t)(1u << (p * W + i));
    return pick((all_bits((int32_t)bits) & bit) != all_bits(0), x, other);
#endif
}

#if !defined KERNEL_bf16
INLINE float largest(V x)
{
    float lane[W], best = -INFINITY;
    store(lane, x);
    for (size_t i = 0; i < W; i++) best = lane[i] > best ? lane[i] : best;
    return best;
}

/* The largest score that query i sees; others become -INFINITY. */
static float largest_seen(const ScoreTile *t, size_t i)
{
    V best = all(-INFINITY);
    for (size_t k = 0; k < seen_by(t, i); k += LANES) {
        uint32_t bits = sight(t, i, k);
        for (size_t p = 0; p < PARTS; p++) {
            float *at = t->s + i * BLOCK_STRIDE + k + p * W;
            V s = load(at);
            if (bits != 0xFFFF) store(at, s = where(bits, p, s, all(-INFINITY)));
            best = max_v(s, best);
        }
    }
    return largest(best);
}

static float exp_one(float x)
{
    float lane[W];
    store(lane, exp_v(all(x)));
    return lane[0];
}

void PASTE(softmax_, KERNEL)(const ScoreTile *t, float *max, float *sums, float *factor)
{
    for (size_t i = 0; i < t->m; i++, sums += LANES) {
        float before = max[i], now = largest_seen(t, i), *row = t->s + i * BLOCK_STRIDE;
        if (now > before) max[i] = now;
        factor[i] = now > before ? exp_one(before - now) : 1;
        float shift = max[i] == -INFINITY ? 0 : max[i]; /* no key seen yet: all become zeros */
        V sum[PARTS];
        for (size_t p = 0; p < PARTS; p++) sum[p] = load(sums + p * W) * all(factor[i]);
        size_t k = 0;
        for (; k < seen_by(t, i); k += LANES)
            for (size_t p = 0; p < PARTS; p++) {
                V e = exp_v(load(row + k + p * W) - all(shift));
                store(row + k + p * W, e);
                sum[p] += e;
            }
        if (k < t->n) memset(row + k, 0, (t->n - k) * sizeof *row);
        for (size_t p = 0; p < PARTS; p++) store(sums + p * W, sum[p]);
    }
}

#endif

/* P and dS of LANES keys; zeros where query i does not see one. */
INLINE void score_gradients(const ScoreTile *t, size_t i, size_t k, const float *lse, const float *delta, V P[PARTS],
                            V dS[PARTS])
{
    uint32_t bits = i < t->m ? sight(t, i, k) : 0;
    for (size_t p = 0; p < PARTS; p++) {
        P[p] = dS[p] = all(0);
        if (!bits) continue;
        size_t at = i * BLOCK_STRIDE + k + p * W;
        V s = exp_v(load(t->s + at) - all(lse[i])), ds = s * (load(t->ds + at) - all(delta[i]));
        P[p] = bits == 0xFFFF ? s : where(bits, p, s, all(0));
        dS[p] = bits == 0xFFFF ? ds : where(bits, p, ds, all(0));
    }
}

#if defined KERNEL_bf16
void PASTE(softmax_backward_, KERNEL)(const ScoreTile *t, const float *lse, const float *delta)
{
    for (size_t i = 0; i < t->m; i += 2)
        for (size_t k = 0; k < t->n; k += 2 * LANES) {
            V P[2][2], dS[2][2]; /* [query][half of the keys] */
            for (size_t q = 0; q < 2; q++)
                for (size_t h = 0; h < 2; h++)
                    score_gradients(t, i + q, k + h * LANES, lse, delta, &P[q][h], &dS[q][h]);
            for (size_t h = 0; h < 2; h++) {
                size_t at = i / 2 * BLOCK_STRIDE + k + h * LANES;
                store(t->p_transposed + at, bf16_pairs(P[0][h], P[1][h]));
                store(t->ds_transposed + at, bf16_pairs(dS[0][h], dS[1][h]));
            }
            for (size_t q = 0; q < 2; q++)
                _mm512_storeu_si512(t->ds_rows + (i + q) * BLOCK_STRIDE + k / 2, halves(dS[q][0], dS[q][1]));
        }
}
#else
void PASTE(softmax_backward_, KERNEL)(const ScoreTile *t, const float *lse, const float *delta)
{
    for (size_t i = 0; i < t->m; i++)
        for (size_t k = 0; k < t->n; k += LANES) {
            V P[PARTS], dS[PARTS];
            score_gradients(t, i, k, lse, delta, P, dS);
            for (size_t p = 0; p < PARTS; p++) {
                store(t->s + i * BLOCK_STRIDE + k + p * W, P[p]);
                store(t->ds + i * BLOCK_STRIDE + k + p * W, dS[p]);
            }
        }
}
#endif
