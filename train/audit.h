/* The audit of a run: which LoRA modules got no gradient, and why; and whether the exported adapter equals memory.
 *
 * A LoRA module is checked as a whole: in the first step the gradient of A is zero by design, because B is zero. The
 * LoRA of a routed expert may have no gradient for two reasons:
 *   1. No token chose the expert.
 *   2. Tokens chose it, but no token in the loss depends on them.
 * Everything else without a gradient is a fault of the program or the machine, and is reported as an error. */
#ifndef GRAFT_TRAIN_AUDIT_H
#define GRAFT_TRAIN_AUDIT_H

#include "base/json.h"
#include "train/step.h"

typedef struct {
    char *name; /* "model.layers.3.mlp.experts.7.gate_up_proj", "model.layers.3.mlp.gate" */
    size_t l;
    bool routed; /* belongs to a routed expert */
    size_t expert;
    const Param *params[2]; /* A and B, or a router's weight and NULL */
    bool now, ever; /* had a gradient in the last step, since the start; of this rank's slices until audit_check */
} AuditPart;

typedef struct {
    const Adapter *adapter;
    size_t n_parts;
    AuditPart *parts;
    uint64_t *tokens, *live;    /* [n_layers][E] since the start: tokens that chose the expert; those with a gradient */
    uint64_t *ever;             /* [n_parts] 1: had a gradient; of all ranks after audit_check. A checkpoint holds it */
    size_t n_without, n_errors; /* parts without a gradient, faults: in the last audit_check */
} Audit;

MUST_USE Err *audit_new(Audit **audit, const Adapter *adapter);
void audit_free(Audit *audit);

/* Note which parts have a gradient. Call it after step_gradients. */
void audit_observe(Audit *audit, const Dp *dp, Step *step);

/* Check every part. Errors are always printed, the rest only with `report`.
 *   result   {"parts", "without_gradient", "no_token": {"3": [1, 5]}, "no_scored_token": {...}, "errors": ["..."]}
 * Collective. Owner of result: the caller. */
MUST_USE Err *audit_check(Audit *audit, const Dp *dp, const Step *step, bool report, Json **result);

/* Take `ever` over into the parts, after a resume. */
void audit_resume(Audit *audit);

/* Read an exported adapter back with the reader of adapter files, and compare every value with memory.
 * Fails: ERR_FORMAT, naming the module. */
MUST_USE Err *audit_export(const Adapter *adapter, const char *directory);

#endif
