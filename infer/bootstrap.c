/* Draw b takes its random numbers from (seed, b), so the result is the same for any number of threads.
 * Source: Efron and Tibshirani 1993, section 13.3. */
#include "infer/bootstrap.h"

#include "base/memory.h"
#include "base/rng.h"

#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear interpolation between the two nearest of the sorted values, as numpy.quantile does by default. */
static double quantile(size_t n, const double *sorted, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

static double draw(uint64_t key, size_t n, const double *top, const double *bottom)
{
    double above = 0, below = 0;
    for (size_t i = 0; i < n; i++) {
        size_t j = rng_below(key, i, n);
        above += top[j];
        below += bottom[j];
    }
    return above / below;
}

Err *bootstrap(Interval *interval, size_t n, const double *top, const double *bottom, size_t n_draws, double level,
               uint64_t seed)
{
    double *draws, above = 0, below = 0;
    uint64_t key = rng_name(seed, "bootstrap");
    for (size_t i = 0; i < n; i++) {
        above += top[i];
        below += bottom[i];
    }
    *interval = (Interval){above / below, above / below, above / below};
    if (n == 0 || n_draws == 0) return NULL;
    TRY(mem_new(&draws, n_draws, sizeof *draws));
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < n_draws; b++) draws[b] = draw(rng_key(key, b), n, top, bottom);
    qsort(draws, n_draws, sizeof *draws, ascending);
    interval->low = quantile(n_draws, draws, (1 - level) / 2);
    interval->high = quantile(n_draws, draws, (1 + level) / 2);
    free(draws);
    return NULL;
}
