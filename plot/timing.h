/* Where the time of a training step goes: columns for layers, stacked by operation, and bars for operations, forward and
 * backward; from a record with a "profile" (base/timing.h), the first of those in a file of `graft bench --json` or of
 * `graft train --profile`. */
#ifndef GRAFT_PLOT_TIMING_H
#define GRAFT_PLOT_TIMING_H

#include "base/err.h"

/* title NULL: one that says what was measured. Fails: ERR_FORMAT when no record has a profile. */
MUST_USE Err *plot_timing(const char *png_path, const char *title, const char *records_path);

#endif
