/* The roofline of a machine with what was measured beneath it, from the records of `graft bench --json` (bench/report.h).
 *
 *     GFLOP/s |            ______________ bf16
 *             |          /............... fp32
 *             |        /    o experts
 *             |      /   o attention
 *             |    / o rmsnorm            a filled circle is forward, a ring backward, a square a whole step
 *               FLOP per byte
 *
 * Left of the ridge an operation waits for memory, right of it for the multipliers; both axes are logarithmic.
 * Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model", CACM 52(4). */
#ifndef GRAFT_PLOT_ROOFLINE_H
#define GRAFT_PLOT_ROOFLINE_H

#include "base/err.h"

/* title NULL: the CPU's name. Fails: ERR_FORMAT without a machine's record, or without an operation's. */
MUST_USE Err *plot_roofline(const char *png_path, const char *title, const char *records_path);

#endif
