/* Pictures of training runs. */
#ifndef GRAFT_PLOT_PICTURE_H
#define GRAFT_PLOT_PICTURE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Draw one or several runs: the loss, and below it, smaller, the loss on the held-out set by domain, the learning rate,
 * the gradient norm and the expert load, if the runs have them. A single run has its load as a heat map over layers and
 * steps.
 *   title  NULL: the name of the run, or "Training runs" */
MUST_USE Err *plot_runs(const char *png_path, const char *title, size_t n_runs, const char *const *runs);

/* Draw only the heat map. *drawn is false, and no file is written, when the run has no expert load. */
MUST_USE Err *plot_load(const char *png_path, const char *run, bool *drawn);

#endif
