/* One number for repeated measurements. */
#ifndef GRAFT_BENCH_SAMPLE_H
#define GRAFT_BENCH_SAMPLE_H

#include <stddef.h>

/* The median of n > 0 numbers; for even n, the lower of the two in the middle. x is sorted afterwards. */
double sample_median(size_t n, double *x);

#endif
