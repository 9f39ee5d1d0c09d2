/* The peak of this moment, fp32 or pairs of bf16: vectors in registers, nothing but fused multiply and add. Clocks and neighbours move
 * it, so measure it beside what is compared with it. Time that other programs took is left out. */
#ifndef GRAFT_BASE_PEAK_H
#define GRAFT_BASE_PEAK_H

#include <omp.h>
#include <stdbool.h>
#include <time.h>

/* Seconds that the calling thread has run. */
static inline double peak_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#if defined __x86_64__
#include <immintrin.h>

/* Multiply-adds per second of the calling thread: 12 chains hide the latency. */
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

/* bf16: only where dispatch_init("bf16") said yes. */
static inline double peak_of_thread(bool bf16, int rounds)
{
    __builtin_cpu_init();
    return bf16 ? peak_bf16(rounds) : __builtin_cpu_supports("avx512f") ? peak_avx512(rounds) : peak_avx2(rounds);
}
#else
static inline double peak_of_thread(bool bf16, int rounds) /* then figures are multiply-adds per nanosecond */
{
    (void)bf16, (void)rounds;
    return 1e9;
}
#endif

/* The same of the whole team at once. */
static inline double peak_of_team(bool bf16, int rounds)
{
    double sum = 0;
#pragma omp parallel reduction(+ : sum)
    sum += peak_of_thread(bf16, rounds);
    return sum;
}

#endif
