/* What a training run wrote while it ran, for pictures and tables of it.
 *
 * A metrics file is JSON Lines. A line with `loss` and its neighbours tells of one optimizer step, a line with
 * `eval_loss` of one evaluation; other keys are passed over, and so are lines with no step and neither loss:
 *
 *     {"step":12,"loss":4.31,"learning_rate":0.003,"grad_norm":0.41,"tokens_per_second":812.0,"epoch":0.1}
 *     {"step":111,"eval_loss":4.28,"eval_file":"data/eval.jsonl"}
 *     {"step":111,"eval_loss":4.91,"eval_file":"data/eval.jsonl","eval_domain":"law"}
 *
 * "expert_load" of a step's line holds the fullest expert over the mean for every layer: the heat map.
 * null is a gap. A last line without its newline is one being written: it counts when it can be read and else not. */
#ifndef GRAFT_PLOT_RUN_H
#define GRAFT_PLOT_RUN_H

#include "plot/canvas.h"

typedef struct {
    size_t n, room;
    Point *points; /* x: the step */
} Curve;

/* Of A and of all else; of B and of routers where theirs are other ones. */
typedef enum { PLOT_RATE_A, PLOT_RATE_B, PLOT_RATE_ROUTER, PLOT_RATES } PlotRate;

typedef struct {
    char *file, *domain; /* "" when the lines name none */
    Curve loss;
} EvalCurve;

typedef struct {
    char *name; /* that of the run's directory, or of the file without its ending */
    Curve loss, grad_norm, rates[PLOT_RATES];
    double epochs; /* so far; 0 when the lines do not say */
    size_t n_evals, evals_room;
    EvalCurve *evals; /* one for each file evaluated on, and for each of its domains */
    Curve load;       /* the most uneven layer's */
    size_t n_layers, n_loads, loads_room;
    double *load_steps; /* [n_loads] */
    float *loads;       /* [n_loads][n_layers], NaN in dense layers */
} PlotRun;

/* Read a run: a directory that holds metrics.jsonl, or such a file itself.
 * Fails: ERR_IO; ERR_FORMAT with the number of the line.
 * Owner: the caller's struct, until plot_run_free, which takes a zeroed one too. */
MUST_USE Err *plot_run_read(PlotRun *run, const char *path);
void plot_run_free(PlotRun *run);

#endif
