/* The operations of a layer, one at a time, forward and backward, with the weights of a model and on all threads:
 * their rates relative to the peak of their path and to the memory's bandwidth. */
#ifndef GRAFT_BENCH_OPERATIONS_H
#define GRAFT_BENCH_OPERATIONS_H

#include "bench/report.h"

/* Rounds are interleaved; each number is a median of wall time. Uses the current path and number of threads.
 *   directory   a model with an indexer and routed experts in layer 1
 *   memory_gbs  the bandwidth to compare with, GB/s */
MUST_USE Err *operations_measure(BenchReport *report, const char *directory, double memory_gbs);

#endif
