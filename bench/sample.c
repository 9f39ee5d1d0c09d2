/* The median of repeated measurements: one that another program disturbed does not change it much. */
#include "bench/sample.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sample_median(size_t n, double *x)
{
    qsort(x, n, sizeof *x, by_value);
    return x[(n - 1) / 2];
}
