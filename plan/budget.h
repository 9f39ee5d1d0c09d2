/* What a run holds in memory and reads from disk, from shapes alone; and how a limit is shared out.
 *
 *     limit = program + data + adapter + moments + boundaries + tapes + weights
 *
 * The first four are given. Boundaries go to a file when they take a quarter of what is left. Groups shrink while that saves a
 * quarter of what is read. Weights get the rest: embedding and head, parts that stay, slots. Bytes are of all ranks of one host. */
#ifndef GRAFT_PLAN_BUDGET_H
#define GRAFT_PLAN_BUDGET_H

#include "model/stream.h"

/* What is asked for. */
typedef struct {
    size_t ranks, local_ranks;               /* of the job, of this host */
    size_t threads;                          /* of a rank */
    size_t step_tokens, longest;             /* the most of a step, of a document */
    size_t micro_batch_tokens, group_tokens; /* 0: all */
    size_t keep_layers;
    size_t data_bytes; /* of the data set, per rank */
    bool may_spill;    /* there is a scratch_dir */
} StepWork;

typedef struct {
    size_t limit;
    size_t program, data, adapter, moments, layer_inputs, tapes; /* memory by kind */
    StreamBudget weights;                                        /* weights.limit_bytes is their share */
    size_t group_tokens;                                         /* chosen; 0: all */
    bool spilled, streamed;           /* boundaries in a file; weights larger than their share */
    size_t total;                     /* of all of the above */
    size_t least;                     /* the smallest limit that works */
    size_t read_bytes, scratch_bytes; /* per step: weights; boundaries written and read again */
} Budget;

/* adapter NULL: evaluation. Fails: ERR_MEMORY saying the least that works and what would help; *budget is filled then, too. */
MUST_USE Err *budget_make(Budget *budget, Model *model, const Adapter *adapter, const StepWork *work, size_t limit);

/* The budget of one process without adapter's training, and its weights streamed when they must be. limit NULL: what is
 * free less a tenth. */
MUST_USE Err *budget_apply(Budget *budget, Model *model, const Adapter *adapter, const StepWork *work,
                           const char *limit);

/* What memory_limit says, or what is free less a tenth. */
MUST_USE Err *budget_limit(size_t *bytes, const char *limit);

#endif
