/* Confidence intervals of a mean over records. */
#ifndef GRAFT_INFER_BOOTSTRAP_H
#define GRAFT_INFER_BOOTSTRAP_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double value, low, high;
} Interval;

/* sum(top) / sum(bottom) over n records, and the interval that contains the share `level` of the draws when records are
 * drawn with replacement (percentile bootstrap). Draws depend on the seed and n alone: two calls draw the same records.
 * To compare two models, top[i] is the difference of their figures on record i.
 * Source: Efron and Tibshirani 1993, section 13.3. */
MUST_USE Err *bootstrap(Interval *interval, size_t n, const double *top, const double *bottom, size_t n_draws,
                        double level, uint64_t seed);

#endif
