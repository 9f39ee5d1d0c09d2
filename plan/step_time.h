/* What a step will take, from shapes and a machine's few numbers, before anything is read.
 *
 *     arithmetic   experts at the rate of the mean expert's rows, other products at that of a group's, as `graft doctor` measured
 *                  them on this compute path; attention, indexer and pairs at shares of the fp32 peak; then what activations move, at
 *                  the memory's rate: caches save some of it, and packing costs as much (docs/streaming.md has plans beside runs)
 *     disk         bytes of a step / rate;   memory   every weight 3 times a step / rate;   network   adapter there and back
 *     step         arithmetic and disk as a walk lets them overlap (plan/stream_time.h), and no less than memory or network */
#ifndef GRAFT_PLAN_STEP_TIME_H
#define GRAFT_PLAN_STEP_TIME_H

#include "base/machine.h"
#include "plan/flops.h"

typedef enum { BOUND_ARITHMETIC, BOUND_DISK, BOUND_MEMORY, BOUND_NETWORK, BOUNDS } Bound;
extern const char *const bound_names[BOUNDS];

typedef struct {
    Budget budget;
    Flops flops;  /* of a step */
    double share; /* of the fp32 peak */
    double seconds[BOUNDS], step_seconds, tokens_per_second;
    Bound bound;
} Plan;

/* hosts share the step's tokens; work.ranks counts them all. bf16: the compute path. network_gbs 0: not counted.
 * Fails: ERR_MEMORY as budget_make does. */
MUST_USE Err *plan_make(Plan *plan, Model *model, const Adapter *adapter, const StepWork *work, const Machine *machine,
                        bool bf16, size_t hosts, double network_gbs, size_t limit);

/* The times of a budget that is made already. */
MUST_USE Err *plan_times(Plan *plan, Model *model, const Adapter *adapter, const StepWork *work, const Machine *machine,
                         bool bf16, size_t hosts, double network_gbs);

#endif
