/* Sums of squares in double, chunk by chunk, and the clipping factor:
 *
 *     sum_c = sum of g_i^2 over chunk c
 *     norm  = sqrt(sum of sum_c, in order of c)
 *     scale = min(1, max_norm / (norm + 1e-6))
 *
 * Within a chunk, eight lanes are summed whatever the CPU's width: lane j adds elements j, j + 8, ...; then the lanes
 * are added in order. A chunk's sum so depends on its elements alone, and chunks may be computed by any rank and any
 * thread.
 * Source: torch.nn.utils.clip_grad_norm_ for the factor. */
#include "optim/clip.h"

#include <math.h>

enum { CLIP_LANES = 8, MIN_SQUARES_FOR_THREADS = 1 << 18 }; /* the latter: elements */

static double sum_of_squares(size_t n, const float *g)
{
    double lane[CLIP_LANES] = {0}, sum = 0;
    size_t whole = n / CLIP_LANES * CLIP_LANES;
    for (size_t i = 0; i < whole; i += CLIP_LANES) {
#pragma omp simd
        for (size_t j = 0; j < CLIP_LANES; j++) lane[j] += (double)g[i + j] * (double)g[i + j];
    }
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)g[i] * (double)g[i];
    for (size_t j = 0; j < CLIP_LANES; j++) sum += lane[j];
    return sum;
}

void clip_chunk_sums(size_t n, const float *g, double *sums)
{
#pragma omp parallel for schedule(static) if (n >= MIN_SQUARES_FOR_THREADS)
    for (size_t i = 0; i < n; i += CLIP_CHUNK)
        sums[i / CLIP_CHUNK] = sum_of_squares(n - i < CLIP_CHUNK ? n - i : CLIP_CHUNK, g + i);
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
