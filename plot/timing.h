/* The time of the operations of a training step: a column for each layer, stacked by operation, and a bar for each
 * operation, forward and backward. From a record with a "profile" (base/timing.h), the first one in a file that
 * `graft bench --timing --json` or `graft train --timing` has written. */
#ifndef GRAFT_PLOT_TIMING_H
#define GRAFT_PLOT_TIMING_H

#include "base/err.h"

/* title NULL: one that says what was measured. Fails: ERR_FORMAT when no record has a "profile". */
MUST_USE Err *plot_timing(const char *png_path, const char *title, const char *records_path);

#endif
