/* Words: what a lane multiplies in one step. For kernel_*.c that are compiled for bf16, too.
 *
 *   fp32               a word is a float
 *   bf16 (KERNEL_bf16) a word is a bf16 pair: two numbers that follow each other along the inner index, the first in
 *   the
 *                      lower half. The second is zero where the inner length ends between them.
 *
 * Both are four bytes and share the vectors and arrays of floats. A bf16 pair is only moved as a float, never computed
 * with. */
#ifndef GRAFT_TENSOR_KERNEL_WORDS_H
#define GRAFT_TENSOR_KERNEL_WORDS_H

#include "tensor/vector.h"

#if defined KERNEL_bf16
enum { PER_WORD = 2 };
#else
enum { PER_WORD = 1 };
#endif

INLINE size_t words_of(size_t n) { return (n + PER_WORD - 1) / PER_WORD; }

/* The same word in every lane. */
INLINE V word_at(const float *word)
{
#if defined KERNEL_bf16
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return (V)_mm512_set1_epi32(bits);
#else
    return all(*word);
#endif
}

/* sum + x y. For bf16 pairs fma(x[0], y[0], fma(x[1], y[1], sum)), to nearest, ties to even; subnormal operands and
 * results count as zeros. Source: Intel SDM vol. 2, VDPBF16PS. */
INLINE V add_product(V sum, V x, V y)
{
#if defined KERNEL_bf16
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#else
    return fma_v(x, y, sum);
#endif
}

#if defined KERNEL_bf16
/* Two vectors of floats, rounded to 32 bf16, those of `low` first. */
INLINE __m512i halves(V low, V high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

/* Lane i: the bf16 pair of low[i] and high[i]. */
INLINE V bf16_pairs(V low, V high)
{
    static const uint16_t order[2 * LANES] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                              8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (V)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), halves(low, high));
}
#endif

#endif
