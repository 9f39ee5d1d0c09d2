/* Pictures of training runs. */
#ifndef GRAFT_PLOT_PICTURE_H
#define GRAFT_PLOT_PICTURE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Draw runs over each other: loss, and beneath it, smaller, held-out loss by domain, learning rate, gradient norm and expert
 * load where there are any; a run alone has its load as a heat map over layer and step.
 * title NULL: one that names the run or says what is compared. */
MUST_USE Err *plot_runs(const char *png_path, const char *title, size_t n_runs, const char *const *runs);

/* The heat map alone; *drawn is false, and no file written, when the run has no expert load. */
MUST_USE Err *plot_load(const char *png_path, const char *run, bool *drawn);

#endif
