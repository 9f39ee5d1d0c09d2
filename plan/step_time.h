/* What a step will take, from shapes and a few numbers of a machine, before anything is read.
 *
 *     arithmetic   experts at the rate of the mean number of rows of an expert, other products at the rate of a
 *                  group's rows, as `graft doctor` measured them on this compute path; attention, indexer and LoRA at
 *                  shares of the fp32 peak; then the bytes that activations move, at the memory's rate: caches save
 *                  some of it, and packing costs as much
 *     disk         bytes of a step / rate
 *     memory       every weight 3 times a step / rate
 *     network      adapter twice (gradients there, values back) / rate
 *     step         arithmetic and disk, as far as they overlap (plan/stream_time.h), and at least memory and network
 *
 * docs/streaming.md compares plans with runs. */
#ifndef GRAFT_PLAN_STEP_TIME_H
#define GRAFT_PLAN_STEP_TIME_H

#include "base/machine.h"
#include "plan/flops.h"

typedef enum { BOUND_ARITHMETIC, BOUND_DISK, BOUND_MEMORY, BOUND_NETWORK, BOUNDS } Bound;
extern const char *const bound_names[BOUNDS];

typedef struct {
    Budget budget;
    Flops flops;  /* of a step */
    double share; /* of the fp32 peak that arithmetic reaches */
    double seconds[BOUNDS], step_seconds, tokens_per_second;
    Bound bound; /* the longest of seconds */
} Plan;

typedef struct {
    Model *model;
    Adapter *adapter; /* NULL: evaluation. As for budget_make */
    StepWork work;    /* work.ranks counts the ranks of all hosts */
    const Machine *machine;
    bool bf16;          /* the compute path */
    size_t hosts;       /* they share the tokens of the step */
    double network_gbs; /* 0: the network is not counted */
} PlanInput;

/* A budget for the limit, and its times.  Fails: ERR_MEMORY as budget_make does. */
MUST_USE Err *plan_make(Plan *plan, const PlanInput *input, size_t limit);

/* The times of plan->budget, which is made already. */
MUST_USE Err *plan_times(Plan *plan, const PlanInput *input);

#endif
