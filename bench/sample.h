/* What repeats are boiled down to. */
#ifndef GRAFT_BENCH_SAMPLE_H
#define GRAFT_BENCH_SAMPLE_H

#include <stddef.h>

/* The middle one of n > 0 numbers, the lower one of two; x is left sorted. */
double sample_median(size_t n, double *x);

#endif
