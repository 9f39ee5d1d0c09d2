/* The peak arithmetic rate at this moment, in fp32 or in bf16 pairs: fused multiply-adds of vectors in registers,
 * nothing else. It changes with the clock and with other programs, so measure it next to what is compared with it.
 * It is taken over processor time: time that other programs use does not count. */
#ifndef GRAFT_BASE_PEAK_H
#define GRAFT_BASE_PEAK_H

#include <omp.h>
#include <stdbool.h>
#include <time.h>

/* Processor seconds of the calling thread. */
static inline double peak_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

enum { PEAK_ROUNDS = 1000000 }; /* for a measurement of some milliseconds */

#if defined __x86_64__
#include <immintrin.h>

/* Multiply-adds per second of the calling thread. 12 independent chains hide the latency. */
__attribute__((target("avx512f"))) static inline double peak_avx512(int rounds)
{
    __m512 c[12], x = _mm512_set1_ps(0.999f);
    for (int i = 0; i < 12; i++) c[i] = _mm512_set1_ps((float)i);
    double start = peak_clock();
    for (int n = 0; n < rounds; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) c[i] = _mm512_fmadd_ps(c[i], x, x);
    double seconds = peak_clock() - start;
    for (int i = 1; i < 12; i++) c[0] = _mm512_add_ps(c[0], c[i]);
    volatile float keep = _mm512_reduce_add_ps(c[0]);
    (void)keep;
    return (double)rounds * 12 * 16 / seconds;
}

__attribute__((target("avx2,fma"))) static inline double peak_avx2(int rounds)
{
    __m256 c[12], x = _mm256_set1_ps(0.999f);
    for (int i = 0; i < 12; i++) c[i] = _mm256_set1_ps((float)i);
    double start = peak_clock();
    for (int n = 0; n < rounds; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) c[i] = _mm256_fmadd_ps(c[i], x, x);
    double seconds = peak_clock() - start;
    for (int i = 1; i < 12; i++) c[0] = _mm256_add_ps(c[0], c[i]);
    volatile float keep = _mm256_cvtss_f32(c[0]);
    (void)keep;
    return (double)rounds * 12 * 8 / seconds;
}

__attribute__((target("avx512f,avx512bf16"))) static inline double peak_bf16(int rounds)
{
    __m512 c[12];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3F003F00); /* 0.5, 0.5 */
    for (int i = 0; i < 12; i++) c[i] = _mm512_set1_ps((float)i);
    double start = peak_clock();
    for (int n = 0; n < rounds; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) c[i] = _mm512_dpbf16_ps(c[i], x, x);
    double seconds = peak_clock() - start;
    for (int i = 1; i < 12; i++) c[0] = _mm512_add_ps(c[0], c[i]);
    volatile float keep = _mm512_reduce_add_ps(c[0]);
    (void)keep;
    return (double)rounds * 12 * 32 / seconds;
}

/* bf16: only where dispatch_init("bf16") has returned true. */
static inline double peak_of_thread(bool bf16, int rounds)
{
    __builtin_cpu_init();
    return bf16 ? peak_bf16(rounds) : __builtin_cpu_supports("avx512f") ? peak_avx512(rounds) : peak_avx2(rounds);
}
#else
static inline double peak_of_thread(bool bf16,
                                    int rounds) /* so that a share of the peak is multiply-adds per nanosecond */
{
    (void)bf16, (void)rounds;
    return 1e9;
}
#endif

/* The sum over all threads of the OpenMP team, which run at the same time. */
static inline double peak_of_team(bool bf16, int rounds)
{
    double sum = 0;
#pragma omp parallel reduction(+ : sum)
    sum += peak_of_thread(bf16, rounds);
    return sum;
}

#endif
