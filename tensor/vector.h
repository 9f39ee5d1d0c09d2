/* One vector of floats or integers for the instruction set that KERNEL names: avx512, avx2 or plain. For kernel*.c only. */
#ifndef GRAFT_TENSOR_VECTOR_H
#define GRAFT_TENSOR_VECTOR_H

#include "tensor/kernel.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

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

/* x = n ln 2 + r, |r| <= ln 2 / 2, exp(r) by the polynomial of Cephes, expf (Moshier, netlib.org/cephes), error below
 * 2 ulp; n ln2_hi is exact without fma, too. Below -104 the result is zero, above 89 infinite; in between 2^n is applied
 * in two factors, as it may be no normal number itself. Dead lanes compute exp(0): subnormal results cost a hundred
 * cycles each. */
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
