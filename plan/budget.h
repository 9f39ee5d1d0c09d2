/* What a run holds in memory and reads from disk, from shapes alone, and how a memory limit is divided.
 *
 *     limit = program + data + adapter + moments + layer inputs + tapes + weights
 *
 * Program, data, adapter and moments are given. Layer inputs go to a file when they take a quarter of what then
 * remains. Groups become smaller while that saves a quarter of the bytes read. Weights get the rest: embedding and
 * head, resident parts, stream buffers. Bytes are those of all ranks of one host. */
#ifndef GRAFT_PLAN_BUDGET_H
#define GRAFT_PLAN_BUDGET_H

#include "model/stream.h"

/* The step that is planned. */
typedef struct {
    size_t ranks, local_ranks;               /* of the job, of this host */
    size_t threads;                          /* of a rank */
    size_t step_tokens, longest;             /* tokens of the largest step, of the longest document */
    size_t micro_batch_tokens, group_tokens; /* 0: all */
    size_t keep_layers;
    size_t data_bytes; /* of the data set, per rank */
    bool may_spill;    /* there is a scratch_dir, so layer inputs may go to a file */
} StepWork;

typedef struct {
    size_t limit;
    size_t program, data, adapter, moments, layer_inputs, tapes; /* memory by kind */
    StreamBudget weights;                                        /* weights.limit_bytes is their share */
    size_t group_tokens;                                         /* chosen; 0: all */
    bool spilled, streamed;           /* layer inputs in a file; weights larger than their share */
    size_t total;                     /* of all memory above */
    size_t min_limit;                 /* the smallest limit that works */
    size_t read_bytes, scratch_bytes; /* per step: weights; layer inputs written and read again */
} Budget;

/* Divide the limit.
 *   adapter   NULL: evaluation. Otherwise its parameters have a forest during the call and none afterwards, as
 *             plan/tape_bytes.h says
 * Fails: ERR_MEMORY naming the smallest limit that works and what would help; *budget is filled then, too. */
MUST_USE Err *budget_make(Budget *budget, Model *model, Adapter *adapter, const StepWork *work, size_t limit);

/* The budget of one process; opens the stream of its weights if they do not fit. limit: as for budget_limit. */
MUST_USE Err *budget_apply(Budget *budget, Model *model, Adapter *adapter, const StepWork *work, const char *limit);

/* The bytes that memory_limit says; NULL: nine tenths of the memory that is available. */
MUST_USE Err *budget_limit(size_t *bytes, const char *limit);

#endif
