/* Frozen products and rank-r products on every path of this CPU, one thread, as shares of one core's peak. */
#ifndef GRAFT_BENCH_PRODUCTS_H
#define GRAFT_BENCH_PRODUCTS_H

#include "bench/report.h"

/* Rounds are interleaved, so that a noisy neighbour hits all alike; each number is a median, of processor time.
 * compute NULL: bf16 where there is one, and fp32; else this path alone. Leaves dispatch_init at `compute`. */
MUST_USE Err *products_measure(Report *report, const char *compute);

#endif
