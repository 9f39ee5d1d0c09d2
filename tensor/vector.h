/* Vectors for the instruction set that KERNEL names (avx512, avx2 or plain), so that a kernel is written once. For
 * kernel_*.c only.
 *
 *   V, I    a vector of W floats or 32-bit integers: 16 lanes on avx512, 8 on avx2, 4 on plain
 *   PARTS   vectors for LANES (16) lanes. Sums run over LANES lanes on every CPU, so that they have the same bits
 *   fma_v   rounds once on avx512 and avx2. plain rounds twice: its bits differ
 *
 * Everything is inlined: a function of this file costs what its instructions cost. */
#ifndef GRAFT_TENSOR_VECTOR_H
#define GRAFT_TENSOR_VECTOR_H

#include "tensor/kernel.h"

#include <string.h>

#define INLINE       static inline __attribute__((always_inline))
#define PASTE_(a, b) a##b
#define PASTE(a, b)  PASTE_(a, b)
#define TEXT_(a)     #a
#define TEXT(a)      TEXT_(a)

#if defined KERNEL_avx512
#include <immintrin.h>
enum { W = 16 };
#elif defined KERNEL_avx2
#include <immintrin.h>
enum { W = 8 };
#else
enum { W = 4 };
#endif
enum { PARTS = LANES / W };

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
INLINE V max_v(V a, V b) { return pick(a > b, a, b); }

/* The sum of LANES sums, by halves in the same order on every CPU: (l, l + 8), (l, l + 4), (l, l + 2), (l, l + 1). */
INLINE float fold(const V part[PARTS])
{
#if !defined KERNEL_avx512 && !defined KERNEL_avx2
    V half[2] = {part[0] + part[2], part[1] + part[3]}, four = half[0] + half[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
#else
#if defined KERNEL_avx512
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)part[0]), _mm512_extractf32x8_ps((__m512)part[0], 1));
#else
    __m256 eight = _mm256_add_ps((__m256)part[0], (__m256)part[1]);
#endif
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#endif
}

/* Transpose a small square: in[i][j] -> out[j][i], times s. With s = 1 values are only moved, as words of bf16 need. */
#if !defined KERNEL_avx512 && !defined KERNEL_avx2
enum { SQUARE = 4 };
INLINE void transpose(const float *const in[SQUARE], float *out, size_t step, float s)
{
    for (size_t j = 0; j < SQUARE; j++)
        for (size_t i = 0; i < SQUARE; i++) out[j * step + i] = s == 1 ? in[i][j] : in[i][j] * s;
}
#else
enum { SQUARE = 8 };
INLINE void transpose(const float *const in[SQUARE], float *out, size_t step, float s)
{
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = s == 1 ? _mm256_loadu_ps(in[i]) : _mm256_mul_ps(_mm256_loadu_ps(in[i]), _mm256_set1_ps(s));
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) { /* two by two, then four by four, then halves */
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

/* x = n ln 2 + r, |r| <= ln 2 / 2, exp(r) by the polynomial of Cephes, expf (Moshier, netlib.org/cephes), error below
 * 2 ulp; n ln2_hi is exact without fma, too. Below -104 the result is zero, above 89 infinite; in between 2^n is
 * applied in two factors, because it may not be a normal number itself. Dead lanes (below -104) compute exp(0):
 * subnormal results cost a hundred cycles each. */
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

#endif
