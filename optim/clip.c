#include "optim/clip.h"

#include <math.h>

/* Eight lanes whatever the CPU: lane i adds elements i, i + 8, ...; then lanes are added in order. */
enum { LANES = 8, MIN_SQUARES_FOR_THREADS = 1 << 18 };

static double chunk_sum(size_t n, const float *g)
{
    double lane[LANES] = {0}, sum = 0;
    size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) lane[j] += (double)g[i + j] * (double)g[i + j];
    }
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)g[i] * (double)g[i];
    for (size_t j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

void clip_chunk_sums(size_t n, const float *g, double *sums)
{
#pragma omp parallel for schedule(static) if (n >= MIN_SQUARES_FOR_THREADS)
    for (size_t i = 0; i < n; i += CLIP_CHUNK)
        sums[i / CLIP_CHUNK] = chunk_sum(n - i < CLIP_CHUNK ? n - i : CLIP_CHUNK, g + i);
}

double clip_norm(size_t n_chunks, const double *sums)
{
    double sum = 0;
    for (size_t i = 0; i < n_chunks; i++) sum += sums[i];
    return sqrt(sum);
}

double clip_scale(double norm, double max_norm)
{
    if (max_norm == 0) return 1;
    return fmin(1, max_norm / (norm + 1e-6));
}
