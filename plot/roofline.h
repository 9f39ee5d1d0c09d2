/* The roofline of a machine with measured operations below it, from the records of `graft bench --json`
 * (bench/report.h).
 *
 *     GFLOP/s |            ______________ bf16
 *             |          /............... fp32
 *             |        /    o experts
 *             |      /   o attention
 *             |    / o rmsnorm            a filled circle is forward, a ring backward, a square a whole step
 *               FLOP per byte
 *
 * Left of the ridge an operation is limited by memory bandwidth, right of it by arithmetic. Both axes are logarithmic.
 * Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model", CACM 52(4). */
#ifndef GRAFT_PLOT_ROOFLINE_H
#define GRAFT_PLOT_ROOFLINE_H

#include "base/err.h"

/* title NULL: the name of the CPU. Fails: ERR_FORMAT without a record of a machine, or without one of an operation
 * or a step. */
MUST_USE Err *plot_roofline(const char *png_path, const char *title, const char *records_path);

#endif
