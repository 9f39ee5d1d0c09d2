/* The operations of a layer, one at a time, forward and backward, on a model's own weights and all threads: rates against the
 * peak of the path that they take, and against the memory's bandwidth. */
#ifndef GRAFT_BENCH_OPERATIONS_H
#define GRAFT_BENCH_OPERATIONS_H

#include "bench/report.h"

/* Rounds are interleaved, each number is a median of wall time. directory: a model with routed experts in layer 1.
 * memory_gbs: bandwidth to compare with. Uses the path and the threads that are set. */
MUST_USE Err *operations_measure(Report *report, const char *directory, double memory_gbs);

#endif
