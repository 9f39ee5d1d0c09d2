/* How fast this machine multiplies rows with frozen weights, by the number of rows: what plans are made of. */
#ifndef GRAFT_TENSOR_RATES_H
#define GRAFT_TENSOR_RATES_H

#include "base/machine.h"

/* GFLOP/s of all cores on the compute path in force, for MACHINE_ROWS numbers of rows: y = x W' and dx = dy W in turn,
 * each thread with BF16 matrices of its own that come from memory, and row counts that scatter by half, as those of
 * experts do. Time that other programs took is left out. About a second. Fails: ERR_MEMORY. */
MUST_USE Err *rates_measure(double gflops[MACHINE_ROWS]);

#endif
