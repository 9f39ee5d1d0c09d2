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

#endif
