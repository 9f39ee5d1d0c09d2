/* The metrics that a training run has written, as curves.
 *
 * A metrics file is JSON Lines. A line with `loss` is about one optimizer step, a line with `eval_loss` about one
 * evaluation. Other keys are ignored, and so are lines with neither a step nor a loss:
 *
 *     {"step":12,"loss":4.31,"learning_rate":0.003,"grad_norm":0.41,"tokens_per_second":812.0,"epoch":0.1}
 *     {"step":111,"eval_loss":4.28,"eval_file":"data/eval.jsonl"}
 *     {"step":111,"eval_loss":4.91,"eval_file":"data/eval.jsonl","eval_domain":"law"}
 *
 * "expert_load" of a step's line has, for every layer, the maximum over the mean of tokens assigned to an expert: a
 * column of the heat map. null is a gap. A last line without a newline is still being written; it is used if it can
 * be parsed. */
#ifndef GRAFT_PLOT_RUN_H
#define GRAFT_PLOT_RUN_H

#include "plot/canvas.h"

typedef struct {
    size_t n, capacity;
    Point *points; /* x: the step */
} Curve;

/* Learning rates: of A and of all other parameters; of B, and of routers, if they have their own. */
typedef enum { PLOT_RATE_A, PLOT_RATE_B, PLOT_RATE_ROUTER, PLOT_RATES } PlotRate;

typedef struct {
    char *file, *domain; /* "" when the lines have none */
    Curve loss;
} EvalCurve;

typedef struct {
    char *name; /* the name of the run's directory, or of the file without its extension */
    Curve loss, grad_norm, rates[PLOT_RATES];
    double epochs; /* completed; 0 when no line has them */
    size_t n_evals, evals_capacity;
    EvalCurve *evals; /* one for each file evaluated on, and for each of its domains */
    Curve load;       /* of the layer with the highest max/mean load */
    size_t n_layers, n_loads, loads_capacity;
    double *load_steps; /* [n_loads] */
    float *loads;       /* [n_loads][n_layers], NaN in dense layers */
} PlotRun;

/* Read a run: a directory that holds metrics.jsonl, or such a file itself.
 * Fails: ERR_IO; ERR_FORMAT with the number of the line.
 * Owner: the caller's struct, until plot_run_free, which takes a zeroed one too. */
MUST_USE Err *plot_run_read(PlotRun *run, const char *path);
void plot_run_free(PlotRun *run);

#endif
