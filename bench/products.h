/* Products with frozen weights and with LoRA matrices on every path of this CPU, on one thread, as shares of one
 * core's peak. */
#ifndef GRAFT_BENCH_PRODUCTS_H
#define GRAFT_BENCH_PRODUCTS_H

#include "bench/report.h"

/* Rounds are interleaved, so that other programs disturb all measurements alike. Each number is a median of processor
 * time.
 *   compute  the path to measure; NULL: bf16, if this CPU has it, and fp32. It is the current path afterwards. */
MUST_USE Err *products_measure(BenchReport *report, const char *compute);

#endif
