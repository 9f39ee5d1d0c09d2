/* What a step will take, from shapes and a machine's few numbers, before anything is read.
 *
 *     arithmetic   FLOP / (peak x share),  share = 0.6 n / (n + 8) with n tokens for the mean expert: products of few rows
 *                  are slower (measured on shapes S and M: docs/streaming.md)
 *     disk         bytes of a step / rate;   memory   every weight 3 times a step / rate;   network   adapter there and back
 *     step         the longest of them: they overlap */
#ifndef GRAFT_TRAIN_PLAN_H
#define GRAFT_TRAIN_PLAN_H

#include "base/machine.h"
#include "train/budget.h"

typedef enum { BOUND_ARITHMETIC, BOUND_DISK, BOUND_MEMORY, BOUND_NETWORK, BOUNDS } Bound;
extern const char *const bound_names[BOUNDS];

typedef struct {
    Budget budget;
    double flops, share;      /* of a step; of the peak */
    double seconds[BOUNDS], step_seconds, tokens_per_second;
    Bound bound;
} Plan;

/* hosts share the step's tokens; work.ranks counts them all. network_gbs 0: not counted.
 * Fails: ERR_MEMORY as budget_make does. */
MUST_USE Err *plan_make(Plan *plan, Model *model, const Adapter *adapter, const Work *work, const Machine *machine, size_t hosts,
                        double network_gbs, size_t limit);

/* The times of a budget that is made already. */
void plan_times(Plan *plan, const Model *model, const Adapter *adapter, const Work *work, const Machine *machine, size_t hosts, double network_gbs);

#endif
