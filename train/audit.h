/* Trust: which pairs got no gradient, and why; whether an exported adapter says what memory says.
 *
 * Pairs are judged, not halves: A's gradient is zero in the first step by design, because B is. A pair of a routed expert
 * may have none because no token chose the expert, or because nothing scored depends on those that did. Anything else
 * without a gradient is a fault, of the program or of the machine, and is told as one. */
#ifndef GRAFT_TRAIN_AUDIT_H
#define GRAFT_TRAIN_AUDIT_H

#include "base/json.h"
#include "train/step.h"

typedef struct {
    char *name; /* "model.layers.3.mlp.experts.7.gate_up_proj", "model.layers.3.mlp.gate" */
    size_t l;
    bool routed; /* of a routed expert */
    size_t expert;
    const Param *params[2]; /* A and B, or a router's weight and NULL */
    bool now, ever;         /* a gradient in the last step, since the start; in this rank's slices until audit_check */
} AuditPart;

typedef struct {
    const Adapter *adapter;
    size_t n_parts;
    AuditPart *parts;
    uint64_t *tokens, *live;    /* [n_layers][E] since the start: that chose the expert, with a gradient among them */
    uint64_t *ever;             /* [n_parts] 1: had a gradient; agreed by audit_check, and what a checkpoint keeps */
    size_t n_without, n_errors; /* of the last judgement */
} Audit;

MUST_USE Err *audit_new(Audit **audit, const Adapter *adapter);
void audit_free(Audit *audit);

/* Look at the gradients of a step, after step_gradients. */
void audit_observe(Audit *audit, const Dp *dp, Step *step);

/* Say who is without a gradient. Errors are told at once, the rest when `tell`.
 *   result   {"parts", "without_gradient", "no_token": {"3": [1, 5]}, "no_scored_token": {...}, "errors": ["..."]}
 * Collective. Owner of result: the caller. */
MUST_USE Err *audit_check(Audit *audit, const Dp *dp, const Step *step, bool report, Json **result);

/* What `ever` says after a resume. */
void audit_resume(Audit *audit);

/* Read an exported adapter back by its own reader and compare every value with memory.
 * Fails: ERR_FORMAT, naming the module. */
MUST_USE Err *audit_export(const Adapter *adapter, const char *directory);

#endif
